"""Time caviar's training loop, records and checkpoints on, against the loop that one would write by hand.

    python benchmarks/loop.py [--rounds N] [--work NAME] [--cifar PATH] [--threads N] [--quick] [--json]

The contenders take turns, round by round, so that what else the machine does falls on all of them; a ratio is taken
within a round, and the table shows its median (and range) over the rounds. Exit code 1 when a target is missed.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from cifar import cifar_subset
from contenders import Work, installed
from rich import box
from rich.console import Console
from rich.table import Table
from works import convnet_on_pictures, mlp_on_digits, mlp_on_pictures

WORKS = ("mlp-pictures", "mlp-digits", "convnet")
ROUNDS = {"mlp-pictures": 9, "mlp-digits": 11, "convnet": 7}
EPOCHS = {"mlp-pictures": 20, "mlp-digits": 100, "convnet": 1}

LEGEND = """ratio: caviar's time as a share of the other's, median over the rounds, and its range
fastest: the fastest round of each, as a ratio; CPU: the ratio of CPU time; threads: {threads}"""

Times = dict[str, list[tuple[float, float]]]
"""(wall, CPU) seconds of each round, by contender."""


def main() -> int:
    """Measure the works asked for, print what came out, and return the exit code."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    say = Console(stderr=True, highlight=False)
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["CAVIAR_CACHE"] = f"{temporary}/cache"
        folder, pictures = Path(temporary) / "pictures", ""
        for name in arguments.work or WORKS:
            if name != "mlp-digits" and not pictures:
                pictures = cifar_subset(arguments.cifar, folder)
                say.print(pictures)
            work = _make(name, folder, arguments.quick)
            rounds = arguments.rounds or (3 if arguments.quick else ROUNDS[name])
            times = _measure(work, rounds, say)
            results.append(_summary(work, times, "" if name == "mlp-digits" else pictures))
    if arguments.json:
        json.dump(_report(results), sys.stdout, indent=2)
        print()
    else:
        for result in results:
            Console().print(_table(result))
        print(LEGEND.format(threads=torch.get_num_threads()))
    return 0 if all(result["met"] for result in results) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="rounds of each work")
    parser.add_argument("--work", choices=WORKS, action="append", help="only this work; may be given again")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10: a folder with train/<class>/*, or the archive of one")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of each contender (all cores)")
    parser.add_argument("--quick", action="store_true", help="three short rounds: shows that it runs, proves little")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser.parse_args()


def _make(name: str, folder: Path, quick: bool) -> Work:
    epochs = max(1, EPOCHS[name] // 5) if quick else EPOCHS[name]
    if name == "mlp-digits":
        return mlp_on_digits(epochs)
    return mlp_on_pictures(folder, epochs) if name == "mlp-pictures" else convnet_on_pictures(folder, epochs)


def _measure(work: Work, rounds: int, say: Console) -> Times:
    contenders = installed()
    times: Times = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in list(contenders.items())[:: 1 if number % 2 else -1]:
            with contender(work) as train:
                gc.collect()
                wall, cpu = time.perf_counter(), time.process_time()
                train()
                spent = (time.perf_counter() - wall, time.process_time() - cpu)
            if number:  # the first round warms up
                times[name].append(spent)
        say.print(f"{work.name}: round {number} of {rounds}", end="\r")
    say.print()
    return times


def _summary(work: Work, times: Times, pictures: str) -> dict[str, Any]:
    """Ratios of caviar to each other contender, and whether they are as they should be."""
    ours = times["caviar"]
    others = {}
    for name, theirs in times.items():
        if name == "caviar":
            continue
        walls, cpus = ([a[i] / b[i] for a, b in zip(ours, theirs, strict=True)] for i in (0, 1))
        limit = work.target if name == "hand-written" else 1.0
        middle = statistics.median(walls)
        others[name] = {
            "ratio": middle,
            "lowest": min(walls),
            "highest": max(walls),
            "fastest_ratio": min(wall for wall, _ in ours) / min(wall for wall, _ in theirs),
            "cpu_ratio": statistics.median(cpus),
            "limit": limit,
            "met": middle <= limit,
        }
    return {
        "work": work.name,
        "title": work.title,
        "data": pictures or f"{len(work.inputs):,} digits to train on, {len(work.dev_inputs):,} for dev",
        "epochs": work.epochs,
        "rounds": len(ours),
        "seconds": {name: statistics.median(wall for wall, _ in spent) for name, spent in times.items()},
        "caviar_against": others,
        "met": all(other["met"] for other in others.values()),
    }


def _report(results: list[dict[str, Any]]) -> dict[str, Any]:
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    return {"format": "caviar benchmark loop", "version": 1, "machine": machine, "works": results}


def _table(result: dict[str, Any]) -> Table:
    epochs = f"{result['epochs']} epoch{'s' if result['epochs'] > 1 else ''}"
    caption = f"{result['data']}; {epochs}, {result['rounds']} rounds"
    table = Table(title=result["title"], caption=caption, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("caviar : other", no_wrap=True)
    for heading in ("seconds", "ratio", "range", "fastest", "CPU", "limit", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, other in result["caviar_against"].items():
        table.add_row(
            name,
            f"{result['seconds']['caviar']:.2f} : {result['seconds'][name]:.2f}",
            f"[bold]{other['ratio']:.3f}[/]",
            f"{other['lowest']:.2f}-{other['highest']:.2f}",
            f"{other['fastest_ratio']:.2f}",
            f"{other['cpu_ratio']:.2f}",
            f"{other['limit']:.2f}",
            "[green]met[/]" if other["met"] else "[red]missed[/]",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
