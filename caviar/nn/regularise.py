"""Penalties on weights and the max-norm constraint, for one model or for stacked members.

Everything works on a list of parameters; `regularised_weights` picks the usual ones. With strengths of shape [members]
the parameters carry a leading members axis, values are [members], and every member is treated as it would be alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from caviar.core.errors import InputError
from caviar.core.members import check_range, is_per_member, over_members

if TYPE_CHECKING:
    from caviar.nn.settings import RegularizationSettings

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def regularised_weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that penalties reach by default: trainable, of two or more axes, and of no norm.

    Biases and norms set a level, not a strength, and are left alone. A parameter shared by layers counts once.
    """
    chosen: dict[nn.Parameter, bool] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad:
                chosen.setdefault(parameter, parameter.dim() >= 2 and not isinstance(module, NORMS))
    return [parameter for parameter, is_weight in chosen.items() if is_weight]


def l2_penalty(parameters: Iterable[Tensor], strength: float | Tensor) -> Tensor:
    """strength / 2 * sum of w^2: ridge; its gradient strength * w is what weight_decay adds in SGD.

    strength: at least 0, a number or [members]; 1e-5 to 1e-2 is usual. Draws all weights towards 0 in proportion to
    their size. When: train is much better than dev; with Adam and its relatives decoupled weight decay works better.
    """
    return elastic_net_penalty(parameters, l2=strength)


def l1_penalty(parameters: Iterable[Tensor], strength: float | Tensor) -> Tensor:
    """strength * sum of |w|: lasso; the gradient strength * sign(w), 0 at 0, drives small weights to about 0.

    strength: at least 0, a number or [members]. When: many inputs are of no use, or weights shall be cut off later.
    """
    return elastic_net_penalty(parameters, l1=strength)


def elastic_net_penalty(parameters: Iterable[Tensor], l1: float | Tensor = 0.0, l2: float | Tensor = 0.0) -> Tensor:
    """l1 * sum of |w| + l2 / 2 * sum of w^2 (Zou and Hastie, 2005), a term to add to the loss: a number or [members].

    In training, `add_penalty_gradients` costs less: it adds the gradient without a second pass through autograd.
    """
    weights = list(parameters)
    _check(weights, l1, l2)
    per_member = is_per_member(l1) or is_per_member(l2)
    total = None
    for weight in weights:
        rows = (
            weight.flatten(1)
            if per_member and weight.dim() > 1
            else weight.reshape(len(weight) if per_member else 1, -1)
        )
        term: Tensor | float = 0.0
        if _is_on(l1):
            term = term + l1 * rows.abs().sum(dim=1)
        if _is_on(l2):
            term = term + 0.5 * l2 * rows.square().sum(dim=1)
        if isinstance(term, Tensor):
            total = term if total is None else total + term
    if total is None:
        total = weights[0].new_zeros(len(weights[0]) if per_member else 1)
    return total if per_member else total.squeeze(0)


@torch.no_grad()
def add_penalty_gradients(parameters: Iterable[Tensor], l1: float | Tensor = 0.0, l2: float | Tensor = 0.0) -> None:
    """Add the gradient of `elastic_net_penalty`, l1 sign(w) + l2 w, to every parameter's gradient, in place.

    Call it between backward and the optimiser's step. Parameters without a gradient, or with a sparse one, are left
    alone. Numbers are not checked here: this runs in every step.
    """
    weights = [weight for weight in parameters if weight.grad is not None and not weight.grad.is_sparse]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if not weights:
        return
    if _is_on(l2):
        if isinstance(l2, Tensor):
            for weight, gradient in zip(weights, gradients, strict=True):
                gradient.addcmul_(weight, torch.as_tensor(over_members(l2.to(weight), weight)))
        else:
            torch._foreach_add_(gradients, weights, alpha=l2)
    if _is_on(l1):
        signs = torch._foreach_sign(weights)
        if isinstance(l1, Tensor):
            for sign, gradient in zip(signs, gradients, strict=True):
                gradient.addcmul_(sign, torch.as_tensor(over_members(l1.to(sign), sign)))
        else:
            torch._foreach_add_(gradients, signs, alpha=l1)


@torch.no_grad()
def limit_norms(parameters: Iterable[Tensor], max_norm: float | Tensor) -> None:
    """Scale every unit's incoming weights back to length `max_norm` where they are longer (Srebro et al., 2004).

    w_unit <- w_unit min(1, max_norm / |w_unit|), in place, after the optimiser's step; with dropout 3 or 4 is usual
    (Srivastava et al., 2014). A unit is a row of the first axis (after members): of a linear layer or a convolution, or
    a vector of an embedding. max_norm: greater than 0, a number or [members].
    """
    if not isinstance(max_norm, Tensor) and not max_norm > 0:
        check_range("max_norm", max_norm, above=0)
    for weight in parameters:
        units_to = 2 if is_per_member(max_norm) else 1
        if weight.dim() <= units_to:
            continue
        lengths = torch.linalg.vector_norm(weight, dim=tuple(range(units_to, weight.dim())), keepdim=True)
        limit = max_norm.to(weight) if isinstance(max_norm, Tensor) else lengths.new_full((), max_norm)
        weight.mul_((over_members(limit, lengths) / lengths).clamp_max(1.0))


@dataclass(frozen=True)
class Regularizer:
    """What the loop calls: penalties between backward and step, the constraint after it; on fixed parameters."""

    parameters: Sequence[Tensor]
    l1: float | Tensor = 0.0
    l2: float | Tensor = 0.0
    max_norm: float | Tensor | None = None

    def __post_init__(self) -> None:
        _check(self.parameters, self.l1, self.l2)
        if self.max_norm is not None:
            check_range("max_norm", self.max_norm, above=0)

    def add_gradients(self) -> None:
        """Add the penalties' gradient to the parameters' gradients."""
        if _is_on(self.l1) or _is_on(self.l2):
            add_penalty_gradients(self.parameters, self.l1, self.l2)

    def constrain(self) -> None:
        """Bring the parameters back inside the constraint."""
        if self.max_norm is not None:
            limit_norms(self.parameters, self.max_norm)

    def penalty(self) -> Tensor:
        """Return the value of the penalties."""
        return elastic_net_penalty(self.parameters, self.l1, self.l2)


def build_regularizer(settings: "RegularizationSettings", model: nn.Module) -> Regularizer | None:
    """Return what a recipe's section [regularization] asks for on a model's weights, or None for nothing."""
    max_norm = None if settings.max_norm == "none" else settings.max_norm
    if settings.l1 == 0 and settings.l2 == 0 and max_norm is None:
        return None
    weights = regularised_weights(model)
    if not weights:
        raise InputError(
            f"{type(model).__name__} has no trainable weight to regularise (biases and norms do not count). Set "
            'regularization.l1 and l2 to 0 and max_norm to "none".'
        )
    return Regularizer(weights, settings.l1, settings.l2, max_norm)


def _is_on(strength: float | Tensor) -> bool:
    """Whether a strength is not the number 0; a tensor is not read: that would synchronise."""
    return isinstance(strength, Tensor) or strength != 0


def _check(weights: Sequence[Tensor], l1: float | Tensor, l2: float | Tensor) -> None:
    check_range("l1", l1, least=0)
    check_range("l2", l2, least=0)
    if not weights:
        raise InputError("there are no parameters to penalise. Give at least one.")
    for strength in (l1, l2):
        for weight in weights if is_per_member(strength) else ():
            over_members(strength, weight)
