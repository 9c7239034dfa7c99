"""What training minimises, as functions of (outputs, targets) on torch.nn.functional."""

from collections.abc import Callable
from functools import partial
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional

from caviar.core.columns import Task
from caviar.core.errors import InputError
from caviar.nn.settings import LossSettings

Loss = Callable[[Tensor, Tensor], Tensor]
Reduction = Literal["mean", "none"]

DEFAULTS: Final[dict[Task, Literal["cross_entropy", "mean_squared_error"]]] = {
    "classification": "cross_entropy",
    "regression": "mean_squared_error",
}


def cross_entropy(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, reduction: Reduction = "mean"
) -> Tensor:
    """Softmax cross entropy -sum_c q_c log softmax(logits)_c, in nats.

    logits (batch, classes), targets (batch,) class numbers. q is 1 - s at the label plus s / classes everywhere, where
    s = label_smoothing (Szegedy et al. 2016). Half-precision logits are widened first: a sum of
    exponentials needs the digits.
    """
    return functional.cross_entropy(
        _at_least_float32(logits), targets, label_smoothing=label_smoothing, reduction=reduction
    )


def mean_squared_error(outputs: Tensor, targets: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """(outputs - targets)^2 for outputs (batch,) or (batch, 1) and targets (batch,)."""
    return functional.mse_loss(_at_least_float32(outputs).reshape(targets.shape), targets, reduction=reduction)


def resolve_loss(settings: LossSettings, task: Task) -> LossSettings:
    """Replace "auto" by the task's loss; a loss that does not fit the task is an InputError."""
    name = DEFAULTS[task] if settings.name == "auto" else settings.name
    if name != DEFAULTS[task]:
        raise InputError(f'loss.name = {name!r} does not fit a {task} task. Use {DEFAULTS[task]!r}, or "auto".')
    if name != "cross_entropy" and settings.label_smoothing > 0:
        raise InputError(
            f"loss.label_smoothing = {settings.label_smoothing} has no meaning for {name!r}: there are no classes to "
            "spread a label over. Set it to 0."
        )
    return settings.model_copy(update={"name": name})


def build_loss(settings: LossSettings, task: Task, reduction: Reduction = "mean") -> Loss:
    """Return (outputs, targets) -> loss: the mean over the batch, or with reduction "none" one number an example."""
    resolved = resolve_loss(settings, task)
    if resolved.name == "cross_entropy":
        return partial(cross_entropy, label_smoothing=resolved.label_smoothing, reduction=reduction)
    return partial(mean_squared_error, reduction=reduction)


def _at_least_float32(outputs: Tensor) -> Tensor:
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs
