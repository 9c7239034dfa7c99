"""A population's state in one file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from caviar.core.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from caviar.core.errors import DamagedError, InputError


def write_population(path: Path, state: Mapping[str, Tensor], trials: Sequence[int]) -> None:
    """Write a state and the members' trial numbers, whole or not at all."""
    try:
        write_checkpoint(path, Checkpoint(dict(state), {"kind": "population", "trials": list(trials)}))
    except OSError as error:
        raise InputError(f"{path}: the population cannot be written there ({error.strerror or error}).") from error


def read_population(path: Path) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """Return the state and the trial numbers in a file.

    Raises InputError when there is none or a newer caviar wrote it, DamagedError when it is something else.
    """
    found = read_checkpoint(path)
    trials = found.data.get("trials")
    if found.data.get("kind") != "population" or not isinstance(trials, list):
        raise DamagedError(f"{path}: not a population's state.")
    return found.tensors, tuple(map(int, trials))
