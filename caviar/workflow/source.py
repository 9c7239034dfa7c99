"""From whatever a user points at to checked raw data."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caviar.core.errors import InputError, nearest
from caviar.data.raw import RawData
from caviar.data.settings import DataSettings, SplitSettings

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
    """Whether `data` is a data frame or a table of columns by name."""
    module = type(data).__module__.split(".")[0]
    return (module in ("polars", "pandas", "pyarrow") and hasattr(data, "columns")) or isinstance(data, dict)


def open_source(
    data: DataSettings, split: SplitSettings, memory: InMemory | None = None, progress: Progress | None = None
) -> RawData:
    """Read and check the data that a recipe names, or that was handed over.

    Raises:
        InputError: says what is wrong with the data, where, and what to do.
    """
    if memory is not None:
        return _open_memory(data, split, memory)
    if data.source == "none":
        raise InputError('the recipe\'s data.source is "none": its data was handed over in memory; give it again.')
    if data.source.startswith("sample:"):
        from caviar.data.samples import open_sample

        return open_sample(data.source.removeprefix("sample:"))
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
