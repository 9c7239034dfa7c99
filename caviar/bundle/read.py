"""Raw input of every form brought to blocks that a bundle's preprocessing takes, with known targets where asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from caviar.bundle.manifest import Manifest
from caviar.core.columns import Column
from caviar.core.errors import InputError, nearest
from caviar.data.array_targets import as_targets, class_names
from caviar.data.arrays import read_examples, read_inputs
from caviar.data.picture_files import SPLIT_FOLDERS
from caviar.data.pictures import read_pictures
from caviar.data.raw import RawData
from caviar.data.samples import open_sample
from caviar.data.settings import DataSettings
from caviar.data.table_origin import origin_of
from caviar.data.tables import read_frame, target_values, typed_features

BLOCK_ROWS = 8000
"""Rows encoded at a time: a multiple of the evaluation's batch, so that predictions do not depend on it."""
BLOCK_PICTURES = 1000

Blocks = Callable[[nn.Module], Iterator[Tensor]]


@dataclass
class RawInput:
    """Raw input brought to blocks that the preprocessing takes.

    row_ids: row numbers from 0, or picture names. blocks: a function of the preprocessing; what it finds on the way is
    counted in `unseen` (categories without a slot) and `missing` (values missing where training had none), by column.
    """

    row_ids: Sequence[Any]
    blocks: Blocks
    unseen: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


def read_raw(manifest: Manifest, rows: Any) -> RawInput:
    """Read what to predict; see `caviar.bundle.predict.predict`."""
    if manifest.kind == "table":
        return _table_input(manifest, _read_table(manifest, rows, ()), _name_of(rows))
    if manifest.kind == "pictures":
        return _picture_input(*_read_pictures(manifest, rows))
    sample = _sample_of(manifest, rows)
    return _array_input(manifest, sample.inputs if sample else read_inputs(_batched(manifest, rows)))


def read_with_targets(manifest: Manifest, rows: Any, target: Any) -> tuple[RawInput, NDArray[Any]]:
    """Read what to evaluate: raw input, and class numbers or numbers in the target's own units."""
    readers = {"table": _table_with_targets, "pictures": _pictures_with_targets, "arrays": _arrays_with_targets}
    read, known = readers[manifest.kind](manifest, rows, target)
    if len(known) != len(read.row_ids):
        raise InputError(f"there are {len(read.row_ids)} rows but {len(known)} targets; give one target for each row.")
    return read, known


def _sample_of(manifest: Manifest, rows: Any) -> RawData | None:
    if not (isinstance(rows, str) and rows.startswith("sample:")):
        return None
    sample = open_sample(rows)
    if sample.kind != manifest.kind:
        raise InputError(f"{rows} holds {sample.kind}, and this model predicts from {manifest.kind}.")
    return sample


# --- tables


def _name_of(rows: Any) -> str:
    return str(rows) if isinstance(rows, (str, Path)) else "the rows"


def _read_table(manifest: Manifest, rows: Any, more: tuple[Column, ...]) -> pl.DataFrame:
    if isinstance(rows, str) and rows.startswith("sample:"):
        _sample_of(manifest, rows)
    return read_frame(_as_table(rows), DataSettings(**manifest.reading), (*manifest.columns, *more))


def _as_table(rows: Any) -> Any:
    """Bring one row (a dict or a pandas Series) and dicts of columns to what a frame can be made of."""
    if type(rows).__module__.split(".")[0] == "pandas" and type(rows).__name__ == "Series":
        rows = rows.to_dict()
    if isinstance(rows, Mapping):
        columns = {name: _plain(value) for name, value in rows.items()}
        whole = any(_is_column(value) for value in columns.values())
        return columns if whole else {name: [value] for name, value in columns.items()}
    if isinstance(rows, list) and rows and all(isinstance(row, Mapping) for row in rows):
        return [{name: _plain(value) for name, value in row.items()} for row in rows]
    return rows


