"""Losses of a chain: their value for each member, and their gradient by the outputs."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from caviar.core.members import over_members
from caviar.core.settings import Settings
from caviar.nn.settings import CrossEntropySettings, MeanSquaredErrorSettings
from caviar.optim.lists import Number, is_one, is_zero
from caviar.population.chain_links import Batch, Call, Room, Signal
from caviar.population.cohort import Cohort


class Loss(Protocol):
    """The end of a chain."""

    def prepare(self, targets: Tensor, batch: Batch) -> float:
        """Take the targets of a step, and return what its losses must be multiplied with when they are read."""

    def lay(self, room: Room, outputs: Signal) -> Call:
        """Lay out a call that writes the losses into `batch.losses` and their gradient into the outputs' spare."""


def build_chain_loss(cohort: Cohort, num_outputs: int, like: Tensor) -> "Loss | str":
    """Return the loss of a cohort, or in words why there is none for a chain."""
    if isinstance(cohort.loss, MeanSquaredErrorSettings):
        return MeanSquaredError() if num_outputs == 1 else "mean squared error of several outputs is not laid out"
    if not isinstance(cohort.loss, Settings):
        return "the loss is one of your own"
    if not isinstance(cohort.loss, CrossEntropySettings):
        return f"the loss {cohort.loss.name} is not laid out"
    if num_outputs < 2:
        return "cross entropy needs two outputs"
    smoothing = cohort.value("label_smoothing", cohort.loss.label_smoothing)
    return CrossEntropy(num_outputs, smoothing, cohort.class_weights, like)


class CrossEntropy:
    """Softmax cross entropy, as `caviar.nn.losses.cross_entropy`; targets may be shares of classes as well.

    With targets T (classes, batch), smoothed and weighted by class, and factors e that make the mean, a member's loss
    is -sum e T log p, and its gradient e (p sum_c T - T).
    """

    def __init__(self, num_classes: int, smoothing: Number, class_weights: Tensor | None, like: Tensor) -> None:
        self._smoothing = smoothing.to(like) if isinstance(smoothing, Tensor) else smoothing
        self._class_weights = None if class_weights is None else class_weights.to(like)
        self._table = torch.eye(num_classes, dtype=like.dtype, device=like.device)
        if not isinstance(smoothing, Tensor):
            self._table = self._table * (1 - smoothing) + smoothing / num_classes
        self._num_classes = num_classes
        self._labels: Tensor | None = None
        self._targets = self._factors = self._table
        self._plain = True

    def prepare(self, targets: Tensor, batch: Batch) -> float:
        size = batch.inputs.shape[0]
        hard = targets.dim() == 1
        if hard:
            labels = targets.long()
            goals = self._table.index_select(1, labels)
        else:
            goals = targets.t().to(self._table)
            if not isinstance(self._smoothing, Tensor) and self._smoothing:
                goals = goals * (1 - self._smoothing) + self._smoothing / self._num_classes
        varied = isinstance(self._smoothing, Tensor)
        self._plain = batch.weights is None and self._class_weights is None and not varied
        self._labels = labels.view(1, 1, size) if self._plain and hard and is_zero(self._smoothing) else None
        self._targets = goals
        if self._plain:
            return -1.0 / size
        self._weigh(goals.unsqueeze(0), labels if hard else None, batch)
        return -1.0

    def _weigh(self, goals: Tensor, labels: Tensor | None, batch: Batch) -> None:
        """Set what differs between members: targets, and factors of the examples."""
        if isinstance(self._smoothing, Tensor):
            goals = goals.expand(len(self._smoothing), -1, -1)
            smoothing = over_members(self._smoothing, goals)
            goals = goals * (1 - smoothing) + smoothing / self._num_classes
        weights = goals.new_ones(1, goals.shape[2]) if batch.weights is None else batch.weights.to(goals)
        counted = weights
        if self._class_weights is not None:
            goals = goals * self._class_weights.view(1, -1, 1)
            counted = weights if labels is None else weights * self._class_weights[labels]
        total = counted.sum(dim=1, keepdim=True)
        self._targets = goals
        self._factors = (weights / torch.where(total > 0, total, 1.0)).unsqueeze(1)

    def lay(self, room: Room, outputs: Signal) -> Call:
        logits, errors, batch, rule = outputs.value, outputs.spare, room.batch, room.rule
        assert errors is not None
        logs, picked = torch.empty_like(logits), room.empty(1, logits.shape[2])
        start, end = room.start, room.start + room.num_members
        scratch = torch.empty_like(logits)

        def plain(losses: Tensor) -> None:
            if self._labels is not None:
                torch.gather(logs, 1, self._labels.expand_as(picked), out=picked)
                torch.sum(picked, (1, 2), out=losses)
            else:
                torch.mul(logs, self._targets, out=scratch)
                torch.sum(scratch, (1, 2), out=losses)
            torch.exp(logs, out=logs)
            torch.sub(logs, self._targets, out=errors)
            scale(errors, rule.error_scale, 1 / logits.shape[2])

        def varied(losses: Tensor) -> None:
            targets, factors = _own(self._targets, start, end), _own(self._factors, start, end)
            torch.sum(torch.mul(logs, targets, out=scratch).mul_(factors), (1, 2), out=losses)
            torch.exp(logs, out=logs).mul_(targets.sum(1, keepdim=True))
            torch.sub(logs, targets, out=errors).mul_(factors)
            scale(errors, rule.error_scale)

        def forward() -> None:
            losses = batch.losses[start:end]
            torch.log_softmax(logits, 1, out=logs)
            (plain if self._plain else varied)(losses)
            pass_over(batch.present, start, losses, errors)

        return forward


