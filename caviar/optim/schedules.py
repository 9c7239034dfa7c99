"""Schedules: functions from step to learning rate, so that each can be tested and plotted point by point."""

import math
from collections.abc import Callable

from caviar.optim.settings import ConstantSettings, CosineSettings

Schedule = Callable[[int], float]


def constant(value: float) -> Schedule:
    """Return step -> value."""
    return lambda step: value  # noqa: ARG005


def cosine(value: float, total_steps: int, final: float = 0.0) -> Schedule:
    """Return half a cosine from `value` at step 0 to `final` times it at the last step, total_steps - 1, and after it.

    value * (final + (1 - final) * (1 + cos(pi * step / (total_steps - 1))) / 2), Loshchilov and Hutter 2017 without
    restarts. A single step takes `value`.
    """
    last = total_steps - 1

    def at(step: int) -> float:
        progress = min(step / last, 1.0) if last else 0.0
        return value * (final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)

    return at


def build_schedule(settings: ConstantSettings | CosineSettings, learning_rate: float, total_steps: int) -> Schedule:
    """Return step -> learning rate, for the steps 0 to total_steps - 1 of a run."""
    if total_steps < 1:
        raise ValueError(f"total_steps is {total_steps}; a schedule needs at least one step")
    if isinstance(settings, CosineSettings):
        return cosine(learning_rate, total_steps, settings.final)
    return constant(learning_rate)
