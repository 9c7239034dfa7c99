"""Tensors over arrays that belong to somebody else."""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def tensor_over(array: NDArray[Any]) -> Tensor:
    """Return a tensor that shares the memory of `array`, which may be a read-only memory map. Only read from it.

    torch warns that it cannot forbid writing to such memory; nothing in caviar does.
    """
    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))
