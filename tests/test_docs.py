"""The reference is what the code says, and tells of every public piece."""

import re
from pathlib import Path

import pytest

from docs.build import FOLDER, build, main, public_names
from docs.markdown import call, escaped, table, text
from docs.pages import PAGES

ROOMS = ("nn", "optim", "preprocess", "augment")
TABLES = {"ACTIVATIONS", "ACTIVATION_FACTS", "AUGMENTATIONS", "INITIALISERS", "LOSSES"}
ELSEWHERE = {"AugmentSettings", "Loss", "Schedule"}
"""Settings and types, which stand in their page in another form."""


def test_the_pages_are_up_to_date() -> None:
    files = build()
    stale = [name for name, content in files.items() if (FOLDER / name).read_text(encoding="utf-8") != content]
    assert not stale, f"run make docs: {stale}"
    assert {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.*")} == set(files)
    assert main(check=True) == 0


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_piece_has_one_entry(room: str) -> None:
    import importlib

    holder = importlib.import_module(f"caviar.{room}")
    told = [thing for page in PAGES for _, thing in public_names(page)]
    for name in holder.__all__:
        if name not in TABLES | ELSEWHERE:
            thing = getattr(holder, name)
            assert sum(other is thing for other in told) == 1, (
                f"caviar.{room}.{name} is not on one page of docs/pages.py"
            )
    assert all(thing.__doc__ for thing in told)


WHEN = (
    *(f"nn.{name}" for name in ("cross_entropy", "hinge", "logistic", "mean_squared_error", "huber")),
    *("nn.dropout", "nn.drop_connect", "nn.l1_penalty", "nn.l2_penalty", "optim.AveragedModel", "optim.RunningAverage"),
    *(f"optim.{name}" for name in ("sgd", "ada", "rms", "nadam", "radam", "ranger", "lion", "lookahead", "lbfgs")),
    *("optim.Newton", "optim.schedules.", "optim.Plateau", "augment.random_", "augment.mixup", "augment.cutmix"),
    *(f"preprocess.fit_{name}" for name in ("center", "minmax", "zscore", "robust", "pca", "gram_schmidt")),
)
NO_CHOICE = ("optim.schedules.one_cycle_momentum", "optim.schedules.exponential_rate")
"""Companions of another piece, which says it."""


def test_what_one_chooses_says_when_to_use_it() -> None:
    entries = {
        path.removeprefix("caviar."): thing.__doc__ or "" for page in PAGES for path, thing in public_names(page)
    }
    chosen = {path: words for path, words in entries.items() if path.startswith(WHEN) and path not in NO_CHOICE}
    assert all(any(path.startswith(prefix) for path in chosen) for prefix in WHEN)
    silent = [path for path, words in chosen.items() if not re.search(r"\bWhen: |\busual\b", words)]
    assert not silent, f"these do not say when to use them: {silent}"


def test_links_and_pictures_are_there() -> None:
    for path in FOLDER.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (FOLDER / target).is_file(), f"{path.name}: {target}"


def test_markdown_of_docstrings() -> None:
    said = text(
        """First a * b < c, and `x * y`.

        More words
        value: of an argument.

            u = v * w

        Args:
            one: the first,
                and more of it.
            two, three: the others.
        """
    )
    assert said.splitlines()[0] == r"First a \* b &lt; c, and `x * y`."
    assert "More words\\\nvalue: of an argument." in said
    assert "```text\nu = v * w\n```" in said
    assert "- `one`: the first, and more of it.\n- `two, three`: the others." in said
    assert escaped("a | b") == "a | b"
    assert table(("a",), [("x | y",)]).endswith(r"| x \| y |")


def test_calls() -> None:
    def some(first, second=1.5, *, third="x", fourth=Path()):  # type: ignore[no-untyped-def]
        pass

    assert call("some", some) == "some(first, second=1.5, *, third='x', fourth=...)"
