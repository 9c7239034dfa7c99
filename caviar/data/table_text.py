"""Reading a text table with Polars: near its own speed when all is well, with the line named when it is not."""

import re
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PolarsError

from caviar.core.errors import InputError
from caviar.data.table_faults import check_delimiter, check_fields, explain
from caviar.data.table_records import TextFacts, check_utf8, header_fields, scan_text

SAMPLE_BLOCKS = 16
SAMPLE_BLOCK = 1 << 16
LONGEST_LINE = 1 << 24
NAMED_RETRIES = 4


def read_header(path: Path, name: str, delimiter: str) -> list[str]:
    """Return the column names of a text table.

    Raises:
        InputError: nothing but blank lines, a blank first line, blank or repeated names, bytes that are not UTF-8, or
            another delimiter would split the file and this one does not.
    """
    with path.open("rb") as file:
        start = file.read(1 << 16)
    if not start.strip(b"\xef\xbb\xbf \t\r\n"):
        raise InputError(f"{name}: the file is empty. The first line must name the columns.")
    _check_bytes(start, name)
    try:
        names = header_fields(path, delimiter)
    except UnicodeDecodeError:
        check_utf8(path, name)
        raise
    if not names:
        raise InputError(
            f"{name}, line 1: the line is blank; the first line must name the columns. Remove the blank line."
        )
    check_delimiter(path, name, delimiter)
    check_names(names, f"{name}, line 1")
    return names


def _check_bytes(start: bytes, name: str) -> None:
    """Refuse what is no text at all, and lines that end in a carriage return alone."""
    if start.startswith((b"PAR1", b"PK\x03\x04", b"\x1f\x8b", b"ARROW1", b"\x93NUMPY", b"SQLite")):
        kind = {b"PA": "Parquet", b"PK": "a zip archive or a spreadsheet", b"\x1f\x8b": "gzip"}.get(
            start[:2], "binary data"
        )
        raise InputError(
            f"{name}: the content is {kind}, not text. Give the file the ending that fits (.csv, .csv.gz, .parquet), "
            "or save the table as CSV."
        )
    if start.count(b"\0") > len(start) // 4:
        raise InputError(
            f"{name}, line 1: NUL byte at offset {start.find(0)}; the file looks like UTF-16 or UTF-32 without a byte "
            'order mark. Name the encoding, such as --set data.encoding="utf-16-le".'
        )
    if b"\r" in start and b"\n" not in start:
        raise InputError(
            f"{name}, line 1: lines end in a carriage return alone (old Macintosh). Convert the line ends to newlines."
        )


def check_names(names: list[str], where: str) -> None:
    """Refuse blank and repeated column names."""
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            raise InputError(
                f"{where}: column {number} of {len(names)} has a blank name. Name it in the header, or remove the "
                "column (pandas writes its index like this; use to_csv(index=False))."
            )
        if first.setdefault(name, number) != number:
            raise InputError(
                f"{where}: the column name {name!r} stands twice, in columns {first[name]} and {number}. "
                "Give every column a name of its own."
            )


