"""Values as a recipe writes them: TOML in, TOML out, nothing lost on the way."""

import math
import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from caviar.core.errors import InputError

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
_TO_ESCAPE = re.compile(r'[\\"\x00-\x1f\x7f]')
_SHORT_FLOAT = re.compile(r"[+-]?(\d+\.|\.\d+)([eE][+-]?\d+)?")


def toml_key(key: str) -> str:
    """Write a key: bare where TOML allows it, quoted elsewhere."""
    return key if _BARE_KEY.fullmatch(key) else _quote(key)


def toml_value(value: Any) -> str:
    """Write a value on one line of TOML; read again, it is equal and of the same type (a tuple becomes a list)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quote(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return float.__repr__(value)
    if isinstance(value, Mapping):
        inside = ", ".join(f"{toml_key(key)} = {toml_value(entry)}" for key, entry in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    raise InputError(f"{value!r} cannot be written in a recipe: {_HOLDS}.")


_HOLDS = "it holds text, numbers, true, false, lists and tables"


def shown(value: Any, limit: int = 60) -> str:
    """Write any value for an error message, cut to about `limit` characters."""
    try:
        text = toml_value(value)
    except (InputError, TypeError, ValueError):
        text = str(value) if hasattr(value, "isoformat") else repr(value)
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."


def unwrapped(value: Any) -> Any:
    """Turn what Python hands over into what TOML would: paths to text, NumPy scalars to numbers, tuples to lists."""
    if isinstance(value, Mapping):
        return {key: unwrapped(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [unwrapped(entry) for entry in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def shown_key(key: Any) -> str:
    """Write a key, whatever it is, for an error message."""
    return toml_key(key) if isinstance(key, str) and is_unicode(key) else repr(key)


def plain_value(value: Any) -> Any:
    """Return `value` unwrapped; everything in it can be written in a recipe and read back as it was.

    Raises ValueError for what has no place there: None, dates, objects, NaN, infinity, text that is not Unicode.
    """
    value = unwrapped(value)
    if isinstance(value, dict):
        return {_plain_text(key): plain_value(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain_value(entry) for entry in value]
    if isinstance(value, str):
        return _plain_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    if isinstance(value, bool | int | float):
        return value
    raise ValueError(f"{shown(value)} cannot be written in a recipe; {_HOLDS}")


def strict_value(value: Any) -> Any:
    """Make tuples of lists, as strict settings want them, and refuse (ValueError) what could not be written again."""
    if isinstance(value, list):
        return tuple(strict_value(entry) for entry in value)
    return plain_value(value) if isinstance(value, Mapping | str) else value


def _plain_text(text: Any) -> str:
    if not isinstance(text, str):
        raise ValueError(f"the key {text!r} is not text")
    if not is_unicode(text):
        raise ValueError(f"{text!r} holds bytes that are not valid Unicode text")
    return text


def is_unicode(text: str) -> bool:
    """Whether `text` can be written as UTF-8 (a path made of other bytes cannot)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_key(text: str) -> list[str]:
    """Read a dotted key (`section.key`, parts in quotes where they need them) into its parts; [] when it is not one."""
    try:
        tree: Any = tomllib.loads(f"{text.strip()} = 0") if "\n" not in text else None
    except (ValueError, RecursionError):
        return []
    parts: list[str] = []
    while isinstance(tree, dict) and len(tree) == 1:
        name, tree = next(iter(tree.items()))
        parts.append(name)
    return parts if tree == 0 else []


def read_value(text: str) -> Any:
    """Read one value as it is typed on a command line: TOML, or a bare word, which is text.

    Numbers may also begin or end with the point (.5, 1.), as shells' users write them.

    Raises:
        InputError: nothing was given, or something that begins like TOML text, list or table is not closed properly.
    """
    text = text.strip()
    if not text:
        raise InputError('there is no value after "="; write \'""\' for empty text.')
    try:
        parsed = tomllib.loads(f"value = {text}")
        if parsed.keys() == {"value"}:
            return parsed["value"]
    except (ValueError, RecursionError) as error:
        if text[0] in "[{\"'":
            raise InputError(f"{text} is not a TOML value: {_reason(error)}.") from error
    return float(text) if _SHORT_FLOAT.fullmatch(text) else text


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return re.sub(r"\s*\(at .*\)$", "", str(error)).rstrip(".")


def _quote(text: str) -> str:
    if not is_unicode(text):
        raise InputError(f"{text!r} cannot be written in a recipe: it holds bytes that are not valid Unicode text.")
    escaped = _TO_ESCAPE.sub(lambda found: _ESCAPES.get(found[0], f"\\u{ord(found[0]):04x}"), text)
    return f'"{escaped}"'
