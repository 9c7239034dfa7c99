"""Write the reference pages from docstrings, settings and tables: docs/reference/.

python docs/build.py            write what has changed
python docs/build.py --check    write nothing; leave with 1 when something would change
"""

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from caviar.diagnose.pages import documents
from caviar.diagnose.quantities import QUANTITIES
from caviar.nn import ACTIVATION_FACTS
from caviar.optim import build_schedule, plot_schedules, preview_table
from caviar.recipe import FAMILIES, Family
from caviar.recipe.recipe import PLAIN_SECTIONS, VARIANTS
from docs.markdown import reference, settings_table, table, text
from docs.pages import PAGES, Page

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reference"
EPOCHS, STEPS_PER_EPOCH, ROWS = 20, 50, 11
NOTE = "<!-- Written by docs/build.py from the code's docstrings; change those, then run `make docs`. -->"
FINDINGS_NOTE = "<!-- Written by docs/build.py from caviar/diagnose; change that, then run `make docs`. -->"


def build() -> dict[str, str]:
    """Return the whole reference: file below docs/reference -> content."""
    files = {f"{page.name}.md": _page(page) for page in PAGES}
    files["README.md"] = _contents()
    files |= {f"findings/{name}": f"{FINDINGS_NOTE}\n\n{content}" for name, content in documents().items()}
    files["quantities.md"] = _quantities()
    for name in VARIANTS["schedule"]:
        files[f"schedules/{name}.svg"] = _plot(name)
    return files


def public_names(page: Page) -> Iterator[tuple[str, Any]]:
    """Yield what the page tells of: dotted path and object."""
    for path in page.names:
        module, _, name = path.rpartition(".")
        holder = importlib.import_module(f"caviar.{module}")
        if name != "*":
            yield f"caviar.{path}", getattr(holder, name)
            continue
        for own, thing in vars(holder).items():
            if inspect.isfunction(thing) and not own.startswith("_") and thing.__module__ == holder.__name__:
                yield f"caviar.{module}.{own}", thing


def _contents() -> str:
    rows = [(f"[{page.title}]({page.name}.md)", page.opening) for page in PAGES]
    rows.append(("[Quantities](quantities.md)", "What is recorded while a network trains."))
    rows.append(("[Findings](findings/README.md)", "What rules read from the records: a page for each code."))
    opening = "A page for each family of components: their names in a recipe, their settings, and the same for Python."
    return "\n\n".join([NOTE, "# Reference", opening, table(("page", "what it tells"), rows)]) + "\n"


def _quantities() -> str:
    rows = [
        (f"`{q.name}`", "each layer" if q.by == "layer" else "the run", q.when, q.meaning) for q in QUANTITIES.values()
    ]
    opening = (
        "What training records. When: each step, at a look (recipe section [watch]), at an early look (steps 1, 2, "
    )
    opening += "4, ...), each epoch, or once at the start."
    parts = [NOTE, "# Quantities", opening, table(("name", "of", "when", "what it is"), rows)]
    return "\n\n".join([*parts, "## Settings", "### [watch]\n\n" + settings_table(PLAIN_SECTIONS["watch"])]) + "\n"


def _page(page: Page) -> str:
    parts = [NOTE, f"# {page.title}", page.opening]
    families = [family for family in FAMILIES if family.key in page.families]
    if families:
        parts += ["## In a recipe", *(_family(family) for family in families)]
    if page.name == "activations":
        parts += ["## What is known of them", _facts()]
    if page.sections:
        parts += ["## Settings", *_sections(page)]
    parts.append("## In Python")
    parts += _notes(page)
    parts += [reference(path, thing) for path, thing in public_names(page)]
    return "\n\n".join(parts) + "\n"


def _family(family: Family) -> str:
    rows = [(f"`{name.setting}`", name.summary.removesuffix(".")) for name in family.names]
    return f"{family.title}:\n\n" + table(("setting", "what it is"), rows)


def _sections(page: Page) -> Iterator[str]:
    for section in page.sections:
        head, _, name = section.partition(".")
        if not name:
            yield f"### [{head}]\n\n" + settings_table(PLAIN_SECTIONS[head])
            continue
        for variant, kind in VARIANTS[head].items():
            if name in ("*", variant):
                shown = [f'### [{head}] name = "{variant}"', text(kind.__doc__ or "")]
                yield "\n\n".join([*shown, *(_course(variant) if head == "schedule" else ()), settings_table(kind)])


def _notes(page: Page) -> list[str]:
    """Return what the page's modules say at their head, where that is more than a line."""
    modules = dict.fromkeys(
        thing.__module__ for _, thing in public_names(page) if inspect.isfunction(thing) or isinstance(thing, type)
    )
    said = {module: text(sys.modules[module].__doc__ or "") for module in modules}
    return [f"**`{module}`**: {words}" for module, words in said.items() if "\n\n" in words]


def _facts() -> str:
    headings = ("activation", "f(z)", "range", "saturates", "mean 0", "f'(-10), f'(0), f'(10)", "monotone",
                "initialiser", "gain", "when", "source")  # fmt: skip
    rows = []
    for name, facts in ACTIVATION_FACTS.items():
        low = f"{'[' if facts.low_reached else '('}{facts.low:.4g}, {facts.high:.4g})"
        gradients = ", ".join(f"{value:.3g}" for value in facts.gradients)
        yes = ("no", "yes")
        rows.append((f"`{name}`", facts.formula, low, " and ".join(facts.saturates) or "never", yes[facts.zero_centred],
                     gradients, yes[facts.monotone], facts.initialiser, f"{facts.gain:.4g}", facts.when,
                     facts.source))  # fmt: skip
    return table(headings, rows)


def _schedule(name: str) -> Any:
    return build_schedule(VARIANTS["schedule"][name](), 1.0, EPOCHS * STEPS_PER_EPOCH, STEPS_PER_EPOCH)  # type: ignore[arg-type]


def _plot(name: str) -> str:
    return plot_schedules({name: _schedule(name)}, EPOCHS * STEPS_PER_EPOCH, STEPS_PER_EPOCH, title=name)


def _course(name: str) -> tuple[str, str]:
    told = f"With its defaults, a learning rate of 1, {EPOCHS} epochs of {STEPS_PER_EPOCH} steps:"
    rows = preview_table(_schedule(name), EPOCHS * STEPS_PER_EPOCH, ROWS)
    return f"{told}\n\n![{name}](schedules/{name}.svg)", f"```text\n{rows}\n```"


def main(check: bool) -> int:
    """Write or compare the files; return the exit code."""
    files = build()
    changed = [name for name, content in files.items() if not _is(FOLDER / name, content)]
    left = [path for path in FOLDER.rglob("*.*") if str(path.relative_to(FOLDER)) not in files]
    for name in changed:
        print(f"docs/reference/{name}" + (" is out of date" if check else ""))
        if not check:
            (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
            (FOLDER / name).write_text(files[name], encoding="utf-8")
    for path in left:
        print(f"{path} is not of the reference")
        if not check:
            path.unlink()
    return int(check and bool(changed or left))


def _is(path: Path, content: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == content


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
