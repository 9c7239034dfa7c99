"""A number for each row that is equal for equal rows, to find rows that stand in more than one split."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from caviar.data.raw import RawData

BLOCK_BYTES = 64 << 20


def row_keys(raw: RawData) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each row's inputs and target; memory beyond the result is one block."""
    targets = raw.targets.astype(np.float64).view(np.uint64)
    if raw.kind == "table":
        keys: NDArray[np.uint64] = raw.inputs.hash_rows(seed=0).to_numpy()
        return _mix(keys ^ _mix(targets))
    inputs = raw.inputs.numpy() if isinstance(raw.inputs, torch.Tensor) else raw.inputs
    return _mix(_hash_arrays(inputs) ^ _mix(targets))


def _hash_arrays(inputs: NDArray[Any]) -> NDArray[np.uint64]:
    """Return sum of words times odd random numbers, modulo 2^64 (multilinear hashing; Carter and Wegman, 1979)."""
    row_bytes = int(np.prod(inputs.shape[1:])) * inputs.itemsize
    num_words = -(-row_bytes // 8)
    factors = np.random.default_rng(0).integers(0, 2**63, num_words, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    keys = np.empty(len(inputs), dtype=np.uint64)
    step = max(1, BLOCK_BYTES // max(row_bytes, 1))
    for start in range(0, len(inputs), step):
        block = np.ascontiguousarray(inputs[start : start + step]).reshape(-1).view(np.uint8).reshape(-1, row_bytes)
        padded = np.zeros((len(block), num_words * 8), dtype=np.uint8)
        padded[:, :row_bytes] = block
        keys[start : start + step] = (_mix(padded.view(np.uint64)) * factors).sum(axis=1, dtype=np.uint64)
    return keys


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over the word (the finaliser of SplitMix64; Steele, Lea and Flood, 2014)."""
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
