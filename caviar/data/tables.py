"""Tables of any source as checked, typed raw data: CSV, TSV, Parquet, and frames of pandas, Polars or Arrow."""

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from caviar.core.columns import Column, Kind
from caviar.core.errors import InputError, unknown_name
from caviar.core.examples import SplitName
from caviar.data.digests import combined_digest
from caviar.data.raw import RawData
from caviar.data.settings import DataSettings, SplitSettings
from caviar.data.table_features import check_finite, extra_columns, missing_column, typed_features
from caviar.data.table_files import TableFile, mapped_table, open_file
from caviar.data.table_frames import column_names, frame_digest, to_polars
from caviar.data.table_origin import Origin, mask_rows
from caviar.data.table_profile import TableProfile, describe_profile, profile_table
from caviar.data.table_target import check_target_name, known_target, read_target, target_values
from caviar.data.table_text import check_names
from caviar.data.table_types import (
    DTYPES,
    THREADS,
    cast_expr,
    distinct,
    find_kind,
    refuse_type,
    to_first_form,
    value_codes,
)

__all__ = ["extra_columns", "open_table", "read_frame", "target_values", "typed_features"]

KIND_OF: dict[pl.DataType, Kind] = {dtype: kind for kind, dtype in DTYPES.items()}


@dataclass(frozen=True)
class _Plan:
    """What is wanted of a table's columns."""

    target: str
    used: list[str]
    as_text: frozenset[str]
    features: list[str]


@dataclass(frozen=True)
class _Table:
    """A table brought to the three types of a typed table."""

    frame: pl.DataFrame
    origin: Origin
    digest: str
    profile: TableProfile | None = None


def open_table(source: Any, settings: DataSettings, split: SplitSettings, dev: Any = None, test: Any = None) -> RawData:
    """Read and check a table for training.

    Args:
        source: a file (.csv, .tsv, .csv.gz, .tsv.gz, .parquet, .pq), or a pandas, Polars or Arrow frame.
        settings: the target, the task, what is left out or read as categories, how text is read.
        split: its `column` and `group` name columns that are not features.
        dev, test: files or frames of their own, with the columns of `source` in any order.

    Returns:
        Inputs as a frame of the feature columns: Float64 (numeric), Boolean and String (categorical), null where
        missing. A text column is numeric when all its values are numbers or one of the markers NA, N/A, NaN, nan, null,
        NULL, None, ?, -. Task: text, true/false and columns of data.categorical are classes; whole numbers with at most
        20 distinct values, each on two rows or more on average, are classes; other numbers are a regression; data.task
        overrides. A file above settings.memory_budget is converted once in bounded memory and then mapped: the frame's
        memory is pages of a file.

    Raises:
        InputError: names file, row or line, column and value, the rule that is broken and what to do.
    """
    dev = settings.dev if dev is None and settings.dev != "none" else dev
    test = settings.test if test is None and settings.test != "none" else test
    others: dict[SplitName, Any] = {"dev": dev, "test": test}
    others = {name: part for name, part in others.items() if part is not None}
    if others and split.column != "none":
        raise InputError(
            f"split.column is {split.column!r}, but {' and '.join(others)} rows are given on their own. "
            "Use one of the two."
        )
    with _opened(source, settings, "the frame") as opened:
        plan = _plan(opened.names, settings, split, opened.origin)
        train = opened.table(plan)
    return _assemble(train, plan, settings, split, others)


def read_frame(source: Any, settings: DataSettings, columns: Sequence[Column] = ()) -> pl.DataFrame:
    """Read and check a table without training's demands, such as one to predict from.

    Columns are Float64, Boolean or String where they can be; `typed_features` brings them to the columns of training.
    Columns of data.categorical, and categorical ones among `columns`, are read as text, so that 007 stays 007.

    Raises:
        InputError: the file or frame is not a table that can be read.
    """
    with _opened(source, settings, "the rows") as opened:
        as_text = {*settings.categorical, *(column.name for column in columns if column.kind == "categorical")}
        return opened.frame(opened.names, as_text & set(opened.names))


