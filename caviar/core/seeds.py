"""Randomness by name: every stream is a function of (seed, what it is for), never of what ran before it."""

import hashlib

import torch
from torch import Tensor

MAX_SEED = 2**63 - 1


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for the stream called `names` under `seed`: equal arguments, equal streams."""
    text = "\0".join([str(seed), *map(str, names)])  # a character that no name holds keeps ("a", "b") from ("a/b")
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") & MAX_SEED


def generator_for(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator for the stream called `names` under `seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


def epoch_order(seed: int, epoch: int, num_rows: int) -> Tensor:
    """Return the order of epoch `epoch`: a permutation of range(num_rows) that depends on (seed, epoch) only."""
    dtype = torch.int32 if num_rows < 2**31 else torch.int64
    return torch.randperm(num_rows, generator=generator_for(seed, "order", epoch), dtype=dtype)


def set_generator(generator: torch.Generator, state: Tensor) -> None:
    """Put a generator's state back.

    Torch reads a state from the start of its storage, wherever a view begins: a row of several states crashes it.
    """
    generator.set_state(state.to("cpu", copy=True))
