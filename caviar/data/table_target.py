"""The column to predict: its task, its classes, and every way in which it cannot be predicted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from caviar.core.columns import Task
from caviar.core.errors import InputError, nearest
from caviar.data.settings import DataSettings
from caviar.data.table_features import check_finite
from caviar.data.table_origin import Origin, mask_rows, origin_of
from caviar.data.table_types import (
    ROWS,
    canonical,
    cast_expr,
    find_kind,
    first_form,
    offending,
    refuse_type,
    value_codes,
    value_counts,
)

FEW_INTEGERS = 20
MOST_CLASSES = 1000
NEARLY_ALL = 0.9
LEAST_ROWS = 10


class Target(NamedTuple):
    """Targets of one table. values: int64 class numbers, or float64 (regression)."""

    values: NDArray[Any]
    task: Task
    classes: tuple[str, ...]


def check_target_name(settings: DataSettings, names: Sequence[str], origin: Origin) -> str:
    """Return the name of the target column, which must be set, present and not ignored."""
    target = settings.target
    if target == "none" and "none" not in names:
        raise InputError(
            f"{origin.name}: no target column was named. Say which column to predict with --target (data.target). "
            f"The table has: {', '.join(names[:100])}."
        )
    if target not in names:
        near = nearest(target, names)
        hint = f" Did you mean {near!r}?" if near else ""
        raise InputError(
            f"{origin.name}: there is no target column {target!r}.{hint} The table has: {', '.join(names[:100])}."
        )
    if settings.ignore != "auto" and target in settings.ignore:
        raise InputError(f"data.ignore leaves out {target!r}, which is the target. Take it off data.ignore.")
    return target


def read_target(series: pl.Series, settings: DataSettings, origin: Origin) -> Target:
    """Return targets, task and classes of the training table (`series` is typed).

    The task is found so: text, true/false and columns of data.categorical are classes; whole numbers with at most 20
    distinct values, each on average on two rows or more, are classes; other numbers are a regression. data.task
    overrides. Classes are sorted, by value when all are numbers.

    Raises:
        InputError: no values, missing values, one class, a class of one row, text for regression, more than 1000
            classes or nearly as many as rows.
    """
    _check_missing(series, origin)
    task = settings.task if settings.task != "auto" else find_task(series, settings)
    if task == "regression":
        return Target(_numbers(series, origin), task, ())
    return _classes(series, origin)


def find_task(series: pl.Series, settings: DataSettings) -> Task:
    """Return the task that `read_target` describes."""
    if series.dtype != pl.Float64 or series.name in settings.categorical:
        return "classification"
    head = series.head(10_000)
    if not (head == head.floor()).all() or head.n_unique() > FEW_INTEGERS or not (series == series.floor()).all():
        return "regression"
    distinct = series.n_unique()
    return "classification" if distinct <= FEW_INTEGERS and 2 * distinct <= len(series) else "regression"


def _check_missing(series: pl.Series, origin: Origin) -> None:
    missing = series.null_count()
    if missing == len(series):
        raise InputError(
            f"{origin.name}, column {series.name!r}: the target column is empty. Fill it in, or name another."
        )
    if missing:
        rows = mask_rows(series.is_null())
        raise InputError(
            f"{origin.name}, column {series.name!r}: the target is missing in {origin.rows(rows)}. "
            "Fill the values in, or remove the rows."
        )


def _numbers(series: pl.Series, origin: Origin) -> NDArray[np.float64]:
    if series.dtype == pl.String:
        row = first_text(series)
        raise InputError(
            f"{origin.at(row)}, column {series.name!r}: {series[row]!r} is text, and regression needs numbers. "
            "Convert the column to numbers, or use --set data.task=classification."
        )
    values = series.cast(pl.Float64)
    if values.n_unique() == 1:
        raise InputError(
            f"{origin.name}, column {series.name!r}: every row has the target {values[0]!r}; there is nothing to "
            "predict. Name another column, or give data in which it varies."
        )
    return values.to_numpy(writable=True)


def first_text(series: pl.Series) -> int:
    """Return the first row of a text column that holds no number."""
    rows = mask_rows(offending(series))
    return int(rows[0]) if len(rows) else 0


def _classes(series: pl.Series, origin: Origin) -> Target:
    counts = value_counts(series)
    distinct, rows = counts.height, len(series)
    where = f"{origin.name}, column {series.name!r}"
    number = series.dtype == pl.Float64
    regression = ", or use --set data.task=regression" if number else ""
    if distinct > MOST_CLASSES or (distinct > NEARLY_ALL * rows and rows >= LEAST_ROWS):
        raise InputError(
            f"{where}: {distinct} distinct values in {rows} rows are too many for classes (at most "
            f"{MOST_CLASSES}, each on several rows). Name another target{regression}."
        )
    if distinct == 1:
        raise InputError(
            f"{where}: every row has the class {class_names(series.head(1))[0]!r}; there is nothing to tell apart. "
            "Name another target, or give data with two classes or more."
        )
    name = series.name
    single = counts.filter(pl.col(ROWS) == 1)[series.name]
    if len(single):
        row = int(mask_rows(series == single[0])[0])
        more = f" (and {len(single) - 1} more classes)" if len(single) > 1 else ""
        raise InputError(
            f"{origin.at(row)}, column {name!r}: class {class_names(single.head(1))[0]!r} has a single row{more}; a "
            f"class needs at least two. Add rows, merge or remove the class{regression}."
        )
    values = counts[name].sort()
    classes = class_names(values)
    if not number and _all_numbers(classes):
        order = np.argsort([float(text) for text in classes], kind="stable")
        values, classes = values[order.tolist()], [classes[i] for i in order]
    return Target(value_codes(series, values), "classification", tuple(classes))


def _all_numbers(classes: list[str]) -> bool:
    return bool(pl.Series(classes).cast(pl.Float64, strict=False).is_finite().fill_null(False).all())


def class_names(values: pl.Series) -> list[str]:
    """Return the classes that values stand for, as text in one spelling."""
    return values.to_frame().select(canonical(values.name, values.dtype)).to_series().to_list()


def known_target(series: pl.Series, target: Target, origin: Origin) -> NDArray[Any]:
    """Return the targets of a dev or test table; a class that training never saw is an error."""
    _check_missing(series, origin)
    if target.task == "regression":
        return series.cast(pl.Float64).to_numpy(writable=True)
    names = series.to_frame().select(canonical(series.name, series.dtype)).to_series()
    numbers = value_codes(names, pl.Series(target.classes))
    unseen = np.flatnonzero(numbers < 0)
    if len(unseen):
        row = int(unseen[0])
        near = nearest(names[row], target.classes)
        hint = f" Did you mean {near!r}?" if near else ""
        more = f" ({len(unseen)} such rows)" if len(unseen) > 1 else ""
        raise InputError(
            f"{origin.at(row)}, column {series.name!r}: class {names[row]!r} was never seen in training{more}.{hint} "
            f"Training has: {', '.join(target.classes[:20])}. Correct it, or add such rows to the training table."
        )
    return numbers


def target_values(
    frame: pl.DataFrame, name: str, task: Task, where: str | Path | Origin = "the rows"
) -> list[str] | NDArray[np.float64]:
    """Return the known targets of a raw table: class names in the spelling of training, or numbers.

    Raises:
        InputError: the column is missing, has missing values, or holds text where numbers are needed.
    """
    origin = origin_of(where)
    check_target_name(DataSettings(target=name), frame.columns, origin)
    series = frame[name]
    form = first_form(name, series.dtype, as_text=task == "classification")
    if form is None:
        raise refuse_type(series, origin)
    series = series.to_frame().select(form).to_series()
    if task == "classification":
        _check_missing(series, origin)
        return series.to_list()
    cast = cast_expr(name, series.dtype, find_kind(series, origin, is_target=True))
    typed = series.to_frame() if cast is None else series.to_frame().select(cast)
    _check_missing(typed.to_series(), origin)
    check_finite(typed, origin)
    if typed.to_series().dtype == pl.String:
        row = first_text(series)
        raise InputError(
            f"{origin.at(row)}, column {name!r}: {series[row]!r} is text, and this model predicts numbers."
        )
    return typed.to_series().cast(pl.Float64).to_numpy(writable=True)
