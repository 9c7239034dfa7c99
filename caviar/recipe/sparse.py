"""Recipes as people write them: a few keys, from a file, --set or Python, each knowing where it came from."""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from caviar.core.errors import InputError, nearest
from caviar.recipe.places import KeyPlace, Place, key_places
from caviar.recipe.places import Path as KeyPath
from caviar.recipe.recipe import VARIANTS, Recipe, accepts, variant_of
from caviar.recipe.values import read_key, read_value, shown, unwrapped

MAX_BYTES = 1 << 20
_SAID_TWICE = re.compile(r"Cannot overwrite a value|Cannot declare .* twice|Cannot mutate immutable namespace .*")


class Origin(NamedTuple):
    """Where a key came from: the file's name with the key's place in it, or the words that set it."""

    source: str
    place: KeyPlace | None = None

    def at_key(self) -> str:
        """Name the place of the key, for a message."""
        return _located(self.source, self.place and self.place.key)

    def at_value(self) -> str:
        """Name the place of the value, for a message."""
        return _located(self.source, self.place and self.place.value)


def _located(source: str, place: Place | None) -> str:
    return f"{source}, line {place.line}, column {place.column}" if place else source


@dataclass(frozen=True)
class Sparse:
    """A recipe with any of its keys: `values` nested as in TOML, and the origin of every key path."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)

    def origin(self, path: KeyPath) -> Origin:
        """Return where the key at `path` came from, or else the nearest table around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return Origin("the recipe")


