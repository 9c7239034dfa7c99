"""Inputs from outside as checked tensors: one number type, no NaN, no infinity, nothing that overflows float32."""

import hashlib
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caviar.core.errors import InputError
from caviar.core.files import cache_folder

BLOCK_BYTES = 16 << 20
MEBIBYTE = 1 << 20
LARGEST = float(np.finfo(np.float32).max)
EXACT_INT = 2**63 - 1


def as_array(values: Any, where: str) -> NDArray[Any]:
    """Return what was given as a NumPy array without copying where that is possible.

    Raises `InputError` for what is no array of one type: ragged lists, masked or sparse arrays, mappings.
    """
    if isinstance(values, Tensor):
        return _from_tensor(values, where)
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise InputError(f"{where}: a masked array with masked values. Fill them, as in array.filled(value).")
    if hasattr(values, "toarray") or (hasattr(values, "tocsr") and hasattr(values, "nnz")):
        raise InputError(f"{where}: a sparse array. Make it dense: array.toarray().")
    if isinstance(values, str | bytes | dict | set) or not (
        hasattr(values, "__array__") or isinstance(values, Sequence)
    ):
        raise InputError(
            f"{where}: a {type(values).__name__} cannot be read as an array. Give a NumPy array, a tensor or lists."
        )
    if isinstance(values, Sequence) and len(values) and all(isinstance(value, Tensor) for value in values):
        values = [_from_tensor(value, where) for value in values]
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InputError(f"{where}: {_ragged(values) or error}. Every row needs the same shape.") from error
    except (TypeError, OverflowError) as error:
        raise InputError(f"{where}: cannot be read as an array ({error}).") from error
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _from_tensor(values: Tensor, where: str) -> NDArray[Any]:
    if values.layout != torch.strided or values.is_quantized or values.is_meta:
        raise InputError(
            f"{where}: a tensor that is sparse, quantised or without data. Make it dense: tensor.to_dense()."
        )
    values = values.detach().cpu().resolve_conj().resolve_neg()
    array: NDArray[Any] = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return array


def _ragged(rows: Any) -> str | None:
    """Say which row of nested lists is the first of another length, or None."""
    try:
        lengths = [len(row) for row in rows]
    except TypeError:
        return "some rows are lists and some are not"
    odd = next((row for row, length in enumerate(lengths) if length != lengths[0]), None)
    return None if odd is None else f"row {odd} has {lengths[odd]} values and row 0 has {lengths[0]}"


def as_inputs(values: Any, where: str, memory_budget: int) -> Tensor:
    """Return inputs (rows, ...) as a tensor of a type that computes.

    float64, float32 and integers keep their type (float64, so that a small spread around a large mean survives until it
    is centred); float16, bfloat16 become float32, booleans uint8, unsigned 16 and 32 bits the next signed type, other
    numbers float64. (rows,) becomes (rows, 1). More than `memory_budget` bytes are converted into a file.
    """
    array = as_array(values, where)
    _refuse_type(array, where)
    if array.ndim == 0:
        raise InputError(f"{where}: a single number. Give an array (rows, features).")
    if array.size == 0:
        raise InputError(f"{where}: empty, of shape {array.shape}. Give at least one row and one feature.")
    if array.ndim == 1:
        array = array.reshape(-1, 1)
    return as_tensor(_converted(array, memory_budget))


def _refuse_type(array: NDArray[Any], where: str) -> None:
    kind = array.dtype.kind
    if kind in "biuf":
        return
    if kind == "O":
        raise InputError(f"{where}: of type object, mixed or ragged{_first_text(array)}. Give numbers of one type.")
    if kind in "US":
        raise InputError(f"{where}: text{_first_text(array)}. Give numbers, or a table with categorical columns.")
    if kind == "c":
        raise InputError(f"{where}: complex numbers. Give real and imaginary parts as two features.")
    if kind in "Mm":
        raise InputError(f"{where}: dates or times. Convert them to numbers, such as days since the first one.")
    raise InputError(
        f"{where}: of type {array.dtype}, which is not numbers of one type. Give a plain array of numbers."
    )


def _first_text(array: NDArray[Any]) -> str:
    for place, value in np.ndenumerate(array):
        try:
            float(value)
        except (TypeError, ValueError):
            return f" (first at {list(place)}: {value!r})"[:200]
    return ""


def _number_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    kept = ("float64", "float32", "int64", "int32", "int16", "int8", "uint8")
    others = {"float16": "float32", "bool": "uint8", "uint16": "int32", "uint32": "int64"}
    return np.dtype(dtype.name if dtype.name in kept else others.get(dtype.name, "float64"))


