"""What is wrong with a text table that could not be read: slow and exact, run once something is known to be wrong."""

import csv
from pathlib import Path

import numpy as np

from caviar.core.errors import InputError
from caviar.data.table_records import BLOCK, NEWLINE, QUOTE, RETURN, check_utf8, records

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", ":": "colons", " ": "spaces"}
GUESSED_LINES = 20
SHOWN_LINES = 5


def explain(path: Path, name: str, delimiter: str, names: list[str], error: Exception) -> InputError:
    """Find why Polars could not read the text table at `path` and return that as an error that calls it `name`."""
    try:
        check_utf8(path, name)
        check_quotes(path, name, delimiter)
        check_fields(path, name, delimiter, len(names))
    except InputError as found:
        return found
    reason = str(error).strip().split("\n")[0]
    return InputError(f"{name}: cannot be read as a table of text: {reason}. Check the delimiter and the quotes.")


def check_fields(path: Path, name: str, delimiter: str, expected: int) -> None:
    """Refuse rows with more or fewer fields than the header has, naming their lines; blank lines are passed over."""
    lines: list[int] = []
    counts: list[int] = []
    total = 0
    for chunk in records(path):
        fields = chunk.fields(ord(delimiter))
        wrong = np.flatnonzero((fields != expected) & ~chunk.blank())
        total += len(wrong)
        first = wrong[: SHOWN_LINES - len(lines)]
        lines += chunk.lines[first].tolist()
        counts += fields[first].tolist()
    if not total:
        return
    others = f" (also lines {', '.join(map(str, lines[1:]))}" if len(lines) > 1 else ""
    others += f"; {total} lines in all" if total > len(lines) else ""
    others += ")" if others else ""
    raise InputError(
        f"{name}, line {lines[0]}: {_fields(counts[0])}, but the header has {_fields(expected)}{others}. Give each "
        f"row one field for each column, and put fields that contain the delimiter {delimiter!r} in double quotes."
        f"{_hint(path, delimiter)}"
    )


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"


def check_delimiter(path: Path, name: str, delimiter: str) -> None:
    """Refuse a table whose header or rows the delimiter does not split when another would make a table of the file."""
    counts = [len(row) for row in csv.reader(_head(path), delimiter=delimiter)]
    single = counts[0] == 1 or max(counts[1:], default=2) == 1
    if single and (hint := _hint(path, delimiter)):
        line, by = 1 if counts[0] == 1 else 2, DELIMITERS.get(delimiter, repr(delimiter))
        raise InputError(f"{name}, line {line}: splitting at {by} gives a single field.{hint}")


def _hint(path: Path, delimiter: str) -> str:
    guess = guess_delimiter(path, delimiter)
    if guess is None:
        return ""
    shown = "\\t" if guess == "\t" else guess
    return f' The file looks delimited by {DELIMITERS[guess]}: try --set data.delimiter="{shown}".'


def guess_delimiter(path: Path, current: str) -> str | None:
    """Return the delimiter that splits the first lines into equally many fields, when `current` does not."""
    head = _head(path)
    found = {candidate: _consistent(head, candidate) for candidate in DELIMITERS}
    if found.get(current, 0) > 1:
        return None
    best = max(DELIMITERS, key=lambda candidate: found[candidate])
    return best if found[best] > 1 and best != current else None


def _head(path: Path) -> list[str]:
    with path.open("rb") as file:
        text = file.read(1 << 16).decode("utf-8-sig", errors="replace")
    return [line for line in text.splitlines() if line.strip()][:GUESSED_LINES]


def _consistent(lines: list[str], delimiter: str) -> int:
    """Return how many fields every line has, or 0 when they differ."""
    counts = {len(row) for row in csv.reader(lines, delimiter=delimiter)}
    return counts.pop() if len(counts) == 1 else 0


def check_quotes(path: Path, name: str, delimiter: str) -> None:
    """Refuse a quoted field that is never closed, or a quote where none may stand, naming the line.

    Quotes are counted by parity: an opening one must follow a delimiter or a line's beginning, a closing one must be
    followed by a delimiter or a line's end; a doubled quote within a field closes and opens again.
    """
    count, lines, opened_line = 0, 1, 1
    before = NEWLINE
    may_precede = np.array([ord(delimiter), NEWLINE, RETURN, QUOTE], dtype=np.uint8)
    with path.open("rb") as file:
        if file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)
        while block := file.read(BLOCK):
            while block[-1] == QUOTE and (more := file.read(1)):
                block += more
            data = np.frombuffer(bytes([before]) + block + b"\n"[: len(block) < BLOCK], dtype=np.uint8)
            places = np.flatnonzero(data[1 : len(block) + 1] == QUOTE) + 1
            opening = (np.arange(len(places)) + count) % 2 == 0
            neighbour = np.where(opening, data[places - 1], data[np.minimum(places + 1, len(data) - 1)])
            wrong = ~np.isin(neighbour, may_precede)
            newlines = np.flatnonzero(data[1 : len(block) + 1] == NEWLINE) + 1
            where = lines + np.searchsorted(newlines, places)
            # Quotes around a word inside a field do no harm while both stand on one line.
            harmless = np.flatnonzero(wrong[:-1] & opening[:-1] & (where[:-1] == where[1:]))
            wrong[harmless] = wrong[harmless + 1] = False
            if wrong.any():
                first = int(wrong.argmax())
                if opening[first]:
                    raise _stray(name, int(where[first]))
                raise _unclosed(name, int(where[first - 1]) if first else opened_line)
            if len(places):
                opened_line = int(where[-1])
            count += len(places)
            lines += len(newlines)
            before = block[-1]
    if count % 2:
        raise _unclosed(name, opened_line)


def _unclosed(name: str, line: int) -> InputError:
    return InputError(
        f"{name}, line {line}: the quoted field that opens here is not closed. Close it with a double quote before the "
        "delimiter or the line's end, and write a quote inside a quoted field twice."
    )


def _stray(name: str, line: int) -> InputError:
    return InputError(
        f"{name}, line {line}: a double quote stands inside a field that does not begin with one. "
        "Put the whole field in double quotes and write the quote inside it twice."
    )
