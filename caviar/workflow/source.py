"""From whatever a user points at to checked raw data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caviar.core.errors import InputError, nearest
from caviar.data.raw import RawData
from caviar.data.settings import DataSettings, SplitSettings
from caviar.data.table_frames import to_polars

TABLE_ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".pq")
ARRAY_ENDINGS = (".npy", ".npz")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class InMemory:
    """Data handed over from Python: what a recipe cannot name."""

    data: Any
    target: Any = None
    dev: Any = None
    test: Any = None


def kind_of(settings: DataSettings, memory: InMemory | None) -> str:
    """Return table, pictures, arrays or sample for the data that the settings, or the memory, name."""
    if settings.kind != "auto":
        return settings.kind
    if memory is not None:
        return "table" if is_frame(memory.data) else "arrays"
    source = settings.source
    if source.startswith("sample:"):
        return "pictures" if source.endswith("-pictures") else "arrays"
    path = Path(source)
    if path.is_dir():
        return "pictures"
    if path.name.lower().endswith(ARRAY_ENDINGS):
        return "arrays"
    return "table"


def is_frame(data: Any) -> bool:
    """Whether `data` is a data frame, a dict of columns or a list of dicts."""
    kind = type(data)
    if kind.__module__.split(".")[0] in ("polars", "pandas", "pyarrow"):
        return kind.__name__ in ("DataFrame", "LazyFrame", "Table", "RecordBatch")
    return isinstance(data, Mapping) or (isinstance(data, list) and bool(data) and isinstance(data[0], Mapping))


def framed(data: Any, target: Any) -> tuple[Any, str]:
    """Return a frame that holds its target column, and that column's name.

    The target may be the name of a column, or the values themselves, which become a column (named as the series is,
    or "target").
    """
    if isinstance(target, str | int):
        return data, str(target)
    if target is None:
        raise InputError(
            'training on a data frame needs the name of its target column: caviar.train(frame, target="...").'
        )
    name = str(getattr(target, "name", None) or "target")
    if hasattr(data, "index") and hasattr(target, "index") and not callable(target.index):
        _check_index(data, target)
    frame = to_polars(data, "the frame")
    if name in frame.columns:
        raise InputError(f"the frame has a column {name!r} already. Name it as the target, or rename the target.")
    values = target.detach().cpu().numpy() if hasattr(target, "detach") else target
    column = to_polars({name: values}, "the target")
    if column.height != frame.height:
        raise InputError(f"the frame has {frame.height} rows but the target {column.height}. Give one for each row.")
    return frame.with_columns(column[name]), name


def _check_index(frame: Any, series: Any) -> None:
    if len(frame) == len(series) and not frame.index.equals(series.index):
        raise InputError(
            "the frame and the target series have different indexes, so it is doubtful which row has which target. "
            "Align them first, or give target.to_numpy()."
        )


def open_source(
    data: DataSettings, split: SplitSettings, memory: InMemory | None = None, progress: Progress | None = None
) -> RawData:
    """Read and check the data that a recipe names, or that was handed over.

    Raises:
        InputError: says what is wrong with the data, where, and what to do.
    """
    _refuse_columns(data, split, kind_of(data, memory))
    if memory is not None:
        return _open_memory(data, split, memory)
    if data.source == "none":
        raise InputError(
            'the recipe\'s data.source is "none": its data was handed over in memory. Give it again, with the recipe '
            'as settings: caviar.train(data, target, settings="recipe.toml"). Or name a file as data.source.'
        )
    if data.source.startswith("sample:"):
        return _open_sample(data)
    _check_exists(Path(data.source))
    kind = kind_of(data, None)
    if kind == "pictures":
        from caviar.data.pictures import open_pictures

        return open_pictures(data.source, data, progress)
    if kind == "arrays":
        from caviar.data.arrays import open_arrays

        target = None if data.target == "none" else data.target
        return open_arrays(data.source, target, data, _none(data.dev), _none(data.test))
    from caviar.data.tables import open_table

    return open_table(data.source, data, split, _none(data.dev), _none(data.test))


def _refuse_columns(data: DataSettings, split: SplitSettings, kind: str) -> None:
    """Refuse settings that name columns where there are none, rather than pass over them."""
    if kind == "table":
        return
    named = {
        "split.column": split.column != "none",
        "split.group": split.group != "none",
        "data.ignore": data.ignore not in ("auto", ()),
        "data.categorical": data.categorical != (),
    }
    if wrong := [setting for setting, is_set in named.items() if is_set]:
        raise InputError(f"{' and '.join(wrong)} names columns of a table, but {kind} have none. Leave it out.")


def _open_sample(data: DataSettings) -> RawData:
    from caviar.data.samples import open_sample

    sample = open_sample(data.source.removeprefix("sample:"))
    given = {name: getattr(data, name) for name in ("target", "dev", "test") if getattr(data, name) != "none"}
    if given:
        named = " and ".join(f"data.{name} ({value})" for name, value in given.items())
        raise InputError(f"{data.source} brings its own targets, and no other rows go with it. Leave out {named}.")
    for name, found in (("kind", sample.kind), ("task", sample.task)):
        if getattr(data, name) not in ("auto", found):
            raise InputError(
                f"data.{name} is {getattr(data, name)!r}, but {data.source} is {found!r}. Leave data.{name} out."
            )
    return sample


def _open_memory(data: DataSettings, split: SplitSettings, memory: InMemory) -> RawData:
    if kind_of(data, memory) == "table":
        from caviar.data.tables import open_table

        return open_table(memory.data, data, split, memory.dev, memory.test)
    from caviar.data.arrays import open_arrays

    return open_arrays(memory.data, memory.target, data, memory.dev, memory.test)


def _none(source: str) -> str | None:
    return None if source == "none" else source


def _check_exists(path: Path) -> None:
    if path.exists():
        return
    folder = path.parent
    near = nearest(path.name, [p.name for p in folder.iterdir()]) if folder.is_dir() else None
    hint = f" Did you mean {folder / near}?" if near else ""
    raise InputError(f"{path} does not exist.{hint}")
