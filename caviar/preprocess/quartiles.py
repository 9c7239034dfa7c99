"""Median and quartiles of columns: exact for as many rows as memory should hold, those of a stated sample above."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caviar.core.seeds import derive_seed
from caviar.preprocess.moments import Floats

EXACT_ROWS = 1_000_000
"""Quartiles are exact up to this many training rows; above, they are those of a sample of this many, one drawn at
random (with a fixed seed) from each of as many equal stretches of rows."""
SAMPLE_CELLS = 1 << 25
"""Sampled values in memory at a time: 256 MB."""
PROBABILITIES = (0.25, 0.5, 0.75)


def sample_rows(num_rows: int, size: int) -> NDArray[np.int64]:
    """Return sorted row numbers, one from each of `size` equal stretches of range(num_rows)."""
    generator = np.random.default_rng(derive_seed(0, "median sample"))
    places = np.arange(size) + generator.random(size)
    rows = (places * (num_rows / size)).astype(np.int64).clip(max=num_rows - 1)
    return rows[np.diff(rows, prepend=-1) > 0]


def quartiles(blocks: Callable[[], Iterable[NDArray[Any]]], num_rows: int, num_columns: int) -> Floats:
    """Return the quartiles (3, columns) of blocks (rows, columns) without missing values.

    Between two values they are interpolated linearly, as by NumPy. There is one pass for every 2^25 sampled values.
    """
    chosen = None if num_rows <= EXACT_ROWS else sample_rows(num_rows, EXACT_ROWS)
    found = np.empty((3, num_columns))
    width = max(1, SAMPLE_CELLS // min(num_rows, EXACT_ROWS))
    for start in range(0, num_columns, width):
        sample = _sampled(blocks(), slice(start, start + width), chosen)
        found[:, start : start + width] = np.quantile(sample, PROBABILITIES, axis=1)
    return found


def _sampled(blocks: Iterable[NDArray[Any]], columns: slice, chosen: NDArray[np.int64] | None) -> Floats:
    """Gather the chosen rows of some columns as (columns, rows)."""
    row, parts = 0, []
    for block in blocks:
        part = block[:, columns]
        if chosen is not None:
            first, last = np.searchsorted(chosen, [row, row + len(block)])
            part = part[chosen[first:last] - row]
        row += len(block)
        parts.append(part.T.astype(np.float64))
    return np.concatenate(parts, axis=1)


def robust_scale(lower: Floats, upper: Floats, std: Floats) -> Floats:
    """Return what to divide by: the interquartile range, or the standard deviation where that is 0.

    A column of which more than half is one value has no interquartile range, but what is rare in it still counts.
    """
    spread: Floats = upper - lower
    return np.where(spread > 0, spread, std)
