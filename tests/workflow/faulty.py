"""What tests of stops, faults and resumes share: to interrupt at a step, to call the command line, to compare runs."""

import signal
from pathlib import Path
from typing import Any

import pytest

import caviar
from caviar.cli.main import main
from caviar.core.store import Store
from caviar.diagnose.quantities.names import MOMENTARY
from caviar.workflow import observers

SMALL: dict[str, Any] = {"model.widths": [16], "device.threads": 1, "training.checkpoint_seconds": 0}


def iris(folder: Path, **changes: Any) -> caviar.Run:
    """Train a run of well under a second: iris, three epochs of three steps, a checkpoint after each epoch."""
    settings = SMALL | {"training.batch_size": 32} | changes.pop("settings", {})
    arguments: dict[str, Any] = {"epochs": 3, "name": "it", "runs_dir": folder, "progress": False} | changes
    return caviar.train("sample:iris", settings=settings, **arguments)


def signal_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGINT, times: int = 1) -> None:
    """Let this process receive a signal, as from a terminal, right after step `step` of a run."""
    original = observers.Recorder.on_step

    def on_step(self: Any, moment: Any, loss: Any) -> None:
        original(self, moment, loss)
        if moment.step == step:
            for _ in range(times):
                signal.raise_signal(number)

    monkeypatch.setattr(observers.Recorder, "on_step", on_step)


def interrupted(monkeypatch: pytest.MonkeyPatch, folder: Path, step: int = 5, **changes: Any) -> Path:
    """Train the iris run, interrupt it at `step`, and return its folder."""
    with monkeypatch.context() as patch:
        signal_at(patch, step)
        with pytest.raises(caviar.Interrupted):
            iris(folder, **changes)
    return folder / "it"


def content(run: Path) -> dict[str, Any]:
    """Return all of a finished run that depends on its training: the bundle's files, the records, the dev values."""
    with Store(run / "records.sqlite", read_only=True) as store:
        records = store.read()
    assert len({record[:6] for record in records}) == len(records)
    summary = caviar.Run.open(run).summary
    files = {path.name: path.read_bytes() for path in (run / "bundle").iterdir()}
    kept = {name: summary.get(name) for name in ("status", "epoch", "last", "best", "metrics", "epochs_run", "step")}
    lasting = [record for record in records if record.name not in MOMENTARY]
    return {"records": [tuple(map(repr, record)) for record in lasting], **files, **kept}


def kinds(run: Path) -> list[str]:
    """Return the kinds of a run's events in order."""
    with Store(run / "records.sqlite", read_only=True) as store:
        return [event["kind"] for event in store.events()]


def cli(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Call the command line in this process and return its exit code, stdout and stderr."""
    before = signal.getsignal(signal.SIGTERM)
    capsys.readouterr()
    try:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
    finally:
        signal.signal(signal.SIGTERM, before)
    out, err = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, out, err
