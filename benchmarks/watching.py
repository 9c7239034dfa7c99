"""Time what watching costs: caviar's loop with the default and the full set of quantities against the same without.

    python benchmarks/watching.py [--rounds N] [--work NAME] [--cifar PATH] [--threads N] [--quick] [--json]

All train the same net on the same batches, each set at its own default schedule, and take turns round by round; a
ratio is taken within a round, and the table shows its median (and range) over the rounds. "default, live" has rules
reading the records as they come as well. Exit code 1 when a target is missed.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cifar import cifar_subset
from contenders import Contender, Work, caviar
from loop import WORKS
from rich import box
from rich.console import Console
from rich.table import Table
from works import convnet_on_pictures, mlp_on_digits, mlp_on_pictures

ROUNDS = {"mlp-pictures": 7, "mlp-digits": 9, "convnet": 5}
EPOCHS = {"mlp-pictures": 10, "mlp-digits": 50, "convnet": 2}
LIMITS = {"default": 1.03, "full": 1.15, "default, live": None}
CONTENDERS: dict[str, Contender] = {
    "none": caviar,
    "default": partial(caviar, watched="default"),
    "full": partial(caviar, watched="full"),
    "default, live": partial(caviar, watched="default", findings="live"),
}


def main() -> int:
    """Measure the works asked for, print what came out, and return the exit code."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    say = Console(stderr=True, highlight=False)
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["CAVIAR_CACHE"] = f"{temporary}/cache"
        folder = Path(temporary) / "pictures"
        pictures = ""
        for name in arguments.work or WORKS:
            if name != "mlp-digits" and not pictures:
                pictures = cifar_subset(arguments.cifar, folder)
            epochs = max(1, EPOCHS[name] // (5 if arguments.quick else 1))
            results.append(_result(_make(name, folder, epochs), arguments.rounds or ROUNDS[name], say))
    if arguments.json:
        machine = {"threads": torch.get_num_threads(), "torch": torch.__version__}
        json.dump(
            {"format": "caviar benchmark watching", "version": 1, "machine": machine, "works": results}, sys.stdout
        )
        print()
    else:
        for result in results:
            Console().print(_table(result))
    return 0 if all(set_["met"] for result in results for set_ in result["sets"].values()) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="rounds of each work")
    parser.add_argument("--work", choices=WORKS, action="append", help="only this work; may be given again")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10: a folder with train/<class>/*, or the archive of one")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of each contender (all cores)")
    parser.add_argument("--quick", action="store_true", help="a fifth of the epochs: shows that it runs, proves little")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser.parse_args()


def _make(name: str, folder: Path, epochs: int) -> Work:
    if name == "mlp-digits":
        return mlp_on_digits(epochs)
    return mlp_on_pictures(folder, epochs) if name == "mlp-pictures" else convnet_on_pictures(folder, epochs)


def _seconds(contender: AbstractContextManager[Any]) -> float:
    with contender as train:
        gc.collect()
        began = time.perf_counter()
        train()
        return time.perf_counter() - began


def _result(work: Work, rounds: int, say: Console) -> dict[str, Any]:
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for number in range(rounds + 1):
        for name, contender in list(CONTENDERS.items())[:: 1 if number % 2 else -1]:
            spent = _seconds(contender(work))
            if number:  # the first round warms up
                times[name].append(spent)
        say.print(f"{work.name}: round {number} of {rounds}", end="\r")
    say.print()
    sets = {}
    for name, limit in LIMITS.items():
        ratios = [ours / plain for ours, plain in zip(times[name], times["none"], strict=True)]
        middle = statistics.median(ratios)
        best = min(times[name]) / min(times["none"])
        sets[name] = {"ratio": middle, "lowest": min(ratios), "highest": max(ratios), "fastest_ratio": best}
        sets[name] |= {"limit": limit, "met": limit is None or middle <= limit}
    seconds = statistics.median(times["none"])
    return {
        "work": work.name,
        "title": work.title,
        "epochs": work.epochs,
        "rounds": rounds,
        "none": seconds,
        "sets": sets,
    }


def _table(result: dict[str, Any]) -> Table:
    caption = f"{result['epochs']} epochs, {result['rounds']} rounds; without watching {result['none']:.2f} s"
    table = Table(title=result["title"], caption=caption, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("watching", "ratio", "range", "fastest", "limit", ""):
        table.add_column(heading, justify="left" if heading == "watching" else "right", no_wrap=True)
    for name, found in result["sets"].items():
        limit = "" if found["limit"] is None else f"{found['limit']:.2f}"
        met = "" if found["limit"] is None else "met" if found["met"] else "missed"
        span = f"{found['lowest']:.3f}-{found['highest']:.3f}"
        table.add_row(name, f"{found['ratio']:.3f}", span, f"{found['fastest_ratio']:.3f}", limit, met)
    return table


if __name__ == "__main__":
    sys.exit(main())
