"""Calls the command line in this process: a process of its own takes seconds to import torch."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from caviar.cli.main import main


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out, parse_constant=_no_constant)
        return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


Caviar = Callable[..., Done]


@pytest.fixture
def caviar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Caviar:
    """Run `caviar ARGUMENTS` in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: Any) -> Done:
        capfd.readouterr()
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        finally:
            signal.signal(signal.SIGTERM, before)
        assert isinstance(code, int)
        return Done(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data of every kind (t.csv, test.csv, xy.npz, pictures/) and a short run on each in runs/."""
    import numpy as np

    import caviar
    from tests.workflow.small import QUICK, arrays, prices, table, write_pictures

    root = tmp_path_factory.mktemp("trained")
    table().write_csv(root / "t.csv")
    table(60, seed=1).write_csv(root / "test.csv")
    prices().write_csv(root / "prices.csv")
    inputs, labels = arrays()
    np.savez(root / "xy.npz", x=inputs, y=labels)
    write_pictures(root / "pictures")
    for source, target, name in (
        ("t.csv", "label", "table"),
        ("prices.csv", "price", "prices"),
        ("xy.npz", None, "arrays"),
        ("pictures", None, "pictures"),
    ):
        caviar.train(root / source, target, name=name, runs_dir=root / "runs", **QUICK)
    return root
