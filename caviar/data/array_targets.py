"""Targets from outside as class numbers, or as numbers in their own units."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from caviar.core.columns import Task
from caviar.core.errors import InputError, nearest
from caviar.data.array_values import as_array

FEW_CLASSES = 20
MOST_CLASSES = 1000
NEARLY_ALL = 0.9
LEAST_ROWS = 10


@dataclass(frozen=True)
class Targets:
    """Targets of all parts one after another: int64 class numbers into `classes`, or float64 values."""

    values: NDArray[Any]
    task: Task
    classes: tuple[str, ...]


def as_targets(values: Any, where: str) -> NDArray[Any]:
    """Return targets (rows,) as booleans, integers, floats or text, nothing missing. (rows, 1) loses its second axis.

    Raises `InputError` naming the first row that cannot be used.
    """
    array = as_array(values, where)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        hint = " One-hot targets become class numbers by targets.argmax(1)." if array.ndim == 2 else ""
        raise InputError(f"{where}: of shape {array.shape}; one target for each row is needed, of shape (rows,).{hint}")
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    if array.dtype.kind == "O":
        array = _from_objects(array, where)
    _check_targets(array, where)
    return array


def _from_objects(array: NDArray[Any], where: str) -> NDArray[Any]:
    missing = np.fromiter((_is_missing(value) for value in array), dtype=bool, count=len(array))
    if missing.any():
        _refuse_missing(int(missing.argmax()), where)
    kinds = {_kind(value) for value in array}
    if kinds == {"text"}:
        return array.astype(str)
    if kinds <= {"boolean", "number"} and len(kinds) == 1:
        return np.array(array.tolist())
    row = next(i for i, value in enumerate(array) if _kind(value) != _kind(array[0]))
    raise InputError(
        f"{where}: row {row} is {array[row]!r} and row 0 is {array[0]!r}; all targets must be of one type. "
        "Make them all numbers or all text."
    )


def _is_missing(value: Any) -> bool:
    # NaN and pandas' NaT differ from themselves; pandas' NA has no truth value, and is known by its type.
    return value is None or type(value).__name__ == "NAType" or bool(value != value)


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool | np.bool_):
        return "boolean"
    return "number" if isinstance(value, int | float | np.integer | np.floating) else type(value).__name__


def _check_targets(array: NDArray[Any], where: str) -> None:
    kind = array.dtype.kind
    if kind not in "biufU":
        what = {"c": "complex numbers", "M": "dates", "m": "times"}.get(kind, f"of type {array.dtype}")
        raise InputError(f"{where}: {what}. Give numbers or class names.")
    if kind == "f" and not np.isfinite(array).all():
        row = int((~np.isfinite(array)).argmax())
        if np.isnan(array[row]):
            _refuse_missing(row, where)
        raise InputError(f"{where}: the value of row {row} is {array[row]}. Correct the row, or remove it.")
    if kind == "U":
        blank = np.char.str_len(np.char.strip(array)) == 0
        if blank.any():
            _refuse_missing(int(blank.argmax()), where)


def _refuse_missing(row: int, where: str) -> NoReturn:
    raise InputError(f"{where}: the value of row {row} is missing. Fill it in, or remove the row.")


def encode_targets(parts: Sequence[NDArray[Any]], names: Sequence[str], task: str) -> Targets:
    """Turn the targets of train and, where given, dev and test into one array.

    task "auto" means classification for text and booleans, for whole numbers (of any type) of at most 20 different
    values, and for integers that are exactly 0 to k - 1 with k up to 1,000, where each is on average on two rows or
    more; regression otherwise. Classes are those of the first part, in order (numbers by value), each with two rows or
    more.
    """
    train = parts[0]
    uniques, counts = np.unique(train, return_counts=True)
    chosen: Task = _choose(uniques, len(train)) if task == "auto" else _given(task)
    if chosen == "regression":
        return Targets(_regression(parts, names, uniques), "regression", ())
    classes = class_names(uniques)
    if len(uniques) == 1:
        raise InputError(f"{names[0]}: only one class, {classes[0]!r}, in {len(train):,} rows. Two classes are needed.")
    if len(uniques) > MOST_CLASSES or (len(uniques) > NEARLY_ALL * len(train) and len(train) >= LEAST_ROWS):
        raise InputError(
            f"{names[0]}: {len(uniques):,} different values in {len(train):,} rows are too many for classes (at most "
            f"{MOST_CLASSES:,}, each on several rows). Give others, or set data.task to regression for quantities."
        )
    if counts.min() == 1:
        lone = int(counts.argmin())
        row = int((train == uniques[lone]).argmax())
        raise InputError(
            f"{names[0]}: the class {classes[lone]!r} has one row only (row {row}); a class needs at least two. "
            "Add rows, remove it, or set data.task to regression if these are quantities."
        )
    numbers = [_numbers(part, uniques, classes, name) for part, name in zip(parts, names, strict=True)]
    return Targets(np.concatenate(numbers), "classification", classes)


def class_names(values: NDArray[Any]) -> tuple[str, ...]:
    """Return the names of classes: text as it is, True and False, whole numbers without a decimal point."""
    if values.dtype.kind == "f":
        return tuple(str(int(value)) if float(value).is_integer() else str(float(value)) for value in values)
    return tuple(str(value) for value in values.tolist())


def _given(task: str) -> Task:
    return "regression" if task == "regression" else "classification"


def _choose(uniques: NDArray[Any], num_rows: int) -> Task:
    kind, count = uniques.dtype.kind, len(uniques)
    if kind in "bU":
        return "classification"
    few = count <= FEW_CLASSES and bool((uniques == np.rint(uniques)).all())
    numbered = kind in "iu" and uniques[0] == 0 and uniques[-1] == count - 1 and count <= MOST_CLASSES
    return "classification" if (few or numbered) and 2 * count <= num_rows else "regression"


def _regression(parts: Sequence[NDArray[Any]], names: Sequence[str], uniques: NDArray[Any]) -> NDArray[np.float64]:
    for part, name in zip(parts, names, strict=True):
        if part.dtype.kind == "U":
            raise InputError(
                f"{name}: text (row 0 is {str(part[0])!r}), which regression cannot predict. "
                "Give numbers, or set data.task to classification."
            )
    if len(uniques) == 1:
        raise InputError(
            f"{names[0]}: every row is {uniques[0]}, so there is nothing to learn. Give targets that differ."
        )
    return np.concatenate([part.astype(np.float64) for part in parts])


def _numbers(part: NDArray[Any], uniques: NDArray[Any], classes: tuple[str, ...], where: str) -> NDArray[np.int64]:
    if (part.dtype.kind == "U") != (uniques.dtype.kind == "U"):
        raise InputError(
            f"{where}: of type {part.dtype}, but the training targets are {uniques.dtype}. Give the same type."
        )
    places = np.searchsorted(uniques, part).clip(max=len(uniques) - 1)
    unseen = uniques[places] != part
    if unseen.any():
        row = int(unseen.argmax())
        name = class_names(part[row : row + 1])[0]
        near = nearest(name, classes)
        hint = f" Did you mean {near!r}?" if near else ""
        raise InputError(
            f"{where}: the class {name!r} of row {row} is never seen in training.{hint} "
            "Correct it, or add training rows."
        )
    return places.astype(np.int64)
