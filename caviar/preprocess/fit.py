"""Fitting a table's preprocessing: a few passes over blocks of training rows, in bounded memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from caviar.core.columns import Column
from caviar.core.errors import InputError
from caviar.preprocess.covariance import Covariance
from caviar.preprocess.decorrelation import decorrelation_of
from caviar.preprocess.extremes import Extremes
from caviar.preprocess.moments import CELLS, Floats, Moments, inverse_std
from caviar.preprocess.numbers import Vocabulary, check_columns, number_expression, refuse_infinity, refuse_missing
from caviar.preprocess.quartiles import EXACT_ROWS, PROBABILITIES, robust_scale, sample_rows
from caviar.preprocess.scaling import check_range
from caviar.preprocess.settings import PreprocessSettings
from caviar.preprocess.table import TablePreprocess, TableState

Blocks = Callable[[], Iterable[pl.DataFrame]]

MEDIAN_ROWS = 200_000
"""Medians that fill gaps are exact up to this many training rows; above, they are those of a sample of this many."""
MEDIAN_COLUMNS = 32
"""Columns whose samples are in memory at a time: 256 MB."""
MATRIX_CELLS = 1 << 22
"""Numbers brought from Polars to NumPy at a time: 32 MB."""
DISTINCT = 1_000_000
"""Counts of categories are exact up to this many different ones in a column; beyond, after each block, the rarest are
forgotten down to this number."""


def fit_table(blocks: Blocks, columns: Sequence[Column], settings: PreprocessSettings) -> TablePreprocess:
    """Fit the preprocessing of a table on its training rows.

    Args:
        blocks: returns an iterator over the training rows, and nothing else, in blocks of any size. It is called once
            for the moments and the categories, then once for the medians (robust: quartiles) of every 32 numeric
            columns, then once more for a decorrelation.
        columns: the input columns.
        settings: the section [preprocess].

    Returns:
        The fitted module. It does not depend on the size of the blocks, up to rounding (1e-12).

    Raises:
        InputError: no rows, a column that is absent or of another type, infinity, numbers whose squares overflow, a
            missing value under missing = "error", or a setting that does not fit; rows are counted over the training
            rows.
    """
    columns = tuple(columns)
    if settings.numeric == "minmax":
        check_range(*settings.minmax_range, "preprocess.minmax_range[0]", "preprocess.minmax_range[1]")
    numbers = [c for c in columns if c.kind != "categorical"]
    found = _survey(blocks, columns, settings)
    moments = found.moments
    state = TableState(
        columns=columns,
        vocabularies={name: count.vocabulary(settings.max_categories) for name, count in found.categories.items()},
        gaps=tuple(c.name for c, count in zip(numbers, moments.count, strict=True) if count < found.rows),
        missing=settings.missing,
        categorical=settings.categorical,
        low=settings.minmax_range[0] if settings.numeric == "minmax" else 0.0,
    )
    module = TablePreprocess(state)
    robust = settings.numeric == "robust"
    lower, median, upper = _quartiles(blocks, [c.name for c in numbers], found.rows, median_only=not robust)
    module.median.copy_(torch.from_numpy(median))
    center, scale = _factors(settings, found, median, upper - lower)
    module.center.copy_(torch.from_numpy(center))
    module.scale.copy_(torch.from_numpy(scale))
    return module if settings.decorrelate == "none" or not numbers else _decorrelated(module, blocks, settings)


def _factors(settings: PreprocessSettings, found: "_Survey", median: Floats, spread: Floats) -> tuple[Floats, Floats]:
    """Return what is taken from each number, and what it is then multiplied by."""
    moments = found.moments
    match settings.numeric:
        case "none":
            return np.zeros_like(median), np.ones_like(median)
        case "center":
            return moments.mean, np.where(moments.std > 0, 1.0, 0.0)
        case "minmax":
            present = moments.count > 0
            return np.where(present, found.extremes.low, 0.0), found.extremes.factor(*settings.minmax_range)
        case "robust":
            return median, inverse_std(robust_scale(np.zeros_like(spread), spread, moments.std))
    return moments.mean, inverse_std(moments.std)


def _decorrelated(module: TablePreprocess, blocks: Blocks, settings: PreprocessSettings) -> TablePreprocess:
    """Return the module with a decorrelation of the scaled numbers of the training rows."""
    assert settings.decorrelate != "none"
    found = Covariance.of_width(len(module.state.numbers))
    for block in blocks():
        for part in block.iter_slices(max(1, CELLS // len(module.columns))):
            found.update(module.scaled(module.encode(part).numbers).numpy())
    decorrelation = decorrelation_of(found, settings.decorrelate, settings.components, settings.eps)
    whole = TablePreprocess(module.state.model_copy(update={"decorrelate": decorrelation.state}))
    whole.load_state_dict(
        module.state_dict() | {f"decorrelation.{k}": v for k, v in decorrelation.state_dict().items()}
    )
    return whole


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
    extremes: Extremes
    categories: dict[str, _Categories]
    rows: int = 0

    def count(self, block: pl.DataFrame) -> None:
        """Add a block's categories."""
        for name, counts in self.categories.items():
            counts.update(block[name])


