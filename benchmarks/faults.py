"""Kill runs at random moments, resume them, and compare what they come to with the run that nobody killed.

    python benchmarks/faults.py [--kills N] [--seed S] [--threads N] [--json]

A run is killed with SIGKILL: at a moment uniform over its duration, or a little after it began to read its data, to
make its folder, to write one of its checkpoints or to hand over its bundle. Some of the resumes are killed as well.
In the end every file of the bundle and every record must be equal, byte for byte, to those of the uninterrupted run,
and nothing half-written may be left. Exit code 1 when anything differs.
"""

import argparse
import csv
import json
import mmap
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch._dynamo  # noqa: F401 (here and below: imported once, before any fork, because it takes long)
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

import caviar.data.arrays
import caviar.data.pictures
import caviar.data.samples
import caviar.data.tables  # noqa: F401
from caviar.diagnose.quantities.names import MOMENTARY
from caviar.train import checkpoints, loop
from caviar.workflow import execute, train

READING, FOLDER, TRAINING, CHECKPOINT, BUNDLE, LEAVING = range(6)
PHASES = (
    "reading data",
    "making the run folder",
    "training",
    "writing a checkpoint",
    "handing over the bundle",
    "after the end",
)
AIMS = (None, None, READING, FOLDER, CHECKPOINT, CHECKPOINT, BUNDLE)
"""Where kills are aimed at, in turn; None: anywhere."""
KILL_A_RESUME = 0.4
MOST_KILLS = 5
PATIENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Case:
    """A short run. With `each_step` it saves after every step, not only after epochs."""

    name: str
    source: str
    target: str | None = None
    epochs: int = 6
    each_step: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


