"""Count, mean and variance of columns in one pass over blocks, exact where the textbook sum of squares is not."""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

# Elements worked on at a time: one megabyte of float64 stays in the processor's cache through all the passes over it.
CELLS = 1 << 17

Floats = NDArray[np.float64]


@dataclass
class Moments:
    """Streaming count, mean and sum of squared deviations of each column, in float64; NaN is skipped.

    Blocks are merged by the rule of Chan, Golub and LeVeque (1983): with delta = mean_b - mean_a,

        mean = mean_a + delta n_b / n,    m2 = m2_a + m2_b + delta^2 n_a n_b / n.

    Every value is first taken relative to the column's first value, so 1e9 + noise keeps its digits and a constant
    column has a variance of exactly zero.

    Usage: `Moments.of_width(columns)`, `update` with (rows, columns) blocks, then `mean`, `variance`, `std`.

    Attributes:
        rows: how many rows were seen. count: (columns,) how many values, so rows - count is missing.
        origin, offset, m2: (columns,) first value, mean less the first value, sum of squared deviations.
        waiting: (columns,) whether no value was seen so far.
    """

    origin: Floats
    count: Floats
    offset: Floats
    m2: Floats
    waiting: NDArray[np.bool_] = field(repr=False)
    rows: int = 0

    @classmethod
    def of_width(cls, num_columns: int) -> Self:
        """Return empty moments of `num_columns` columns."""
        zeros = np.zeros(num_columns)
        return cls(zeros.copy(), zeros.copy(), zeros.copy(), zeros.copy(), np.ones(num_columns, dtype=bool))

    def update(self, block: NDArray[np.number | np.bool_]) -> None:
        """Add the rows of `block` (rows, columns), of any real type."""
        rows = max(1, CELLS // max(1, block.shape[1]))
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(block), rows):
                self._update(block[start : start + rows].astype(np.float64))

    def _update(self, values: Floats) -> None:
        """Merge a small block; `values` is overwritten."""
        self.rows += len(values)
        missing = np.isnan(values)
        some_missing = missing.any()
        if self.waiting.any():
            self._find_origin(values, ~missing)
        values -= self.origin
        if some_missing:
            values[missing] = 0.0
        count = len(values) - missing.sum(axis=0) if some_missing else np.full(len(self.count), len(values))
        offset = values.sum(axis=0) / np.maximum(count, 1)
        values -= offset
        if some_missing:
            values[missing] = 0.0
        self._merge(count.astype(np.float64), offset, np.einsum("ij,ij->j", values, values))

    def _find_origin(self, values: Floats, present: NDArray[np.bool_]) -> None:
        """Take the first value of each column that had none so far as its origin."""
        found = self.waiting & present.any(axis=0)
        first = present.argmax(axis=0)
        self.origin[found] = values[first[found], found.nonzero()[0]]
        self.waiting &= ~found

    def _merge(self, count: Floats, offset: Floats, m2: Floats) -> None:
        total = np.maximum(self.count + count, 1)
        delta = offset - self.offset
        self.offset += delta * (count / total)
        self.m2 += m2 + delta * delta * (self.count * count / total)
        self.count += count

    @property
    def mean(self) -> Floats:
        """Mean of each column; 0 where it has no value."""
        return self.origin + self.offset

    @property
    def variance(self) -> Floats:
        """Population variance (divided by count) of each column; 0 where it has no value."""
        return self.m2 / np.maximum(self.count, 1)

    @property
    def std(self) -> Floats:
        """Population standard deviation of each column."""
        return np.sqrt(self.variance)

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Whether each column's statistics are finite: false after an infinity, or values whose squares overflow."""
        return np.isfinite(self.mean) & np.isfinite(self.m2)


def inverse_std(std: Floats) -> Floats:
    """Return 1 / std, and 0 for constant columns, which a z-score then brings to 0 instead of blowing up."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = 1.0 / std
    return np.where(np.isfinite(inverse), inverse, 0.0)
