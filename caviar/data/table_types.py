"""Kinds of columns: how they are found in training, and how a new table is brought to them.

A typed table has three types only: Float64 (numeric), Boolean and String (categorical); null is a missing value.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from caviar.core.columns import Column, Kind
from caviar.core.errors import InputError, nearest
from caviar.data.table_origin import Origin, mask_rows, origin_of

MISSING_MARKERS = ("NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?", "-")
MOSTLY = 0.9
SLICE = 1 << 20
SAMPLE = 10_000
ROWS = "rows of a value"
LARGEST_EXACT = 2.0**53
LARGEST_FLOAT32 = 3.4028234663852886e38
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
    column = pl.col(name)
    if dtype.is_float():
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
    forms = {name: first_form(name, dtype, name in as_text) for name, dtype in frame.schema.items()}
    changes = [form for name, form in forms.items() if form is not None and not _is_formed(frame[name], form, as_text)]
    return frame.with_columns(changes)


def _is_formed(series: pl.Series, form: pl.Expr, as_text: Collection[str]) -> bool:
    """Whether a column is in its first form: then its memory, maybe a file's pages, is not copied."""
    if series.dtype == pl.String:
        pieces = [distinct(series)] if _repeats(series) else slices(series)
        return all(piece.to_frame().select(form).to_series().equals(piece) for piece in pieces)
    if series.name in as_text:
        return False
    return series.dtype == pl.Boolean or (series.dtype == pl.Float64 and not series.is_nan().any())


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
    """What the values of a text column are: numbers, markers of missing values, other texts."""

    numbers: int
    markers: int
    texts: int


def count_texts(series: pl.Series) -> TextCounts:
    """Count what a canonical text column holds, slice by slice so that memory stays bounded."""
    if _repeats(series):
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
            f"{origin.at(row)}, column {series.name!r}: {series[row]!r} has a decimal comma. Write numbers "
            f"with a decimal point, or leave the column out: {ignoring(series.name)}."
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


def check_finite(frame: pl.DataFrame, origin: Origin) -> None:
    """Refuse infinity and numbers beyond float32 in the Float64 columns of a typed table, naming row and column."""
    numeric = [name for name, dtype in frame.schema.items() if dtype == pl.Float64]
    if not numeric or not frame.height:
        return
    lowest = frame.select(pl.col(numeric).min()).row(0)
    highest = frame.select(pl.col(numeric).max()).row(0)
    for name, low, high in zip(numeric, lowest, highest, strict=True):
        if low is not None and max(-low, high) > LARGEST_FLOAT32:
            raise _too_large(frame, name, origin)


def _too_large(frame: pl.DataFrame, name: str, origin: Origin) -> InputError:
    series = frame[name]
    row = int(mask_rows(series.abs() > LARGEST_FLOAT32)[0])
    value = origin.field(row, name) or repr(series[row])
    where = f"{origin.at(row)}, column {name!r}: {value}"
    if "inf" in value.lower():
        return InputError(
            f"{where} is infinite, and no network can learn from that. Correct it, or leave the field empty."
        )
    return InputError(
        f"{where} is too large for a 32-bit float (at most 3.4e38). Rescale the column, take its logarithm, correct "
        f"the value, or leave the column out: {ignoring(name)}."
    )


def typed_features(frame: pl.DataFrame, columns: Sequence[Column], where: str | Path | Origin) -> pl.DataFrame:
    """Bring a new raw table to the columns that training had, found by name and in that order.

    Args:
        frame: the raw table (from `read_frame`, or any Polars frame); other columns in it are passed over, see
            `extra_columns`.
        columns: the columns of training.
        where: what messages call the table; the path of a text table gets its lines named.

    Returns:
        Numeric columns as Float64, boolean as Boolean, categorical as String in one spelling (3, 3.0 and "3" are
        "3"); null is missing, and NaN is.

    Raises:
        InputError: a column is missing (the nearest name is offered), holds text where a number was, is not true or
            false where a boolean was, or holds infinity or a number beyond float32.
    """
    origin = origin_of(where)
    missing = [column.name for column in columns if column.name not in frame.columns]
    if missing:
        raise missing_column(missing, frame.columns, origin)
    typed = pl.DataFrame([_typed(frame[column.name], column.kind, origin) for column in columns])
    check_finite(typed, origin)
    return typed


def missing_column(missing: Sequence[str], present: Iterable[str], origin: Origin) -> InputError:
    """Return the error for columns that a table lacks."""
    present = list(present)
    near = nearest(missing[0], present)
    hint = f" Did you mean {near!r}?" if near else ""
    more = f" (and {len(missing) - 1} more: {', '.join(missing[1:6])})" if len(missing) > 1 else ""
    return InputError(
        f"{origin.name}: column {missing[0]!r} is missing{more}.{hint} The table has: {', '.join(present[:50])}."
    )


def extra_columns(present: Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    """Return the columns of a new table that training did not have."""
    return tuple(name for name in present if name not in known)


def _typed(series: pl.Series, kind: Kind, origin: Origin) -> pl.Series:
    form = first_form(series.name, series.dtype, as_text=kind == "categorical")
    if form is None:
        raise refuse_type(series, origin)
    if series.dtype == DTYPES[kind] and _is_formed(series, form, ()):
        return series
    formed = series.to_frame().select(form).to_series()
    if kind == "categorical" or formed.dtype == DTYPES[kind]:
        return formed
    if kind == "numeric":
        return _to_numbers(formed, origin)
    return _to_booleans(formed, origin)


def _to_numbers(series: pl.Series, origin: Origin) -> pl.Series:
    if series.dtype == pl.Boolean:
        return series.cast(pl.Float64)
    wrong = mask_rows(offending(series))
    if len(wrong):
        row = int(wrong[0])
        others = f" ({len(wrong)} such values)" if len(wrong) > 1 else ""
        raise InputError(
            f"{origin.at(row)}, column {series.name!r}: text {series[row]!r} where training had numbers{others}. "
            "Correct it, or leave the field empty if the value is missing."
        )
    return series.cast(pl.Float64, strict=False).fill_nan(None)


def _to_booleans(series: pl.Series, origin: Origin) -> pl.Series:
    if series.dtype == pl.Float64:
        found, wrong = series == 1, series.is_not_null() & ~series.is_in([0.0, 1.0])
    else:
        series = series.replace([*MISSING_MARKERS, "1", "0"], [None] * len(MISSING_MARKERS) + ["true", "false"])
        found, wrong = series == "true", series.is_not_null() & ~series.is_in(["true", "false"])
    rows = mask_rows(wrong)
    if len(rows):
        row = int(rows[0])
        raise InputError(
            f"{origin.at(row)}, column {series.name!r}: {series[row]!r} where training had true or false. "
            "Correct it, or leave the field empty if the value is missing."
        )
    return found