class MeanSquaredError:
    """The mean of (output - target)^2, weighted by examples."""

    def __init__(self) -> None:
        self._targets: Tensor = torch.empty(0)
        self._shares: Tensor | None = None

    def prepare(self, targets: Tensor, batch: Batch) -> float:
        self._targets, self._shares = targets.to(batch.inputs.dtype).view(1, -1), None
        if batch.weights is not None:
            total = batch.weights.sum(dim=1, keepdim=True)
            self._shares = (batch.weights / torch.where(total > 0, total, 1.0)).to(batch.inputs.dtype)
        return 1.0

    def lay(self, room: Room, outputs: Signal) -> Call:
        values, batch, rule, whole = outputs.value[:, 0], room.batch, room.rule, outputs.spare
        assert whole is not None
        errors, squares = whole[:, 0], torch.empty_like(values)
        start, end, size = room.start, room.start + room.num_members, values.shape[1]

        def forward() -> None:
            losses = batch.losses[start:end]
            torch.sub(values, self._targets, out=errors)
            torch.mul(errors, errors, out=squares)
            if self._shares is None:
                torch.sum(squares.mul_(1 / size), 1, out=losses)
                scale(errors, rule.error_scale, 2 / size)
            else:
                shares = self._shares[start:end]
                torch.sum(squares.mul_(shares), 1, out=losses)
                errors.mul_(shares)
                scale(errors, rule.error_scale, 2.0)
            pass_over(batch.present, start, losses, whole)

        return forward


def scale(errors: Tensor, factor: Number, further: float = 1.0) -> None:
    """Compute errors *= factor * further, where factor is a number or [members]."""
    if isinstance(factor, Tensor):
        errors.mul_(over_members(factor.to(errors) * further, errors))
    elif not is_one(factor * further):
        errors.mul_(factor * further)


def pass_over(present: Sequence[bool] | None, start: int, losses: Tensor, errors: Tensor) -> None:
    """Let members without a single example in the batch learn nothing from it, whatever came out."""
    if present is not None:
        for member in range(len(losses)):
            if not present[start + member]:
                losses[member] = 0
                errors[member] = 0


def _own(tensor: Tensor, start: int, end: int) -> Tensor:
    return tensor if len(tensor) == 1 else tensor[start:end]