class TextTable:
    """A text table that is plain UTF-8, ready to be read eagerly or lazily.

    path: plain UTF-8 text. name: what messages call it.
    """

    def __init__(self, path: Path, name: str, delimiter: str) -> None:
        self.path, self.name, self.delimiter = path, name, delimiter
        self.names = read_header(path, name, delimiter)
        self._as_text: set[str] = set()

    def read_as_text(self, names: Collection[str]) -> None:
        """Say which columns are read as text whatever they hold."""
        self._as_text = set(names)

    def read(self) -> pl.DataFrame:
        """Read the whole table into memory: numbers as Float64, true and false as Boolean, the rest as String."""
        with ThreadPoolExecutor(1) as pool:
            facts = pool.submit(scan_text, self.path, self.delimiter)
            try:
                frame: pl.DataFrame = self._attempts(lambda schema: pl.read_csv(self.path, **self._options(schema)))
            except InputError:
                self._check_nul(facts.result())
                raise
        self._check_nul(facts.result())
        frame = frame.filter(_not_blank()) if facts.result().blank else frame
        self.check(frame.height, frame.to_series(-1).null_count(), facts.result())
        return frame

    def sink(self, write: Any) -> TextFacts:
        """Call `write(lazy_frame)` with the table as it streams, as often as it takes to find the column types."""
        facts = scan_text(self.path, self.delimiter)
        self._check_nul(facts)

        def attempt(schema: dict[str, pl.DataType]) -> None:
            lazy = pl.scan_csv(self.path, **self._options(schema))
            write(lazy.filter(_not_blank()) if facts.blank else lazy)

        self._attempts(attempt)
        return facts

    def check(self, rows: int, last_nulls: int, facts: TextFacts) -> None:
        """Refuse a table without rows, and look closely when rows may be short: Polars fills those with nulls."""
        if rows == 0:
            raise InputError(f"{self.name}: the file has a header but no rows. Add rows below line 1.")
        lines_add_up = rows + 1 + facts.blank == facts.lines
        ends_add_up = last_nulls == facts.open_ends and not (facts.quotes and last_nulls)
        if not (lines_add_up and ends_add_up) or (facts.blank and len(self.names) > 1):
            check_fields(self.path, self.name, self.delimiter, len(self.names))

    def _check_nul(self, facts: TextFacts) -> None:
        if facts.nul is not None:
            offset, line = facts.nul
            raise InputError(
                f"{self.name}, line {line}: NUL byte at offset {offset}. A text table holds none: the file is damaged, "
                "or binary, or in another encoding, which --set data.encoding=... names."
            )

    def _options(self, schema: dict[str, pl.DataType]) -> dict[str, Any]:
        return {
            "has_header": False,
            "skip_rows": 1,
            "schema": schema,
            "separator": self.delimiter,
            "glob": False,
        }

    def _attempts(self, read: Any) -> Any:
        """Read with the types that a sample shows; a column they do not fit becomes text, and at last all do."""
        schema = self._sampled_schema()
        for _ in range(NAMED_RETRIES):
            try:
                return read(schema)
            except PolarsError as error:
                found = re.search(
                    r"could not parse .* as dtype `(?!str).*` at column '(.*)' \(column", str(error), re.DOTALL
                )
                if found is None:
                    raise explain(self.path, self.name, self.delimiter, self.names, error) from error
                schema = schema | {found[1]: pl.String()} if found[1] in schema else dict.fromkeys(schema, pl.String())
        try:
            return read(dict.fromkeys(schema, pl.String()))
        except PolarsError as error:
            raise explain(self.path, self.name, self.delimiter, self.names, error) from error

    def _sampled_schema(self) -> dict[str, pl.DataType]:
        text: dict[str, pl.DataType] = dict.fromkeys(self.names, pl.String())
        try:
            options = self._options(text) | {"skip_rows": 0, "truncate_ragged_lines": True}
            sample = pl.read_csv(self._sample(), **options)
        except PolarsError:
            return text
        return {name: pl.String() if name in self._as_text else _type_of(sample[name]) for name in self.names}

    def _sample(self) -> bytes:
        """Return whole lines from places spread over the file, the header left out."""
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            file.readline(LONGEST_LINE)
            block = max(SAMPLE_BLOCK, 4 * len(file.readline(LONGEST_LINE)))
            file.seek(0)
            if size <= SAMPLE_BLOCKS * block:
                return _after_header(file.read())
            blocks = []
            for number in range(SAMPLE_BLOCKS):
                file.seek(size * number // SAMPLE_BLOCKS)
                blocks.append(_after_header(file.read(block)))
        return b"".join(text[: text.rfind(b"\n") + 1] for text in blocks)


def _after_header(block: bytes) -> bytes:
    return block[block.find(b"\n") + 1 :]


def _not_blank() -> pl.Expr:
    return ~pl.all_horizontal(pl.all().is_null())


def _type_of(sample: pl.Series) -> pl.DataType:
    values = sample.drop_nulls()
    if values.is_empty():
        return pl.String()
    if values.cast(pl.Float64, strict=False).null_count() == 0:
        return pl.Float64()
    return pl.Boolean() if values.is_in(["true", "false", "True", "False"]).all() else pl.String()
