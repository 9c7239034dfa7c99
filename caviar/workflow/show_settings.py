"""Settings in which members differ, as columns of a table."""

from collections.abc import Mapping, Sequence
from typing import Any

MAX_SETTINGS = 4
"""Settings in which members differ that have a column each."""


def settings_columns(
    keys: Sequence[str], rows: Sequence[Mapping[str, Any]], unlike: str
) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells of what members differ in; of many settings, those unlike the first row's in words."""
    names = headings(keys)
    if len(keys) <= MAX_SETTINGS:
        return names, [[told(row[key]) if key in row else "" for key in keys] for row in rows]
    said = [
        ", ".join(
            f"{name} {told(row[key])}"
            for name, key in zip(names, keys, strict=True)
            if key in row and row[key] != rows[0].get(key)
        )
        for row in rows
    ]
    return [unlike], [[words] for words in said]


def headings(keys: Sequence[str]) -> list[str]:
    """Return the last words of keys, with their sections where those alone would be taken for another's."""
    short = [_short(key) for key in keys]
    return [word if short.count(word) == 1 else key for word, key in zip(short, keys, strict=True)]


def _short(key: str) -> str:
    section, _, last = key.rpartition(".")
    return section if last == "name" else last


def told(value: Any) -> str:
    """Write the value of a setting in a cell of a table."""
    if isinstance(value, list | tuple):
        return " ".join(map(told, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
