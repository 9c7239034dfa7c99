import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from caviar.core.errors import InputError
from caviar.nn import load_callable

SOURCE = """
import torch
from torch import nn

number = 3
ready = nn.Linear(2, 2)

def build_net(width=4, depth=1):
    return nn.Sequential(*[nn.Linear(width, width) for _ in range(depth)])

class Net(nn.Module):
    pass

def wrong():
    return {"not": "a module"}

def broken():
    raise ZeroDivisionError("inside")
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A current folder with modules of a user, forgotten afterwards."""
    before, path = set(sys.modules), list(sys.path)
    package = tmp_path / "my_package"
    package.mkdir()
    (tmp_path / "my_models.py").write_text(SOURCE)
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text(SOURCE)
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_absent\n")
    (tmp_path / "bad_syntax.py").write_text("def f(:\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "nothing_here.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("module", ["my_models", "my_package.inner"])
def test_a_function_or_class_builds_the_model(module: str) -> None:
    model = load_callable(f"{module}:build_net", {"width": 3, "depth": 2})
    assert isinstance(model, nn.Sequential)
    assert len(model) == 2
    assert type(load_callable(f"{module}:Net", {})).__name__ == "Net"
    assert isinstance(load_callable("torch.nn:Linear", {"in_features": 2, "out_features": 3}), nn.Linear)


def test_with_a_generator_the_weights_follow_it_and_the_global_stream_is_untouched() -> None:
    before = torch.get_rng_state()
    first, second, other = (
        load_callable("my_models:build_net", {}, torch.Generator().manual_seed(seed)).state_dict()["0.weight"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("my_model:build_net", {}, "no module 'my_model'. Did you mean 'my_models'.*PYTHONPATH"),
        ("my_package.iner:build_net", {}, "no module 'my_package.iner'. Did you mean 'my_package.inner'"),
        ("my_models.deeper:build_net", {}, "no module 'my_models.deeper'"),
        ("zzzzqqq:build_net", {}, "no module 'zzzzqqq'. Modules"),
        ("needs_more:build", {}, "imports 'a_package_that_is_absent', which is not installed"),
        ("bad_syntax:build", {}, "importing 'bad_syntax' raised SyntaxError"),
        ("exits:build", {}, "importing 'exits' raised SystemExit"),
        ("my_models:biuld_net", {}, "'biuld_net'. Did you mean 'build_net'"),
        ("nothing_here:build", {}, "has no 'build'"),
        ("my_models:number", {}, "is a int, not something to call"),
        ("my_models:ready", {}, "is a Linear, not something to call"),
        ("my_models:wrong", {}, "returned a dict; it must return a torch.nn.Module"),
        ("my_models:broken", {}, r"called with \(\) raised ZeroDivisionError: inside"),
        ("my_models:build_net", {"widht": 3}, r"called with \(widht=3\) raised TypeError.*widht"),
    ],
)
def test_what_cannot_be_built_is_explained(name: str, arguments: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_callable(name, arguments)
