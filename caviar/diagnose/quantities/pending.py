"""Numbers that wait on the device until somebody reads them: one synchronisation for all."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from caviar.core.observer import Moment
from caviar.core.records import Record


class Key(NamedTuple):
    """Which curve a number belongs to."""

    name: str
    layer: str = ""
    split: str = "train"


Emit = Callable[[list[float]], Iterable[tuple[Key, float]]]
"""From what was read to named numbers: arithmetic on a few numbers is cheaper here than on the device."""


class Pending:
    """Gathers small tensors and plain numbers; `drain` reads and names them."""

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []
        self._waiting: list[tuple[Moment, int, Emit]] = []
        self._ready: list[tuple[Moment, Key, float]] = []

    def add(self, moment: Moment, values: Tensor, emit: Emit) -> None:
        """Keep `values` (of any shape, read flat) until the next drain."""
        self._tensors.append(values)
        self._waiting.append((moment, values.numel(), emit))

    def add_numbers(self, moment: Moment, numbers: Mapping[Key, float]) -> None:
        """Keep numbers that are on the host already."""
        self._ready += [(moment, key, value) for key, value in numbers.items()]

    def drain(self, trial: int) -> list[Record]:
        """Wait for the device, once, and return everything as records."""
        if self._tensors:
            home = self._tensors[-1].device
            flat = torch.cat([tensor.detach().reshape(-1).to(home, torch.float32) for tensor in self._tensors]).tolist()
            start = 0
            for moment, size, emit in self._waiting:
                self._ready += [(moment, key, value) for key, value in emit(flat[start : start + size])]
                start += size
        found = [Record(trial, m.step, m.epoch, k.split, k.layer, k.name, v) for m, k, v in self._ready]
        self._tensors, self._waiting, self._ready = [], [], []
        return found


class Entry(NamedTuple):
    """Numbers of several members that wait on the device.

    trials: of the rows of `values` (members, n); None for a member that is not to be spoken of. emit: names a row.
    """

    trials: Sequence[int | None]
    values: Tensor
    emit: Callable[[int, list[float]], Iterable[tuple[Key, float]]]


class MembersPending:
    """Gathers numbers of members, from several threads at once; `drain` reads and names them."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Moment, list[Entry]]] = deque()
        self._ready: deque[tuple[Moment, int, Mapping[Key, float]]] = deque()

    def add(self, moment: Moment, entries: list[Entry]) -> None:
        """Keep entries until the next drain."""
        self._waiting.append((moment, entries))

    def add_numbers(self, moment: Moment, trial: int, numbers: Mapping[Key, float]) -> None:
        """Keep numbers of one trial that are on the host already."""
        self._ready.append((moment, trial, numbers))

    def drain(self) -> list[Record]:
        """Wait for the device, once, and return everything that has been added as records."""
        found: list[Record] = []
        while self._ready:
            moment, own_trial, numbers = self._ready.popleft()
            found += _records(own_trial, moment, numbers.items())
        taken = [self._waiting.popleft() for _ in range(len(self._waiting))]
        tensors = [entry.values for _, entries in taken for entry in entries]
        if not tensors:
            return found
        home = tensors[-1].device
        flat = torch.cat([tensor.detach().reshape(-1).to(home, torch.float32) for tensor in tensors]).tolist()
        start = 0
        for moment, entries in taken:
            for entry in entries:
                width = entry.values.shape[1]
                for place, trial in enumerate(entry.trials):
                    if trial is not None:
                        own = flat[start + place * width : start + (place + 1) * width]
                        found += _records(trial, moment, entry.emit(trial, own))
                start += width * len(entry.trials)
        return found


def _records(trial: int, moment: Moment, numbers: Iterable[tuple[Key, float]]) -> Iterator[Record]:
    return (Record(trial, moment.step, moment.epoch, k.split, k.layer, k.name, value) for k, value in numbers)


def spread(mean: float, norm: float, count: int) -> float:
    """Return the standard deviation of `count` values from their mean and the root of their sum of squares."""
    square = norm * norm / count - mean * mean
    return math.sqrt(square) if square > 0 else square if math.isnan(square) else 0.0
