"""The arrows of the design, counted; and what the light parts must not pull in."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from caviar.core.runs import create_run

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "caviar"

# From the bottom up. A room may import itself and rooms of lower levels; neighbours on one level are strangers.
# Rooms that a later issue builds are on the map already.
LEVELS = (
    ("core",),
    ("optim", "nn", "preprocess", "augment", "data"),
    ("population",),
    ("train", "diagnose"),
    ("search", "ensemble", "transfer", "bundle", "figures"),
    ("recipe",),
    ("workflow",),
    ("center", "lab"),
    ("cli",),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
TOP = len(LEVELS)
SETTINGS_MAY_IMPORT = ("pydantic", "typing", "collections.abc", "caviar.core")
HEAVY = ("torch", "numpy", "polars", "pydantic", "PIL", "sklearn", "scipy")


class Import(NamedTuple):
    """One import: where it stands, and the dotted name it asks for."""

    file: Path
    line: int
    target: str


def imports_of(file: Path, package: Path) -> Iterator[Import]:
    """Every import of a file, wherever it hides: in functions, under TYPE_CHECKING, or by import_module("...")."""
    inside = (package.name, *file.relative_to(package).parent.parts)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(inside[: len(inside) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                # `from caviar import data` names a room; `from caviar.data import x` names its own module already.
                yield Import(file, node.lineno, f"{module}.{alias.name}" if module == package.name else module)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield Import(file, node.lineno, node.args[0].value)


def broken_arrows(package: Path) -> list[str]:
    """Return one line for each import that runs against the arrows, and for each room that is not on the map."""
    found = []
    for file in sorted(package.rglob("*.py")):
        source = _room(file, package)
        if source not in LEVEL and source not in ("__init__", "__main__"):
            found.append(f"{file}:1: {source} is not a room of the design")
            continue
        judged = ((each, _judge(source, each.target, package.name)) for each in imports_of(file, package))
        found += [f"{file}:{each.line}: {problem}" for each, problem in judged if problem]
    return found


def _room(file: Path, package: Path) -> str:
    parts = file.relative_to(package).parts
    return parts[0] if len(parts) > 1 else file.stem


def _judge(source: str, target: str, package: str) -> str | None:
    name, *rest = target.split(".")
    if name != package:
        return None
    if source in ("__init__", "__main__") or rest[:1] == ["__version__"]:
        return None
    if not rest or rest[0] not in LEVEL:
        # The package itself leads to every room, so only who stands above them all may ask for it.
        return None if LEVEL[source] == TOP - 1 else f"{source} -> {target}: rooms import each other, not the package"
    room = rest[0]
    if room == source or LEVEL[room] < LEVEL[source]:
        return None
    why = "a neighbour on the same level" if LEVEL[room] == LEVEL[source] else "a room above"
    return f"{source} -> {room} (asked for as {target}): {why}"


def heavy_settings(package: Path) -> list[str]:
    """Return one line for each import of a settings module beyond pydantic, types, core and settings beside it."""
    files = [file for pattern in ("settings.py", "*_settings.py") for file in sorted(package.rglob(pattern))]
    return [
        f"{found.file}:{found.line}: settings import {found.target}"
        for file in files
        for found in imports_of(file, package)
        if not any(found.target == allowed or found.target.startswith(f"{allowed}.") for allowed in SETTINGS_MAY_IMPORT)
        and not (found.target.startswith("caviar.") and found.target.endswith("settings"))
    ]


def plant(root: Path, files: dict[str, str]) -> Path:
    """Write a small package called caviar and return its folder."""
    package = root / "caviar"
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package


def test_the_map_names_every_room_of_the_design_once() -> None:
    rooms = [room for level in LEVELS for room in level]
    assert len(rooms) == len(set(rooms)) == 19


def test_no_import_runs_against_the_arrows() -> None:
    broken = broken_arrows(PACKAGE)
    assert not broken, "\n" + "\n".join(broken)


def test_settings_are_light() -> None:
    heavy = heavy_settings(PACKAGE)
    assert not heavy, "\n" + "\n".join(heavy)


@pytest.mark.parametrize(
    ("file", "text", "arrow"),
    [
        ("core/a.py", "import caviar.data.tables\n", "core -> data"),
        ("core/a.py", "import os, caviar.data\n", "core -> data"),
        ("data/a.py", "def late():\n    from caviar.nn.mlp import MLP\n", "data -> nn"),
        ("data/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from caviar import nn\n", "data -> nn"),
        ("data/deep/a.py", "from ...nn import mlp\n", "data -> nn"),
        ("data/deep/a.py", "from ... import nn\n", "data -> nn"),
        ("train/a.py", "from caviar.diagnose import rules\n", "train -> diagnose"),
        ("population/a.py", "import caviar.train\n", "population -> train"),
        ("workflow/a.py", 'import importlib\nimportlib.import_module("caviar.cli.main")\n', "workflow -> cli"),
        ("lab/a.py", "from caviar.center.app import create_app\n", "lab -> center"),
        ("recipe/a.py", "import caviar\n", "recipe -> caviar"),
        ("recipe/a.py", "from caviar import load\n", "recipe -> caviar.load"),
        ("kitchen/a.py", "", "kitchen is not a room"),
        ("kitchen.py", "", "kitchen is not a room"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, text: str, arrow: str) -> None:
    package = plant(tmp_path, {"__init__.py": "", file: text})
    (line,) = broken_arrows(package)
    assert arrow in line
    assert line.startswith(f"{package / file}:{max(1, len(text.splitlines()))}:")


def test_arrows_that_run_the_right_way_pass(tmp_path: Path) -> None:
    package = plant(
        tmp_path,
        {
            "__init__.py": "def __getattr__(name):\n    from caviar.workflow.train import train\n    return train\n",
            "__main__.py": "from caviar.cli.main import main\n",
            "cli/main.py": "import caviar\nfrom caviar.center import app\nfrom caviar.workflow.train import train\n",
            "lab/a.py": "from caviar.workflow import train\nfrom caviar.figures import curves\n",
            "workflow/a.py": "from caviar import __version__\nfrom caviar.recipe.recipe import Recipe\n",
            "recipe/a.py": "from caviar.data.settings import DataSettings\nfrom caviar.bundle import load\n",
            "train/deep/a.py": "from ..loop import step\nfrom ...core.errors import InputError\nfrom . import b\n",
            "core/a.py": "import caviare\nfrom os import path\n",
        },
    )
    assert broken_arrows(package) == []


def test_a_heavy_settings_module_is_found(tmp_path: Path) -> None:
    package = plant(
        tmp_path,
        {
            "nn/settings.py": "from typing import Any\nfrom pydantic import Field\nimport torch\n",
            "data/settings.py": "from caviar.core.settings import Settings\nimport typing_extensions\n",
        },
    )
    lines = heavy_settings(package)
    assert [line.rpartition(" ")[2] for line in lines] == ["typing_extensions", "torch"]


def modules_after(code: str, cwd: Path) -> set[str]:
    """Return the heavy packages that are loaded after `code` has run in a fresh interpreter."""
    report = f"import json, sys; print('\\n' + json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    program = f"try:\n    {code}\nexcept SystemExit as end:\n    assert not end.code, end.code\n{report}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def command(*arguments: str) -> str:
    """Python code that does what the console script does."""
    return f"import sys; sys.argv = ['caviar', *{arguments!r}]; from caviar.cli.main import main; sys.exit(main())"


def test_the_light_core_is_light(tmp_path: Path) -> None:
    names = [f"caviar.core.{name}" for name in ("errors", "store", "files", "formats", "records", "runs")]
    assert modules_after(f"import {', '.join(names)}", tmp_path) == set()


def test_the_witness_sees_a_heavy_import(tmp_path: Path) -> None:
    assert modules_after("import numpy", tmp_path) == {"numpy"}


def test_importing_the_package_is_light(tmp_path: Path) -> None:
    assert modules_after("import caviar", tmp_path) == set()


needs_cli = pytest.mark.skipif(not (PACKAGE / "cli" / "main.py").exists(), reason="caviar/cli/main.py is not there yet")
COMMANDS = [("--help",), ("runs",), ("runs", "--json")]


@pytest.fixture
def folder_with_runs(tmp_path: Path) -> Path:
    """A working folder whose runs/ holds some runs."""
    for _ in range(10):
        create_run(tmp_path / "runs", None, "digits", {"recipe.toml": b""}, {"status": "finished"}).release()
    return tmp_path


@needs_cli
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_quick_commands_import_nothing_heavy(folder_with_runs: Path, arguments: tuple[str, ...]) -> None:
    # typer from 0.29 on reads options through pydantic; help reads none.
    allowed = set() if arguments == ("--help",) else {"pydantic"}
    assert modules_after(command(*arguments), folder_with_runs) <= allowed


@needs_cli
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_quick_commands_import_few_modules(folder_with_runs: Path, arguments: tuple[str, ...]) -> None:
    """Half a second of CPU time is promised; modules are counted, as seconds depend on the machine."""
    report = "print(len(sys.modules))"
    program = [sys.executable, "-c", f"try:\n    {command(*arguments)}\nfinally:\n    {report}"]
    done = subprocess.run(program, capture_output=True, text=True, cwd=folder_with_runs, check=True)
    assert "digits-10" in done.stdout or arguments == ("--help",)
    assert int(done.stdout.splitlines()[-1]) < (250 if arguments == ("--help",) else 500)
