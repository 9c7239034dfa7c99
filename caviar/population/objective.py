"""The loss of members: of all of them at once, or of a single one."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from caviar.nn.losses import LOSSES
from caviar.nn.settings import MeanSquaredErrorSettings
from caviar.population.cohort import Cohort

MembersLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""From outputs, targets and example weights (or None) to the mean loss: of each member, or of one."""


def members_loss(cohort: Cohort) -> MembersLoss:
    """Return the loss of stacked outputs (members, batch, ...): a tensor [members]."""
    return _loss(cohort, cohort.value("label_smoothing", None))


def member_loss(cohort: Cohort, member: int) -> MembersLoss:
    """Return the loss of one member's outputs (batch, ...): a number."""
    smoothing = cohort.value("label_smoothing", None)
    return _loss(cohort, None if smoothing is None else float(smoothing[member]))


def _loss(cohort: Cohort, smoothing: Tensor | float | None) -> MembersLoss:
    settings = cohort.loss
    options: dict[str, Any] = settings.model_dump(exclude={"name"})
    if isinstance(settings, MeanSquaredErrorSettings):
        options = {}
    if "class_weights" in options:
        options["class_weights"] = cohort.class_weights
    if smoothing is not None:
        options["label_smoothing"] = smoothing
    return partial(_call, partial(LOSSES[settings.name], **options))


def _call(loss: Callable[..., Tensor], outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    return loss(outputs, targets) if weights is None else loss(outputs, targets, example_weights=weights)
