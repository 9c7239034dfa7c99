"""Examples ready for batches, and which rows belong to which split."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

SplitName = Literal["train", "dev", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "dev", "test")


@dataclass(frozen=True)
class Splits:
    """Disjoint row numbers (sorted, int64) of the three splits of one table, folder or array."""

    train: NDArray[np.int64]
    dev: NDArray[np.int64]
    test: NDArray[np.int64]

    def of(self, name: SplitName) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = getattr(self, name)
        return rows


@dataclass(frozen=True)
class Examples:
    """Inputs and targets of one split.

    inputs: (stored_rows, ...) in memory, on the device, or over a memory-mapped file.
    targets: (stored_rows,) int64 class numbers, or float32 standardised values.
    rows: the stored rows that belong to this split, or None when all of them do.
    """

    inputs: Tensor
    targets: Tensor
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.targets if self.rows is None else self.rows)
