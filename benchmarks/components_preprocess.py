"""Time caviar's streaming z-score and PCA against scikit-learn's, on 1,000,000 rows of 100 columns.

    python benchmarks/components_preprocess.py [--rounds N] [--rows N] [--json]

Both sides get the same batches of rows in the same order and take turns within a round; a ratio is taken within a round
and the median over the rounds counts. Exit code 1 when a target is missed.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import IncrementalPCA
from sklearn.preprocessing import StandardScaler

from caviar.preprocess import fit_pca, fit_zscore

ROWS, COLUMNS, BATCH = 1_000_000, 100, 10_000
LIMIT = 1.0


def measure(rounds: int = 5, rows: int = ROWS) -> list[dict[str, Any]]:
    """Return one row a comparison: name, seconds of both, ratio (median), range, limit, and whether it is met."""
    found = []
    for kind in (np.float64, np.float32):
        values = _values(rows, kind)
        for name, ours, theirs in _pairs(values):
            found.append(_compare(f"{name}, {np.dtype(kind).name}", ours, theirs, rounds))
    return found


def _values(rows: int, kind: type) -> NDArray[Any]:
    draw = np.random.default_rng(0)
    mixing = draw.normal(size=(COLUMNS, COLUMNS)).astype(kind)
    values = draw.standard_normal((rows, COLUMNS), dtype=kind)
    return values @ mixing + kind(10)


def _pairs(values: NDArray[Any]) -> list[tuple[str, Callable[[], object], Callable[[], object]]]:
    def batches() -> Iterator[NDArray[Any]]:
        for start in range(0, len(values), BATCH):
            yield values[start : start + BATCH]

    def scaler() -> object:
        module = StandardScaler()
        for batch in batches():
            module.partial_fit(batch)
        return module

    def incremental() -> object:
        module = IncrementalPCA()
        for batch in batches():
            module.partial_fit(batch)
        return module

    return [
        ("z-score against StandardScaler", lambda: fit_zscore(batches), scaler),
        ("PCA against IncrementalPCA", lambda: fit_pca(batches), incremental),
    ]


def _compare(name: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> dict[str, Any]:
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for spent, work in zip(seconds, (ours, theirs), strict=True):
            gc.collect()
            start = time.perf_counter()
            work()
            if number:  # the first round warms up
                spent.append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(*seconds, strict=True)]
    middle = statistics.median(ratios)
    return {
        "name": name,
        "ours": statistics.median(seconds[0]),
        "theirs": statistics.median(seconds[1]),
        "unit": "s",
        "ratio": middle,
        "lowest": min(ratios),
        "highest": max(ratios),
        "limit": LIMIT,
        "met": middle <= LIMIT,
    }


def main() -> int:
    """Measure, print what came out, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    arguments = parser.parse_args()
    rows = measure(arguments.rounds, arguments.rows)
    if arguments.json:
        print(json.dumps(rows, indent=2))
    for row in () if arguments.json else rows:
        print(
            f"{row['name']}: {row['ours']:.3f} : {row['theirs']:.3f} s, ratio {row['ratio']:.3f} "
            f"({row['lowest']:.2f} to {row['highest']:.2f}), at most {row['limit']:.2f}: "
            f"{'met' if row['met'] else 'missed'}"
        )
    return 0 if all(row["met"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
