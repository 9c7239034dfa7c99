"""Members of one architecture, and what an executor does with them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from caviar.nn.settings import LossSettings, RegularizationSettings
from caviar.optim.settings import OptimizerSettings
from caviar.population.views import Shared, slice_of

OwnLoss = Callable[[Tensor, Tensor], Tensor]
"""A user's loss of one model: (outputs, targets) -> one number."""
Number = float | Tensor
"""One number for all members, or a tensor of shape [members]."""

NAMES: Mapping[str, str] = {
    "learning_rate": "optimizer.learning_rate",
    "momentum": "optimizer.momentum",
    "beta1": "optimizer.betas",
    "beta2": "optimizer.betas",
    "eps": "optimizer.eps",
    "weight_decay": "optimizer.weight_decay",
    "l1": "regularization.l1",
    "l2": "regularization.l2",
    "max_norm": "regularization.max_norm",
    "dropout": "model.dropout",
    "label_smoothing": "loss.label_smoothing",
    "clip_norm": "training.clip_norm",
    "init_gain": "model.init_gain",
}
"""Hyperparameters that members may differ in without leaving the stack, and where a recipe has them."""


@dataclass(frozen=True)
class Cohort:
    """Members of one architecture: what they share, and what differs between them.

    Attributes:
        template: a module of the architecture; its own weights do not matter, and nothing changes it.
        weights: parameters and buffers of the members by the template's names, each (members, ...).
        optimizer: the update rule, its learning rate a number.
        loss: what is minimised; never "auto". Or a user's function of one member's outputs and the targets.
        class_weights: (classes,) or None; takes the place of loss.class_weights.
        regularization: penalties on weights.
        clip_norm: longest gradient of a member, None for any.
        values: hyperparameters in which members differ, by the names of `NAMES`: float64 tensors [members]. They take
            the place of what the settings say.
        draws: one generator for each member, which everything drawn for it while training comes from.
        autocast: forward and loss in bfloat16 where torch deems it safe.
        average: whether a running average of the weights is kept beside them; it begins as they begin.
    """

    template: nn.Module
    weights: dict[str, Tensor]
    optimizer: OptimizerSettings
    loss: LossSettings | OwnLoss
    draws: tuple[torch.Generator, ...]
    values: Mapping[str, Tensor] = field(default_factory=dict)
    class_weights: Tensor | None = None
    regularization: RegularizationSettings = field(default_factory=RegularizationSettings)
    clip_norm: float | None = None
    autocast: bool = False
    average: bool = False

    def __len__(self) -> int:
        return len(self.draws)

    def slice(self, start: int, end: int) -> "Cohort":
        """Return the members from `start` to before `end`; tensors are views, generators the same ones."""
        return replace(
            self,
            weights={name: tensor[start:end] for name, tensor in self.weights.items()},
            draws=self.draws[start:end],
            values={name: value[start:end] for name, value in self.values.items()},
        )

    def without_numbers(self) -> "Cohort":
        """Return the cohort with the weights' shapes and kinds alone (on torch's meta device): without their memory."""
        return replace(self, weights={name: tensor.to("meta") for name, tensor in self.weights.items()})

    def value(self, name: str, otherwise: Any) -> Any:
        """Return the [members] tensor of a hyperparameter, or `otherwise` where the members do not differ in it."""
        return self.values.get(name, otherwise)


class Step(NamedTuple):
    """One training step: a batch common to all members, and what schedules say of it.

    inputs: (batch, ...), prepared for the network. targets: (batch,), or (batch, classes) shares of soft labels. Both
    may be `Views`, where members see them in different ways.
    weights: (members, batch) float, at least 0, or None: each member's loss is sum(w * loss) / sum(w); a member whose
    weights are all 0 is not updated in this step. learning_rate, momentum: None leaves what is in use. average: the
    share that the weights get of their running average after the step, or None (see `Cohort.average`).
    """

    inputs: Shared
    targets: Shared
    weights: Tensor | None = None
    learning_rate: Number | None = None
    momentum: Number | None = None
    average: float | None = None

    def slice(self, start: int, end: int) -> "Step":
        """Return the step as the members from `start` to before `end` see it."""
        weights = None if self.weights is None else self.weights[start:end]
        return Step(
            slice_of(self.inputs, start, end),
            slice_of(self.targets, start, end),
            weights,
            _slice(self.learning_rate, start, end),
            _slice(self.momentum, start, end),
            self.average,
        )


Task = Callable[["Executor", int], None]
"""Given the executor of consecutive members, and the place of the first of them."""

Blocks = Iterator[tuple[int, Mapping[str, Tensor]]]
"""The place of a block's first member, and tensors by the template's names, (members of the block, ...)."""


class Executor(Protocol):
    """Trains the members of a cohort. Every executor computes the same steps; they differ in how.

    State is by name, every tensor with members in front: "model/<name>" weights and buffers, "optimizer/<name>/<slot>"
    what the update rule remembers of a parameter (and "optimizer/<number>" its counts), "average/<name>" the running
    averages where some are kept, "draws" the generators.
    """

    num_members: int

    def step(self, step: Step) -> None:
        """Train every member on one batch. May return before it is done."""

    def losses(self) -> Tensor:
        """Wait, and return the losses (steps since the last call, members) of what was trained, on the CPU."""

    def outputs(self, inputs: Shared) -> Tensor:
        """Wait, and return every member's outputs (members, batch, ...) in evaluation mode."""

    def visit(self, task: "Task") -> None:
        """Have `task` done where members are trained, after the steps so far; do not wait for it."""

    def live(self) -> "Blocks":
        """Yield weights and buffers as they are, of all members in some blocks; to be called within `visit` only."""

    def state(self) -> dict[str, Tensor]:
        """Wait, and return copies of all that going on needs."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state that `state` of an executor of the same kind has returned."""

    def close(self) -> None:
        """Let go of threads and memory."""


def _slice(number: Number | None, start: int, end: int) -> Number | None:
    return number[start:end] if isinstance(number, Tensor) and number.dim() else number
