"""Which rows train, which choose (dev) and which judge (test): a function of the settings, the data and the seed."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from caviar.core.columns import Task
from caviar.core.errors import InputError
from caviar.core.examples import SPLITS, RowNumbers, SplitName, Splits
from caviar.core.seeds import derive_seed
from caviar.data.draw import DEV, TEST, TRAIN, Sides, chunks, count_classes, draw_groups, draw_rows
from caviar.data.settings import SplitSettings

AUTO_SHARE: Final = 0.2
AUTO_MOST: Final = 5_000
COLUMN_VALUES: Final = {"train": TRAIN, "test": TEST} | dict.fromkeys(("dev", "val", "valid", "validation"), DEV)

PORTION: Final = 1 << 22

_UNSET: Final = 255


def make_splits(
    settings: SplitSettings,
    targets: NDArray[Any],
    task: Task,
    parts: Mapping[SplitName, int],
    seed: int,
    split_column: NDArray[np.str_] | None = None,
    groups: NDArray[np.int64] | None = None,
    class_names: Sequence[str] = (),
) -> Splits:
    """Divide the rows into train, dev and test.

    First come the rows whose side is given: by `split_column` (method "column", or "auto" with split.column set), else
    by `parts`. What is then missing of dev and test is drawn from train: split.dev and split.test are a share of the
    rows that are left to divide, a number of rows, or "auto" (20 percent, at most 5,000). With `groups`, whole groups
    are drawn. Otherwise rows are: class by class for classification with split.stratify (by the largest remainder;
    every class keeps a row in train), or uniformly.

    Extra memory is one byte a row for the sides, four for the result, and what a million rows need; with `groups` also
    some 40 bytes for each different group.

    Args:
        settings: the section [split].
        targets: (rows,) class numbers or values.
        task: classification or regression.
        parts: how many rows came as train, dev and test by files or folders; they are stored in this order.
        seed: of the run; equal seeds give equal splits whatever was drawn before.
        split_column: (rows,) words for train, dev (val, valid, validation) and test, in upper or lower case.
        groups: (rows,) numbers; equal ones stay on one side. Numbered from 0 without large holes they cost the least.
        class_names: names of the classes for error messages.

    Raises:
        InputError: too few rows, classes or groups to divide; nothing left to train on; a word in `split_column` that
            is no split; a class in dev or test that train does not have; a method without what it needs.
    """
    _check_method(settings, parts, split_column, groups)
    if settings.method == "column" or (settings.method == "auto" and split_column is not None):
        assert split_column is not None
        sides = _from_column(split_column, settings.column)
    else:
        sides = _from_parts(parts, len(targets))
    absent = [side for side in (DEV, TEST) if not (sides == side).any()]
    labels = targets if task == "classification" else None
    _check_train(sides)
    if absent:
        wanted = _wanted(settings, absent, int(np.count_nonzero(sides == TRAIN)))
        generator = np.random.default_rng(derive_seed(seed, "split"))
        if groups is not None:
            draw_groups(sides, wanted, groups, generator)
        else:
            strata = labels if settings.stratify else None
            _check_room(count_classes(sides, strata), wanted, absent, strata is not None)
            draw_rows(sides, wanted, strata, generator)
    if labels is not None:
        _check_classes(sides, labels, class_names)
    return Splits(*(_rows_of(sides, side) for side in (TRAIN, DEV, TEST)))


def _check_method(
    settings: SplitSettings, parts: Mapping[SplitName, int], split_column: object | None, groups: object | None
) -> None:
    if settings.method == "column" and split_column is None:
        raise InputError('split.method is "column", but split.column does not name the column.')
    if settings.method == "group" and groups is None:
        raise InputError('split.method is "group", but split.group does not name the column.')
    if settings.method == "given" and not (parts.get("dev") or parts.get("test")):
        raise InputError(
            'split.method is "given", but neither dev nor test rows were given as files or folders of their own. '
            "Give data.dev or data.test, or use split.method = auto."
        )


def _from_parts(parts: Mapping[SplitName, int], num_rows: int) -> Sides:
    counts = [parts.get(name, 0) for name in SPLITS] if parts else [num_rows, 0, 0]
    if sum(counts) != num_rows:
        raise InputError(f"the parts {dict(parts)} do not add up to the {num_rows} rows.")
    return np.repeat(np.array([TRAIN, DEV, TEST], dtype=np.uint8), counts)


def _from_column(values: NDArray[np.str_], column: str) -> Sides:
    """Read the sides, one comparison of all rows for each different spelling."""
    sides = np.full(len(values), _UNSET, dtype=np.uint8)
    for part in chunks(len(values)):
        some, some_sides = values[part], sides[part]
        while (unset := some_sides == _UNSET).any():
            row = int(unset.argmax())
            word = str(some[row])
            side = COLUMN_VALUES.get(word.strip().lower())
            if side is None:
                raise InputError(
                    f"split column {column!r}, row {part.start + row + 1}: {word!r} is no split. "
                    f"Allowed: {', '.join(COLUMN_VALUES)}."
                )
            some_sides[some == some[row]] = side
    return sides


def _check_train(sides: Sides) -> None:
    if not (sides == TRAIN).any():
        raise InputError("there are no train rows: every row was given to dev or test, or there is none at all.")


def _wanted(settings: SplitSettings, absent: Sequence[int], num_rows: int) -> NDArray[np.int64]:
    """Return how many of `num_rows` rows go to each side; 0 where rows are there already, and for TRAIN."""
    if num_rows <= len(absent):
        raise InputError(
            f"{num_rows} rows cannot be divided into train, {_names(absent)}: at least {len(absent) + 1} are needed."
        )
    wanted = np.zeros(3, dtype=np.int64)
    for side in absent:
        size = settings.dev if side == DEV else settings.test
        wanted[side] = size if isinstance(size, int) else _share(size, num_rows)
    if wanted.sum() >= num_rows:
        asked = " and ".join(f"{wanted[side]} rows for {SPLITS[side]}" for side in absent)
        raise InputError(
            f"{asked} leave nothing to train on, as there are only {num_rows} rows. "
            f"Lower split.{' and split.'.join(SPLITS[side] for side in absent)}."
        )
    return wanted


def _share(size: float | str, num_rows: int) -> int:
    if isinstance(size, str):
        return min(AUTO_MOST, _share(AUTO_SHARE, num_rows))
    return max(1, int(size * num_rows + 0.5))


def _check_room(counts: NDArray[np.int64], wanted: NDArray[np.int64], absent: Sequence[int], stratified: bool) -> None:
    """Refuse to take more rows than leave one of each class in train."""
    classes = int(np.count_nonzero(counts)) if stratified else 1
    least = classes + int(wanted.sum())
    if counts.sum() < least:
        raise InputError(
            f"{counts.sum()} rows are too few: each of {classes} classes needs a row in train, and "
            f"{_names(absent)} take {wanted.sum()}, so at least {least} are needed. "
            "Add rows, or lower split.dev or split.test."
        )


def _check_classes(sides: Sides, labels: NDArray[Any], class_names: Sequence[str]) -> None:
    trained = count_classes(sides, labels) > 0
    if trained.all():
        return
    for part in chunks(len(sides)):
        unseen = (sides[part] != TRAIN) & ~trained[labels[part]]
        if unseen.any():
            row = part.start + int(unseen.argmax())
            number = int(labels[row])
            name = repr(class_names[number]) if number < len(class_names) else f"number {number}"
            raise InputError(
                f"class {name} is in {SPLITS[sides[row]]} (row {row + 1}) but never in train, so it cannot be learned. "
                "Add examples of it to train, remove it, or split in another way (split.stratify = true, another seed)."
            )


def _names(sides: Sequence[int]) -> str:
    return " and ".join(SPLITS[side] for side in sides)


def _rows_of(sides: Sides, side: int) -> RowNumbers:
    """Return the sorted numbers of the rows on `side`."""
    count = int(np.count_nonzero(sides == side))
    rows: RowNumbers = np.empty(count, dtype=np.int32) if len(sides) < 2**31 else np.empty(count, dtype=np.int64)
    filled = 0
    for part in chunks(len(sides)):
        found = np.flatnonzero(sides[part] == side) + part.start
        rows[filled : filled + len(found)] = found
        filled += len(found)
    return rows


def count_overlaps(keys: NDArray[np.uint64], splits: Splits) -> dict[SplitName, int]:
    """Count the rows of dev and of test that stand in train as well.

    Args:
        keys: (rows,) a hash of each row, equal for equal rows.
        splits: of the same rows.

    The keys of dev and test are taken in portions of some four million, so extra memory is bounded.
    """
    held_out: tuple[SplitName, ...] = ("dev", "test")
    counts: dict[SplitName, int] = dict.fromkeys(held_out, 0)
    portions = 1 + (len(splits.dev) + len(splits.test)) // PORTION
    for portion in range(portions):
        selected = {name: _keys_of(keys, splits.of(name), portion, portions) for name in held_out}
        known = np.unique(np.concatenate(list(selected.values())))
        in_train = _find(known, keys, splits.train)
        for name in held_out:
            counts[name] += int(in_train[np.searchsorted(known, selected[name])].sum())
    return counts


def _keys_of(keys: NDArray[np.uint64], rows: RowNumbers, portion: int, portions: int) -> NDArray[np.uint64]:
    """Return the sorted keys of the rows, those only that fall to `portion` of `portions`."""
    found = [keys[:0]]
    for part in chunks(len(rows)):
        some = keys[rows[part]]
        found.append(some if portions == 1 else some[some % np.uint64(portions) == portion])
    return np.sort(np.concatenate(found))


def _find(known: NDArray[np.uint64], keys: NDArray[np.uint64], rows: RowNumbers) -> NDArray[np.bool_]:
    """Return for each of the sorted `known` whether it is the key of one of the rows."""
    found = np.zeros(len(known), dtype=bool)
    for part in chunks(len(rows) if len(known) else 0):
        some = np.sort(keys[rows[part]])
        place = np.minimum(np.searchsorted(known, some), len(known) - 1)
        found[place[known[place] == some]] = True
    return found