class _Opened:
    """A file or frame whose column names are known, and which can be brought to a typed table."""

    def __init__(self, names: list[str], origin: Origin, file: TableFile | None = None, frame: Any = None) -> None:
        self.names, self.origin, self._file, self._frame = names, origin, file, frame

    def table(self, plan: _Plan) -> _Table:
        """Return the typed table of training, with its profile."""

        def typed(first: pl.DataFrame) -> tuple[list[pl.Expr], Callable[[pl.DataFrame], dict[str, Any]]]:
            return _casts(first, plan, self.origin), lambda table: _checked(table, plan, self.origin).to_json()

        if self._file is not None and self._file.large:
            digest = self._file.digest()
            mapped = mapped_table(self._file, digest, plan.used, plan.as_text, typed)
            return _Table(mapped.frame, self.origin, digest, TableProfile.from_json(mapped.facts))
        first = self._first_form(plan.used, plan.as_text)
        with ThreadPoolExecutor(1) as pool:  # reading has kept all cores busy; what follows mostly keeps one
            reading = None if self._file is None else pool.submit(self._file.digest)
            frame = first.with_columns(_casts(first, plan, self.origin))
            profile = _checked(frame, plan, self.origin)
            known = frame_digest(frame) if reading is None else reading.result()
        return _Table(frame, self.origin, known, profile)

    def frame(self, used: list[str], as_text: Collection[str]) -> pl.DataFrame:
        """Return the table in its first form: types by what the values are, nothing demanded of them."""
        if self._file is not None and self._file.large:
            times, unusable = self._file.odd_columns()
            used, as_text = [name for name in used if name not in unusable], {*as_text, *times}
        return self.untyped(used, as_text).frame

    def untyped(self, used: list[str], as_text: Collection[str]) -> _Table:
        def plain(_: pl.DataFrame) -> tuple[list[pl.Expr], Callable[[pl.DataFrame], dict[str, Any]]]:
            return [], lambda _: {}

        if self._file is not None and self._file.large:
            digest = self._file.digest()
            return _Table(mapped_table(self._file, digest, used, as_text, plain).frame, self.origin, digest)
        first = self._first_form(used, as_text)
        return _Table(first, self.origin, "" if self._file is None else self._file.digest())

    def _first_form(self, used: list[str], as_text: Collection[str]) -> pl.DataFrame:
        if self._file is None:
            dropped = set(self.names).difference(used)
            frame = to_polars(self._frame, self.origin.name, dropped).select(used)
            return to_first_form(frame, as_text)
        return to_first_form(self._file.read(used, as_text), as_text)


@contextmanager
def _opened(source: Any, settings: DataSettings, name: str) -> Iterator[_Opened]:
    if isinstance(source, (str, Path)):
        with open_file(source, settings) as file:
            yield _Opened(file.names, file.origin, file)
    else:
        names = column_names(source)
        check_names(names, name)
        yield _Opened(names, Origin(name), frame=source)


def _plan(names: list[str], settings: DataSettings, split: SplitSettings, origin: Origin) -> _Plan:
    target = check_target_name(settings, names, origin)
    ignored = set(() if settings.ignore == "auto" else settings.ignore)
    for setting, given in (("data.ignore", ignored), ("data.categorical", set(settings.categorical))):
        for name in sorted(given - set(names)):
            raise unknown_name(f"column in {setting} of {origin.name}:", name, names)
    sides = [name for name in (split.column, split.group) if name != "none"]
    for setting, name in (("split.column", split.column), ("split.group", split.group)):
        if name != "none" and name not in names:
            raise unknown_name(f"column in {setting} of {origin.name}:", name, names)
        if name == target:
            raise InputError(f"{setting} names {name!r}, which is the target. Name another column.")
    features = [name for name in names if name != target and name not in ignored and name not in sides]
    if not features:
        raise InputError(
            f"{origin.name}: no column is left to predict {target!r} from. Give a table with feature columns."
        )
    wanted = {*features, *sides, target}
    used = [name for name in names if name in wanted]
    as_text = {*settings.categorical, *sides} & set(used)
    return _Plan(target, used, frozenset(as_text - {target} if settings.task == "regression" else as_text), features)


def _casts(first: pl.DataFrame, plan: _Plan, origin: Origin) -> list[pl.Expr]:
    """Return the casts that bring each column to its kind."""

    def cast(series: pl.Series) -> pl.Expr | None:
        name, dtype = series.name, series.dtype
        if dtype not in KIND_OF:
            raise refuse_type(series, origin)
        if name in plan.as_text:
            return None
        return cast_expr(name, dtype, find_kind(series, origin, is_target=name == plan.target))

    with ThreadPoolExecutor(THREADS) as pool:
        return [found for found in pool.map(cast, first.get_columns()) if found is not None]


def _checked(frame: pl.DataFrame, plan: _Plan, origin: Origin) -> TableProfile:
    check_finite(frame, origin)
    return profile_table(frame, plan.features)


