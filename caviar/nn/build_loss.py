"""From settings to a loss."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from caviar.core.columns import Task
from caviar.core.errors import InputError
from caviar.nn.losses import LOSSES, Reduction, balanced_class_weights
from caviar.nn.settings import (
    AutoLossSettings,
    CrossEntropySettings,
    HuberSettings,
    LossSettings,
    MeanSquaredErrorSettings,
)

Loss = Callable[[Tensor, Tensor], Tensor]

DEFAULTS: Final[dict[Task, str]] = {"classification": "cross_entropy", "regression": "mean_squared_error"}
NUMBER_LOSSES: Final = (MeanSquaredErrorSettings, HuberSettings)


def resolve_loss(settings: LossSettings, task: Task, num_classes: int | None = None) -> LossSettings:
    """Replace "auto" by the task's loss; a loss, or class weights, that do not fit the task are an InputError."""
    resolved = _chosen(settings, task) if isinstance(settings, AutoLossSettings) else settings
    if isinstance(resolved, NUMBER_LOSSES) != (task == "regression"):
        fitting = [name for name in LOSSES if (name in ("mean_squared_error", "huber")) == (task == "regression")]
        raise InputError(
            f"loss.name = {resolved.name!r} does not fit a {task} task. Use {', '.join(map(repr, fitting))} or 'auto'."
        )
    weights = getattr(resolved, "class_weights", "none")
    if isinstance(weights, tuple):
        _check_weights(weights, num_classes)
    return resolved


def _chosen(settings: AutoLossSettings, task: Task) -> LossSettings:
    if task == "classification":
        return CrossEntropySettings(label_smoothing=settings.label_smoothing, class_weights=settings.class_weights)
    for key, neutral in (("label_smoothing", 0.0), ("class_weights", "none")):
        value = getattr(settings, key)
        if value != neutral:
            raise InputError(
                f"loss.{key} = {value} has no meaning for 'mean_squared_error', the loss for numbers: there are no "
                f"classes. Set it to {neutral!r}."
            )
    return MeanSquaredErrorSettings()


def _check_weights(weights: tuple[float, ...], num_classes: int | None) -> None:
    if num_classes is not None and len(weights) != num_classes:
        raise InputError(
            f"loss.class_weights has {len(weights)} entries, but there are {num_classes} classes. Give one weight for "
            "each class, in the order of the classes."
        )
    if sum(weights) <= 0:
        raise InputError("loss.class_weights are all 0, so nothing would be learned. Give at least one above 0.")


def build_loss(
    settings: LossSettings, task: Task, reduction: Reduction = "mean", class_counts: Sequence[int] | None = None
) -> Loss:
    """Return (outputs, targets) -> loss: the mean over the batch, or with reduction "none" one number an example.

    class_counts: training examples of each class, which class_weights = "balanced" needs.
    """
    num_classes = None if class_counts is None else len(class_counts)
    resolved = resolve_loss(settings, task, num_classes)
    options: dict[str, Any] = resolved.model_dump(exclude={"name"})
    if isinstance(resolved, MeanSquaredErrorSettings):
        options = {}
    if "class_weights" in options:
        options["class_weights"] = _class_weights(options["class_weights"], class_counts)
    return partial(LOSSES[resolved.name], reduction=reduction, **options)


def _class_weights(wanted: str | tuple[float, ...], class_counts: Sequence[int] | None) -> Tensor | None:
    if wanted == "none":
        return None
    if wanted == "balanced":
        if class_counts is None:
            raise ValueError("balanced class weights need the classes' counts")
        return balanced_class_weights(class_counts)
    assert isinstance(wanted, tuple)
    return torch.tensor(wanted)
