"""Members that differ in any setting: from [population.vary] to a sparse recipe for each member."""

from collections.abc import Iterator, Mapping
from typing import Any

from caviar.core.errors import InputError
from caviar.population import NAMES
from caviar.recipe.places import Path as KeyPath
from caviar.recipe.sparse import Origin, Sparse, from_dict, merge
from caviar.recipe.values import read_key, shown

COMMON = {
    "version": "it is the recipe's own",
    "seed": "each member draws by the run's seed and its own trial number",
    "data": "they are compared on the same examples",
    "split": "they are compared on the same examples",
    "population": "it says how they are run together",
    "prediction": "it is chosen for the model that is handed over",
    "watch": "it is about the whole run",
    "device.name": "they train on the same device",
    "training.metric": "they are compared by the same metric",
    "training.care": "it nurses one model at a time",
    "training.checkpoint_seconds": "they are saved together",
}
"""Sections and keys that all members have in common, and why."""


def member_sparses(sparse: Sparse) -> list[Sparse]:
    """Return the recipe of every member, without [population]; one recipe where members do not vary.

    Raises InputError: values that are no list with one for each member, or a key that all have in common.
    """
    population = sparse.values.get("population", {})
    vary = population.get("vary", {}) if isinstance(population, Mapping) else {}
    alone = Sparse({key: value for key, value in sparse.values.items() if key != "population"}, sparse.origins)
    if not isinstance(vary, Mapping) or not vary:
        return [alone]
    members = population.get("members", 1)
    columns = list(_columns(vary, sparse))
    _check_lists(columns, members)
    _check_not_twice(columns, population)
    columns.sort(key=lambda column: len(column[0]))  # a whole section first, then single keys of it
    return [
        merge(alone, *(_laid_over(path, values[number], origin, number) for path, values, origin in columns))
        for number in range(members)
    ]


def varied_keys(vary: Mapping[str, Any]) -> list[str]:
    """Return the settings that members are given values for, as "section.key"; of tables every key they name."""
    found: dict[str, None] = {}
    for path, values, _ in _columns(vary, Sparse()):
        for value in values if isinstance(values, list | tuple) else ():
            found |= dict.fromkeys(_leaves(path, value))
    return list(found)


def _leaves(path: KeyPath, value: Any) -> Iterator[str]:
    if len(path) == 1 and isinstance(value, Mapping):
        yield from (f"{path[0]}.{key}" for key in value)
    else:
        yield ".".join(map(str, path[:2]))


def _columns(vary: Mapping[str, Any], sparse: Sparse) -> Iterator[tuple[KeyPath, Any, Origin]]:
    """Yield each setting's path, its values and where they stand; keys may be dotted, in quotes or not."""
    for key, value in vary.items():
        yield from _below(("population", "vary", key), tuple(read_key(key) or [key]), value, sparse)


def _below(place: KeyPath, path: KeyPath, value: Any, sparse: Sparse) -> Iterator[tuple[KeyPath, Any, Origin]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _below((*place, key), (*path, *(read_key(key) or [key])), inner, sparse)
    else:
        yield path, value, sparse.origin(place)


def _check_lists(columns: list[tuple[KeyPath, Any, Origin]], members: Any) -> None:
    for path, values, origin in columns:
        key = ".".join(map(str, path))
        if not isinstance(values, list | tuple):
            raise InputError(
                f"{origin.at_value()}: population.vary: {key} is {shown(values)}. Give a list, one value for each "
                "member."
            )
        if len(values) != members:
            raise InputError(
                f"{origin.at_value()}: population.vary: {key} has {len(values)} entries for {shown(members)} members. "
                f"Give one for each (or population.members = {len(values)})."
            )
        leaves = {leaf for value in values for leaf in _leaves(path, value)}
        common = [(leaf, why) for leaf in sorted(leaves) if (why := COMMON.get(leaf) or COMMON.get(str(path[0])))]
        for leaf, why in common:
            raise InputError(
                f"{origin.at_key()}: population.vary: members cannot differ in {leaf}: {why}. Leave it out, or make a "
                "run for each value."
            )


def _check_not_twice(columns: list[tuple[KeyPath, Any, Origin]], population: Mapping[str, Any]) -> None:
    keys = [".".join(map(str, path)) for path, _, _ in columns]
    for key, (_, _, origin) in zip(keys, columns, strict=True):
        if keys.count(key) > 1:
            raise InputError(
                f"{origin.at_key()}: population.vary has {key} twice, in quotes and without. Leave one out."
            )
        for name, home in NAMES.items():
            if home == key and population.get(name, "none") != "none":
                raise InputError(
                    f"{origin.at_key()}: population.vary has {key}, and population.{name} is the same. Leave one out."
                )


def _laid_over(path: KeyPath, value: Any, origin: Origin, number: int) -> Sparse:
    nested: Any = value
    for word in reversed(path):
        nested = {word: nested}
    return from_dict(nested, f"{origin.at_value()}, trial {number}")


__all__ = ["COMMON", "member_sparses", "varied_keys"]