def _assemble(
    train: _Table, plan: _Plan, settings: DataSettings, split: SplitSettings, others: dict[SplitName, Any]
) -> RawData:
    target = read_target(train.frame[plan.target], settings, train.origin)
    profile = train.profile
    assert profile is not None
    auto = settings.ignore == "auto"
    left_out = {*profile.empty, *(profile.constant if auto else ()), *(profile.ids if auto else ())}
    schema = train.frame.schema
    columns = tuple(Column(name, KIND_OF[schema[name]]) for name in plan.features if name not in left_out)
    if not columns:
        raise InputError(
            f"{train.origin.name}: every feature column is empty, constant or merely tells rows apart: "
            f"{', '.join(plan.features[:20])}. Give columns that vary, or keep them with --set data.ignore='[]'."
        )
    notices = describe_profile(profile, train.origin.name, auto)
    if len(columns) > train.frame.height:
        notices.append(
            f"{train.origin.name}: there are more columns ({len(columns)}) than rows ({train.frame.height}); "
            "the network can learn the rows by heart, so trust the dev and test scores only."
        )
    names = [column.name for column in columns]
    frames, targets, digests = [train.frame.select(names)], [target.values], [train.digest]
    groups = [_side(train, split.group, "split.group")]
    parts: dict[SplitName, int] = {"train": train.frame.height}
    for part, source in others.items():
        table, extra = _other(source, part, settings, split, plan, columns, schema[plan.target])
        if extra:
            notices.append(
                f"{table.origin.name}: columns that training does not have are left out: {', '.join(extra[:10])}."
            )
        frames.append(table.frame.select(names))
        targets.append(known_target(table.frame[plan.target], target, table.origin))
        groups.append(_side(table, split.group, "split.group"))
        digests.append(table.digest)
        parts[part] = table.frame.height
    ignored = [] if settings.ignore == "auto" else list(settings.ignore)
    return RawData(
        kind="table",
        inputs=pl.concat(frames, rechunk=False) if len(frames) > 1 else frames[0],
        targets=np.concatenate(targets) if len(targets) > 1 else targets[0],
        task=target.task,
        classes=target.classes,
        columns=columns,
        parts=parts,
        split_column=_words(_side(train, split.column, "split.column")),
        groups=_numbered(groups),
        digest=combined_digest(digests),
        notices=tuple(notices),
        ignored=tuple(dict.fromkeys([*ignored, *(name for name in plan.features if name in left_out)])),
    )


def _other(
    source: Any,
    part: SplitName,
    settings: DataSettings,
    split: SplitSettings,
    plan: _Plan,
    columns: Sequence[Column],
    target_type: pl.DataType,
) -> tuple[_Table, tuple[str, ...]]:
    """Return a dev or test table brought to the columns of training, and what else it has."""
    wanted = [*columns, Column(plan.target, KIND_OF[target_type])]
    if split.group != "none":
        wanted.append(Column(split.group, "categorical"))
    with _opened(source, settings, f"the {part} frame") as opened:
        present = set(opened.names)
        missing = [column.name for column in wanted if column.name not in present]
        if missing:
            raise missing_column(missing, opened.names, opened.origin)
        as_text = {column.name for column in wanted if column.kind == "categorical"}
        table = opened.untyped([column.name for column in wanted], as_text)
    typed = typed_features(table.frame, wanted, opened.origin)
    known = {*plan.used, *plan.features, *(() if settings.ignore == "auto" else settings.ignore)}
    return _Table(typed, table.origin, table.digest or frame_digest(typed)), extra_columns(opened.names, known)


def _side(table: _Table, name: str, setting: str) -> pl.Series | None:
    """Return a column that says where rows belong, which must have a value in every row."""
    if name == "none":
        return None
    series = table.frame[name]
    if series.null_count():
        rows = mask_rows(series.is_null())
        raise InputError(
            f"{table.origin.name}, column {name!r} ({setting}): no value in {table.origin.rows(rows)}. "
            "Give every row a value."
        )
    return series


def _words(series: pl.Series | None) -> NDArray[np.str_] | None:
    if series is None:
        return None
    values = distinct(series).sort()
    words: NDArray[np.str_] = np.array(values.to_list(), dtype=np.str_)
    return words[value_codes(series, values)]


def _numbered(parts: list[pl.Series | None]) -> NDArray[np.int64] | None:
    given = [part for part in parts if part is not None]
    if not given:
        return None
    values = pl.concat([distinct(part) for part in given]).unique().sort()
    return np.concatenate([value_codes(part, values) for part in given])
