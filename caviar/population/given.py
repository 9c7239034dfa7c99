"""What users give a population step by step, checked before it reaches threads."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from caviar.core.errors import InputError
from caviar.core.members import check_range
from caviar.population.views import Views


def numbers_of(name: str, given: Any) -> Tensor:
    """Return numbers of any kind as a float64 tensor on the CPU."""
    try:
        return torch.as_tensor(given, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} is {_kind(given)} that holds no numbers; give one number for each member, as a list or a tensor."
        ) from error


def whole_number(name: str, given: Any) -> int:
    """Return a whole number, and refuse everything else."""
    try:
        if int(given) == given and not isinstance(given, bool):
            return int(given)
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(f"{name} must be a whole number, but {given!r} arrived.")


def seeds_of(given: Any) -> list[int]:
    """Return one seed for each member."""
    if not isinstance(given, Sequence | Tensor) and not hasattr(given, "tolist"):
        raise InputError(f"seeds is {_kind(given)}; give a list of whole numbers, one for each member.")
    return [whole_number("a seed", number) for number in (given.tolist() if hasattr(given, "tolist") else given)]


def check_batch(inputs: Any, targets: Any) -> None:
    """Refuse a batch that is not one tensor of inputs and one of targets."""
    for name, value in (("inputs", inputs), ("targets", targets)):
        if not isinstance(value, Tensor | Views):
            raise InputError(
                f"{name} must be one tensor (batch, ...), but {_kind(value)} arrived. Make arrays and lists into "
                "tensors; a module that takes several inputs can take them joined in one and part them."
            )


def check_weights(weights: Any, members: int, examples: int) -> None:
    """Refuse weights of examples that are not (members, batch) finite numbers of at least 0."""
    if not isinstance(weights, Tensor):
        raise InputError(f"weights must be a tensor of shape ({members}, {examples}), but {_kind(weights)} arrived.")
    if tuple(weights.shape) != (members, examples):
        raise InputError(
            f"weights has shape {tuple(weights.shape)}; give one for each member and example: ({members}, {examples})."
        )
    if not weights.is_floating_point():
        raise InputError(f"weights holds {weights.dtype}; give numbers with a fraction: weights.float().")
    if weights.device.type == "cpu" and not bool(((weights >= 0) & torch.isfinite(weights)).all()):
        raise InputError("weights must be finite and at least 0. An example that a member shall not see weighs 0.")


def check_rate(name: str, value: Any, members: int) -> None:
    """Refuse a learning rate or momentum of a step that is no number, and not one for each member."""
    if value is None:
        return
    if not isinstance(value, float | int | Tensor) or (isinstance(value, Tensor) and value.numel() not in (1, members)):
        what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else _kind(value)
        raise InputError(f"{name} of a step must be a number or a tensor [{members}], but {what} arrived.")
    if isinstance(value, Tensor) and value.device.type != "cpu":
        return  # to look at it would be to wait for it
    check_range(name, value, least=0, **({"below": 1} if name == "momentum" else {}))


def _kind(value: Any) -> str:
    word = type(value).__name__
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