def read_recipe(path: str | Path) -> Sparse:
    """Read a recipe file.

    Raises:
        InputError: it is missing (the nearest is offered), a folder, unreadable, not UTF-8 or not TOML (line, column).
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such recipe file.{_near_file(path)}") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: this is a folder, not a recipe file; give the .toml file itself.") from error
    except OSError as error:
        raise InputError(f"{path}: this recipe file cannot be read ({error.strerror or error}).") from error
    except ValueError as error:
        raise InputError(f"{str(path)!r}: this is not a file name ({error}).") from error
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: larger than {MAX_BYTES >> 20} MiB, so not a recipe; a recipe is a short TOML text.")
    return parse_recipe(_decode(content, path), str(path))


def parse_recipe(text: str, source: str = "recipe") -> Sparse:
    """Read the TOML text of a recipe; `source` names it in messages."""
    try:
        values = tomllib.loads(text)
        places = key_places(text)
    except RecursionError as error:
        raise InputError(f"{source}: its lists or tables are nested too deeply for a recipe.") from error
    except ValueError as error:
        raise _syntax_error(text, source, str(error)) from error
    return Sparse(values, {path: Origin(source, place) for path, place in places.items()})


def from_dict(values: Mapping[str, Any], source: str) -> Sparse:
    """Make a sparse recipe from nested Python values; `source` (say "--epochs 3") names them in messages."""
    return Sparse(unwrapped(values), {path: Origin(source) for path, _ in _walk(values)})


def from_recipe(recipe: Recipe, source: str = "the recipe") -> Sparse:
    """Make a sparse recipe that holds every key of a complete one, to set some of them anew."""
    return from_dict(recipe.model_dump(), source)


def parse_assignment(text: str) -> Sparse:
    """Read what follows --set: `section.key=value`, the value in TOML or a bare word.

    Examples: optimizer.name=sgd, model.widths=[64, 64], optimizer.learning_rate=3e-4, data.target='"1"', seed=7.

    Raises:
        InputError: there is no "=", the key is not one, or the value is not TOML.
    """
    source = f"--set {text}"
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"{source}: expected section.key=value, as in --set optimizer.learning_rate=3e-4.")
    path = read_key(key)
    if not path:
        raise InputError(f"{source}: {key.strip()!r} is not a key; expected section.key=value.")
    try:
        nested: Any = read_value(value)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    for name in reversed(path):
        nested = {name: nested}
    return from_dict(nested, source)


def merge(first: Sparse, *later: Sparse) -> Sparse:
    """Lay later recipes over the first, key by key; tables are merged, everything else is replaced.

    When a later one changes `model.name`, `optimizer.name` or `schedule.name`, what that section held for another name
    only (momentum, after a change from sgd to adamw; dropout = "auto", from mlp to convnet) is left out; keys that both
    have keep their values. Keys that stand together with a name they do not fit are left for `validate` to refuse.
    """
    merged = first
    for update in later:
        kept = _without_leftovers(merged, update)
        replaced = {path for path, value in _walk(update.values) if not isinstance(value, Mapping)}
        origins = {path: origin for path, origin in kept.origins.items() if not _below(path, replaced)}
        merged = Sparse(_merged(kept.values, update.values), {**update.origins, **origins})
    return merged


def _below(path: KeyPath, tops: set[KeyPath]) -> bool:
    return any(path[:length] in tops for length in range(1, len(path) + 1))


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(old)
    for key, value in new.items():
        before = result.get(key)
        result[key] = _merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return result


def _without_leftovers(sparse: Sparse, update: Sparse) -> Sparse:
    """Leave out of `sparse` the keys and values that fit the old name of a section, but not the one in `update`."""
    values = dict(sparse.values)
    dropped: set[KeyPath] = set()
    for section in VARIANTS:
        old, new = values.get(section), update.values.get(section)
        if isinstance(old, Mapping) and isinstance(new, Mapping) and isinstance(new.get("name"), str):
            left = [key for key in old if key != "name" and _is_leftover(section, key, old, new["name"])]
            values[section] = {key: value for key, value in old.items() if key not in left}
            dropped |= {(section, key) for key in left}
    return Sparse(values, {path: origin for path, origin in sparse.origins.items() if path[:2] not in dropped})


def _is_leftover(section: str, key: str, old: Mapping[str, Any], new_name: str) -> bool:
    new_kind = variant_of(section, new_name)
    if new_kind is None or new_name == old.get("name") or accepts(new_kind, key, old[key]):
        return False
    if key not in new_kind.model_fields:
        return any(key in kind.model_fields for kind in VARIANTS[section].values())
    return any(accepts(kind, key, old[key]) for kind in VARIANTS[section].values())


def _walk(values: Mapping[str, Any], above: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    for key, value in values.items():
        yield (*above, key), value
        if isinstance(value, Mapping):
            yield from _walk(value, (*above, key))


def _near_file(path: Path) -> str:
    try:
        names = [name for name in os.listdir(path.parent) if name.endswith(".toml")]
    except OSError:
        return f" There is no folder {path.parent} either." if not path.parent.is_dir() else ""
    near = nearest(path.name, names)
    return f" Did you mean {str(path.parent / near)!r}?" if near else ""


def _decode(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        place = Place(before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        raise InputError(
            f"{_located(str(path), place)}: byte {content[error.start]:#04x} is not UTF-8, which TOML must be. "
            "Save the recipe as UTF-8."
        ) from error


def _syntax_error(text: str, source: str, message: str) -> InputError:
    found = re.search(r"\(at line (\d+), column (\d+)\)", message)
    lines = text.replace("\r\n", "\n").split("\n")
    place = Place(int(found[1]), int(found[2])) if found else Place(len(lines), len(lines[-1]) + 1)
    reason = re.sub(r"\s*\(at .*\)$", "", message).rstrip(".")
    line = lines[place.line - 1].strip()
    quoted = f" in {shown(line)}" if line else ""
    hint = " Text must stand in quotes." if reason == "Invalid value" and not line.endswith("=") else ""
    reason = _SAID_TWICE.sub("this key or section was already written", reason)
    return InputError(f"{_located(source, place)}: this is not TOML: {reason[:1].lower()}{reason[1:]}{quoted}.{hint}")
