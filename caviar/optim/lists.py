"""In-place arithmetic over lists of tensors, whose factors are numbers or [members] tensors.

A number goes to torch's foreach kernels. A [members] tensor is spread over the trailing axes of each tensor, whose
first axis is then members. Nothing here allocates memory of a tensor's size, and nothing reduces over members, so that
one member never depends on another.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from caviar.core.members import over_members

Number = float | Tensor
"""A hyperparameter: one number, or a tensor of shape [members] (or of no axes)."""

HALF = (torch.bfloat16, torch.float16)


class Slot(NamedTuple):
    """One piece of state for a list of parameters: a single stretch of memory, and its parts as views of it.

    What does not touch parameters or gradients (decay, roots) takes one kernel over `flat`; `parts` have the shapes
    and, where parameters are dense, the memory layouts of the parameters.
    """

    flat: Tensor
    parts: list[Tensor]


def is_zero(number: Number) -> bool:
    """Say whether a hyperparameter is the number 0 (a tensor is never taken to be, so nothing waits for a device)."""
    return not isinstance(number, Tensor) and number == 0


def is_one(number: Number) -> bool:
    """Say whether a hyperparameter is the number 1."""
    return not isinstance(number, Tensor) and number == 1


def exact(number: Number) -> Number:
    """Return a [members] tensor in float64, so that factors derived from it round as those of numbers do."""
    return number.double() if isinstance(number, Tensor) else number


def spread(number: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return a view of `number` for each tensor that broadcasts over its trailing axes, in a suitable type."""
    dtype = torch.float32 if like[0].dtype in HALF else like[0].dtype
    number = number.to(device=like[0].device, dtype=dtype)
    views: dict[int, Tensor] = {}
    for tensor in like:
        if tensor.dim() not in views:
            view = over_members(number, tensor)
            assert isinstance(view, Tensor)
            views[tensor.dim()] = view
    return [views[tensor.dim()] for tensor in like]


def scale(slot: Slot, factor: Number) -> None:
    """Compute slot *= factor."""
    if isinstance(factor, Tensor):
        torch._foreach_mul_(slot.parts, spread(factor, slot.parts))
    elif factor != 1:
        slot.flat.mul_(factor)


def shift(slot: Slot, amount: Number) -> None:
    """Compute slot += amount."""
    if isinstance(amount, Tensor):
        torch._foreach_add_(slot.parts, spread(amount, slot.parts))
    else:
        slot.flat.add_(amount)


def add(tensors: list[Tensor], others: list[Tensor], factor: Number = 1.0) -> None:
    """Compute tensors += factor * others."""
    if isinstance(factor, Tensor):
        torch._foreach_addcmul_(tensors, others, spread(factor, tensors))
    elif factor == 1:
        torch._foreach_add_(tensors, others)
    else:
        torch._foreach_add_(tensors, others, alpha=factor)


def scale_tensors(tensors: list[Tensor], factor: Number) -> None:
    """Compute tensors *= factor."""
    torch._foreach_mul_(tensors, spread(factor, tensors) if isinstance(factor, Tensor) else factor)


def average(slot: Slot, tensors: list[Tensor], decay: Number) -> None:
    """Compute slot = decay * slot + (1 - decay) * tensors."""
    mix_in(slot.parts, tensors, 1 - decay)


def mix_in(tensors: list[Tensor], others: list[Tensor], weight: Number) -> None:
    """Compute tensors += weight * (others - tensors)."""
    if not isinstance(weight, Tensor):
        torch._foreach_lerp_(tensors, others, weight)
    elif tensors[0].dtype not in HALF:
        torch._foreach_lerp_(tensors, others, spread(weight, tensors))
    else:  # torch's lerp wants weights of the same type, in which 1 - 0.999 would lose most of its digits
        scale_tensors(tensors, 1 - weight)
        add(tensors, others, weight)


def average_squares(slot: Slot, tensors: list[Tensor], decay: Number, temporary: Tensor) -> None:
    """Compute slot = decay * slot + (1 - decay) * tensors**2."""
    scale(slot, decay)
    if not isinstance(decay, Tensor):
        torch._foreach_addcmul_(slot.parts, tensors, tensors, 1 - decay)
        return
    for part, tensor, weight in zip(slot.parts, tensors, spread(1 - decay, tensors), strict=True):
        part.addcmul_(torch.mul(tensor, weight, out=_like(temporary, part)), tensor)


def add_quotients(
    tensors: list[Tensor], numerators: list[Tensor], denominators: list[Tensor], factor: Number, temporary: Tensor
) -> None:
    """Compute tensors += factor * numerators / denominators."""
    if not isinstance(factor, Tensor):
        torch._foreach_addcdiv_(tensors, numerators, denominators, factor)
        return
    each = zip(tensors, numerators, denominators, spread(factor, tensors), strict=True)
    for tensor, numerator, denominator, weight in each:
        tensor.addcmul_(torch.div(numerator, denominator, out=_like(temporary, tensor)), weight)


def _like(temporary: Tensor, tensor: Tensor) -> Tensor:
    return temporary[: tensor.numel()].view(tensor.shape)


def is_tensor(number: object) -> TypeGuard[Tensor]:
    """Say whether a hyperparameter is a tensor."""
    return isinstance(number, Tensor)
