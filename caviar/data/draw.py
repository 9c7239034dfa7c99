"""Drawing rows or whole groups for dev and test out of the training rows, in about one byte a row."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caviar.core.errors import InputError

CHUNK = 1 << 20

TRAIN, DEV, TEST = 0, 1, 2

Sides = NDArray[np.uint8]
"""(rows,) for each row TRAIN, DEV or TEST."""


def chunks(num_rows: int) -> Iterator[slice]:
    """Yield slices that cover range(num_rows)."""
    for start in range(0, num_rows, CHUNK):
        yield slice(start, min(start + CHUNK, num_rows))


def draw_rows(
    sides: Sides, wanted: NDArray[np.int64], classes: NDArray[Any] | None, generator: np.random.Generator
) -> None:
    """Move rows from TRAIN to DEV and TEST in place: exactly wanted[DEV] and wanted[TEST], uniformly at random.

    With `classes` (rows,) each class gives its share, by the largest remainder, and keeps a row in TRAIN.
    Rows are drawn chunk by chunk; how many of a chunk's rows are drawn is itself drawn, from the hypergeometric
    distribution, so the result is that of shuffling all rows at once.
    """
    remaining = count_classes(sides, classes)
    quota = np.zeros((3, len(remaining)), dtype=np.int64)
    spare = remaining if classes is None else np.maximum(remaining - 1, 0)
    for side in (TEST, DEV):
        quota[side] = apportion(int(wanted[side]), remaining, spare, generator)
        spare = spare - quota[side]
    for part in chunks(len(sides)):
        rows = np.flatnonzero(sides[part] == TRAIN)
        labels = np.zeros(len(rows), dtype=np.int64) if classes is None else classes[part][rows].astype(np.int64)
        present = np.bincount(labels, minlength=len(remaining))
        drawn = generator.hypergeometric(quota[DEV] + quota[TEST], remaining - quota[DEV] - quota[TEST], present)
        take_test = generator.hypergeometric(quota[TEST], quota[DEV], drawn)
        take = np.stack([present - drawn, drawn - take_test, take_test])
        sides[part][rows] = _assign(labels, take, generator)
        quota -= take * np.array([[0], [1], [1]])
        remaining -= present


def count_classes(sides: Sides, classes: NDArray[Any] | None) -> NDArray[np.int64]:
    """Count the TRAIN rows of each class; without classes all rows are of one."""
    if classes is None:
        return np.array([np.count_nonzero(sides == TRAIN)])
    counts = np.zeros(int(classes.max()) + 1, dtype=np.int64)
    for part in chunks(len(sides)):
        counts += np.bincount(classes[part][sides[part] == TRAIN], minlength=len(counts))
    return counts


def _assign(labels: NDArray[np.int64], take: NDArray[np.int64], generator: np.random.Generator) -> Sides:
    """Give each row a side at random, so that take[side, label] rows of each label are on each side."""
    order = np.argsort(labels * len(labels) + generator.permutation(len(labels)))
    result = np.empty(len(labels), dtype=np.uint8)
    result[order] = np.repeat(np.tile([TRAIN, DEV, TEST], take.shape[1]).astype(np.uint8), take.T.ravel())
    return result


def apportion(
    number: int, weights: NDArray[np.int64], capacity: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Divide `number`, at most the sum of `capacity`, in proportion to `weights` by the largest remainder.

    No part is above its capacity; equal remainders are served in random order.
    """
    exact = number * (weights / max(int(weights.sum()), 1))
    result = np.minimum(np.floor(exact).astype(np.int64), capacity)
    shuffled = generator.permutation(len(weights))
    by_remainder = shuffled[np.argsort((result - exact)[shuffled], kind="stable")]
    while (left := number - int(result.sum())) > 0:
        open_parts = by_remainder[result[by_remainder] < capacity[by_remainder]]
        result[open_parts[:left]] += 1
    return result


def draw_groups(
    sides: Sides, wanted: NDArray[np.int64], groups: NDArray[np.int64], generator: np.random.Generator
) -> None:
    """Move whole groups from TRAIN to DEV and TEST in place, about wanted[DEV] and wanted[TEST] rows.

    Groups larger than what is wanted stay in TRAIN unless there is no smaller one.
    """
    codes = _codes(groups)
    sizes = _group_sizes(sides, codes)
    targets = [side for side in (TEST, DEV) if wanted[side]]
    order = generator.permutation(np.flatnonzero(sizes))
    if len(order) <= len(targets):
        raise InputError(
            f"split.group: {len(order)} groups cannot be divided among {len(targets) + 1} splits with no group on both "
            f"sides; at least {len(targets) + 1} groups are needed. Choose another column, or split by fraction."
        )
    side_of = np.full(len(sizes), TRAIN, dtype=np.uint8)
    for position, side in enumerate(targets):
        spare = len(order) - (len(targets) - position)
        picked = _pick(sizes[order], int(wanted[side]), spare)
        side_of[order[picked]] = side
        order = np.delete(order, picked)
    for part in chunks(len(sides)):
        inside = sides[part] == TRAIN
        sides[part][inside] = side_of[codes[part][inside]]


def _codes(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the groups numbered from 0 without large holes; as they usually come so, usually without work."""
    if groups.min() >= 0 and groups.max() < 2 * len(groups):
        return groups
    return np.unique(groups, return_inverse=True)[1]


def _group_sizes(sides: Sides, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of TRAIN rows in each group."""
    sizes = np.zeros(int(codes.max()) + 1, dtype=np.int64)
    for part in chunks(len(sides)):
        np.add.at(sizes, codes[part][sides[part] == TRAIN], 1)
    return sizes


def _pick(sizes: NDArray[np.int64], wanted: int, most: int) -> NDArray[np.intp]:
    """Return places of at least 1 and at most `most` sizes whose sum is near `wanted`."""
    fitting = np.flatnonzero(sizes <= wanted)[:most]
    if not len(fitting):
        return np.array([sizes.argmin()])
    best = np.abs(np.cumsum(sizes[fitting]) - wanted).argmin()
    return fitting[: best + 1]
