"""Hyperparameters that are one number, or one number for each member of a population."""

import torch
from torch import Tensor

from caviar.core.errors import InputError


def over_members(value: float | Tensor, like: Tensor) -> float | Tensor:
    """Return `value` so that it broadcasts against `like`, whose first axis is members where value is [members].

    A number, or a tensor without axes, comes back as it is; [members] becomes [members, 1, ..., 1].
    Raises InputError when the counts of members differ.
    """
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    if value.dim() != 1 or like.dim() == 0 or len(value) != len(like):
        raise InputError(
            f"a value of shape {tuple(value.shape)} does not fit a tensor of shape {tuple(like.shape)}. Give one "
            "number, or one number for each member: shape (members,), as long as the tensor's first axis."
        )
    return value.view(-1, *[1] * (like.dim() - 1))


def cast_over_members(value: float | Tensor, like: Tensor) -> float | Tensor:
    """Return `over_members(value, like)` in the number type and on the device of `like`, so that nothing is widened."""
    return over_members(value.to(like) if isinstance(value, Tensor) else value, like)


def is_per_member(value: object) -> bool:
    """Say whether a hyperparameter holds one number for each member."""
    return isinstance(value, Tensor) and value.dim() == 1


def check_range(
    name: str,
    value: float | Tensor,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Refuse a number, or any number of a [members] tensor, outside its range; NaN and infinity always.

    least <= value, above < value, value <= most, value < below. Raises InputError naming the argument, what arrived
    and what is allowed. A tensor on an accelerator is read back, so check when something is built, not in every step.
    """
    numbers = torch.as_tensor(value, device="cpu").detach().double()
    ok = torch.isfinite(numbers)
    if numbers.dim() > 1:
        raise InputError(f"{name} has shape {tuple(numbers.shape)}; it must be a number or of shape (members,).")
    words: list[str] = []
    if least is not None:
        ok, words = ok & (numbers >= least), [*words, f"at least {least:g}"]
    if above is not None:
        ok, words = ok & (numbers > above), [*words, f"greater than {above:g}"]
    if most is not None:
        ok, words = ok & (numbers <= most), [*words, f"at most {most:g}"]
    if below is not None:
        ok, words = ok & (numbers < below), [*words, f"below {below:g}"]
    if bool(ok.all()):
        return
    rule = f"{name} must be {' and '.join(words) or 'a finite number'}"
    if numbers.dim() == 0:
        raise InputError(f"{rule}, but {float(numbers):g} arrived.")
    member = int((~ok).nonzero()[0])
    raise InputError(f"{rule}, but {float(numbers[member]):g} arrived for member {member}.")