class Board:
    """Where a child tells the parent how it stands: its phase, how often each phase began, and how long it took."""

    def __init__(self) -> None:
        memory = mmap.mmap(-1, mmap.PAGESIZE)
        self._values = np.frombuffer(memory, dtype=np.float64)

    def clear(self) -> None:
        self._values[:] = 0

    @property
    def phase(self) -> int:
        return int(self._values[0])

    def count(self, phase: int) -> int:
        return int(self._values[10 + phase])

    def seconds(self, phase: int) -> float:
        """Return how long the phase took each time, on average."""
        return float(self._values[20 + phase]) / max(1, self.count(phase))

    def enter(self, phase: int) -> None:
        now = time.monotonic()
        if self._values[1]:
            self._values[20 + self.phase] += now - self._values[1]
        self._values[:2] = phase, now
        self._values[10 + phase] += 1

    def during(self, phase: int, after: int, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, telling when it begins and ends."""

        def telling(*args: Any, **kwargs: Any) -> Any:
            self.enter(phase)
            result = function(*args, **kwargs)
            self.enter(after)
            return result

        return telling


@dataclass
class Uninterrupted:
    """What a case comes to when nobody kills it, and when its phases come."""

    result: dict[str, Any]
    seconds: float
    counts: list[int]
    durations: list[float]


@dataclass
class Outcome:
    """One run and what followed. phases: those in which it, and then its resumes, were killed."""

    case: str
    phases: list[int]
    started_again: int
    differences: list[str]


class Range:
    """Runs, kills and resumes cases in child processes of one process that has imported everything."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._board = Board()
        self._random = random.Random(seed)
        self._known: dict[str, Uninterrupted] = {}
        self._place = folder

    def kill(self, case: Case, number: int) -> Outcome:
        """Start a case, kill it, resume it until it ends, and compare."""
        whole = self._known.get(case.name) or self._uninterrupted(case)
        phases = [self._killed_run(case, whole, number)]
        started_again = 0
        while True:
            resume = (self._place / "runs" / "it" / "run.json").exists()
            started_again += not resume
            pid = self._start(case, resume=resume)
            if self._random.random() > KILL_A_RESUME or len(phases) == MOST_KILLS:
                break
            phase = self._strike(pid, whole, None)
            phases += [] if phase is None else [phase]
        problems = self._wait(pid)
        if not problems:
            problems = _differences(whole.result, _result(self._place / "runs" / "it"))
        if not problems:
            shutil.rmtree(self._place)
        return Outcome(case.name, phases, started_again, problems)

    def _killed_run(self, case: Case, whole: Uninterrupted, number: int) -> int:
        """Start the case and kill it; where it had ended before, try anew with another moment."""
        while True:
            self._place = self._folder / f"kill-{number}"
            self._place.mkdir()
            phase = self._strike(self._start(case), whole, AIMS[number % len(AIMS)])
            if phase is not None:
                return phase
            shutil.rmtree(self._place)

    def _uninterrupted(self, case: Case) -> Uninterrupted:
        self._place = self._folder / f"whole-{len(self._known)}"
        self._place.mkdir()
        began = time.monotonic()
        if problems := self._wait(self._start(case)):
            raise SystemExit(f"{case.name}: the uninterrupted run failed: {problems[0]}")
        seconds = time.monotonic() - began
        board = self._board
        counts = [board.count(phase) for phase in range(len(PHASES))]
        durations = [board.seconds(phase) for phase in range(len(PHASES))]
        known = Uninterrupted(_result(self._place / "runs" / "it"), seconds, counts, durations)
        self._known[case.name] = known
        return known

    def _start(self, case: Case, *, resume: bool = False) -> int:
        self._board.clear()
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            _train(case, self._place, self._board, resume)
            code = 0
        except BaseException:
            (self._place / "error").write_text(traceback.format_exc())
        finally:
            os._exit(code)

    def _strike(self, pid: int, whole: Uninterrupted, aim: int | None) -> int | None:
        """Kill the process at a random moment and return the phase it was in; None when it had ended."""
        if aim is None:
            time.sleep(self._random.uniform(0, whole.seconds))
        else:
            turn = self._random.randint(1, max(1, whole.counts[aim]))
            until = time.monotonic() + PATIENCE_SECONDS
            while self._board.count(aim) < turn and self._board.phase != LEAVING and time.monotonic() < until:
                time.sleep(0.0001)
            time.sleep(self._random.uniform(0, whole.durations[aim]))
        os.kill(pid, signal.SIGKILL)
        phase = self._board.phase
        _, status = os.waitpid(pid, 0)
        return phase if os.WIFSIGNALED(status) else None

    def _wait(self, pid: int) -> list[str]:
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return [] if status == 0 else [(self._place / "error").read_text()]
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return [f"still running after {PATIENCE_SECONDS:.0f} seconds"]


def _train(case: Case, place: Path, board: Board, resume: bool) -> None:
    """Run in a child: train or resume the case, telling the board about its phases."""
    os.environ["CAVIAR_CACHE"] = str(place / "cache")
    board.enter(READING)
    train.create_run = board.during(FOLDER, TRAINING, train.create_run)  # type: ignore[attr-defined]
    train.execute = board.during(TRAINING, LEAVING, train.execute)  # type: ignore[attr-defined]
    checkpoints.write_checkpoint = board.during(CHECKPOINT, TRAINING, checkpoints.write_checkpoint)
    execute.finish = board.during(BUNDLE, BUNDLE, execute.finish)  # type: ignore[attr-defined]
    if case.each_step:
        loop.MID_EPOCH_SECONDS = 0.0
    if resume:
        train.train(resume=place / "runs" / "it", progress=False)
    else:
        train.train(
            case.source,
            target=case.target,
            epochs=case.epochs,
            settings=case.settings,
            name="it",
            runs_dir=place / "runs",
            progress=False,
        )


def _result(run: Path) -> dict[str, Any]:
    """Return all that must be equal: status, files of the bundle, records (but those of speed and the like)."""
    with closing(sqlite3.connect(run / "records.sqlite")) as store:
        kept = ", ".join(f"'{name}'" for name in sorted(MOMENTARY))
        order = "trial, name, split, layer, step"
        rows = store.execute(f"SELECT * FROM records WHERE name NOT IN ({kept}) ORDER BY {order}").fetchall()
    summary = json.loads((run / "run.json").read_text())
    return {
        "status": summary["status"],
        "metrics": summary["metrics"],
        **{f"bundle/{path.name}": path.read_bytes() for path in sorted((run / "bundle").iterdir())},
        "best weights": _content(run / "checkpoints" / "best.safetensors"),
        "records": rows,
        "files": sorted(path.name for path in run.iterdir()),
        "half-written checkpoints": sorted(path.name for path in (run / "checkpoints").glob(".*")),
    }


def _content(path: Path) -> dict[str, Any]:
    """Return metadata and tensors: the order of the metadata in the file is left to chance by safetensors."""
    with safe_open(path, framework="np") as file:
        return {"": file.metadata(), **{name: file.get_tensor(name).tobytes() for name in file.keys()}}  # noqa: SIM118


def _differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    names = [name for name in [*wanted, *found] if wanted.get(name) != found.get(name)]
    return [f"{name} differs from the uninterrupted run's" for name in dict.fromkeys(names)]


def make_cases(folder: Path, threads: int) -> list[Case]:
    """Write the data and return the cases: a net with dropout, one with batch norm, a conv net, a regression."""
    _write_pictures(folder / "pictures")
    _write_table(folder / "table.csv")
    plain: dict[str, Any] = {"device.threads": threads}
    often = plain | {"training.checkpoint_seconds": 0}
    norm: dict[str, Any] = {"model.norm": "batch", "model.dropout": 0.2, "training.batch_size": 256}
    return [
        Case("digits", "sample:digits", epochs=8, settings=plain),
        Case("pictures, each step", str(folder / "pictures"), epochs=3, each_step=True, settings=often),
        Case("table, each epoch", str(folder / "table.csv"), "y", epochs=8, settings=often | {"model.dropout": 0.1}),
        Case("digits, each step", "sample:digits", epochs=4, each_step=True, settings=often | norm),
        Case("pictures", str(folder / "pictures"), epochs=4, settings=plain),
        Case("digits, each epoch", "sample:digits", epochs=8, settings=often | {"optimizer.name": "sgd"}),
    ]


def _write_pictures(folder: Path) -> None:
    draw = np.random.default_rng(0)
    for label in range(3):
        (folder / f"class_{label}").mkdir(parents=True)
        for number in range(40):
            pixels = draw.integers(0, 120, (12, 12, 3), dtype=np.uint8)
            pixels[:, :, label] += 100
            Image.fromarray(pixels).save(folder / f"class_{label}" / f"{number}.png")


def _write_table(path: Path) -> None:
    draw = np.random.default_rng(1)
    numbers = draw.normal(size=(400, 3))
    towns = draw.choice(["Ulm", "Bonn", "Kiel"], 400)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "c", "town", "y"])
        for row, town in zip(numbers, towns, strict=True):
            shown = ["" if value > 2 else f"{value:.4f}" for value in row]
            writer.writerow([*shown, town, f"{2 * row[0] - row[1] + len(str(town)) + 0.1 * row[2]:.4f}"])


