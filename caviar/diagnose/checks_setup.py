"""What is checked, and what a check says: the types that all checks share."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from caviar.core.errors import unknown_name
from caviar.core.jsonable import jsonable

Status = Literal["pass", "fail", "skipped"]
Loss = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class Batch:
    """Examples as the network takes them: inputs (rows, ...) and targets (rows, ...)."""

    inputs: Tensor
    targets: Tensor

    def take(self, rows: Tensor | slice) -> "Batch":
        """Return some of the examples."""
        return Batch(self.inputs[rows], self.targets[rows])

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Held:
    """Which of the model's trainable parameters an optimiser holds.

    absent: those it lacks, by name. foreign: how many tensors it holds that are not the model's.
    """

    absent: tuple[str, ...] = ()
    foreign: int = 0


@dataclass(frozen=True)
class Setup:
    """A training set-up, as private copies that a check may do with as it likes.

    model: never run itself; `fresh` gives a copy. loss: (outputs, targets) -> one number. train, dev: samples, on the
    model's device; dev is None where there is none of its own.
    optimizer: builds the optimiser of the long run on a copy of the model. held: what the given one holds.
    penalty: of a model, added to the loss in the long run. augmented: `train` as the long run changes it at random.
    batch_size: of the long run. single: whether the long run meets a batch of one example.
    repeats: by split, (rows that stand in train too, rows); for train, (rows that stand there more than once, rows).
    seconds: that one check may spend on training.
    """

    model: nn.Module
    loss: Loss
    train: Batch
    dev: Batch | None = None
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None
    held: Held | None = None
    penalty: Callable[[nn.Module], Tensor] | None = None
    augmented: Batch | None = None
    batch_size: int | None = None
    single: bool = False
    repeats: Mapping[str, tuple[int, int]] | None = None
    seconds: float = 8.0
    seed: int = 0

    def fresh(self, *, training: bool = False, dropout: bool = True) -> nn.Module:
        """Return a copy of the model in training or evaluation mode; dropout: whether it may drop anything."""
        model = copy.deepcopy(self.model).train(training)
        if not dropout:
            still(model)
        return model


def still(model: nn.Module) -> None:
    """Let no layer drop units: dropout layers evaluate, and rates inside recurrent and attention layers are 0."""
    for module in model.modules():
        if "drop" in type(module).__name__.lower():
            module.eval()
        elif isinstance(getattr(module, "dropout", None), float):
            setattr(module, "dropout", 0.0)  # noqa: B010 (mypy takes every attribute of a module for a tensor)


class Outcome(NamedTuple):
    """What a check found. words: the evidence in a sentence, or why it was skipped; remedy: where it failed."""

    status: Status
    words: str
    numbers: dict[str, Any]
    remedy: str = ""


def passed(words: str, **numbers: Any) -> Outcome:
    """Return an outcome that is fine."""
    return Outcome("pass", words, numbers)


def failed(words: str, remedy: str, **numbers: Any) -> Outcome:
    """Return an outcome that needs mending."""
    return Outcome("fail", words, numbers, remedy)


def skipped(reason: str, **numbers: Any) -> Outcome:
    """Return an outcome that says nothing of the set-up."""
    return Outcome("skipped", reason, numbers)


@dataclass(frozen=True)
class CheckResult:
    """One check of one set-up.

    code: stable name. title: what is checked. status: pass, fail or skipped. words: evidence, or why it was skipped.
    numbers: the evidence as data. remedy: what to try, "" unless it failed. seconds: it took.
    """

    code: str
    title: str
    status: Status
    words: str
    numbers: dict[str, Any] = field(default_factory=dict)
    remedy: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class CheckReport:
    """What all checks of one set-up came to. `str(report)` is a table in words."""

    results: tuple[CheckResult, ...]

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        """The checks that failed."""
        return tuple(result for result in self.results if result.status == "fail")

    @property
    def ok(self) -> bool:
        """Whether none failed."""
        return not self.failed

    def result(self, code: str) -> CheckResult:
        """Return what one check came to; InputError where it did not run."""
        found = {result.code: result for result in self.results}
        if code not in found:
            raise unknown_name("check", code, found)
        return found[code]

    def to_dict(self) -> dict[str, Any]:
        """Return strict JSON: how many passed, failed and were skipped, and every check."""
        counts = {status: sum(each.status == status for each in self.results) for status in get_args(Status)}
        return {
            "passed": counts["pass"],
            "failed": counts["fail"],
            "skipped": counts["skipped"],
            "seconds": sum(result.seconds for result in self.results),
            "checks": [jsonable(asdict(result)) for result in self.results],
        }

    def __str__(self) -> str:
        width = max((len(result.code) for result in self.results), default=0)
        lines = [f"{result.code:<{width}}  {result.status:<7}  {result.words}" for result in self.results]
        return "\n".join([*lines, *(f"{result.code}: {result.remedy}" for result in self.failed)])
