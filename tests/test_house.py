"""The house in order: versions, pins, no pickle, one test command, what is packaged."""

import ast
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "caviar"
PICKLE_MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
CODE_RUNNERS = {"eval", "exec"}


def project() -> dict[str, Any]:
    """The [project] table of pyproject.toml, and the whole file under "whole"."""
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return whole["project"] | {"whole": whole}


def constraints() -> dict[str, str]:
    """Package -> the text after its name in constraints.txt."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    parsed = (Requirement(line) for line in lines if line)
    return {canonicalize_name(each.name): str(each.specifier) for each in parsed}


def python_files(*folders: str) -> list[Path]:
    """Every Python file of the project's own folders."""
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Every call with the dotted text of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.lineno, node.module.partition(".")[0]


def unsafe_lines(text: str) -> list[int]:
    """Lines that could load a pickle, or run code that a file holds."""
    tree = ast.parse(text)
    lines = [line for line, package in imported(tree) if package in PICKLE_MODULES]
    for node, name in calls(tree):
        allows = any(k.arg == "allow_pickle" and getattr(k.value, "value", True) is not False for k in node.keywords)
        if name in CODE_RUNNERS or name in ("torch.load", "torch.save") or name.endswith("read_pickle") or allows:
            lines.append(node.lineno)
    return sorted(lines)


def test_one_version() -> None:
    import caviar

    assert caviar.__version__ == project()["version"]


def test_every_constraint_is_one_exact_version() -> None:
    loose = {name: spec for name, spec in constraints().items() if not re.fullmatch(r"==\d[\w.]*", spec)}
    assert not loose, "a local version such as +cpu would tie the file to one kind of machine"


def test_constraints_meet_what_the_project_asks_for() -> None:
    asked = [*project()["dependencies"], *(r for extra in project()["optional-dependencies"].values() for r in extra)]
    asked += project()["whole"]["build-system"]["requires"]
    pinned = constraints()
    for requirement in map(Requirement, asked):
        version = pinned[canonicalize_name(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(version), f"{requirement} against {version}"


def test_what_the_project_pulls_in_is_pinned_too() -> None:
    pinned, seen = constraints(), set[str]()
    extras = project()["optional-dependencies"]
    waiting = [Requirement(r) for r in [*project()["dependencies"], *extras["test"], *extras["frames"]]]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in seen or name.startswith(("nvidia-", "cuda-")) or name == "triton":
            continue  # a CUDA build of torch names the exact versions of its own parts
        seen.add(name)
        assert name in pinned, f"{requirement} has no line in constraints.txt"
        needs = map(Requirement, metadata.requires(name) or [])
        waiting += [r for r in needs if r.marker is None or r.marker.evaluate({"extra": ""})]
    assert len(seen) > len(project()["dependencies"])


def test_the_package_loads_no_pickle_and_runs_no_code() -> None:
    found = [f"{file}:{line}" for file in python_files("caviar") for line in unsafe_lines(file.read_text())]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "import pickle\n",
        "def f():\n    from joblib import load\n",
        "import torch\ntorch.load('x')\n",
        "import numpy as np\nnp.load('x', allow_pickle=True)\n",
        "import numpy as np\nnp.load('x', allow_pickle=trust)\n",
        "import pandas as pd\npd.read_pickle('x')\n",
        "eval('1')\n",
    ],
)
def test_a_planted_pickle_is_found(text: str) -> None:
    assert unsafe_lines(text) == [len(text.splitlines())]


def test_harmless_code_is_left_alone() -> None:
    text = "import numpy as np\nnp.load('x', allow_pickle=False)\nmodel.eval()\n'a pickled .npy, or torch.load(x)'\n"
    assert unsafe_lines(text) == []


def test_nothing_asks_for_torchvision_or_torchaudio() -> None:
    files = python_files("caviar", "tests", "benchmarks", "examples")
    found = [
        f"{file}:{line}"
        for file in files
        for line, package in imported(ast.parse(file.read_text()))
        if package in ("torchvision", "torchaudio")
    ]
    assert not found, "\n" + "\n".join(found)
    assert not {"torchvision", "torchaudio"} & set(constraints())


def test_continuous_integration_calls_the_test_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    lines = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "set -euo pipefail"
    assert lines[-1] == "make test"
    assert script.stat().st_mode & 0o111, ".ci/run is not executable"
    assert re.search(r"^ *make test\b", (ROOT / "README.md").read_text(), re.MULTILINE)


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Call make as from a fresh shell, also when make runs these tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_make_knows_the_promised_targets() -> None:
    for target in ("demo", "test", "lint", "bench", "clean"):
        done = make("-n", target)
        assert done.returncode == 0, done.stderr
    assert make("-n", "demo").stdout.splitlines()[-1].endswith("caviar train sample:digits")


def test_make_says_in_words_that_python_is_missing(tmp_path: Path) -> None:
    done = make(f"VENV={tmp_path / 'venv'}", "PYTHON=no-such-python", "demo")
    assert done.returncode != 0
    assert "caviar needs Python 3.11 or newer" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_every_folder_with_code_is_a_package_that_gets_installed() -> None:
    bare = {str(file.parent) for file in python_files("caviar") if not (file.parent / "__init__.py").exists()}
    assert not bare
    setuptools = project()["whole"]["tool"]["setuptools"]
    assert setuptools["packages"]["find"]["include"] == ["caviar*"]
    assert "py.typed" in setuptools["package-data"]["caviar"]
    assert (PACKAGE / "py.typed").exists()


def test_the_licence_is_the_one_that_is_declared() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert project()["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_changelog_speaks_of_what_is_not_released_yet() -> None:
    assert re.search(r"^## Unreleased$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