def _survey(blocks: Blocks, columns: Sequence[Column], settings: PreprocessSettings) -> _Survey:
    numbers = [c.name for c in columns if c.kind != "categorical"]
    categories = {c.name: _Categories() for c in columns if c.kind == "categorical"}
    extremes = Extremes.of_width(len(numbers), skip_missing=True)
    found = _Survey(Moments.of_width(len(numbers)), extremes, categories)
    with ThreadPoolExecutor(1) as pool:
        for block in blocks():
            check_columns(block, columns)
            if settings.missing == "error":
                refuse_missing(block, columns, found.rows)
            counted = pool.submit(found.count, block)
            for matrix in _matrices(block, numbers):
                found.moments.update(matrix)
                if settings.numeric == "minmax":
                    found.extremes.update(matrix)
            counted.result()
            found.rows += block.height
    if found.rows == 0:
        raise InputError("there are no training rows to fit the preprocessing on.")
    if not found.moments.finite.all():
        _explain_overflow(blocks, columns, [n for n, ok in zip(numbers, found.moments.finite, strict=True) if not ok])
    return found


def _matrices(block: pl.DataFrame, names: Sequence[str]) -> Iterator[NDArray[np.float64]]:
    """Yield the columns `names` as float64 matrices (rows, columns) of bounded size, NaN for missing."""
    if names:
        numbers = [number_expression(name) for name in names]
        for part in block.select(names).iter_slices(max(1, MATRIX_CELLS // len(names))):
            yield part.select(numbers).to_numpy()


def _explain_overflow(blocks: Blocks, columns: Sequence[Column], names: Sequence[str]) -> None:
    row = 0
    for block in blocks():
        refuse_infinity(block, columns, row)
        row += block.height
    raise InputError(f"column {names[0]!r} holds numbers so large that their variance overflows; rescale it.")


def _quartiles(blocks: Blocks, names: Sequence[str], num_rows: int, *, median_only: bool) -> Floats:
    """Return quartiles (3, columns) over the values present, 0 where there is none; or the median, three times."""
    most = MEDIAN_ROWS if median_only else EXACT_ROWS
    chosen = None if num_rows <= most else sample_rows(num_rows, most)
    found = np.zeros((3, len(names)))
    for start in range(0, len(names), MEDIAN_COLUMNS):
        group = names[start : start + MEDIAN_COLUMNS]
        sample = pl.concat(_sampled(blocks, group, chosen), rechunk=True)
        for row, probability in enumerate(PROBABILITIES):
            if probability == 0.5 or not median_only:
                present = [pl.col(name).fill_nan(None).quantile(probability, "linear") for name in group]
                values = sample.select(present).row(0)
                found[row, start : start + len(group)] = [0.0 if value is None else value for value in values]
    return found[[1, 1, 1]] if median_only else found


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
