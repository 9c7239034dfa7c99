"""A set-up on the workbench: what several checks need to know of it, measured once, when it is first asked for."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from caviar.diagnose.checks_outputs import Kind, constant_loss, loss_kind, neutral_loss
from caviar.diagnose.checks_setup import Batch, Setup
from caviar.diagnose.checks_tiny import Tiny, fit_tiny
from caviar.nn.probe import first_tensor
from caviar.nn.statistics import ActivationStatistics, activation_statistics

T = TypeVar("T")

ROWS = 256
"""Examples that one forward pass of a check takes at most."""


class Subject:
    """A set-up and the measurements that checks share. Nothing here changes the set-up."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._known: dict[Any, Any] = {}

    def once(self, measure: "Callable[[Subject], T]") -> T:
        """Return what `measure` makes of this subject, computed when it is first asked for."""
        if measure not in self._known:
            self._known[measure] = measure(self)
        found: T = self._known[measure]
        return found

    @cached_property
    def batch(self) -> Batch:
        """Some training examples, for forward passes."""
        return self.setup.train.take(slice(ROWS))

    @cached_property
    def outputs(self) -> Tensor | None:
        """The fresh model's outputs for `batch` in training mode without dropout; None where they are no one tensor."""
        with torch.no_grad():
            found = self.setup.fresh(training=self.trains, dropout=False)(self.batch.inputs)
        return found.detach() if isinstance(found, Tensor) and found.is_floating_point() else None

    @cached_property
    def trains(self) -> bool:
        """Whether a forward pass in training mode is possible: batch norm needs more than one example."""
        return len(self.batch) > 1

    @cached_property
    def kind(self) -> Kind:
        """What the loss takes the outputs for."""
        if self.outputs is None:
            return "unknown"
        return loss_kind(self.setup.loss, self.outputs, self.batch.targets)

    @cached_property
    def start(self) -> float:
        """The loss of the fresh model on `batch`, training mode, without dropout."""
        with torch.no_grad():
            model = self.setup.fresh(training=self.trains, dropout=False)
            return float(self.setup.loss(model(self.batch.inputs), self.batch.targets))

    @cached_property
    def constant(self) -> float:
        """The loss of the best constant output on `batch`."""
        assert self.outputs is not None
        return constant_loss(self.setup.loss, self.kind, self.outputs, self.batch.targets)[0]

    @cached_property
    def neutral(self) -> float:
        """The loss of outputs that prefer nothing, on `batch`."""
        assert self.outputs is not None
        return neutral_loss(self.setup.loss, self.kind, self.outputs, self.batch.targets)

    @cached_property
    def statistics(self) -> list[ActivationStatistics]:
        """Statistics of every layer's outputs at the start, in training mode."""
        return activation_statistics(self.setup.fresh(), self.batch.inputs, training=self.trains)

    @cached_property
    def tiny(self) -> Tiny:
        """How a tiny sample was learned."""
        assert self.outputs is not None
        return fit_tiny(self.setup, self.kind, self.outputs)

    @cached_property
    def parts(self) -> tuple[Batch, Batch]:
        """Examples to learn from for a moment, and others to judge by: dev, or a fourth of train."""
        train, dev = self.setup.train, self.setup.dev
        if dev is not None:
            return train, dev
        held_out = len(train) // 4
        return train.take(slice(held_out, None)), train.take(slice(held_out))

    @cached_property
    def gradients(self) -> dict[str, Tensor | None]:
        """The gradient of the loss on `batch` for each trainable parameter by name; None where none arrives."""
        model = self.setup.fresh(training=self.trains, dropout=False)
        return gradients_of(model, self.setup, self.batch)


def gradients_of(model: nn.Module, setup: Setup, batch: Batch) -> dict[str, Tensor | None]:
    """Return the gradient of the batch's loss for each trainable parameter, leaving `.grad` alone everywhere."""
    named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    loss = setup.loss(model(batch.inputs), batch.targets)
    if not named or not loss.requires_grad:
        return {name: None for name, _ in named}
    found = torch.autograd.grad(loss, [each for _, each in named], allow_unused=True)
    return {
        name: None if gradient is None else gradient.detach().to_dense()
        for (name, _), gradient in zip(named, found, strict=True)
    }


def first_output(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the first tensor of the model's outputs, without a graph."""
    with torch.no_grad():
        found = first_tensor(model(inputs))
    if found is None:
        raise TypeError("the model returns no tensor")
    return found


def tails(values: Tensor, share: float = 0.02) -> tuple[Tensor, Tensor]:
    """Return the values of each column (axis 0) below and above which only `share` of its values lie."""
    ordered = values.sort(0).values
    last = len(values) - 1
    return ordered[round(share * last)], ordered[round((1 - share) * last)]
