"""Where arrays come from: .npy and .npz files, and data sets that give one example at a time."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caviar.core.errors import InputError, nearest
from caviar.data.array_values import scratch_array

INPUT_NAMES = ("x", "X", "inputs", "features", "data")
TARGET_NAMES = ("y", "Y", "targets", "target", "labels", "label")
PART_ENDINGS: dict[str, tuple[str, ...]] = {
    "train": ("", "_train"),
    "dev": ("_dev", "_val", "_valid", "_validation"),
    "test": ("_test",),
}
REPORT_EVERY = 256


class Pair(NamedTuple):
    """Inputs and targets as they were given, and how messages call them."""

    inputs: Any
    targets: Any
    where: str = ""

    @property
    def inputs_name(self) -> str:
        return self.where or "inputs"

    @property
    def targets_name(self) -> str:
        return f"{self.where} targets" if self.where else "targets"


def load_npy(path: Path, memory_budget: int) -> NDArray[Any]:
    """Read a .npy file into memory, or map it when it is larger than `memory_budget` bytes. Never unpickles."""
    try:
        mapped = path.stat().st_size > memory_budget
        array: NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}). Check the path.") from error
    except (ValueError, EOFError, SyntaxError, MemoryError, OverflowError) as error:
        raise _bad_file(path, error) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise InputError(f"{path}: an .npz archive named .npy. Rename it to end in .npz.")
    return array


def load_npz(path: Path, target: str | None) -> dict[str, Pair]:
    """Read train and, if they are there, dev and test from a .npz file; `target` may name the array of targets.

    Arrays are called x or X, inputs, features, data and y or Y, targets, target, labels, label; or x_train, y_train,
    x_test, and so on.
    """
    try:
        # NumPy forgets to close the file of a damaged archive that it opened itself.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise InputError(f"{path}: one array and not an .npz archive. Rename it to end in .npy.")
            with archive:
                chosen = _choose_arrays(path, list(archive.files), target)
                return {
                    part: Pair(archive[x], archive[y], f"{path} [{x}, {y}]" if part != "train" else str(path))
                    for part, (x, y) in chosen.items()
                }
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}). Check the path.") from error
    except (ValueError, EOFError, SyntaxError, MemoryError, OverflowError, zipfile.BadZipFile, KeyError) as error:
        raise _bad_file(path, error) from error


def _bad_file(path: Path, error: Exception) -> InputError:
    if _holds_pickle(path, str(error)):
        return InputError(
            f"{path}: holds pickled Python objects, which could run code and are never loaded. "
            "Save plain numbers: numpy.save(path, array.astype(float))."
        )
    return InputError(f"{path}: not a whole .npy or .npz file ({str(error) or type(error).__name__}). Save it again.")


def _holds_pickle(path: Path, message: str) -> bool:
    """NumPy takes any file that it does not know for a pickle; only those that begin like one are called so."""
    if "Object arrays" in message or "Python objects" in message:
        return True
    with path.open("rb") as file:
        return "pickle" in message and file.read(1) == b"\x80"


def _choose_arrays(path: Path, names: list[str], target: str | None) -> dict[str, tuple[str, str]]:
    if target is not None and target not in names:
        near = nearest(target, names)
        hint = f" Did you mean {near!r}?" if near else ""
        raise InputError(f"{path}: no array {target!r} for the targets.{hint} It holds: {', '.join(names)}.")
    chosen: dict[str, tuple[str, str]] = {}
    for part, endings in PART_ENDINGS.items():
        x = _first_of(INPUT_NAMES, endings, names)
        y = target if target is not None and part == "train" else _first_of(TARGET_NAMES, endings, names)
        if x is not None and y is not None:
            chosen[part] = (x, y)
    if "train" not in chosen:
        raise InputError(
            f"{path}: needs an array of inputs (x, X, inputs, features or data) and one of targets (y, Y, "
            f"targets, target, labels or label). It holds: {', '.join(names) or 'nothing'}. Rename them."
        )
    return chosen


def _first_of(stems: tuple[str, ...], endings: tuple[str, ...], names: list[str]) -> str | None:
    return next((stem + end for end in endings for stem in stems if stem + end in names), None)


def is_dataset(data: Any) -> bool:
    """Whether `data` is a `torch.utils.data.Dataset` or a `DataLoader`."""
    from torch.utils.data import DataLoader, Dataset

    return isinstance(data, Dataset | DataLoader)


def read_dataset(data: Any, where: str, memory_budget: int, progress: Callable[[int, int], None] | None = None) -> Pair:
    """Read a map-style `torch.utils.data.Dataset` of (x, y) once, from beginning to end.

    x is a tensor, an array, a number, or a Pillow picture (which becomes uint8 (channels, height, width)), of one shape
    and type throughout; y a number or text. Random transforms in the data set are therefore drawn once. More than
    `memory_budget` bytes go to a file.
    """
    from torch.utils.data import DataLoader, IterableDataset, TensorDataset

    if isinstance(data, DataLoader):
        raise InputError(
            f"{where}: a DataLoader. Give the data set it reads: loader.dataset; caviar makes the batches."
        )
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        raise InputError(
            f"{where}: {type(data).__name__} has no length and no order to draw from. Give a data set with __len__ and "
            "__getitem__."
        )
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        return Pair(*data.tensors, where)
    if len(data) == 0:
        raise InputError(f"{where}: the data set has no examples. Give at least one for each class.")
    return _read_items(data, where, memory_budget, progress)


def _read_items(data: Any, where: str, memory_budget: int, progress: Callable[[int, int], None] | None) -> Pair:
    total = len(data)
    first, _ = _item(data, 0, where)
    store = _room((total, *first.shape), first.dtype, memory_budget)
    targets: list[Any] = []
    for index in range(total):
        x, y = _item(data, index, where)
        if x.shape != first.shape or x.dtype != first.dtype:
            raise InputError(
                f"{where}: the inputs of item {index} are {x.dtype} of shape {x.shape}, those of item 0 are "
                f"{first.dtype} of shape {first.shape}. Bring all to one shape and type in the data set."
            )
        store[index] = x
        targets.append(y)
        if progress is not None and ((index + 1) % REPORT_EVERY == 0 or index + 1 == total):
            progress(index + 1, total)
    return Pair(store, targets, where)


def _room(shape: tuple[int, ...], dtype: np.dtype[Any], memory_budget: int) -> NDArray[Any]:
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return np.empty(shape, dtype) if size <= memory_budget else scratch_array(shape, dtype)


def _item(data: Any, index: int, where: str) -> tuple[NDArray[Any], Any]:
    try:
        item = data[index]
    except Exception as error:
        raise InputError(f"{where}: item {index} cannot be read ({type(error).__name__}: {error}).") from error
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise InputError(f"{where}: item {index} is {_described(item)}; every item must be a pair (x, y).")
    x, y = item
    return _input_of(x, index, where), _target_of(y, index, where)


def _described(item: Any) -> str:
    if isinstance(item, tuple | list):
        return f"a {type(item).__name__} of {len(item)}"
    return f"a {type(item).__name__}"


def _input_of(x: Any, index: int, where: str) -> NDArray[Any]:
    import torch
    from PIL import Image

    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        return np.asarray((x.float() if x.dtype == torch.bfloat16 else x).numpy())
    if isinstance(x, Image.Image):
        pixels = np.asarray(x.convert("L" if x.mode in ("1", "L") else "RGB"))
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if isinstance(x, bool | int | float):
        return np.asarray(float(x))
    if isinstance(x, np.ndarray | np.generic | list | tuple):
        try:
            array = np.asarray(x)
        except ValueError:
            array = np.empty(0, dtype=object)
        if array.dtype.kind in "biuf":
            return array
    raise InputError(
        f"{where}: the inputs of item {index} are a {type(x).__name__} that is not numbers of one shape. "
        "Give a tensor, an array, a number or a Pillow picture."
    )


def _target_of(y: Any, index: int, where: str) -> Any:
    if hasattr(y, "item") and getattr(y, "size", None) is not None:
        if np.prod(tuple(y.shape), dtype=np.int64) == 1:
            return y.item()
    elif isinstance(y, bool | int | float | str):
        return y
    shape = f" of shape {tuple(y.shape)}" if hasattr(y, "shape") else ""
    raise InputError(
        f"{where}: the target of item {index} is a {type(y).__name__}{shape}. Give one number, or a class name."
    )
