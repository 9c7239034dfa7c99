"""From a recipe to the text that a person reads and edits, to its differences from another, and to absolute paths."""

import os
import textwrap
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from caviar.core.errors import InputError
from caviar.core.settings import Settings
from caviar.recipe.recipe import SECTIONS, Recipe
from caviar.recipe.values import is_unicode, toml_key, toml_value

LINE_LENGTH = 118
_ASIDE = 36  # a comment stands beside a line up to this wide, above a wider one

_TITLE = """\
# A caviar recipe: everything that a training run needs to know.
#   run it          caviar train THIS_FILE.toml
#   try one change  caviar train THIS_FILE.toml --set optimizer.learning_rate=3e-4
# "auto" lets caviar choose from the data; "none" leaves the thing out.
"""


def dump(recipe: Recipe, comments: bool = True) -> str:
    """Write a complete recipe as TOML, one section a concern, each key with what it means in a comment.

    Reading it back gives an equal recipe: `validate(parse_recipe(dump(recipe))) == recipe`.
    """
    head = _lines(recipe, [name for name in Recipe.model_fields if name not in SECTIONS], comments)
    blocks = [(_TITLE + "\n" if comments else "") + "\n".join(head)]
    for section in SECTIONS:
        settings: Settings = getattr(recipe, section)
        about = _comment(Recipe.model_fields[section].description, 0) if comments else ()
        lines = _lines(settings, list(type(settings).model_fields), comments)
        blocks.append("\n".join([*about, f"[{section}]", *lines]))
    return "\n\n".join(blocks) + "\n"


def _lines(settings: Settings, names: list[str], comments: bool) -> list[str]:
    pairs = [_pair(toml_key(name), getattr(settings, name)) for name in names]
    if not comments:
        return pairs
    width = max((len(pair) for pair in pairs if len(pair) <= _ASIDE), default=0)
    lines: list[str] = []
    for name, pair in zip(names, pairs, strict=True):
        about = type(settings).model_fields[name].description
        if len(pair) > width:
            lines += [*_comment(about, 0), pair]
            continue
        first, *more = _comment(about, width + 2)
        lines += [f"{pair:<{width}}  {first}", *(" " * (width + 2) + line for line in more)]
    return lines


def _pair(key: str, value: Any) -> str:
    """Write key and value on one line; of a table too long for it, each key on its own, and lists entry by entry."""
    line = f"{key} = {toml_value(value)}"
    if len(line) <= LINE_LENGTH or not isinstance(value, Mapping):
        return line
    return "\n".join(_entries(f"{key}.{toml_key(inner)}", entry) for inner, entry in value.items())


def _entries(key: str, value: Any) -> str:
    line = f"{key} = {toml_value(value)}"
    if len(line) <= LINE_LENGTH or not isinstance(value, list | tuple):
        return line
    return "\n".join([f"{key} = [", *(f"  {toml_value(entry)}," for entry in value), "]"])


@cache  # finding the width takes many tries, and every run writes the same comments
def _comment(text: str | None, indent: int) -> tuple[str, ...]:
    """Break a description into as few comment lines as fit beside `indent` columns, of about the same length."""
    width = LINE_LENGTH - indent - len("# ")
    lines = textwrap.wrap(text or "", width, break_long_words=False)
    while len(lines) > 1 and len(shorter := textwrap.wrap(text or "", width - 1, break_long_words=False)) == len(lines):
        lines, width = shorter, width - 1
    return tuple(f"# {line}" for line in lines) or ("#",)


def diff(first: Recipe, second: Recipe) -> list[str]:
    """Return the keys in which two recipes differ, as lines such as "optimizer.learning_rate: 0.001 -> 0.1".

    A key that only one of them has (momentum, after a change from sgd to adamw) is "absent" in the other.
    """
    before, after = _flat(first.model_dump()), _flat(second.model_dump())
    pairs = {name: (before.get(name, "absent"), after.get(name, "absent")) for name in [*before, *after]}
    return [f"{name}: {old} -> {new}" for name, (old, new) in pairs.items() if old != new]


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        name = f"{above}{toml_key(key)}"
        found |= _flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: toml_value(value)}
    return found


def absolute_paths(recipe: Recipe, base: Path | None = None) -> Recipe:
    """Return the recipe with data.source, data.dev and data.test as absolute paths, so that it means the same anywhere.

    So is data.target where it names the .npy file of the targets.

    A relative path is looked for in `base` (the recipe file's folder) first, and is relative to the current folder if
    nothing of that name is there. "~" is the user's home. sample:NAME, "none" and "auto" stay as they are.
    """
    names = ["source", "dev", "test"]
    if recipe.data.target.lower().endswith(".npy") and recipe.data.source.lower().endswith((".npy", "none")):
        names.append("target")
    changed = {name: _absolute(getattr(recipe.data, name), base, f"data.{name}") for name in names}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=changed)})


def _absolute(path: str, base: Path | None, name: str) -> str:
    if path in ("", "none", "auto") or path.startswith("sample:"):
        return path
    expanded = os.path.expanduser(path)
    beside = os.path.join(base, expanded) if base is not None else expanded
    found = os.path.abspath(beside if os.path.lexists(beside) else expanded)
    if not is_unicode(found):
        raise InputError(
            f"{name}: the path {found!r} holds bytes that are not valid text, so no recipe can name it. Rename it."
        )
    return found
