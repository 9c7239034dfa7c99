"""k folds as index sets, for cross-validation."""

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caviar.core.errors import InputError
from caviar.core.examples import RowNumbers
from caviar.core.seeds import derive_seed


def make_folds(
    num_rows: int,
    k: int,
    seed: int,
    *,
    stratify: NDArray[Any] | None = None,
    groups: NDArray[np.int64] | None = None,
) -> list[tuple[RowNumbers, RowNumbers]]:
    """Return (train rows, dev rows), each sorted, of every fold; each row is in dev once.

    Args:
        num_rows: rows to divide.
        k: folds, from 2 to the number of rows (of groups).
        seed: of the run; equal seeds give equal folds.
        stratify: (rows,) class numbers; the folds' counts of each class then differ by at most 1, and those of all
            rows too. A class needs two rows to be in every fold's train.
        groups: (rows,) numbers; equal ones stay in one fold. The largest group goes to the emptiest fold, so classes
            are not balanced as well.

    Raises:
        InputError: k is out of its range, or a class has a single row.
    """
    if not 2 <= k <= num_rows:
        raise InputError(f"{k} folds of {num_rows} rows cannot be made: choose from 2 to {num_rows} folds.")
    generator = np.random.default_rng(derive_seed(seed, "folds"))
    fold_of = _by_row(num_rows, k, stratify, generator) if groups is None else _by_group(groups, k, generator)
    return [(_numbers(fold_of != fold), _numbers(fold_of == fold)) for fold in range(k)]


def _numbers(chosen: NDArray[np.bool_]) -> RowNumbers:
    rows = np.flatnonzero(chosen)
    return rows.astype(np.int32) if len(chosen) < 2**31 else rows


def _by_row(num_rows: int, k: int, stratify: NDArray[Any] | None, generator: np.random.Generator) -> NDArray[np.int64]:
    """Deal the rows, class after class and shuffled within each, to the folds in turn."""
    order = generator.permutation(num_rows)
    if stratify is not None:
        counts = np.bincount(stratify)
        if (counts == 1).any():
            raise InputError(
                f"class number {int((counts == 1).argmax())} has a single row, which cannot be in every fold's train. "
                "Add rows of this class or remove it."
            )
        order = order[np.argsort(stratify[order], kind="stable")]
    fold_of = np.empty(num_rows, dtype=np.int64)
    fold_of[order] = np.arange(num_rows) % k
    return fold_of


def _by_group(groups: NDArray[np.int64], k: int, generator: np.random.Generator) -> NDArray[np.int64]:
    names, place = np.unique(groups, return_inverse=True)
    if len(names) < k:
        raise InputError(f"{k} folds of {len(names)} groups cannot be made: choose from 2 to {len(names)} folds.")
    sizes = np.bincount(place)
    shuffled = generator.permutation(len(names))
    fold_of = np.empty(len(names), dtype=np.int64)
    folds = [(0, fold) for fold in range(k)]
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")].tolist():
        filled, fold = heapq.heappop(folds)
        fold_of[group] = fold
        heapq.heappush(folds, (filled + int(sizes[group]), fold))
    return fold_of[place]
