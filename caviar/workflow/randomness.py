"""The global random streams of a process, left as they were."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def randomness_as_before() -> Iterator[None]:
    """Put the global random streams of Python, NumPy and torch back as they were before the block."""
    python, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
