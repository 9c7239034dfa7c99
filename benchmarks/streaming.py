"""A table larger than the memory budget: how much private memory its training takes, and how fast it is.

    python benchmarks/streaming.py                 # makes a CSV of 4 GB in a temporary folder
    python benchmarks/streaming.py --gigabytes 1   # smaller
    python benchmarks/streaming.py --table big.csv --target label

First `caviar train` runs as a process of its own, with an empty cache, and its RssAnon (private memory; mapped pages of
a file do not count) is watched from outside, through reading, preprocessing, one epoch and evaluation. Then the same
steps are timed in turn over the memory-mapped examples and over a copy of them in memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

MEMORY_TARGET_MIB = 1500
RATE_TARGET = 0.8
MEBIBYTE = 1 << 20
CHUNK_ROWS = 500_000
BATCH_SIZE = 1024


def make_table(path: Path, gigabytes: float) -> int:
    """Write a CSV of 19 numeric columns and a label that follows from them; return the number of rows."""
    import polars as pl

    draw = np.random.default_rng(0)
    weights = draw.normal(size=19)
    rows = 0
    with path.open("wb") as file:
        while file.tell() < gigabytes * 1e9:
            values = draw.normal(size=(CHUNK_ROWS, 19))
            labels = (values @ weights + draw.normal(size=CHUNK_ROWS) > 0).astype(np.int64)
            columns: dict[str, Any] = {f"x{i}": values[:, i] for i in range(19)} | {"label": labels}
            pl.DataFrame(columns).write_csv(file, float_precision=5, include_header=rows == 0)
            rows += CHUNK_ROWS
    return rows


def watch_memory(table: Path, target: str, folder: Path) -> dict[str, Any]:
    """Train one epoch in a process of its own; return its peak private and mapped memory in MiB, and the time taken."""
    command = [sys.executable, "-m", "caviar", "train", str(table), "--target", target, "--epochs", "1"]
    command += ["--runs-dir", str(folder / "runs"), "--quiet", "--set", f"training.batch_size={8 * BATCH_SIZE}"]
    peaks = {"RssAnon": 0, "RssFile": 0}
    began = time.monotonic()
    process = subprocess.Popen(command, env=os.environ | {"CAVIAR_CACHE": str(folder / "cache")})
    while process.poll() is None:
        for name, kibibytes in memory_of(process.pid).items():
            peaks[name] = max(peaks[name], kibibytes)
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"caviar train ended with exit code {process.returncode}")
    seconds = time.monotonic() - began
    return {"private_mib": peaks["RssAnon"] >> 10, "mapped_mib": peaks["RssFile"] >> 10, "seconds": seconds}


def memory_of(pid: int) -> dict[str, int]:
    """Return RssAnon and RssFile of a process in KiB; nothing once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in lines if line.startswith(("RssAnon", "RssFile")))
    return {name: int(value.split()[0]) for name, value in fields.items()}


def compare_rates(table: Path, target: str, folder: Path, rounds: int, steps: int) -> dict[str, Any]:
    """Time the same steps over mapped examples and over a copy in memory, in turn; rates are examples a second."""
    os.environ["CAVIAR_CACHE"] = str(folder / "cache")
    from caviar.recipe import merge
    from caviar.train.loop import StopRequest, train
    from caviar.train.state import State
    from caviar.workflow.execute import build_job
    from caviar.workflow.plan import make_plan
    from caviar.workflow.train import describe, from_settings

    class StopAfter:
        """Stops the loop, and times the steps after the first few."""

        def __init__(self, stop: StopRequest) -> None:
            self.stop, self.began, self.seconds = stop, 0.0, 0.0

        def on_step(self, moment: Any, _loss: Any) -> None:
            if moment.step == 5:
                self.began = time.perf_counter()
            if moment.step == 5 + steps:
                self.seconds = time.perf_counter() - self.began
                self.stop.requested = True

        def on_epoch(self, facts: Any) -> None: ...

        def on_save(self, step: int) -> None: ...

    sparse, _ = describe(table, target)
    plan = make_plan(merge(sparse, from_settings({"training.batch_size": BATCH_SIZE, "training.epochs": 1})))
    assert plan.prepared.mapped, "this table fits the memory budget: take a larger one"
    mapped = build_job(plan)
    copied = replace(mapped, train=replace(mapped.train, inputs=mapped.train.inputs.clone()))
    found: dict[str, list[float]] = {"mapped": [], "memory": []}
    for _ in range(rounds + 1):
        for name, job in (("mapped", mapped), ("memory", copied)):
            stop = StopRequest()
            listener = StopAfter(stop)
            train(job, State(), None, [listener], stop)
            found[name].append(steps * BATCH_SIZE / listener.seconds)
    ratios = [m / c for m, c in zip(found["mapped"][1:], found["memory"][1:], strict=True)]  # the first fills the cache
    return {
        "mapped_rate": median(found["mapped"][1:]),
        "memory_rate": median(found["memory"][1:]),
        "ratio": median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def show(result: dict[str, Any]) -> Table:
    """Return both measurements beside their targets."""
    table = Table(title=f"a table of {result['gigabytes']:.2f} GB", title_justify="left")
    for heading in ("what", "measured", "target"):
        table.add_column(heading)
    memory, rate = result["memory"], result["rate"]
    table.add_row("peak private memory", f"{memory['private_mib']:,} MiB", f"under {MEMORY_TARGET_MIB:,} MiB")
    table.add_row("peak mapped pages", f"{memory['mapped_mib']:,} MiB", "")
    table.add_row(
        "rate, mapped / in memory",
        f"{rate['ratio']:.2f} ({rate['ratio_min']:.2f} to {rate['ratio_max']:.2f})",
        f"at least {RATE_TARGET}",
    )
    table.add_row("examples a second, mapped", f"{rate['mapped_rate']:,.0f}", "")
    return table


def main() -> None:
    """Measure, print, and exit with 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--table", type=Path, help="a table of your own")
    parser.add_argument("--target", default="label")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = options.table or folder / "large.csv"
        if options.table is None:
            make_table(table, options.gigabytes)
        result: dict[str, Any] = {
            "gigabytes": table.stat().st_size / 1e9,
            "memory": watch_memory(table, options.target, folder),
            "rate": compare_rates(table, options.target, folder, options.rounds, options.steps),
        }
    print(json.dumps(result, indent=2)) if options.json else Console().print(show(result))
    missed = result["memory"]["private_mib"] >= MEMORY_TARGET_MIB or result["rate"]["ratio"] < RATE_TARGET
    sys.exit(int(missed))


if __name__ == "__main__":
    main()
