"""Examples ready for batches, and which rows belong to which split."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SplitName = Literal["train", "dev", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "dev", "test")


RowNumbers = NDArray[np.int32] | NDArray[np.int64]
"""Row numbers: int32, or int64 where a table has 2**31 rows or more."""


@dataclass(frozen=True)
class Splits:
    """Disjoint row numbers, each sorted, of the three splits of one table, folder or array."""

    train: RowNumbers
    dev: RowNumbers
    test: RowNumbers

    def of(self, name: SplitName) -> RowNumbers:
        rows: RowNumbers = getattr(self, name)
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

    def spread(self, count: int) -> Tensor:
        """Return up to `count` stored rows from all over the split, as stored order may go class by class."""
        # In float64: float32 rounds numbers above 2**24, and the last row to one that is not there.
        places = torch.linspace(0, len(self) - 1, min(count, len(self)), dtype=torch.float64).long()
        rows = places if self.rows is None else self.rows.cpu()[places].long()
        return rows.to(self.inputs.device)
