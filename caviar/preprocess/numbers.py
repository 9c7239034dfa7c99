"""Raw table columns to numbers: NaN for missing, 0/1 for booleans, slot numbers for categories."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import polars as pl
import torch
from pydantic import field_validator
from torch import Tensor

from caviar.core.columns import Column
from caviar.core.errors import InputError, nearest
from caviar.core.settings import Settings

UNKNOWN_SLOT = 0


class Vocabulary(Settings):
    """The slots of a categorical column: 0 unknown, then missing if it occurred in training, then `categories`."""

    categories: tuple[str, ...]
    has_missing: bool

    @field_validator("categories")
    @classmethod
    def _are_distinct(cls, categories: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(categories)) != len(categories):
            raise ValueError("a category occurs twice")
        return categories

    @property
    def first(self) -> int:
        """Slot of the first category."""
        return 2 if self.has_missing else 1

    @property
    def num_slots(self) -> int:
        """Number of slots."""
        return self.first + len(self.categories)

    @property
    def labels(self) -> list[str]:
        """What each slot is called at the end of a feature's name."""
        special = [" (unknown)", " (missing)"][: self.first]
        return special + [f"={category}" for category in self.categories]


class Encoded(NamedTuple):
    """A table as numbers, and what was found in it that training did not know.

    numbers: (rows, columns) float64, in the order of the columns; NaN is missing; categories are slot numbers.
    unseen: for each categorical column with any, how many rows hold a category without a slot of its own, because
        training never saw it or it is beyond the most frequent `max_categories`.
    missing: for each column that had no missing value in training but has some here, how many.
    """

    numbers: Tensor
    unseen: dict[str, int]
    missing: dict[str, int]


def check_columns(frame: pl.DataFrame, columns: Sequence[Column]) -> None:
    """Refuse a frame that lacks a column, or holds one of another type than `columns` says."""
    schema = frame.schema
    for column in columns:
        if column.name not in schema:
            near = nearest(column.name, schema)
            hint = f" Is {near!r} meant?" if near else ""
            raise InputError(f"column {column.name!r} is missing from the table.{hint} Every input column is needed.")
        dtype = schema[column.name]
        if not (dtype == pl.Null or _fits(dtype, column)):
            raise InputError(
                f"column {column.name!r} holds {dtype} values, but it is a {column.kind} column; convert it."
            )


def _fits(dtype: pl.DataType, column: Column) -> bool:
    if column.kind == "categorical":
        return dtype in (pl.String, pl.Categorical, pl.Enum)
    return dtype == pl.Boolean or (column.kind == "numeric" and dtype.is_numeric())


def number_expression(name: str) -> pl.Expr:
    """The numeric or boolean column `name` as float64 with NaN for missing."""
    return pl.col(name).cast(pl.Float64).fill_null(float("nan"))


def slot_expression(name: str, vocabulary: Vocabulary) -> pl.Expr:
    """The categorical column `name` as slot numbers in float64; never missing."""
    text = pl.col(name).cast(pl.String)
    place = text.cast(pl.Enum(vocabulary.categories), strict=False).to_physical().cast(pl.Float64) + vocabulary.first
    slot = place.fill_null(UNKNOWN_SLOT)
    if vocabulary.has_missing:
        slot = pl.when(text.is_null()).then(pl.lit(1.0)).otherwise(slot)
    return slot.alias(name)


def to_numbers(frame: pl.DataFrame, columns: Sequence[Column], vocabularies: Mapping[str, Vocabulary]) -> Tensor:
    """Return the (rows, columns) float64 tensor of raw columns, which must have passed `check_columns`."""
    if not columns:
        return torch.empty((frame.height, 0), dtype=torch.float64)
    expressions = [
        slot_expression(c.name, vocabularies[c.name]) if c.kind == "categorical" else number_expression(c.name)
        for c in columns
    ]
    return torch.from_numpy(frame.select(expressions).to_numpy(order="c", writable=True))


def refuse_infinity(frame: pl.DataFrame, columns: Sequence[Column], first_row: int = 0) -> None:
    """Raise an InputError for the first infinite value; `first_row` is the number of rows before the frame's."""
    for column in columns:
        values = frame[column.name]
        if column.kind == "numeric" and values.dtype.is_float() and values.is_infinite().any():
            row = values.is_infinite().arg_max() or 0
            raise InputError(
                f"column {column.name!r}, row {first_row + row + 1}: infinity is not a usable number. "
                "Leave the field empty (missing) or give a finite number."
            )


def refuse_missing(frame: pl.DataFrame, columns: Sequence[Column], first_row: int = 0) -> None:
    """Raise an InputError for the first missing number or boolean; categories have a slot for missing."""
    for column in columns:
        if column.kind == "categorical":
            continue
        missing = frame.select(number_expression(column.name).is_nan()).to_series()
        if missing.any():
            row = missing.arg_max() or 0
            raise InputError(
                f"column {column.name!r}, row {first_row + row + 1}: the value is missing, and preprocess.missing is "
                '"error". Fill it in, or use missing = "median_and_flag".'
            )
