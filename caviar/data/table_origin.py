"""Where a table came from, in the words of its messages: which line of which file a row stands on."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caviar.data.settings import DataSettings
from caviar.data.table_records import delimiter_of, header_fields, line_of_row, plain_text, row_fields

TEXT_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
PARQUET_SUFFIXES = (".parquet", ".pq")
SHOWN_ROWS = 5


@dataclass(frozen=True)
class Origin:
    """A file or a frame: `name` for messages, `path` of a text file whose lines can be counted."""

    name: str
    path: Path | None = None
    settings: DataSettings = DataSettings()  # noqa: RUF009 - settings are frozen

    def row(self, number: int) -> str:
        """Name a row (counted from 0): by its line in a text file, else counted from 1."""
        if self.path is None:
            return f"row {number + 1} (counting from 1)"
        with self._text() as text:
            return f"line {line_of_row(text, number)}"

    def at(self, number: int) -> str:
        """Name the source and a row of it, as messages begin."""
        return f"{self.name}, {self.row(number)}"

    def rows(self, numbers: Sequence[int] | NDArray[Any]) -> str:
        """Name several rows: the first few, and how many more."""
        first = [int(number) for number in numbers[:SHOWN_ROWS]]
        more = f" and {len(numbers) - len(first)} more" if len(numbers) > len(first) else ""
        if self.path is None:
            word = "row" if len(numbers) == 1 else "rows"
            return f"{word} {', '.join(str(number + 1) for number in first)}{more} (counting from 1)"
        with self._text() as text:
            lines = [line_of_row(text, number) for number in first]
        return f"{'line' if len(numbers) == 1 else 'lines'} {', '.join(map(str, lines))}{more}"

    def field(self, number: int, column: str) -> str:
        """Return a field as it stands in the text file, or "" where there is none."""
        if self.path is None:
            return ""
        delimiter = delimiter_of(self.path, self.settings)
        with self._text() as text:
            fields = dict(zip(header_fields(text, delimiter), row_fields(text, number, delimiter), strict=False))
        return fields.get(column, "")

    def _text(self) -> AbstractContextManager[Path]:
        assert self.path is not None
        return plain_text(self.path, self.settings)


def origin_of(where: "str | Path | Origin", settings: DataSettings | None = None) -> Origin:
    """Return the origin that `where` names: a path to an existing text table gets its lines counted."""
    if isinstance(where, Origin):
        return where
    path = Path(where)
    is_text = str(where).lower().endswith(TEXT_SUFFIXES) and path.is_file()
    return Origin(str(where), path if is_text else None, settings or DataSettings())


def mask_rows(mask: Any) -> NDArray[np.int64]:
    """Return the row numbers where a Polars Boolean series is true."""
    return np.flatnonzero(mask.fill_null(False).to_numpy())
