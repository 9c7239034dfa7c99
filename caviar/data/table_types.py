"""Kinds of columns, how they are found, and the one form in which every table is held.

A typed table has three types only: Float64 (numeric), Boolean and String (categorical); null is a missing value.
"""

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from caviar.core.columns import Kind
from caviar.core.errors import InputError
from caviar.data.table_origin import Origin, mask_rows

THREADS = 2
"""Columns looked at at a time: most of a look is one thread of Polars' at work."""
MISSING_MARKERS = ("NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?", "-")
MOSTLY = 0.9
SLICE = 1 << 20
SAMPLE = 10_000
ROWS = "rows of a value"
LARGEST_EXACT = 2.0**53
DTYPES: dict[Kind, pl.DataType] = {"numeric": pl.Float64(), "boolean": pl.Boolean(), "categorical": pl.String()}

_DATE = (
    r"(?:\d{4}[-/.](?:0?[1-9]|1[0-2])[-/.](?:0?[1-9]|[12]\d|3[01])|(?:0?[1-9]|[12]\d|3[01])[-/.](?:0?[1-9]|[12]\d|3[01])[-/.]"
    r"(?:\d{4}|\d{2})|(?:0?[1-9]|[12]\d|3[01])[- ](?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?[- ]"
    r"(?:\d{4}|\d{2})|(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.? (?:0?[1-9]|[12]\d|3[01]),? \d{4})"
)
_TIME = r"(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:[.,]\d+)?)?(?: ?[AaPp][Mm])?(?:Z| ?[+-]\d{2}:?\d{2})?"
DATES = rf"^(?:{_DATE}(?:[T ]{_TIME})?|{_TIME})$"
DECIMAL_COMMA = r"^[+-]?\d+,\d+$"


def canonical(name: str, dtype: pl.DataType) -> pl.Expr:
    """Return the column as text, one spelling for each category: 3, 3.0 and "3.0" are "3"; True is "true".

    Surrounding spaces are cut; an empty text and NaN are missing.
    """
    column = pl.col(name).cast(pl.Float64) if dtype.is_decimal() else pl.col(name)
    if dtype.is_float() or dtype.is_decimal():
        whole = column.is_finite() & (column == column.floor()) & (column.abs() < LARGEST_EXACT)
        integer = column.cast(pl.Int64, strict=False).cast(pl.String)
        return pl.when(whole).then(integer).otherwise(column.fill_nan(None).cast(pl.String)).alias(name)
    if dtype != pl.String:
        return column.cast(pl.String)
    return canonical_text(column).alias(name)


def canonical_text(column: pl.Expr) -> pl.Expr:
    """Return text in the spelling that `canonical` describes."""
    # Only operations that Polars streams (`replace` is none), as the table may be larger than memory.
    text = column.str.strip_chars()
    return (
        pl.when(text == "")
        .then(None)
        .when(text.str.ends_with(".0") | text.str.ends_with("00"))
        .then(text.str.replace(r"^([+-]?\d+)\.0+$", "${1}"))
        .when(text.is_in(["True", "TRUE"]))
        .then(pl.lit("true"))
        .when(text.is_in(["False", "FALSE"]))
        .then(pl.lit("false"))
        .otherwise(text)
    )


def first_form(name: str, dtype: pl.DataType, as_text: bool) -> pl.Expr | None:
    """Return what brings a raw column to one of the three types, or None for a type that cannot be a column."""
    if dtype == pl.Null:
        return pl.col(name).cast(pl.String if as_text else pl.Float64)
    if as_text and (dtype.is_numeric() or dtype == pl.Boolean):
        return canonical(name, dtype)
    if dtype.is_numeric():
        return pl.col(name).cast(pl.Float64).fill_nan(None)
    if dtype == pl.Boolean:
        return pl.col(name)
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return canonical_text(pl.col(name).cast(pl.String)).alias(name)
    return pl.col(name).cast(pl.String) if as_text and dtype.is_temporal() else None


