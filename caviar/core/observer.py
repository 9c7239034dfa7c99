"""How training tells others what happens. The loop calls these; it knows nothing of who listens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Moment(NamedTuple):
    """Where the run stands after a step: all counted from 1."""

    step: int
    epoch: int
    batch: int
    num_batches: int


@dataclass(frozen=True)
class EpochFacts:
    """What one finished epoch came to.

    step: the last one of the epoch; learning_rate: the one it used. values: (split, name) -> number, such as
    ("dev", "accuracy"). best: whether dev was better than in every epoch before. confusion: counts on dev (true
    classes, predicted classes) on the CPU, for classes.
    """

    epoch: int
    step: int
    learning_rate: float
    values: Mapping[tuple[str, str], float]
    best: bool
    confusion: Tensor | None = field(default=None, compare=False)


class SaveObserver(Protocol):
    """Somebody who has to write something before a checkpoint is written."""

    def on_save(self, step: int) -> None:
        """Just before a checkpoint of `step` is written: whatever belongs to it must be on disk when this returns."""


class Observer(SaveObserver, Protocol):
    """Somebody who wants to know: a progress bar, the record store, the live rules."""

    def on_step(self, moment: Moment, loss: Tensor) -> None:
        """After every step. `loss` is on the device: reading it synchronises, so read it seldom."""

    def on_epoch(self, facts: EpochFacts) -> None:
        """After every epoch, once dev has been evaluated."""


@runtime_checkable
class InsideObserver(Observer, Protocol):
    """An observer that looks inside some steps, those of which it says beforehand that it is `looking`."""

    looking: bool

    def on_gradients(self) -> None:
        """Called in such a step once the loss has been differentiated: before penalties, clipping and the update."""
