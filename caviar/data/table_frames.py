"""Data frames of any make as Polars frames, without importing the libraries they came from."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from caviar.core.errors import InputError
from caviar.data.table_text import check_names

HASHED_ROWS = 1 << 16


def column_names(frame: Any) -> list[str]:
    """Return the column names of any frame that `to_polars` takes, as text without surrounding spaces."""
    if isinstance(frame, pl.LazyFrame):
        return [name.strip() for name in frame.collect_schema().names()]
    if isinstance(frame, Mapping):
        return [str(name).strip() for name in frame]
    if isinstance(frame, Sequence) and not isinstance(frame, str) and all(isinstance(row, Mapping) for row in frame):
        return list(dict.fromkeys(str(name).strip() for row in frame for name in row))
    columns = getattr(frame, "column_names", None)
    columns = getattr(frame, "columns", []) if columns is None else columns
    return [str(name).strip() for name in columns]


def to_polars(frame: Any, name: str, ignore: Collection[str] = ()) -> pl.DataFrame:
    """Return a pandas, Polars or Arrow frame, a dict of columns or a list of dicts as a Polars frame.

    The index of a pandas frame is ignored. `name` is what messages call the frame; columns in `ignore` are left out.

    Raises:
        InputError: not a frame, columns without a name or with the same name, values of mixed kinds, no rows.
    """
    table = _as_frame(frame, name, ignore)
    table = table.rename({column: column.strip() for column in table.columns if column != column.strip()})
    check_names(table.columns, name)
    table = table.drop(ignore, strict=False)
    if not table.width:
        raise InputError(f"{name}: the frame has no columns.")
    if not table.height:
        raise InputError(f"{name}: the frame has columns but no rows.")
    return table


def _as_frame(frame: Any, name: str, ignore: Collection[str]) -> pl.DataFrame:
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    if isinstance(frame, pl.DataFrame):
        return frame
    check_names(column_names(frame), name)
    try:
        return _converted(frame, name, ignore)
    except (PolarsError, TypeError, ValueError) as error:
        raise InputError(f"{name}: cannot be read as a table: {str(error).splitlines()[0]}.") from error


def is_pandas(frame: Any) -> bool:
    """Whether this is a pandas frame (told without importing pandas)."""
    return type(frame).__module__.split(".")[0] == "pandas" and hasattr(frame, "iloc")


def _converted(frame: Any, name: str, ignore: Collection[str]) -> pl.DataFrame:
    if is_pandas(frame):
        wanted = [(i, str(column)) for i, column in enumerate(frame.columns) if str(column).strip() not in ignore]
        columns = [_from_pandas(frame.iloc[:, i], column, name) for i, column in wanted]
        return pl.DataFrame(columns)
    if hasattr(frame, "__arrow_c_stream__") or hasattr(frame, "__arrow_c_array__"):
        table: pl.DataFrame = pl.DataFrame(frame)
        return table
    if isinstance(frame, Mapping):
        return pl.DataFrame(dict(frame), strict=False)
    if isinstance(frame, Sequence) and not isinstance(frame, str) and all(isinstance(row, Mapping) for row in frame):
        return pl.DataFrame(list(frame), infer_schema_length=None, strict=False)
    raise InputError(
        f"{name}: a {type(frame).__name__} is not a table. Give a file, a pandas, Polars or Arrow frame, "
        "or a dict of columns."
    )


def _from_pandas(column: Any, name: str, frame_name: str) -> pl.Series:
    """Convert one pandas column: NumPy numbers as they are, categories by their codes, nullable types by their mask."""
    dtype = column.dtype
    if hasattr(dtype, "categories") and hasattr(column, "cat"):
        categories = _from_pandas(column.cat.categories.to_series(), name, frame_name)
        codes = pl.Series(column.cat.codes.to_numpy().astype(np.int64))
        return categories.gather(codes.replace(-1, None)).alias(name)
    if isinstance(dtype, np.dtype) and dtype.kind in "biuf":
        values = np.asarray(column.to_numpy())
        return pl.Series(name, values.astype(np.float32) if dtype == np.float16 else values)
    if isinstance(dtype, np.dtype) and dtype.kind in "mM":
        unit = "ns" if np.datetime_data(dtype)[0] not in ("us", "ms") else np.datetime_data(dtype)[0]
        return pl.Series(name, column.to_numpy().astype(f"{dtype.kind}8[{unit}]"))
    kind = getattr(dtype, "kind", "O")
    if kind == "f" or (kind in "iu" and column.isna().any()):
        return pl.Series(name, column.to_numpy(dtype=np.float64, na_value=np.nan))
    if kind in "iu":
        return pl.Series(name, column.to_numpy(dtype=np.dtype(f"{kind}8")))
    values = column.astype(object).to_numpy().copy()
    values[column.isna().to_numpy()] = None
    return _from_objects(name, values.tolist(), frame_name)


def _from_objects(name: str, values: list[Any], frame_name: str) -> pl.Series:
    """Convert Python objects: all of one kind as that kind; text mixed with numbers becomes text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {bool, np.bool_}:
        return pl.Series(name, [None if value is None else bool(value) for value in values], dtype=pl.Boolean)
    if all(issubclass(kind, str) for kind in kinds):
        return pl.Series(name, [None if value is None else str(value) for value in values], dtype=pl.String)
    numbers = (int, float, np.integer, np.floating)
    if all(issubclass(kind, numbers) or kind.__name__ == "Decimal" for kind in kinds):
        return pl.Series(name, [None if value is None else float(value) for value in values], dtype=pl.Float64)
    if all(issubclass(kind, (str, bool, np.bool_, *numbers)) for kind in kinds):
        return pl.Series(name, [None if value is None else _as_text(value) for value in values], dtype=pl.String)
    if all(kind.__module__ in ("datetime", "pandas") or hasattr(kind, "isoformat") for kind in kinds):
        return pl.Series(name, [None if value is None else _as_text(value) for value in values], dtype=pl.String)
    usable = (str, bool, *numbers)
    row = next(i for i, value in enumerate(values) if value is not None and not isinstance(value, usable))
    raise InputError(
        f"{frame_name}, row {row + 1} (counting from 1), column {name!r}: a value of type {type(values[row]).__name__} "
        "cannot be used. Spread it over numeric, boolean or text columns, or drop the column."
    )


def _as_text(value: Any) -> str:
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def frame_digest(frame: pl.DataFrame) -> str:
    """Return a digest of a typed frame's column names, types and values, however its memory is laid out."""
    digest = hashlib.blake2b(digest_size=16)
    for series in frame.get_columns():
        digest.update(f"{series.name}\0{series.dtype}\0{len(series)}\0".encode())
        for start in range(0, len(series), HASHED_ROWS):
            piece = series.slice(start, HASHED_ROWS)
            digest.update(np.packbits(piece.is_null().to_numpy()).tobytes())
            _hash_values(digest, piece)
    return digest.hexdigest()


def _hash_values(digest: "hashlib.blake2b", piece: pl.Series) -> None:
    if piece.dtype == pl.String:
        digest.update(piece.str.len_bytes().fill_null(0).to_numpy().tobytes())
        digest.update(piece.fill_null("").str.join("").item().encode())
    elif piece.dtype == pl.Boolean:
        digest.update(piece.fill_null(False).to_numpy().tobytes())
    else:
        digest.update(piece.fill_null(0).to_numpy().tobytes())
