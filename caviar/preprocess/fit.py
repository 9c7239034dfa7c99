"""Fitting a table's preprocessing: two passes over blocks of training rows, in bounded memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from caviar.core.columns import Column
from caviar.core.errors import InputError
from caviar.core.seeds import derive_seed
from caviar.preprocess.moments import CELLS, Moments, inverse_std
from caviar.preprocess.numbers import Vocabulary, check_columns, number_expression, refuse_infinity, refuse_missing
from caviar.preprocess.settings import PreprocessSettings
from caviar.preprocess.table import TablePreprocess, TableState

Blocks = Callable[[], Iterable[pl.DataFrame]]

MEDIAN_ROWS = 1_000_000
"""Medians are exact up to this many training rows; above, they are those of a sample of this many, one drawn at random
(with a fixed seed) from each of as many equal stretches of rows."""
MEDIAN_COLUMNS = 32
"""Columns whose samples are in memory at a time: 256 MB."""
DISTINCT = 1_000_000
"""Counts of categories are exact up to this many different ones in a column; beyond, after each block, the rarest are
forgotten down to this number."""


def fit_table(blocks: Blocks, columns: Sequence[Column], settings: PreprocessSettings) -> TablePreprocess:
    """Fit the preprocessing of a table on its training rows.

    Args:
        blocks: returns an iterator over the training rows, and nothing else, in blocks of any size. It is called once
            for the moments and the categories, and then once for the medians of every 32 numeric columns.
        columns: the input columns.
        settings: the section [preprocess].

    Returns:
        The fitted module. It does not depend on the size of the blocks, up to rounding (1e-12).

    Raises:
        InputError: no rows, a column that is absent or of another type, infinity, numbers whose squares overflow, or a
            missing value under missing = "error"; rows are counted over the training rows.
    """
    columns = tuple(columns)
    numbers = [c for c in columns if c.kind != "categorical"]
    found = _survey(blocks, columns, settings)
    moments = found.moments
    state = TableState(
        columns=columns,
        vocabularies={name: count.vocabulary(settings.max_categories) for name, count in found.categories.items()},
        gaps=tuple(c.name for c, count in zip(numbers, moments.count, strict=True) if count < found.rows),
        missing=settings.missing,
        categorical=settings.categorical,
    )
    module = TablePreprocess(state)
    module.median.copy_(torch.from_numpy(_medians(blocks, [c.name for c in numbers], found.rows)))
    scaled = settings.numeric != "none"
    module.center.copy_(torch.from_numpy(moments.mean if scaled else np.zeros(len(numbers))))
    module.scale.copy_(torch.from_numpy(inverse_std(moments.std) if scaled else np.ones(len(numbers))))
    return module


@dataclass
class _Categories:
    """How often each category of a column occurs, and whether values are missing."""

    counts: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema={"name": pl.String, "count": pl.Int64}))
    missing: bool = False

    def update(self, values: pl.Series) -> None:
        """Add a block of the column."""
        self.missing = self.missing or values.null_count() > 0
        names = values.cast(pl.String).alias("name").to_frame().drop_nulls()
        new = names.group_by("name").agg(pl.len().cast(pl.Int64).alias("count"))
        self.counts = pl.concat([self.counts, new]).group_by("name").agg(pl.col("count").sum())
        if self.counts.height > 2 * DISTINCT:
            self.counts = self._most_frequent(DISTINCT)

    def _most_frequent(self, number: int) -> pl.DataFrame:
        """The most frequent categories; of equally frequent ones the first in the alphabet."""
        return self.counts.sort(["count", "name"], descending=[True, False]).head(number)

    def vocabulary(self, max_categories: int) -> Vocabulary:
        """The most frequent categories, in the order of the alphabet."""
        kept = self._most_frequent(max_categories)["name"].sort().to_list()
        return Vocabulary(categories=tuple(kept), has_missing=self.missing)


@dataclass
class _Survey:
    """What the first pass over the training rows found."""

    moments: Moments
    categories: dict[str, _Categories]
    rows: int = 0


def _survey(blocks: Blocks, columns: Sequence[Column], settings: PreprocessSettings) -> _Survey:
    numbers = [c.name for c in columns if c.kind != "categorical"]
    categories = {c.name: _Categories() for c in columns if c.kind == "categorical"}
    found = _Survey(Moments.of_width(len(numbers)), categories)
    for block in blocks():
        check_columns(block, columns)
        if settings.missing == "error":
            refuse_missing(block, columns, found.rows)
        for name, counts in found.categories.items():
            counts.update(block[name])
        for matrix in _matrices(block, numbers):
            found.moments.update(matrix)
        found.rows += block.height
    if found.rows == 0:
        raise InputError("there are no training rows to fit the preprocessing on.")
    if not found.moments.finite.all():
        _explain_overflow(blocks, columns, [n for n, ok in zip(numbers, found.moments.finite, strict=True) if not ok])
    return found


def _matrices(block: pl.DataFrame, names: Sequence[str]) -> Iterator[NDArray[np.float64]]:
    """Yield the columns `names` as small float64 matrices (rows, columns), NaN for missing."""
    if names:
        for part in block.select(names).iter_slices(max(1, CELLS // len(names))):
            yield part.select([number_expression(name) for name in names]).to_numpy()


def _explain_overflow(blocks: Blocks, columns: Sequence[Column], names: Sequence[str]) -> None:
    row = 0
    for block in blocks():
        refuse_infinity(block, columns, row)
        row += block.height
    raise InputError(f"column {names[0]!r} holds numbers so large that their variance overflows; rescale it.")


def _medians(blocks: Blocks, names: Sequence[str], num_rows: int) -> NDArray[np.float64]:
    """Return the median of each column over the values present; 0 where there is none."""
    chosen = None if num_rows <= MEDIAN_ROWS else _sample_rows(num_rows, MEDIAN_ROWS)
    medians: list[float | None] = []
    for start in range(0, len(names), MEDIAN_COLUMNS):
        group = names[start : start + MEDIAN_COLUMNS]
        sample = pl.concat(_sampled(blocks, group, chosen), rechunk=True)
        present = [pl.col(name).fill_nan(None).median().alias(name) for name in group]
        medians += sample.select(present).row(0)
    return np.array([0.0 if median is None else median for median in medians], dtype=np.float64)


def _sample_rows(num_rows: int, size: int) -> NDArray[np.int64]:
    """Return sorted row numbers, one from each of `size` equal stretches of range(num_rows)."""
    generator = np.random.default_rng(derive_seed(0, "median sample"))
    places = np.arange(size) + generator.random(size)
    return np.unique((places * (num_rows / size)).astype(np.int64).clip(max=num_rows - 1))


def _sampled(blocks: Blocks, names: Sequence[str], chosen: NDArray[np.int64] | None) -> Iterator[pl.DataFrame]:
    """Yield the chosen rows of the columns `names`, block by block."""
    row = 0
    for block in blocks():
        part = block.select(pl.col(name).cast(pl.Float64) for name in names)
        if chosen is not None:
            first, last = np.searchsorted(chosen, [row, row + block.height])
            part = part[chosen[first:last] - row]
        row += block.height
        yield part
