"""Tables: median imputation with missing flags, scaling, one-hot or slot numbers. `fit_table` makes the module."""

from typing import Any, Literal, Self

import polars as pl
import torch
from pydantic import model_validator
from torch import Tensor, nn

from caviar.core.columns import Column
from caviar.core.settings import Settings
from caviar.preprocess.decorrelation import KEEPS_SHAPE, Decorrelation, DecorrelationState
from caviar.preprocess.numbers import (
    UNKNOWN_SLOT,
    Encoded,
    Vocabulary,
    check_columns,
    refuse_infinity,
    refuse_missing,
    to_numbers,
)


class TableState(Settings):
    """What fitting a table found besides the statistics: plain data, stored in a bundle's JSON."""

    kind: Literal["table"] = "table"
    """what this is the state of"""
    columns: tuple[Column, ...]
    """the input columns in order"""
    vocabularies: dict[str, Vocabulary]
    """of each categorical column, by name"""
    gaps: tuple[str, ...]
    """numeric and boolean columns that had missing values in training"""
    missing: Literal["median_and_flag", "median", "error"]
    """the setting preprocess.missing"""
    categorical: Literal["onehot", "embedding"]
    """the setting preprocess.categorical"""
    low: float = 0.0
    """the lower end of minmax"""
    decorrelate: DecorrelationState | None = None
    """what follows the scaling of the numeric and boolean columns"""

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        names = [c.name for c in self.columns]
        if len(set(names)) != len(names):
            raise ValueError("two columns have one name")
        if set(self.vocabularies) != {c.name for c in self.categories}:
            raise ValueError("the vocabularies are not those of the categorical columns")
        if not set(self.gaps) <= {c.name for c in self.numbers}:
            raise ValueError("a column with gaps is not a numeric or boolean column")
        if self.decorrelate is not None and self.decorrelate.inputs != len(self.numbers):
            raise ValueError("the decorrelation is not one of as many numbers as there are columns")
        return self

    @property
    def numbers(self) -> list[Column]:
        """Numeric and boolean columns."""
        return [c for c in self.columns if c.kind != "categorical"]

    @property
    def categories(self) -> list[Column]:
        """Categorical columns."""
        return [c for c in self.columns if c.kind == "categorical"]

    @property
    def flagged(self) -> list[Column]:
        """Columns with a missing flag."""
        return [c for c in self.numbers if c.name in self.gaps and self.missing == "median_and_flag"]

    @property
    def num_slots(self) -> list[int]:
        """Number of slots of each categorical column."""
        return [self.vocabularies[c.name].num_slots for c in self.categories]

    def knows_missing(self, column: Column) -> bool:
        """Whether the column had missing values in training."""
        if column.kind == "categorical":
            return self.vocabularies[column.name].has_missing
        return column.name in self.gaps

    def feature_names(self) -> list[str]:
        """One name for each feature, in order."""
        names = [c.name for c in self.numbers]
        if self.decorrelate is not None and self.decorrelate.name not in KEEPS_SHAPE:
            names = [f"direction {number + 1}" for number in range(self.decorrelate.outputs)]
        names += [f"{c.name} (missing)" for c in self.flagged]
        for column in self.categories:
            labels = [""] if self.categorical == "embedding" else self.vocabularies[column.name].labels
            names += [column.name + label for label in labels]
        return names


