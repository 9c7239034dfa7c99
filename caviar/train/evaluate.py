"""Run a network over a split without training it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from caviar.core.columns import Task
from caviar.core.examples import Examples
from caviar.train.metrics import confusion_matrix

EVALUATION_BATCH = 1000
MEMBERS_BATCH = 250
"""Examples that all members of a population are evaluated on at a time."""

Prepare = Callable[[Tensor], Tensor]
"""Turns stored inputs of a batch into what the network takes, on the device."""
PerExampleLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and the metric of the task on one split; for classes, the confusion matrix as well."""

    loss: float
    metric: float
    confusion: Tensor | None = None


def batches(examples: Examples, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets in stored order."""
    for start in range(0, len(examples), size):
        if examples.rows is None:
            yield examples.inputs[start : start + size], examples.targets[start : start + size]
        else:
            rows = examples.rows[start : start + size]
            yield examples.inputs.index_select(0, rows), examples.targets.index_select(0, rows)


@torch.no_grad()
def outputs_of(model: nn.Module, examples: Examples, prepare: Prepare, device: torch.device) -> Tensor:
    """Return the network's outputs for every example, on the CPU in float32; evaluation mode, mode put back after."""
    was_training = model.training
    model.eval()
    try:
        found = [model(prepare(x.to(device))).float().cpu() for x, _ in batches(examples, EVALUATION_BATCH)]
    finally:
        model.train(was_training)
    return torch.cat(found)


@torch.no_grad()
def evaluate(
    model: nn.Module, examples: Examples, prepare: Prepare, loss: PerExampleLoss, task: Task, device: torch.device
) -> Evaluation:
    """Return loss and metric (accuracy, or R2) over a split; nothing is read from the device before the end."""
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device="cpu" if device.type == "mps" else device)
    sums = _ClassSums() if task == "classification" else _SquareSums()
    try:
        for inputs, targets in batches(examples, EVALUATION_BATCH):
            labels = targets.to(device)
            outputs = model(prepare(inputs.to(device))).float()
            total += loss(outputs, labels).sum().to(total)
            sums.add(outputs, labels)
    finally:
        model.train(was_training)
    return sums.result(total.item() / len(examples))


class _ClassSums:
    def __init__(self) -> None:
        self._confusion: Tensor | None = None

    def add(self, logits: Tensor, labels: Tensor) -> None:
        counts = confusion_matrix(labels, logits.argmax(dim=1), logits.shape[1])
        self._confusion = counts if self._confusion is None else self._confusion + counts

    def result(self, loss: float) -> Evaluation:
        assert self._confusion is not None
        confusion = self._confusion.cpu()
        return Evaluation(loss, confusion.diagonal().sum().item() / confusion.sum().item(), confusion)


class _SquareSums:
    """R2 from sums; targets are standardised on train, so their mean is near 0 and squares do not cancel."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        y, error = targets.view(-1), outputs.view(-1) - targets.view(-1)
        self._parts.append(torch.stack([error.square().sum(), y.sum(), y.square().sum(), torch.ones_like(y).sum()]))

    def result(self, loss: float) -> Evaluation:
        error, y, y2, rows = torch.stack(self._parts).cpu().double().sum(dim=0).tolist()
        spread = y2 - y * y / rows
        return Evaluation(loss, 1 - error / spread if spread > 0 else float("nan"))
