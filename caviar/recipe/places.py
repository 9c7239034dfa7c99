"""Where in a TOML text each key and value stands, which tomllib does not tell."""

import re
import tomllib
from bisect import bisect_right
from typing import NamedTuple

Path = tuple[str | int, ...]
"""A key path such as ("optimizer", "betas", 0): names of tables and keys, and positions in a list."""


class Place(NamedTuple):
    """Line and column, both counted from 1; the column counts characters."""

    line: int
    column: int


class KeyPlace(NamedTuple):
    """Where a key begins and where its value begins."""

    key: Place
    value: Place


_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"|' + r"'[^']*'")
_KEY_PART = re.compile(rf"[A-Za-z0-9_-]+|{_QUOTED.pattern}")
_STRING = re.compile(r'"""(?:\\[\s\S]|(?!""")[\s\S])*"""+' + r"|'''(?:(?!''')[\s\S])*'''+" + f"|{_QUOTED.pattern}")
_BARE_VALUE = re.compile(r"[^,\]}#\n]+")


def key_places(text: str) -> dict[Path, KeyPlace]:
    """Return the place of every table, key and list entry of `text`, which must be TOML that tomllib can read.

    A path that is written more than once (an array of tables, a table named by its parts) has its first place.
    """
    return _Scanner(text.replace("\r\n", "\n")).scan()


class _Scanner:
    """Walks once over a valid TOML text; `position` is always the next character to read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.line_starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self.found: dict[Path, KeyPlace] = {}

    def scan(self) -> dict[Path, KeyPlace]:
        table: Path = ()
        self.skip(_BLANK)
        while self.position < len(self.text):
            if self.text[self.position] == "[":
                table = self.header()
            else:
                self.assignment(table)
            self.skip(_BLANK)
        return self.found

    def header(self) -> Path:
        brackets = 2 if self.text.startswith("[[", self.position) else 1
        self.position += brackets
        table, start = self.key_path(())
        self.note(table, start, start)
        self.position += brackets
        return table

    def assignment(self, table: Path) -> None:
        path, start = self.key_path(table)
        self.position += 1  # the equals sign
        self.skip(_SPACE)
        self.note(path, start, self.position)
        self.value(path)

    def key_path(self, table: Path) -> tuple[Path, int]:
        """Read a dotted key; return its full path and where its last part begins."""
        path = table
        while True:
            self.skip(_SPACE)
            start = self.position
            part = self.take(_KEY_PART)
            path = (*path, next(iter(tomllib.loads(f"{part} = 0"))))
            self.skip(_SPACE)
            if self.text[self.position] != ".":
                return path, start
            self.note(path, start, start)
            self.position += 1

    def value(self, path: Path) -> None:
        opening = self.text[self.position]
        if opening == "[":
            self.list_entries(path)
        elif opening == "{":
            self.table_entries(path)
        elif opening in "\"'":
            self.take(_STRING)
        else:
            self.take(_BARE_VALUE)

    def list_entries(self, path: Path) -> None:
        self.position += 1
        index = 0
        while self.after_separators() != "]":
            self.note((*path, index), self.position, self.position)
            self.value((*path, index))
            index += 1
        self.position += 1

    def table_entries(self, path: Path) -> None:
        self.position += 1
        while self.after_separators() != "}":
            self.assignment(path)
        self.position += 1

    def after_separators(self) -> str:
        self.skip(_BLANK)
        if self.text[self.position] == ",":
            self.position += 1
            self.skip(_BLANK)
        return self.text[self.position]

    def note(self, path: Path, key: int, value: int) -> None:
        self.found.setdefault(path, KeyPlace(self.place(key), self.place(value)))

    def place(self, position: int) -> Place:
        line = bisect_right(self.line_starts, position)
        return Place(line, position - self.line_starts[line - 1] + 1)

    def skip(self, pattern: re.Pattern[str]) -> None:
        self.take(pattern)

    def take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.position)
        if found is None:
            raise ValueError(f"not TOML at character {self.position}")
        self.position = found.end()
        return found[0]