class TablePreprocess(nn.Module):
    """Turns a table's raw columns into the float32 features a network sees.

    Two steps: `encode` (Polars frame to float64 numbers) and `forward` (numbers to features, tensor operations only).
    With m, mu and s the training median, mean and standard deviation of a numeric or boolean column, computed over the
    values present,

        z = (x' - mu) / s,    x' = m where x is missing, else x,

    computed in float64 and then rounded, so that 1e9 + noise survives; constant columns (s = 0) become 0. The other
    scalings have the mean and 1, the minimum and the range, or the median and the interquartile range (the standard
    deviation where that is 0) in place of mu and s; minmax then adds its lower end. A decorrelation of z may follow.

    Features, in this order: z of numeric and boolean columns (or its directions); a 0/1 flag for each of those that had
    missing values in training (missing = "median_and_flag"); for categorical columns one 0/1 feature a slot ("onehot"),
    or the slot number ("embedding"). Slot 0 is for categories without a slot of their own.

    Attributes:
        columns: the input columns.
        feature_names: one name a feature.
        width: number of features.
        cardinalities: number of slots of each categorical column when categorical is "embedding", else ().
        center, scale, median: (numeric and boolean columns,) float64 buffers; scale is 1/s, or 0 for constant columns.
        decorrelation: what follows the scaling, or None.
    """

    center: Tensor
    scale: Tensor
    median: Tensor
    _number_places: Tensor
    _flag_places: Tensor
    _slot_places: Tensor
    _slot_starts: Tensor

    def __init__(self, state: TableState) -> None:
        super().__init__()
        self.state = state
        self.columns = state.columns
        self.feature_names = state.feature_names()
        self.width = len(self.feature_names)
        self.cardinalities = tuple(state.num_slots) if state.categorical == "embedding" else ()
        self._total_slots = sum(state.num_slots)
        for name in ("center", "scale", "median"):
            self.register_buffer(name, torch.zeros(len(state.numbers), dtype=torch.float64))
        self.decorrelation = Decorrelation(state.decorrelate) if state.decorrelate is not None else None
        place = {column: index for index, column in enumerate(state.columns)}
        self._register_places("_number_places", [place[c] for c in state.numbers])
        self._register_places("_flag_places", [place[c] for c in state.flagged])
        self._register_places("_slot_places", [place[c] for c in state.categories])
        self._register_places("_slot_starts", [sum(state.num_slots[:i]) for i in range(len(state.categories))])

    def _register_places(self, name: str, values: list[int]) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.int64), persistent=False)

    def encode(self, frame: pl.DataFrame, first_row: int = 0) -> Encoded:
        """Turn raw columns, found by name, into numbers; rows keep their order and other columns are ignored.

        Args:
            frame: numeric columns as numbers, boolean as Boolean, categorical as String; null is missing.
            first_row: how many rows stand before the frame's first one, for error messages.

        Raises:
            InputError: a column is absent, of another type, holds infinity, or misses a value under missing = "error".
        """
        check_columns(frame, self.columns)
        refuse_infinity(frame, self.columns, first_row)
        if self.state.missing == "error":
            refuse_missing(frame, self.columns, first_row)
        numbers = to_numbers(frame, self.columns, self.state.vocabularies)
        gaps = {c.name: _count_missing(frame[c.name]) for c in self.columns if not self.state.knows_missing(c)}
        in_slot = dict(zip([c.name for c in self.columns], (numbers == UNKNOWN_SLOT).sum(dim=0).tolist(), strict=True))
        unseen = {c.name: in_slot[c.name] - gaps.get(c.name, 0) for c in self.state.categories}
        return Encoded(numbers, _positive(unseen), _positive(gaps))

    def forward(self, numbers: Tensor) -> Tensor:
        """Turn numbers (rows, columns) float64 into features (rows, width) float32, all finite.

        A result beyond the range of float32 becomes its largest number.
        """
        scaled = self.scaled(numbers)
        if self.decorrelation is not None:
            scaled = self.decorrelation(scaled)
        features = [torch.nan_to_num(scaled.to(torch.float32))]
        if self.state.flagged:
            features.append(torch.isnan(numbers.index_select(1, self._flag_places)).to(torch.float32))
        if self._total_slots:
            slots = numbers.index_select(1, self._slot_places)
            features.append(slots.to(torch.float32) if self.cardinalities else self._one_hot(slots))
        return torch.cat(features, dim=1)

    def scaled(self, numbers: Tensor) -> Tensor:
        """Impute and scale the numeric and boolean columns of `numbers` (rows, columns): float64, before rounding."""
        values = numbers.index_select(1, self._number_places)
        present = torch.where(torch.isnan(values), self.median, values)
        scaled = (present - self.center) * self.scale
        return scaled + self.state.low if self.state.low else scaled

    def _one_hot(self, slots: Tensor) -> Tensor:
        empty = torch.zeros((slots.shape[0], self._total_slots), dtype=torch.float32, device=slots.device)
        return empty.scatter(1, slots.to(torch.int64) + self._slot_starts, 1.0)

    def config(self) -> dict[str, Any]:
        """Return everything but the buffers as JSON-able data for `caviar.preprocess.rebuild`."""
        return self.state.model_dump(mode="json")

    def extra_repr(self) -> str:
        """Say how many columns become how many features."""
        return f"columns={len(self.columns)}, width={self.width}, cardinalities={self.cardinalities}"


def _count_missing(values: pl.Series) -> int:
    nans = values.is_nan().sum() if values.dtype.is_float() else 0
    return values.null_count() + int(nans or 0)


def _positive(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count > 0}
