"""The least and the greatest value of each column in one pass over blocks."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from caviar.preprocess.moments import Floats


@dataclass
class Extremes:
    """Streaming minimum and maximum of each column, in float64.

    With `skip_missing` NaN is skipped, and a column without a value has low = inf, high = -inf; without it NaN stays.
    """

    low: Floats
    high: Floats
    skip_missing: bool = False

    @classmethod
    def of_width(cls, num_columns: int, *, skip_missing: bool = False) -> Self:
        """Return the empty extremes of `num_columns` columns."""
        return cls(np.full(num_columns, np.inf), np.full(num_columns, -np.inf), skip_missing)

    def update(self, block: NDArray[Any]) -> None:
        """Add the rows of `block` (rows, columns), of any real type."""
        if not len(block):
            return
        least, most = (np.fmin, np.fmax) if self.skip_missing else (np.minimum, np.maximum)
        self.low = least(self.low, least.reduce(block, axis=0))
        self.high = most(self.high, most.reduce(block, axis=0))

    @property
    def finite(self) -> bool:
        """Whether every column's values so far, and their range, are finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            return bool(np.isfinite(self.high - self.low).all())

    def factor(self, low: float, high: float) -> Floats:
        """Return (high - low) / (maximum - minimum) of each column, and 0 for constant and empty ones."""
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            factor = (high - low) / (self.high - self.low)
        return np.where((self.high > self.low) & np.isfinite(factor), factor, 0.0)
