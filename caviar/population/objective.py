"""The loss of members: of all of them at once, or of a single one."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor

from caviar.core.errors import InputError
from caviar.core.settings import Settings
from caviar.nn.losses import LOSSES
from caviar.nn.settings import MeanSquaredErrorSettings
from caviar.population.cohort import Cohort, OwnLoss

MembersLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""From outputs, targets and example weights (or None) to the mean loss: of each member, or of one."""


def members_loss(cohort: Cohort) -> MembersLoss:
    """Return the loss of stacked outputs (members, batch, ...): a tensor [members]."""
    if is_own_loss(cohort.loss):
        return partial(_each, _own_loss(cohort))
    return _loss(cohort, cohort.value("label_smoothing", None))


def member_loss(cohort: Cohort, member: int) -> MembersLoss:
    """Return the loss of one member's outputs (batch, ...): a number."""
    if is_own_loss(cohort.loss):
        return _own_loss(cohort)
    smoothing = cohort.value("label_smoothing", None)
    return _loss(cohort, None if smoothing is None else float(smoothing[member]))


def _loss(cohort: Cohort, smoothing: Tensor | float | None) -> MembersLoss:
    settings = cohort.loss
    assert isinstance(settings, Settings)
    options: dict[str, Any] = settings.model_dump(exclude={"name"})
    if isinstance(settings, MeanSquaredErrorSettings):
        options = {}
    if "class_weights" in options:
        options["class_weights"] = cohort.class_weights
    if smoothing is not None:
        if "label_smoothing" not in options:
            raise InputError(f"members differ in label_smoothing, which the loss {settings.name} does not have.")
        options["label_smoothing"] = smoothing
    return partial(_call, partial(LOSSES[settings.name], **options))


def is_own_loss(loss: object) -> TypeGuard[OwnLoss]:
    """Whether a loss is a user's function, not a recipe's section."""
    return callable(loss) and not isinstance(loss, type)


def _own_loss(cohort: Cohort) -> MembersLoss:
    if "label_smoothing" in cohort.values:
        raise InputError("members differ in label_smoothing, which a loss of your own is not told. Name cross_entropy.")
    assert is_own_loss(cohort.loss)
    return partial(_own, cohort.loss)


def _own(loss: OwnLoss, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    if weights is not None:
        raise InputError("a loss of your own is not told the examples' weights. Name one of caviar's, or drop weights.")
    found = loss(outputs, targets)
    if not isinstance(found, Tensor) or found.numel() != 1:
        what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise InputError(f"the loss gave {what}; it must give one number, the mean over the batch.")
    return found.reshape(())


def _each(loss: MembersLoss, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """Apply a loss of one member to each."""
    return torch.stack([loss(own, targets, weights) for own in outputs.unbind(0)])


def _call(loss: Callable[..., Tensor], outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    return loss(outputs, targets) if weights is None else loss(outputs, targets, example_weights=weights)
