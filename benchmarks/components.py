"""Time the components beside what a user would pick instead: optimisers, preprocessing, augmentation.

    python benchmarks/components.py [--only optimisers|preprocess|augment] [--rounds N] [--json]

Each half is a module of its own (components_optim.py, components_preprocess.py, components_augment.py) that measures in
turns, round by round; the ratio of times is the median over the rounds. Exit code 1 when a target is missed.
"""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import components_augment
import components_optim
import components_preprocess
import torch
from rich.console import Console
from rich.table import Table

Row = dict[str, Any]
PARTS: dict[str, Callable[..., list[Row]]] = {
    "optimisers": components_optim.measure,
    "preprocess": components_preprocess.measure,
    "augment": components_augment.measure,
}
"""Name -> measure(rounds), which returns rows of name, ours, theirs, unit, ratio, lowest, highest, limit and met."""


def main() -> int:
    """Measure the parts asked for, print what came out, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="one part; may be given again")
    parser.add_argument("--rounds", type=int, help="rounds of each comparison; default: what the part takes")
    parser.add_argument("--threads", type=int, help="torch's threads; default: torch's own choice")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    options = {"rounds": arguments.rounds} if arguments.rounds else {}
    results = {name: PARTS[name](**options) for name in arguments.only or PARTS}
    if arguments.json:
        report = {"torch": torch.__version__, "threads": torch.get_num_threads(), "parts": results}
        json.dump(report, sys.stdout, indent=2)
        print()
    else:
        for name, rows in results.items():
            Console().print(_table(name, rows))
    return 0 if all(row["met"] for rows in results.values() for row in rows) else 1


def _table(name: str, rows: list[Row]) -> Table:
    table = Table(title=f"{name} (ratio of times: below 1 caviar is faster)")
    table.add_column("what")
    for column in ("caviar", "other", "ratio", "range", "at most", ""):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['ours']:,.4g}",
            f"{row['theirs']:,.4g} {row.get('unit', 's')}",
            f"{row['ratio']:.2f}",
            f"{row['lowest']:.2f} to {row['highest']:.2f}",
            f"{row['limit']:.2f}",
            "met" if row["met"] else "missed",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
