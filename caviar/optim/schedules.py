"""Schedules: functions from step to value, so that each can be tested and previewed point by point.

A step counts from 0, and `value` is the base rate. An epoch is steps_per_epoch steps and counts from 0 too. Past the
end of a schedule that has one its last value stays.

value and other real numbers (k, rate, factor, final, power, ...) may be a tensor of shape [members] with a number for
each, and so is then what comes back. Times (counts of steps, rise) and words are shared by all members.

Ranges: value, k, decay_rate and factors at least 0; factor and rate above 0 to 1; final from 0 to 1, start too (above 0
where the rise is exponential); rise between 0 and 1, both excluded; divisors at least 1; power above 0; counts of steps
at least 1; momentum from 0 to below 1. What lies outside is an InputError.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from caviar.core.errors import InputError
from caviar.optim.checks import check_number
from caviar.optim.lists import Number

Schedule = Callable[[int], Number]
"""Step (from 0) to value."""

Shape = Literal["linear", "cosine"]


def constant(value: Number) -> Schedule:
    """Return step -> value. When: a first look; with plateau or early stopping; small problems."""
    check_number("value", value, least=0.0)
    return lambda step: value  # noqa: ARG005


def step_decay(value: Number, every: int, factor: Number = 0.1) -> Schedule:
    """Return value * factor^floor(step / every): a drop after every so many steps.

    When: the classic for convolutional networks, a tenth after each 30 epochs (He et al. 2015).
    """
    check_number("value", value, least=0.0)
    _check_count("every", every)
    check_number("factor", factor, above=0.0, most=1.0)
    return lambda step: value * factor ** (step // every)


def staircase(value: Number, milestones: Sequence[int], factor: Number = 0.1) -> Schedule:
    """Return value * factor^(number of milestones reached): a drop at each step that is listed.

    When: drops are known to help at uneven times, such as after half and three quarters of the run.
    """
    check_number("value", value, least=0.0)
    check_number("factor", factor, above=0.0, most=1.0)
    _check_rising("milestones", milestones)
    stairs = tuple(milestones)
    return lambda step: value * factor ** bisect_right(stairs, step)


def exponential(value: Number, k: Number, steps_per_epoch: int = 1, *, whole_epochs: bool = False) -> Schedule:
    """Return value * e^(-k t), t the time in epochs; whole_epochs: it falls between epochs only.

    When: long runs that nobody wants to stage by hand; k = 0.05 halves the rate in 14 epochs.
    """
    check_number("value", value, least=0.0)
    check_number("k", k, least=0.0)
    time = _time_in_epochs(steps_per_epoch, whole_epochs)
    if isinstance(k, Tensor):
        return lambda step: value * torch.exp(-k * time(step))
    return lambda step: value * math.exp(-k * time(step))


def exponential_rate(
    value: Number, rate: Number = 0.95, steps_per_epoch: int = 1, *, whole_epochs: bool = True
) -> Schedule:
    """Return value * rate^epoch: `exponential` with k = -ln(rate), but by default it falls between epochs only."""
    check_number("value", value, least=0.0)
    check_number("rate", rate, above=0.0, most=1.0)
    time = _time_in_epochs(steps_per_epoch, whole_epochs)
    return lambda step: value * rate ** time(step)


def inverse_time(
    value: Number, decay_rate: Number = 1.0, steps_per_epoch: int = 1, *, whole_epochs: bool = True
) -> Schedule:
    """Return value / (1 + decay_rate * epoch), which meets the conditions of Robbins and Monro (1951).

    When: convex problems, and where theory is to hold; late rates stay higher than those of exponential decay.
    """
    check_number("value", value, least=0.0)
    check_number("decay_rate", decay_rate, least=0.0)
    time = _time_in_epochs(steps_per_epoch, whole_epochs)
    return lambda step: value / (1 + decay_rate * time(step))


def inverse_sqrt(value: Number, steps_per_epoch: int = 1) -> Schedule:
    """Return value / sqrt(t), t the epoch counted from 1 (the step, with one step an epoch).

    When: runs without a planned end; with warm-up, the first transformers (Vaswani et al. 2017).
    """
    check_number("value", value, least=0.0)
    time = _time_in_epochs(steps_per_epoch, True)
    return lambda step: value / math.sqrt(1 + time(step))


def linear(value: Number, total_steps: int, final: Number = 0.0) -> Schedule:
    """Return a straight line from value at step 0 to final * value at step total_steps - 1. When: fine-tuning."""
    return polynomial(value, total_steps, 1.0, final)


def polynomial(value: Number, total_steps: int, power: Number = 2.0, final: Number = 0.0) -> Schedule:
    """Return value * (final + (1 - final) * (1 - step / (total_steps - 1))^power).

    When: segmentation networks use power 0.9 (Chen et al. 2017), others 2 for long tails at low rates.
    """
    check_number("value", value, least=0.0)
    check_number("power", power, above=0.0)
    check_number("final", final, least=0.0, most=1.0)
    progress = _progress(total_steps)
    return lambda step: value * (final + (1 - final) * (1 - progress(step)) ** power)


def cosine(value: Number, total_steps: int, final: Number = 0.0) -> Schedule:
    """Return half a cosine from `value` at step 0 to `final` times it at the last step, total_steps - 1, and after it.

    value * (final + (1 - final) * (1 + cos(pi * step / (total_steps - 1))) / 2), Loshchilov and Hutter 2017 without
    restarts. A single step takes `value`. When: the usual choice for a run of known length.
    """
    check_number("value", value, least=0.0)
    check_number("final", final, least=0.0, most=1.0)
    progress = _progress(total_steps)
    return lambda step: value * (final + (1 - final) * (1 + math.cos(math.pi * progress(step))) / 2)


def cosine_restarts(value: Number, period: int, multiplier: int = 2, final: Number = 0.0) -> Schedule:
    """Return half cosines from value towards final * value, one after another, each multiplier times as long.

    Over a period of n steps, value * (final + (1 - final) * (1 + cos(pi * i / n)) / 2) for i = 0 to n - 1 (SGDR,
    Loshchilov and Hutter 2017). When: snapshots for an ensemble, one at the end of each period.
    """
    check_number("value", value, least=0.0)
    _check_count("period", period)
    _check_count("multiplier", multiplier)
    check_number("final", final, least=0.0, most=1.0)

    def at(step: int) -> Number:
        position, length = (step % period if multiplier == 1 else step), period
        while position >= length:
            position, length = position - length, length * multiplier
        return value * (final + (1 - final) * (1 + math.cos(math.pi * position / length)) / 2)

    return at


def one_cycle(
    value: Number,
    total_steps: int,
    rise: float = 0.3,
    start_divisor: Number = 25.0,
    final_divisor: Number = 1e4,
    shape: Shape = "cosine",
) -> Schedule:
    """Return the one-cycle policy of Smith and Topin (2018): one rise, one long fall.

    Up from value / start_divisor to value over the share `rise` of the steps, then down to
    value / start_divisor / final_divisor at the last. shape: "cosine" (half a cosine each) or "linear".
    When: short runs at rates that would be too high at first; let momentum go the other way (`one_cycle_momentum`).
    """
    check_number("value", value, least=0.0)
    check_number("start_divisor", start_divisor, least=1.0)
    check_number("final_divisor", final_divisor, least=1.0)
    cycle = _cycle(total_steps, rise, shape)
    start, end = 1 / start_divisor, 1 / (start_divisor * final_divisor)
    return lambda step: value * cycle(step, start, 1.0, end)


def one_cycle_momentum(
    high: Number, low: Number, total_steps: int, rise: float = 0.3, shape: Shape = "cosine"
) -> Schedule:
    """Return the momentum that goes with `one_cycle`: down from high to low as the rate rises, then back up."""
    check_number("high", high, least=0.0, below=1.0)
    check_number("low", low, least=0.0, below=1.0)
    cycle = _cycle(total_steps, rise, shape)
    return lambda step: high + (low - high) * cycle(step, 0.0, 1.0, 0.0)


def piecewise(
    value: Number, boundaries: Sequence[int], factors: Sequence[Number], *, interpolate: bool = False
) -> Schedule:
    """Return value * factors[i] from step boundaries[i - 1] on: a schedule by hand, one factor more than boundaries.

    interpolate: straight lines from factors[0] at step 0 through factors[i] at boundaries[i - 1], instead of stairs.
    When: a schedule from a paper or from experience that none of the others draws.
    """
    check_number("value", value, least=0.0)
    _check_rising("boundaries", boundaries)
    if len(factors) != len(boundaries) + 1:
        raise InputError(
            f"factors has {len(factors)} entries and boundaries {len(boundaries)}; give one factor more, the first for "
            "the steps before all boundaries."
        )
    for index, factor in enumerate(factors):
        check_number(f"factors[{index}]", factor, least=0.0)
    marks, heights = (0, *boundaries), tuple(factors)

    def at(step: int) -> Number:
        index = bisect_right(marks, step) - 1
        if not interpolate or index == len(boundaries):
            return value * heights[index]
        share = (step - marks[index]) / (marks[index + 1] - marks[index])
        return value * (heights[index] + share * (heights[index + 1] - heights[index]))

    return at


def warmup(
    schedule: Schedule, steps: int, start: Number = 0.01, kind: Literal["linear", "exponential"] = "linear"
) -> Schedule:
    """Return `schedule` after a rise of `steps` steps from start times its first value to that value.

    At step i < steps the first value is multiplied by start + (1 - start) i / steps, or by start^(1 - i / steps); the
    schedule itself begins at step `steps`. When: Adam on large networks, large batches, high rates (Goyal et al. 2017).
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise InputError(f"steps is {steps!r}; warm-up takes a whole number of steps, at least 0.")
    if kind not in ("linear", "exponential"):
        raise InputError(f"kind is {kind!r}; it must be 'linear' or 'exponential'.")
    if kind == "linear":
        check_number("start", start, least=0.0, most=1.0)
    else:
        check_number("start", start, above=0.0, most=1.0)

    def at(step: int) -> Number:
        if step >= steps:
            return schedule(step - steps)
        share = step / steps
        return schedule(0) * (start + (1 - start) * share if kind == "linear" else start ** (1 - share))

    return at


