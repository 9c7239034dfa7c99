"""What every reader of data hands over: checked, typed, not yet split or preprocessed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from caviar.core.columns import Column, Task
from caviar.core.examples import SplitName

DataKind = Literal["table", "pictures", "arrays"]


@dataclass(frozen=True)
class RawData:
    """Checked examples of any kind, in stored order.

    kind: table, pictures or arrays.
    inputs: table: pl.DataFrame of the feature columns only (Float64, Boolean or String; null is missing);
        pictures: uint8 array (rows, height, width, channels), maybe np.memmap; arrays: torch.Tensor (rows, ...).
    targets: (rows,) int64 class numbers into `classes`, or float64 in the target's own units (regression).
    task: classification or regression.
    classes: the names of the classes in the order of their numbers; () for regression.
    columns: the feature columns of a table in order; () for other kinds.
    parts: counts of rows as files or folders gave them; the stored order is train, dev, test. {"train": rows} when
        there was one source.
    split_column: (rows,) the values of split.column, or None. It is not a feature.
    groups: (rows,) numbers, equal for the rows that must stay on one side (split.group), or None. It is not a feature.
    digest: of the content, equal for equal data.
    notices: warnings for the user, one sentence each.
    ignored: columns that were left out.
    names: of the pictures, relative to their root; None for other kinds.
    """

    kind: DataKind
    inputs: Any
    targets: NDArray[Any]
    task: Task
    parts: dict[SplitName, int]
    digest: str
    classes: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    split_column: NDArray[np.str_] | None = None
    groups: NDArray[np.int64] | None = None
    notices: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    names: Sequence[str] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.targets)
