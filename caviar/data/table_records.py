"""Text tables as bytes: plain UTF-8 whatever the file was, and which bytes are which record.

All of it works in blocks, so memory stays bounded, and on whole blocks at once, never byte by byte.
"""

import codecs
import contextlib
import csv
import gzip
import io
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caviar.core.errors import InputError, unknown_name
from caviar.core.files import cache_folder
from caviar.data.settings import DataSettings

BLOCK = 4 << 20
SCAN_BLOCK = 1 << 19
NEWLINE, RETURN, QUOTE = 10, 13, 34
GZIP = b"\x1f\x8b"
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
COMMON_ENCODINGS = ("utf-8", "utf-16", "latin-1", "cp1252", "cp1251", "cp437", "gb18030", "shift_jis", "euc-kr", "big5")


@contextlib.contextmanager
def plain_text(path: Path, settings: DataSettings) -> Iterator[Path]:
    """Yield a path to the same text as plain UTF-8: `path` itself, or a temporary file that goes with the block.

    A byte order mark decides the encoding, else settings.encoding does. Raises InputError for a gzip file that is cut
    or damaged, and for bytes that are not in the encoding.
    """
    compressed = path.name.lower().endswith(".gz")
    encoding = _encoding(path, settings, compressed)
    if encoding == "utf-8" and not compressed:
        yield path
        return
    folder = cache_folder() / "tables"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder if folder.is_dir() else None, prefix=".text.") as temporary:
        plain = Path(temporary) / "plain.csv"
        _convert(path, plain, encoding, compressed)
        yield plain


def _open(path: Path, compressed: bool) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path, "rb") if compressed else path.open("rb")


def _encoding(path: Path, settings: DataSettings, compressed: bool) -> str:
    with _gzip_faults(path), _open(path, compressed) as file:
        start = file.read(4)
    for mark, name in MARKS:
        if start.startswith(mark):
            return name
    try:
        name = codecs.lookup(settings.encoding).name
    except LookupError:
        raise unknown_name("data.encoding", settings.encoding, COMMON_ENCODINGS) from None
    return "utf-8" if name == "utf-8-sig" else name


@contextlib.contextmanager
def _gzip_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: the gzip file is cut short or damaged ({error}). Fetch or compress it again; `gzip -t` checks it."
        ) from error


def _convert(path: Path, plain: Path, encoding: str, compressed: bool) -> None:
    decoder = None if encoding == "utf-8" else codecs.getincrementaldecoder(encoding)()
    offset, lines = 0, 1
    with _gzip_faults(path), _open(path, compressed) as source, plain.open("wb") as target:
        while True:
            block = source.read(BLOCK)
            if decoder is None:
                target.write(block)
            else:
                pending = len(decoder.getstate()[0])
                try:
                    text = decoder.decode(block, final=not block)
                except UnicodeDecodeError as error:
                    good = error.object[: error.start].decode(encoding, errors="ignore")
                    line = lines + good.count("\n")
                    raise _bad_byte(path, error, offset - pending, line, encoding) from error
                lines += text.count("\n")
                target.write(text.encode())
            offset += len(block)
            if not block:
                return