def _cycle(total_steps: int, rise: float, shape: Shape) -> Callable[[int, Number, Number, Number], Number]:
    """Return (step, start, top, end) -> height of a rise followed by a fall, both as `shape` says."""
    _check_count("total_steps", total_steps)
    check_number("rise", rise, above=0.0, below=1.0)
    if shape not in ("linear", "cosine"):
        raise InputError(f"shape is {shape!r}; it must be 'linear' or 'cosine'.")
    last = total_steps - 1
    top_at = min(max(rise * total_steps - 1, 0.0), float(last))

    def at(step: int, start: Number, top: Number, end: Number) -> Number:
        rising = step < top_at
        low, high = (start, top) if rising else (top, end)
        share = step / top_at if rising else (min(step, last) - top_at) / (last - top_at) if last > top_at else 0.0
        if shape == "linear":
            return low + (high - low) * share
        return high + (low - high) * (1 + math.cos(math.pi * share)) / 2

    return at


def _progress(total_steps: int) -> Callable[[int], float]:
    _check_count("total_steps", total_steps)
    last = total_steps - 1
    return lambda step: min(step / last, 1.0) if last else 0.0


def _time_in_epochs(steps_per_epoch: int, whole_epochs: bool) -> Callable[[int], float]:
    _check_count("steps_per_epoch", steps_per_epoch)
    if whole_epochs:
        return lambda step: step // steps_per_epoch
    return lambda step: step / steps_per_epoch


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} is {value!r}; it must be a whole number of at least 1.")


def _check_rising(name: str, steps: Sequence[int]) -> None:
    whole = all(isinstance(step, int) and not isinstance(step, bool) for step in steps)
    if not whole or any(b <= a for a, b in zip((0, *steps), steps, strict=False)):
        raise InputError(f"{name} is {tuple(steps)!r}; it must be whole steps above 0, each above the one before.")
