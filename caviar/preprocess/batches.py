"""Data for fitting in whatever form it comes, as blocks (rows, columns); and what is wrong with a bad value."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caviar.core.errors import InputError

Block = NDArray[Any] | Tensor
Batches = Block | Iterable[Any] | Callable[[], Iterable[Any]]
"""Training examples: one array or tensor (n, ...), an iterable of such batches (a list, a generator, a DataLoader; of
a batch that is a pair the first part is taken), or a function that returns such an iterable. Axes after the first are
flattened: each is a column."""


def matrices(batches: Batches) -> Iterator[NDArray[Any]]:
    """Yield the batches that hold something as (rows, columns) arrays of one width, in the type that they came in.

    Raises:
        InputError: a batch has no columns, or not as many as those before it.
    """
    width: int | None = None
    for batch in _iterate(batches):
        matrix = _matrix(batch)
        if width is not None and matrix.shape[1] != width:
            raise InputError(f"a batch has {matrix.shape[1]} columns, but the batches before it have {width}.")
        width = matrix.shape[1]
        if len(matrix):
            yield matrix


def again(batches: Batches) -> Callable[[], Iterator[NDArray[Any]]]:
    """Return a function that begins the pass over the batches anew, as statistics beyond one pass need it."""
    if isinstance(batches, Iterator):
        raise InputError(
            "quartiles need more than one pass, but a generator can be read once only. Give an array, a list of "
            "batches, a DataLoader, or a function that returns a new generator."
        )
    return lambda: matrices(batches)


def _iterate(batches: Batches) -> Iterable[Any]:
    if isinstance(batches, np.ndarray | Tensor):
        return (batches,)
    found = batches() if callable(batches) else batches
    if isinstance(found, np.ndarray | Tensor):
        return (found,)
    if not isinstance(found, Iterable) or isinstance(found, str | bytes):
        raise InputError(
            f"training examples came as {type(found).__name__}; give an array or tensor (n, columns), or an iterable "
            "of such batches."
        )
    return found


def _matrix(batch: Any) -> NDArray[Any]:
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], np.ndarray | Tensor):
        batch = batch[0]
    if isinstance(batch, Tensor):
        batch = batch.detach().cpu()
        batch = (batch.float() if batch.dtype == torch.bfloat16 else batch).numpy()
    if not isinstance(batch, np.ndarray) or batch.ndim < 2 or batch.dtype.kind not in "biuf":
        what = f"{batch.dtype} of shape {batch.shape}" if isinstance(batch, np.ndarray) else type(batch).__name__
        raise InputError(f"a batch is {what}; it must be an array or tensor of numbers (n, columns).")
    return batch.reshape(len(batch), math.prod(batch.shape[1:]))


def bad_value(block: NDArray[Any], first_row: int) -> InputError:
    """Build the error for a block that spoilt the statistics: where NaN or infinity is, or which column is too large.

    `first_row` is the number of rows before the block's.
    """
    bad = ~np.isfinite(block)
    if bad.any():
        row, column = (int(place) for place in np.argwhere(bad)[0])
        return InputError(
            f"training example {first_row + row + 1}, column {column} (counting from 0), holds {block[row, column]}; "
            "only finite numbers can be fitted on. Remove or replace it."
        )
    column = int(np.abs(block.astype(np.float64)).max(axis=0).argmax())
    return InputError(
        f"column {column} (counting from 0) holds numbers so large that their variance overflows; rescale it."
    )


def no_examples() -> InputError:
    """Build the error for batches without a single row."""
    return InputError("there are no training examples to fit the preprocessing on.")