def _plain(value: Any) -> Any:
    """Turn NumPy's and PyTorch's single values into Python's, and tensors into arrays."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    return value.item() if isinstance(value, np.ndarray | np.generic) and value.ndim == 0 else value


def _is_column(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, (str, bytes))


def _table_input(manifest: Manifest, frame: pl.DataFrame, where: str) -> RawInput:
    features = typed_features(frame, manifest.columns, where)
    unseen: dict[str, int] = {}
    missing: dict[str, int] = {}

    def blocks(preprocess: nn.Module) -> Iterator[Tensor]:
        for start in range(0, features.height, BLOCK_ROWS):
            encoded = preprocess.encode(features.slice(start, BLOCK_ROWS), start)  # type: ignore[operator]
            for counts, found in ((unseen, encoded.unseen), (missing, encoded.missing)):
                for name, count in found.items():
                    counts[name] = counts.get(name, 0) + count
            yield encoded.numbers

    return RawInput(range(frame.height), blocks, unseen, missing, _extra_columns(manifest, frame.columns))


def _extra_columns(manifest: Manifest, present: list[str]) -> list[str]:
    data, split = manifest.recipe.get("data", {}), manifest.recipe.get("split", {})
    known = {column.name for column in manifest.columns} | {manifest.target, split.get("column"), split.get("group")}
    extra = [name for name in present if name not in known | set(data.get("ignore", []))]
    if not extra:
        return []
    names = f"{', '.join(map(repr, extra[:5]))}{' and more' if len(extra) > 5 else ''}"
    what = "1 column is" if len(extra) == 1 else f"{len(extra)} columns are"
    return [f"{what} not used, as training did not have {'it' if len(extra) == 1 else 'them'}: {names}."]


def _table_with_targets(manifest: Manifest, rows: Any, target: Any) -> tuple[RawInput, NDArray[Any]]:
    name = manifest.target if target is None else target
    if not isinstance(name, str):
        raise InputError(f"target is a {type(name).__name__}, but the rows are a table: name its target column.")
    as_text = (Column(name, "categorical"),) if _has_words(manifest.classes) else ()
    frame = _read_table(manifest, rows, as_text)
    read = _table_input(manifest, frame, _name_of(rows))
    if name != manifest.target:
        read.notices = _extra_columns(manifest, [column for column in frame.columns if column != name])
    values = target_values(frame, name, manifest.task, _name_of(rows))
    if not manifest.classes:
        return read, np.asarray(values)

    def at(row: int) -> str:
        return f"{origin_of(_name_of(rows), DataSettings(**manifest.reading)).at(row)}, column {name!r}"

    return read, _class_numbers(manifest, [str(value) for value in values], at)


def _has_words(classes: tuple[str, ...]) -> bool:
    """Whether the classes were text in training; then "007" is a class, and not the number 7."""
    numbers = pl.Series(classes, dtype=pl.String).cast(pl.Float64, strict=False)
    return bool(numbers.is_null().any())


# --- pictures


def _read_pictures(manifest: Manifest, rows: Any) -> tuple[NDArray[np.uint8], Sequence[Any]]:
    if sample := _sample_of(manifest, rows):
        return sample.inputs, range(len(sample))
    reading = manifest.reading
    height, width = reading["picture_size"]
    if isinstance(rows, np.ndarray | Tensor):
        channels = 3 if reading["picture_mode"] == "rgb" else 1
        return _pixels(rows, (height, width, channels))
    return read_pictures(rows, (height, width), reading["picture_mode"], reading["max_pixels"])


def _pixels(given: Any, shape: tuple[int, int, int]) -> tuple[NDArray[np.uint8], Sequence[Any]]:
    pixels = given.detach().cpu().numpy() if isinstance(given, Tensor) else given
    pixels = pixels[None] if pixels.shape == shape else pixels
    if pixels.dtype != np.uint8 or pixels.shape[1:] != shape or not len(pixels):
        raise InputError(
            f"the pixels are {pixels.dtype} of shape {tuple(pixels.shape)}; this model takes uint8 (pictures, "
            f"{', '.join(map(str, shape))}): height, width, channels. Files are brought to that size by themselves."
        )
    return pixels, range(len(pixels))


def _picture_input(pixels: NDArray[np.uint8], names: Sequence[Any]) -> RawInput:
    def blocks(_: nn.Module) -> Iterator[Tensor]:
        for start in range(0, len(pixels), BLOCK_PICTURES):
            yield torch.from_numpy(np.array(pixels[start : start + BLOCK_PICTURES]))

    return RawInput(names, blocks)


def _pictures_with_targets(manifest: Manifest, rows: Any, target: Any) -> tuple[RawInput, NDArray[Any]]:
    if (sample := _sample_of(manifest, rows)) and target is None:
        target = [sample.classes[number] for number in sample.targets]
    notices: list[str] = []
    if target is None and isinstance(rows, (str, Path)) and Path(rows).is_dir():
        chosen = _split_to_judge(Path(rows))
        notices = [] if chosen == Path(rows) else [f"{rows} holds splits; {chosen} is evaluated."]
        rows = chosen
    pixels, names = _read_pictures(manifest, rows)
    read = _picture_input(pixels, names)
    read.notices = notices
    if target is not None:
        return read, _given_classes(manifest, target)
    if not all(isinstance(name, str) for name in names):
        raise InputError("evaluating pixels needs their classes: bundle.evaluate(pixels, target=classes).")
    root = Path(rows) if isinstance(rows, (str, Path)) and Path(rows).is_dir() else None
    found = [_class_folder(manifest, root, Path(name)) for name in names]
    return read, _class_numbers(manifest, found, lambda row: str(names[row] if root is None else root / names[row]))


def _split_to_judge(root: Path) -> Path:
    """Return the folder to evaluate: `root`, or its test folder when it holds split folders."""
    folders = [child for child in sorted(root.iterdir()) if child.is_dir() and not child.name.startswith(".")]
    splits = {SPLIT_FOLDERS[child.name.lower()]: child for child in folders if child.name.lower() in SPLIT_FOLDERS}
    if "train" not in splits:
        return root
    if "test" in splits:
        return splits["test"]
    offered = " or ".join(str(child) for child in splits.values())
    raise InputError(f"{root}: holds split folders but no test folder. Say which one to evaluate: {offered}.")


def _class_folder(manifest: Manifest, root: Path | None, name: Path) -> str:
    """Return the class that a picture's folder names.

    Below a root that is the first folder, or the root itself when the pictures lie in it; else the picture's folder.
    """
    if root is None:
        return name.absolute().parent.name
    if len(name.parts) > 1 and (name.parts[0] in manifest.classes or root.name not in manifest.classes):
        return name.parts[0]
    return root.absolute().name


# --- arrays


def _batched(manifest: Manifest, rows: Any) -> Any:
    """Make a batch of one of a single example."""
    expected = tuple(manifest.reading["array_shape"])
    if tuple(getattr(rows, "shape", ())) == expected:
        return rows[None]
    flat = isinstance(rows, list) and all(isinstance(value, int | float) for value in rows)
    return [rows] if flat and (len(rows),) == expected and expected != (1,) else rows


def _array_input(manifest: Manifest, inputs: Tensor) -> RawInput:
    expected = tuple(manifest.reading["array_shape"])
    if tuple(inputs.shape[1:]) != expected:
        raise InputError(
            f"the inputs have shape {tuple(inputs.shape)}; this model takes (rows, {', '.join(map(str, expected))})."
        )

    def blocks(_: nn.Module) -> Iterator[Tensor]:
        for start in range(0, len(inputs), BLOCK_ROWS):
            yield inputs[start : start + BLOCK_ROWS]

    return RawInput(range(len(inputs)), blocks)


def _arrays_with_targets(manifest: Manifest, rows: Any, target: Any) -> tuple[RawInput, NDArray[Any]]:
    if sample := _sample_of(manifest, rows):
        known = sample.targets if sample.task == "regression" else np.array(sample.classes)[sample.targets]
        inputs, targets = sample.inputs, known if target is None else target
    else:
        inputs, targets = read_examples(rows, target)
    return _array_input(manifest, inputs), _given_classes(manifest, targets)


def _given_classes(manifest: Manifest, targets: Any) -> NDArray[Any]:
    """Return class numbers of targets that were handed over, or the targets themselves for regression."""
    values = as_targets(targets, "targets")
    if manifest.classes:
        return _class_numbers(manifest, class_names(values), lambda row: f"targets, row {row}")
    if values.dtype.kind not in "biuf":
        raise InputError(f"targets: text (row 0 is {str(values[0])!r}), and this model predicts numbers.")
    return values.astype(np.float64)


def _class_numbers(manifest: Manifest, values: Sequence[str], at: Callable[[int], str]) -> NDArray[np.int64]:
    numbers = {name: number for number, name in enumerate(manifest.classes)}
    unknown = next((row for row, value in enumerate(values) if value not in numbers), None)
    if unknown is not None:
        value = values[unknown]
        near = nearest(value, manifest.classes)
        hint = f" Did you mean {near!r}?" if near else ""
        raise InputError(
            f"{at(unknown)}: class {value!r} was not among the classes in training "
            f"({', '.join(manifest.classes[:8])}{', ...' if len(manifest.classes) > 8 else ''}).{hint}"
        )
    return np.fromiter((numbers[value] for value in values), dtype=np.int64, count=len(values))
