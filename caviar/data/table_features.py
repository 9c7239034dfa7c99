"""Bringing a new raw table to the columns that training had, and refusing values no network can take."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import polars as pl

from caviar.core.columns import Column, Kind
from caviar.core.errors import InputError, nearest
from caviar.data.table_origin import Origin, mask_rows, origin_of
from caviar.data.table_types import DTYPES, MISSING_MARKERS, ignoring, offending, refuse_type, to_first_form

LARGEST_FLOAT32 = 3.4028234663852886e38


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
    present = set(frame.columns)
    missing = [column.name for column in columns if column.name not in present]
    if missing:
        raise missing_column(missing, frame.columns, origin)
    as_text = {column.name for column in columns if column.kind == "categorical"}
    formed = to_first_form(frame.select([column.name for column in columns]), as_text)
    typed = pl.DataFrame([_typed(s, c.kind, origin) for s, c in zip(formed.get_columns(), columns, strict=True)])
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
    """Bring a column in its first form to its kind."""
    if series.dtype not in DTYPES.values():
        raise refuse_type(series, origin)
    if series.dtype == DTYPES[kind]:
        return series
    return _to_numbers(series, origin) if kind == "numeric" else _to_booleans(series, origin)


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