def check_utf8(path: Path, name: object) -> None:
    """Refuse a file whose bytes are not UTF-8, naming the offset and line of the first that is not."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, lines = 0, 1
    with path.open("rb") as file:
        while True:
            block = file.read(BLOCK)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                line = lines + error.object[: error.start].count(b"\n")
                raise _bad_byte(name, error, offset - pending, line, "utf-8") from error
            lines += block.count(b"\n")
            offset += len(block)
            if not block:
                return


def _bad_byte(name: object, error: UnicodeDecodeError, offset: int, line: int, encoding: str) -> InputError:
    byte = error.object[error.start]
    other = "latin-1" if encoding == "utf-8" else "utf-8"
    return InputError(
        f"{name}, line {line}: byte 0x{byte:02X} at offset {offset + error.start} is not {encoding} text. "
        f'Name the encoding the file is in, such as --set data.encoding="{other}".'
    )


@dataclass(frozen=True)
class TextFacts:
    """What one cheap pass over the bytes of a text table tells (newlines within quotes are counted too).

    lines: lines, an unfinished last one included. blank: lines without a byte. open_ends: lines whose last field is
    empty. quotes: quote characters. nul: offset of the first NUL byte and the line it is in, or None.
    """

    lines: int
    blank: int
    open_ends: int
    quotes: int
    nul: tuple[int, int] | None


def scan_text(path: Path, delimiter: str) -> TextFacts:
    """Count what TextFacts names, block by block."""
    lines = blank = open_ends = quotes = offset = 0
    before = b"\n\n"
    with path.open("rb") as file:
        while block := file.read(SCAN_BLOCK):
            nul = block.find(0)
            if nul >= 0:
                place = (offset + nul, lines + block.count(b"\n", 0, nul) + 1)
                return TextFacts(lines, blank, open_ends, quotes, place)
            counts = _count_lines(np.frombuffer(before + block, dtype=np.uint8), ord(delimiter))
            lines, blank, open_ends = lines + counts[0], blank + counts[1], open_ends + counts[2]
            quotes += block.count(b'"') if b'"' in block else 0
            before = (before + block[-2:])[-2:]
            offset += len(block)
    if offset and before[-1] != NEWLINE:
        lines += 1
        open_ends += before[-1] == ord(delimiter)
    return TextFacts(lines, blank, open_ends, quotes, None)


def _count_lines(data: NDArray[np.uint8], delimiter: int) -> tuple[int, int, int]:
    """Count newlines, blank lines, and lines that end in a delimiter, after the first two bytes of `data`."""
    ends = np.flatnonzero(data[2:] == NEWLINE) + 2
    last = data[ends - 1]
    returns = last == RETURN
    if returns.any():
        last = np.where(returns, data[ends - 2], last)
    return len(ends), int((last == NEWLINE).sum()), int((last == delimiter).sum())


class Chunk(NamedTuple):
    """Whole records: their bytes, where each begins and ends (newline not included), and the line each begins on."""

    data: NDArray[np.uint8]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    lines: NDArray[np.int64]
    inside: NDArray[np.bool_] | None

    def blank(self) -> NDArray[np.bool_]:
        """Which records are blank lines."""
        length = self.ends - self.starts
        lone_return = (length == 1) & (self.data[np.minimum(self.starts, len(self.data) - 1)] == RETURN)
        blank: NDArray[np.bool_] = (length == 0) | lone_return
        return blank

    def fields(self, delimiter: int) -> NDArray[np.int64]:
        """Count the fields of each record."""
        places = np.flatnonzero(self.data == delimiter)
        if self.inside is not None:
            places = places[~self.inside[places]]
        return np.searchsorted(places, self.ends) - np.searchsorted(places, self.starts) + 1

    def record(self, number: int) -> bytes:
        return self.data[self.starts[number] : self.ends[number]].tobytes()


def records(path: Path, block: int = BLOCK) -> Iterator[Chunk]:
    """Yield the records of a text table, the header first; a newline between quotes does not end a record."""
    line, rest, want = 1, b"", block
    with path.open("rb") as file:
        while True:
            more = file.read(want)
            data = np.frombuffer(rest + more, dtype=np.uint8)
            chunk = _split(data, line, final=len(more) < want)
            if chunk is not None:
                yield chunk
                used = int(chunk.ends[-1]) + 1
                line += int(np.count_nonzero(data[:used] == NEWLINE))
                rest, want = data[used:].tobytes(), block
            else:
                rest, want = data.tobytes(), max(block, len(data))
            if len(more) == 0:
                return


def _split(data: NDArray[np.uint8], line: int, final: bool) -> Chunk | None:
    newlines = np.flatnonzero(data == NEWLINE)
    quotes = data == QUOTE
    inside = np.cumsum(quotes, dtype=np.uint32) % 2 == 1 if quotes.any() else None
    ends = newlines if inside is None else newlines[~inside[newlines]]
    if final and len(data) and (len(ends) == 0 or ends[-1] != len(data) - 1):
        ends = np.append(ends, len(data))
    if len(ends) == 0:
        return None
    starts = np.concatenate(([0], ends[:-1] + 1))
    return Chunk(data, starts, ends, line + np.searchsorted(newlines, starts), inside)


def line_of_row(path: Path, row: int) -> int:
    """Return the line on which data row `row` (from 0, blank lines and the header not counted) begins."""
    return _find_record(path, row)[0]


def row_fields(path: Path, row: int, delimiter: str) -> list[str]:
    """Return the fields of data row `row` as they stand in the file, without surrounding spaces."""
    return _fields(_find_record(path, row)[1], delimiter)


def header_fields(path: Path, delimiter: str) -> list[str]:
    """Return the column names in the first record, without surrounding spaces. Raises UnicodeDecodeError."""
    for chunk in records(path, block=1 << 16):
        return _fields(chunk.record(0), delimiter)
    return []


def _fields(record: bytes, delimiter: str) -> list[str]:
    text = record.decode("utf-8-sig")
    return [field.strip() for field in next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])]


def delimiter_of(path: Path, settings: DataSettings) -> str:
    """Return the delimiter of the text table at `path`: the one set, else a tab for .tsv and a comma for .csv."""
    given = settings.delimiter
    if given == "auto":
        return "\t" if path.name.lower().endswith((".tsv", ".tsv.gz")) else ","
    if given in ("tab", "\\t"):
        return "\t"
    if len(given) != 1 or not given.isascii() or given in '"\n\r\0':
        raise InputError(
            f"data.delimiter is {given!r}; it must be one ASCII character other than a double quote, or auto. "
            'Write --set data.delimiter=";" for semicolons.'
        )
    return given


def _find_record(path: Path, row: int) -> tuple[int, bytes]:
    wanted = row + 1
    for chunk in records(path):
        kept = np.flatnonzero(~chunk.blank())
        if wanted < len(kept):
            number = int(kept[wanted])
            return int(chunk.lines[number]), chunk.record(number)
        wanted -= len(kept)
    return row + 2, b""