def to_first_form(frame: pl.DataFrame, as_text: Collection[str]) -> pl.DataFrame:
    """Bring a frame in memory to the three types; columns that are so already, or cannot be, stay as they are."""
    floats = [name for name, dtype in frame.schema.items() if dtype.is_float()]
    has_nan = frame.select(pl.col(floats).is_nan().any()).row(0) if floats else ()
    with_nan = {name for name, found in zip(floats, has_nan, strict=True) if found}

    def change(series: pl.Series) -> pl.Expr | None:
        form = first_form(series.name, series.dtype, series.name in as_text)
        if form is None or _is_formed(series, form, series.name in as_text, series.name in with_nan):
            return None
        return form

    with ThreadPoolExecutor(THREADS) as pool:
        return frame.with_columns([form for form in pool.map(change, frame.get_columns()) if form is not None])


def _is_formed(series: pl.Series, form: pl.Expr, as_text: bool, has_nan: bool) -> bool:
    """Whether a column is in its first form: then its memory, maybe a file's pages, is not copied."""
    if series.dtype == pl.String:
        pieces = [distinct(series)] if _repeats(series) else slices(series)
        return all(piece.to_frame().select(form).to_series().equals(piece) for piece in pieces)
    return not as_text and (series.dtype == pl.Boolean or (series.dtype == pl.Float64 and not has_nan))


def _repeats(series: pl.Series) -> bool:
    """Whether so few values are distinct that looking at each once is quicker."""
    head = series.head(SAMPLE)
    return len(series) > SAMPLE and head.n_unique() < SAMPLE // 10


def slices(series: pl.Series) -> Iterator[pl.Series]:
    """Yield a series in pieces, so that what is computed from a piece stays small."""
    return (series.slice(start, SLICE) for start in range(0, len(series), SLICE))


def distinct(series: pl.Series) -> pl.Series:
    """Return the distinct values, in no order."""
    pieces = [piece.unique() for piece in slices(series)]
    return pl.concat(pieces).unique() if pieces else series


def value_counts(series: pl.Series) -> pl.DataFrame:
    """Return the distinct values and, as `rows`, how many rows hold each, in no order."""
    pieces = [piece.value_counts(name=ROWS) for piece in slices(series)]
    return pl.concat(pieces).group_by(series.name).agg(pl.col(ROWS).sum())


def value_codes(series: pl.Series, values: pl.Series) -> NDArray[np.int64]:
    """Return the number of each value in `values`, -1 where it is not there, slice by slice to spare memory."""
    if series.dtype == pl.String and values.dtype == pl.String and values.null_count() == 0:
        kind = pl.Enum(values)
        parts = [piece.cast(kind, strict=False).to_physical().cast(pl.Int64).fill_null(-1) for piece in slices(series)]
        return np.concatenate([part.to_numpy() for part in parts]) if parts else np.empty(0, dtype=np.int64)
    codes = np.empty(len(series), dtype=np.int64)
    numbers, start = pl.Series(range(len(values)), dtype=pl.Int64), 0
    for piece in slices(series):
        found = piece.replace_strict(values, numbers, default=-1, return_dtype=pl.Int64)
        codes[start : start + len(piece)] = found.to_numpy()
        start += len(piece)
    return codes


def refuse_type(series: pl.Series, origin: Origin) -> InputError:
    """Return the error for a column whose type is none that a network can be fed with."""
    if series.dtype.is_temporal():
        return _dates(series, origin)
    return InputError(
        f"{origin.name}, column {series.name!r}: values of type {series.dtype} cannot be used. Spread them over "
        f"numeric, boolean or text columns, or leave the column out: {ignoring(series.name)}."
    )


def ignoring(name: str) -> str:
    """Return the setting that leaves a column out, to be shown in a message."""
    return f"--set data.ignore='[\"{name}\"]'"


def as_category(name: str) -> str:
    """Return the setting that reads a column as categories, to be shown in a message."""
    return f"--set data.categorical='[\"{name}\"]'"


class TextCounts(NamedTuple):
    """How many values of a text column are numbers, markers of missing values, other texts.

    Rows are counted, or distinct values where not both numbers and other texts occur.
    """

    numbers: int
    markers: int
    texts: int


def count_texts(series: pl.Series) -> TextCounts:
    """Count what a canonical text column holds, slice by slice so that memory stays bounded."""
    if _repeats(series):
        values = distinct(series)
        found = _count(values, pl.repeat(1, len(values), eager=True))
        if not (found.numbers and found.texts):  # else it matters how many rows hold numbers
            return found
        counts = value_counts(series)
        return _count(counts.to_series(0), counts[ROWS].cast(pl.Int64))
    pieces = [_count(piece, pl.repeat(1, len(piece), eager=True)) for piece in slices(series)]
    return TextCounts(*(sum(piece[i] for piece in pieces) for i in range(3)))


