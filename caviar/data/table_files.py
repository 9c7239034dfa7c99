"""Table files: found, checked, and read into memory or, when large, converted once into a file that is mapped."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PolarsError

from caviar.core.errors import InputError, nearest
from caviar.core.files import atomic_folder, cache_folder, write_json
from caviar.core.formats import CACHE
from caviar.data.digests import content_digest
from caviar.data.settings import DataSettings
from caviar.data.table_mapped import map_frame
from caviar.data.table_origin import PARQUET_SUFFIXES, TEXT_SUFFIXES, Origin
from caviar.data.table_records import delimiter_of, plain_text
from caviar.data.table_text import TextTable, check_names
from caviar.data.table_types import first_form

MEGABYTE = 1 << 20
PARQUET_MARK = b"PAR1"
DTYPES: dict[str, pl.DataType] = {"Float64": pl.Float64(), "Boolean": pl.Boolean(), "String": pl.String()}
HINTS = {
    ".xlsx": "Save the sheet as CSV.",
    ".xls": "Save the sheet as CSV.",
    ".json": "Convert it: pl.read_json(...).write_parquet(...).",
    ".jsonl": "Convert it: pl.read_ndjson(...).write_parquet(...).",
    ".feather": "Convert it: pl.read_ipc(...).write_parquet(...).",
    ".arrow": "Convert it: pl.read_ipc(...).write_parquet(...).",
    ".txt": "If it is delimited text, give it the ending .csv and name the delimiter with data.delimiter.",
    ".zip": "Unpack it first.",
    ".gz": "Unpack it first, or name it .csv.gz when it holds CSV.",
    ".pkl": "Pickle is never loaded, as it can run code; save the frame as Parquet.",
    ".pickle": "Pickle is never loaded, as it can run code; save the frame as Parquet.",
}

Finish = Callable[[pl.DataFrame], tuple[list[pl.Expr], Callable[[pl.DataFrame], dict[str, Any]]]]


def check_file(path: Path) -> str:
    """Return "text" or "parquet" for a readable table file.

    Raises:
        InputError: there is no such file (the nearest name is offered), it is a folder, unreadable, empty, or of an
            ending that is not supported.
    """
    try:
        _check_readable(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}). Check its permissions and links."
        ) from error
    name = path.name.lower()
    if name.endswith(TEXT_SUFFIXES):
        return "text"
    if name.endswith(PARQUET_SUFFIXES):
        return "parquet"
    hint = HINTS.get(path.suffix.lower(), "Save the table as CSV or Parquet.")
    raise InputError(
        f"{path}: files ending in {path.suffix or 'nothing'!r} are not supported; tables are "
        f"{', '.join([*TEXT_SUFFIXES, *PARQUET_SUFFIXES])}. {hint}"
    )


def _check_readable(path: Path) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.{_near(path)}") from None
    if path.is_dir():
        raise InputError(f"{path}: this is a folder, and a table is a file. Name a file in it.")
    if not path.is_file():
        raise InputError(f"{path}: this is not a regular file. Give a file that can be read more than once.")
    if size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes).")
    with path.open("rb") as file:
        file.read(1)


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder {path.parent} does not exist either."
    near = nearest(path.name, [child.name for child in path.parent.iterdir()])
    return f" Did you mean {path.parent / near}?" if near else ""


class TableFile:
    """An open table file: `names` of its columns, `origin` for messages, and ways to read it.

    Made by `open_file`; a text file that needed decoding or unpacking is plain text only while that block lasts.
    """

    def __init__(
        self, path: Path, settings: DataSettings, names: list[str], large: bool, text: TextTable | None = None
    ) -> None:
        self.path, self.settings, self.names, self.large, self._text = path, settings, names, large, text
        self.origin = Origin(str(path), path if text else None, settings)

    def odd_columns(self) -> tuple[set[str], set[str]]:
        """Return the columns that hold dates or times, and those no typed table can hold."""
        if self._text is not None:
            return set(), set()
        with _parquet_faults(self.path):
            schema = pl.scan_parquet(self.path, glob=False).collect_schema()
        times = {name for name, dtype in schema.items() if dtype.is_temporal()}
        return times, {name for name, dtype in schema.items() if first_form(name, dtype, as_text=True) is None}

    def digest(self) -> str:
        return content_digest(self.path)

    def read(self, columns: Collection[str], as_text: Collection[str]) -> pl.DataFrame:
        """Read columns into memory as they are in the file."""
        if self._text is not None:
            self._text.read_as_text(as_text)
            return self._text.read().select(columns)
        with _parquet_faults(self.path):
            return pl.read_parquet(self.path, columns=list(columns), glob=False)

    def stream(self, columns: Collection[str], as_text: Collection[str], target: Path) -> None:
        """Write columns, brought to the three types of a typed table, to an Arrow file in bounded memory."""

        def write(lazy: pl.LazyFrame) -> None:
            forms = [_form(name, dtype, as_text, self) for name, dtype in lazy.select(columns).collect_schema().items()]
            sink(lazy.select(forms), target)

        if self._text is None:
            with _parquet_faults(self.path):
                write(pl.scan_parquet(self.path, glob=False))
            return
        self._text.read_as_text(as_text)
        facts = self._text.sink(write)
        frame = pl.scan_ipc(target)
        last = self.names[-1] if self.names[-1] in columns else None
        counted = (
            frame.select(pl.len(), pl.col(last).null_count() if last else pl.lit(-1).alias("nulls")).collect().row(0)
        )
        self._text.check(counted[0], counted[1], facts)


def _form(name: str, dtype: pl.DataType, as_text: Collection[str], file: TableFile) -> pl.Expr:
    form = first_form(name, dtype, name in as_text)
    if form is None:
        from caviar.data.table_types import refuse_type

        with _parquet_faults(file.path):
            head = pl.read_parquet(file.path, columns=[name], n_rows=1, glob=False)
        raise refuse_type(head.to_series(), file.origin)
    return form


def sink(lazy: pl.LazyFrame, target: Path) -> None:
    """Write a lazy frame to an uncompressed Arrow file as it streams."""
    lazy.sink_ipc(target, compression="uncompressed", compat_level=pl.CompatLevel.newest())


@contextmanager
def open_file(source: str | Path, settings: DataSettings) -> Iterator[TableFile]:
    """Yield a checked table file, its header read."""
    path = Path(source)
    budget = settings.memory_budget * MEGABYTE
    if check_file(path) == "parquet":
        names, size = _parquet_header(path)
        yield TableFile(path, settings, names, size > budget)
        return
    delimiter = delimiter_of(path, settings)
    with plain_text(path, settings) as plain:
        text = TextTable(plain, str(path), delimiter)
        yield TableFile(path, settings, text.names, plain.stat().st_size > budget, text)


def _parquet_header(path: Path) -> tuple[list[str], int]:
    with path.open("rb") as file:
        first = file.read(4)
        file.seek(max(0, path.stat().st_size - 4))
        last = file.read(4)
    if first != PARQUET_MARK:
        raise InputError(
            f"{path}: not a Parquet file: it does not begin with PAR1. Give the file the ending that fits."
        )
    if last != PARQUET_MARK:
        raise InputError(f"{path}: the Parquet file is cut short: its end is missing. Fetch or write it again.")
    with _parquet_faults(path):
        lazy = pl.scan_parquet(path, glob=False)
        names = lazy.collect_schema().names()
        rows = lazy.select(pl.len()).collect().item()
    check_names([name.strip() for name in names], str(path))
    if rows == 0:
        raise InputError(f"{path}: the table has columns but no rows.")
    return names, max(path.stat().st_size, rows * len(names) * 8)


@contextmanager
def _parquet_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except (PolarsError, OSError) as error:
        raise InputError(
            f"{path}: the Parquet file is damaged or cut short ({str(error).splitlines()[0]}). Fetch or write it again."
        ) from error


@dataclass(frozen=True)
class Mapped:
    """A large table as a mapped file, and the facts about it that were stored beside."""

    frame: pl.DataFrame
    facts: dict[str, Any]


def mapped_table(file: TableFile, digest: str, columns: list[str], as_text: Collection[str], finish: Finish) -> Mapped:
    """Return the columns of a large file from the cache, converting it first when they are not there.

    `finish` looks at the table in its first form and returns the casts it needs and a function that gives the facts to
    store, as JSON, about the table when it is cast.
    """
    settings = file.settings
    parts = [CACHE, digest, columns, sorted(as_text), settings.delimiter, settings.encoding, finish.__name__]
    key = hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
    folder = cache_folder() / "tables" / key
    if not (folder / "table.json").is_file():
        try:
            with atomic_folder(folder) as temporary:
                _convert(file, temporary, columns, as_text, finish)
        except OSError as error:
            raise InputError(
                f"{folder}: the table could not be converted there ({error.strerror or error}). Make room, or name "
                "another folder by the environment variable CAVIAR_CACHE."
            ) from error
    stored = json.loads((folder / "table.json").read_text())
    schema = {name: DTYPES[dtype] for name, dtype in stored["schema"]}
    return Mapped(map_frame(folder / "table.arrow", schema), stored["facts"])


def _convert(file: TableFile, folder: Path, columns: list[str], as_text: Collection[str], finish: Finish) -> None:
    first, final = folder / "first.arrow", folder / "table.arrow"
    file.stream(columns, as_text, first)
    schema = dict(pl.scan_ipc(first).collect_schema())
    casts, describe = finish(map_frame(first, schema))
    if casts:
        sink(pl.scan_ipc(first).with_columns(casts), final)
        with suppress(OSError):
            first.unlink()
    else:
        first.rename(final)
    schema = dict(pl.scan_ipc(final).collect_schema())
    facts = describe(map_frame(final, schema))
    stored = {"schema": [[name, str(dtype)] for name, dtype in schema.items()], "facts": facts}
    write_json(folder / "table.json", stored)