def _summary(outcomes: list[Outcome]) -> dict[str, Any]:
    kills = Counter(phase for outcome in outcomes for phase in outcome.phases)
    bad = [outcome for outcome in outcomes if outcome.differences]
    return {
        "format": "caviar faults",
        "version": 1,
        "runs": len(outcomes),
        "kills": kills.total(),
        "phases": {name: kills[phase] for phase, name in enumerate(PHASES)},
        "started_again": sum(outcome.started_again for outcome in outcomes),
        "identical": len(outcomes) - len(bad),
        "different": [{"case": o.case, "phases": _names(o), "differences": o.differences} for o in bad],
    }


def _names(outcome: Outcome) -> list[str]:
    return [PHASES[phase] for phase in outcome.phases]


def _table(outcomes: list[Outcome]) -> Table:
    table = Table(title="Runs killed, resumed, and compared with the run that nobody killed", title_justify="left")
    for heading in ("last killed while", "runs", "kills in all", "identical", "different"):
        table.add_column(heading, justify="left" if heading == "last killed while" else "right")
    for phase, name in enumerate(PHASES):
        ended = [outcome for outcome in outcomes if outcome.phases[-1] == phase]
        same = sum(not outcome.differences for outcome in ended)
        hits = sum(outcome.phases.count(phase) for outcome in outcomes)
        table.add_row(name, str(len(ended)), str(hits), str(same), str(len(ended) - same))
    return table


def main() -> int:
    """Kill as often as asked, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="runs to kill and resume (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--threads", type=int, default=1, help="of each run (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--keep", type=Path, help="keep the folders of runs that came out different here")
    chosen = parser.parse_args()
    say = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        cases = make_cases(folder, chosen.threads)
        range_ = Range(folder, chosen.seed)
        outcomes = []
        for number in range(chosen.kills):
            outcome = range_.kill(cases[number % len(cases)], number)
            outcomes.append(outcome)
            for difference in outcome.differences:
                say.print(
                    f"kill {number} ({outcome.case}, while {', then '.join(_names(outcome))}): {difference}",
                    markup=False,
                )
    if chosen.json:
        print(json.dumps(_summary(outcomes), indent=2))
    else:
        Console().print(_table(outcomes))
        Console().print(f"{len(outcomes)} runs of {min(len(cases), chosen.kills)} kinds, seed {chosen.seed}.")
    return 1 if any(outcome.differences for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