def _converted(array: NDArray[Any], memory_budget: int) -> NDArray[Any]:
    goal = _number_type(array.dtype)
    if array.dtype == goal and all(stride >= 0 for stride in array.strides):
        return array
    if array.size * goal.itemsize <= memory_budget:
        return np.ascontiguousarray(array, dtype=goal)
    store = scratch_array(array.shape, goal)
    for first, last in row_blocks(array.shape, goal.itemsize):
        store[first:last] = array[first:last]
    return store


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Return a tensor over the memory of an array."""
    # torch warns that it cannot forbid writing to read-only memory; caviar never writes to its inputs.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def row_blocks(shape: tuple[int, ...], itemsize: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of blocks of rows of about 16 MiB."""
    step = max(1, BLOCK_BYTES // max(1, itemsize * int(np.prod(shape[1:], dtype=np.int64))))
    for first in range(0, shape[0], step):
        yield first, min(first + step, shape[0])


def scratch_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array over a file in the cache that nobody else sees; it goes when the process ends."""
    folder = cache_folder() / "mapped"
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder)
        try:
            # Room is claimed now: a full disk found later, while writing to mapped memory, would kill the process.
            claim = getattr(os, "posix_fallocate", lambda file, _, length: os.truncate(file, length))
            claim(descriptor, 0, max(size, 1))
            return np.memmap(name, dtype=dtype, mode="r+", shape=shape)
        finally:
            os.close(descriptor)
            Path(name).unlink()
    except OSError as error:
        raise InputError(
            f"{folder}: no room for {size / MEBIBYTE:.0f} MiB of examples ({error.strerror}). "
            "Make room, set CAVIAR_CACHE to another folder, or raise data.memory_budget."
        ) from error


def check_values(inputs: Tensor, where: str) -> list[str]:
    """Refuse NaN, infinity and numbers beyond float32, naming the first; return notices on (rows, features)."""
    lowest: Tensor | None = None
    highest: Tensor | None = None
    for first, last in row_blocks(tuple(inputs.shape), inputs.element_size()):
        low, high = inputs[first:last].reshape(last - first, -1).aminmax(dim=0)
        if inputs.is_floating_point() and not bool(((low >= -LARGEST) & (high <= LARGEST)).all()):
            _refuse_value(inputs[first:last], first, where)
        lowest = low if lowest is None else torch.minimum(lowest, low)
        highest = high if highest is None else torch.maximum(highest, high)
    if inputs.dim() != 2 or lowest is None or highest is None:
        return []
    return _feature_notices((lowest == highest).nonzero().flatten().tolist(), inputs, where)


def _refuse_value(block: Tensor, offset: int, where: str) -> None:
    bad = ~(block.abs() <= LARGEST)
    place = bad.nonzero()[0].tolist()
    value = float(block[tuple(place)])
    place[0] += offset
    if np.isnan(value):
        what, remedy = "is NaN", "Fill or remove missing values first; tables may have empty fields, arrays may not"
    elif np.isinf(value):
        what, remedy = f"is {value}", "Replace or remove infinite values"
    else:
        what, remedy = (
            f"is {value!r}, beyond the largest float32, {LARGEST:.4g}",
            "Scale the values down, or take logarithms",
        )
    raise InputError(f"{where}: the value at {place} {what}. {remedy}.")


def _feature_notices(constant: list[int], inputs: Tensor, where: str) -> list[str]:
    rows, features = inputs.shape
    notices = []
    if constant and rows > 1:
        shown = ", ".join(map(str, constant[:10])) + (", ..." if len(constant) > 10 else "")
        notices.append(f"{where}: {len(constant):,} of {features:,} features are constant and say nothing ({shown}).")
    if features > rows:
        notices.append(f"{where}: more features ({features:,}) than rows ({rows:,}); expect overfitting.")
    return notices


def join_parts(parts: Sequence[Tensor], memory_budget: int) -> Tensor:
    """Return tensors of equal shape and type one after another, in memory or, beyond the budget, in a file."""
    if len(parts) == 1:
        return parts[0]
    dtype = parts[0].dtype
    for part in parts[1:]:
        dtype = torch.promote_types(dtype, part.dtype)
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    if int(np.prod(shape, dtype=np.int64)) * dtype.itemsize <= memory_budget:
        return torch.cat([part.to(dtype) for part in parts])
    store = torch.from_numpy(scratch_array(shape, np.dtype(str(dtype).removeprefix("torch."))))
    filled = 0
    for part in parts:
        for first, last in row_blocks(tuple(part.shape), dtype.itemsize):
            store[filled + first : filled + last] = part[first:last]
        filled += len(part)
    return store


def digest_tensor(values: Tensor) -> str:
    """Return the digest of shape, type and content."""
    digest = hashlib.blake2b(f"{tuple(values.shape)} {values.dtype}".encode(), digest_size=16)
    for first, last in row_blocks(tuple(values.shape), values.element_size()):
        digest.update(values[first:last].contiguous().numpy().data)
    return digest.hexdigest()