def _count(values: pl.Series, rows: pl.Series) -> TextCounts:
    marker = values.is_in(MISSING_MARKERS)
    number = values.cast(pl.Float64, strict=False).is_not_null() & ~marker
    present = int(rows.filter(values.is_not_null()).sum())
    numbers, markers = int(rows.filter(number).sum()), int(rows.filter(marker).sum())
    return TextCounts(numbers, markers, present - numbers - markers)


def find_kind(series: pl.Series, origin: Origin, is_target: bool = False) -> Kind:
    """Return the kind of a column in its first form.

    Text is numeric when every value is a number or a marker of a missing value (NA, N/A, NaN, null, None, ?, -),
    boolean when every value is true or false, else categorical.

    Raises:
        InputError: at least 90% of the values are numbers but some are other texts; or all are dates or times, or
            numbers with a decimal comma.
    """
    if series.dtype == pl.Float64:
        return "numeric"
    if series.dtype == pl.Boolean:
        return "boolean"
    counts = count_texts(series)
    if counts.numbers and counts.texts == 0:
        return "numeric"
    if counts.numbers + counts.texts == 0:
        return "categorical" if counts.markers else "numeric"
    if counts.numbers >= MOSTLY * (counts.numbers + counts.texts):
        raise _text_among_numbers(series, origin, counts.texts, is_target)
    if counts.numbers == 0:
        _refuse_dates(series, origin)
    if counts.numbers + counts.markers == 0 and series.head(SLICE).is_in(["true", "false", None]).all():
        return "boolean" if _all_match(series, r"^(?:true|false)$") else "categorical"
    return "categorical"


def _all_match(series: pl.Series, pattern: str) -> bool:
    """Whether every value that is not missing matches; most columns say no within the first slice."""
    for piece in (series.head(100), *slices(series)):
        values = piece.drop_nulls()
        values = values.filter(~values.is_in(MISSING_MARKERS))
        if not values.str.contains(pattern).all():
            return False
    return True


def _refuse_dates(series: pl.Series, origin: Origin) -> None:
    if _all_match(series, DATES):
        raise _dates(series, origin)
    if _all_match(series, DECIMAL_COMMA):
        row = int(mask_rows(series.is_not_null())[0])
        raise InputError(
            f"{origin.at(row)}, column {series.name!r}: {series[row]!r} has a comma as its decimal or thousands mark. "
            f"Write numbers with a decimal point and no other mark, or leave the column out: {ignoring(series.name)}."
        )


def _dates(series: pl.Series, origin: Origin) -> InputError:
    rows = mask_rows(series.is_not_null())
    row = int(rows[0]) if len(rows) else 0
    name = series.name
    return InputError(
        f"{origin.at(row)}, column {name!r}: {str(series[row])!r} is a date or time, which a network cannot take. "
        f"Convert the column to numbers first, such as days since a fixed day: (pl.col({name!r}).str.to_date() - "
        f"pl.date(2000, 1, 1)).dt.total_days(), or to columns for year, month and weekday; or leave it out: "
        f"{ignoring(name)}."
    )


def _text_among_numbers(series: pl.Series, origin: Origin, count: int, is_target: bool) -> InputError:
    row = int(mask_rows(offending(series))[0])
    others = f" ({count} such values)" if count > 1 else ""
    remedy = f"or read the column as categories: {as_category(series.name)}"
    if not is_target:
        remedy += f", or leave it out: {ignoring(series.name)}"
    return InputError(
        f"{origin.at(row)}, column {series.name!r}: text {series[row]!r} where the other values are numbers{others}. "
        f"Correct it, leave the field empty if the value is missing, {remedy}."
    )


def offending(series: pl.Series) -> pl.Series:
    """Return which values of a text column are neither numbers nor markers of missing values."""
    number = series.cast(pl.Float64, strict=False)
    return series.is_not_null() & number.is_null() & ~series.is_in(MISSING_MARKERS)


def cast_expr(name: str, dtype: pl.DataType, kind: Kind) -> pl.Expr | None:
    """Return what brings a column in its first form to its kind, or None where it is there already."""
    if dtype == DTYPES[kind]:
        return None
    if kind == "numeric":
        return pl.col(name).cast(pl.Float64, strict=False).fill_nan(None)
    return pl.col(name) == "true"
