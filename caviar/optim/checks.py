"""What hyperparameters may be, in one table, and the words when they are not."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from torch import Tensor

from caviar.core.errors import InputError
from caviar.core.members import check_range

FROM_ZERO: Final = {"least": 0.0}
SHARE: Final = {"least": 0.0, "below": 1.0}

RANGES: Final[Mapping[str, Mapping[str, float]]] = {
    "lr": FROM_ZERO,
    "momentum": SHARE,
    "betas": SHARE,
    "alpha": SHARE,
    "eps": FROM_ZERO,
    "weight_decay": FROM_ZERO,
    "momentum_decay": FROM_ZERO,
    "slow_step": {"above": 0.0, "most": 1.0},
}
"""Name in a parameter group -> the range of a number, or of each number of a pair."""

ARGUMENTS: Final[Mapping[str, str]] = {"lr": "learning_rate", "alpha": "decay", "slow_step": "alpha"}
"""Name in a parameter group -> name of the argument, where they differ (groups use torch's names)."""

COUNTS: Final = frozenset({"period"})
PAIRS: Final = frozenset({"betas"})


def check_hyperparameters(values: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse a hyperparameter that is no number (or [members] tensor), not finite, or out of range."""
    for name in names:
        value, shown = values[name], ARGUMENTS.get(name, name)
        if name in COUNTS:
            _check_count(shown, value)
        elif name in PAIRS:
            _check_pair(shown, value, RANGES[name])
        else:
            check_number(shown, value, **RANGES[name])


def check_number(name: str, value: object, **limits: float) -> None:
    """Refuse what is not a real number or a tensor of such, or lies outside `limits` (those of `check_range`)."""
    if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
        raise InputError(
            f"{name} is {value!r}, a {type(value).__name__}; it must be a number, or a tensor of shape (members,)."
        )
    if isinstance(value, Tensor) and not value.is_floating_point():
        raise InputError(f"{name} is a tensor of {value.dtype}; it must hold floating-point numbers.")
    check_range(name, value, **limits)


def _check_pair(name: str, value: object, limits: Mapping[str, float]) -> None:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise InputError(f"{name} is {value!r}; it must be a pair of numbers, such as (0.9, 0.999).")
    for index, number in enumerate(value):
        check_number(f"{name}[{index}]", number, **limits)


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} is {value!r}; it must be a whole number of at least 1.")


def members_of(values: Mapping[str, Any], names: Iterable[str]) -> int | None:
    """Return the number of members that [members] hyperparameters have, or None when all are single numbers."""
    found: dict[int, str] = {}
    for name in names:
        value = values[name]
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, Tensor) and number.dim() == 1:
                found.setdefault(len(number), ARGUMENTS.get(name, name))
    if len(found) > 1:
        said = " and ".join(f"{name} has {count}" for count, name in found.items())
        raise InputError(f"the hyperparameters differ in their number of members: {said}. Give each as many.")
    return next(iter(found), None)
