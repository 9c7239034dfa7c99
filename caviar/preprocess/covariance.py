"""Mean and covariance of columns in one pass over blocks, in float64, with memory for columns x columns only."""

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from caviar.core.errors import InputError
from caviar.preprocess.moments import CELLS, Floats

MAX_COLUMNS = 10_000
"""The most columns whose covariance is taken: 800 MB, and its eigenvectors take minutes."""
LEAST_ROWS = 256
"""Rows worked on at a time at the least: fewer make the matrix products slow."""


@dataclass
class Covariance:
    """Streaming mean and matrix of centred products of columns, in float64.

    Blocks are merged by the rule of Chan, Golub and LeVeque (1983): with delta = mean_b - mean_a,

        mean = mean_a + delta n_b / n,    C = C_a + C_b + delta delta^T n_a n_b / n.

    Every value is first taken relative to the first row, so 1e9 + noise keeps its digits and a constant column has a
    variance of exactly zero.

    Usage: `Covariance.of_width(columns)`, `update` with (rows, columns) blocks, then `mean`, `matrix`, `rounding`.

    Attributes:
        rows: how many rows were seen.
        origin, offset: (columns,) the first row, and the mean less the first row.
        products: (columns, columns) sums of products of deviations from the mean.
        unit: relative rounding error of the values as they came (2.2e-16 for float64, 1.2e-7 for float32, 0 for whole
            numbers).
    """

    origin: Floats
    offset: Floats
    products: Floats = field(repr=False)
    rows: int = 0
    unit: float = 0.0

    @classmethod
    def of_width(cls, num_columns: int) -> Self:
        """Return an empty covariance of `num_columns` columns; more than 10,000 are an InputError."""
        if num_columns > MAX_COLUMNS:
            raise InputError(
                f"decorrelation of {num_columns:,} columns needs a covariance of {num_columns:,} x {num_columns:,} "
                f"numbers; at most {MAX_COLUMNS:,} columns are taken. Leave columns out, or make the examples smaller."
            )
        return cls(np.zeros(num_columns), np.zeros(num_columns), np.zeros((num_columns, num_columns)))

    def update(self, block: NDArray[Any]) -> None:
        """Add the rows of `block` (rows, columns), of any real type."""
        if not len(block):
            return
        if block.dtype.kind == "f":
            self.unit = max(self.unit, float(np.finfo(block.dtype).eps))
        if not self.rows:
            self.origin = block[0].astype(np.float64)
        step = max(LEAST_ROWS, CELLS // max(1, block.shape[1]))
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(block), step):
                self._update(block[start : start + step] - self.origin)

    def _update(self, values: Floats) -> None:
        """Merge a small block that is relative to the origin; `values` is overwritten."""
        count = len(values)
        offset = values.mean(axis=0)
        values -= offset
        total = self.rows + count
        delta = offset - self.offset
        self.products += values.T @ values
        if self.rows:
            self.products += np.outer(delta, delta * (self.rows * count / total))
        self.offset += delta * (count / total)
        self.rows = total

    @property
    def mean(self) -> Floats:
        """Mean of each column."""
        return self.origin + self.offset

    @property
    def matrix(self) -> Floats:
        """Population covariance (divided by rows), (columns, columns)."""
        return self.products / max(self.rows, 1)

    @property
    def rounding(self) -> Floats:
        """The variance that rounding alone may give each column: (unit)^2 times its mean square."""
        return self.unit**2 * (self.mean**2 + np.diagonal(self.products) / max(self.rows, 1))

    @property
    def finite(self) -> bool:
        """Whether all is finite: false after NaN, infinity, or values whose squares overflow."""
        return bool(np.isfinite(self.offset).all() and np.isfinite(np.diagonal(self.products)).all())
