"""Sorting things into groups of equals."""

from collections.abc import Hashable, Iterable


def partition(keys: Iterable[Hashable]) -> tuple[tuple[int, ...], ...]:
    """Return the places of equal keys together: groups in the order of their first place, places ascending."""
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return tuple(tuple(places) for places in groups.values())
