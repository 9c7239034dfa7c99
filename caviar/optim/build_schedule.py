"""From the section [schedule] to a function of the step."""

from collections.abc import Sequence
from itertools import pairwise

from caviar.core.errors import InputError
from caviar.optim import schedules
from caviar.optim.lists import Number, is_zero
from caviar.optim.plateau import Plateau, Plateaus
from caviar.optim.schedule_settings import (
    CosineRestartsSettings,
    CosineSettings,
    ExponentialSettings,
    InverseSqrtSettings,
    InverseTimeSettings,
    LinearSettings,
    OneCycleSettings,
    PiecewiseSettings,
    PlateauSettings,
    PolynomialSettings,
    ScheduleSettings,
    StaircaseSettings,
    StepSettings,
)
from caviar.optim.schedules import Schedule
from caviar.optim.settings import OptimizerSettings


def build_schedule(
    settings: ScheduleSettings,
    learning_rate: Number,
    total_steps: int,
    steps_per_epoch: int = 1,
    metric: str = "loss",
) -> Schedule | Plateau:
    """Return step -> learning rate, for the steps 0 to total_steps - 1 of a run.

    A warm-up comes first; the schedule's own epochs and shares of the run count from its end. metric: what a plateau
    will be told ("loss" shall fall, all else grow); a plateau is the one schedule that must be told (`observe`).
    """
    if total_steps < 1:
        raise ValueError(f"total_steps is {total_steps}; a schedule needs at least one step")
    rising = warmup_steps(settings, total_steps)
    rise = (rising, settings.warmup_start, settings.warmup_kind)
    if isinstance(settings, PlateauSettings):
        return _plateau(settings, learning_rate, metric, schedules.warmup(schedules.constant(1.0), *rise))
    course = _course(settings, learning_rate, max(1, total_steps - rising), steps_per_epoch)
    return schedules.warmup(course, *rise) if rising else course


def build_plateaus(settings: PlateauSettings, rates: Sequence[float], total_steps: int, metric: str) -> Plateaus:
    """Return a plateau for each member of a population, of its own learning rate; see `build_schedule`."""
    rising = warmup_steps(settings, total_steps)
    rise = schedules.warmup(schedules.constant(1.0), rising, settings.warmup_start, settings.warmup_kind)
    return Plateaus([_plateau(settings, rate, metric, None) for rate in rates], rise)


def momentum_of(settings: OptimizerSettings) -> float | None:
    """Return a rule's momentum, or the first of its betas, or None when it has neither."""
    momentum: float | None = getattr(settings, "momentum", None)
    return settings.betas[0] if momentum is None and hasattr(settings, "betas") else momentum


def check_schedule(settings: ScheduleSettings, optimizer: OptimizerSettings) -> None:
    """Raise an InputError when a schedule's settings contradict each other, or need momentum that the rule lacks."""
    build_schedule(settings, 1.0, total_steps=1_000_000, steps_per_epoch=1_000)
    build_momentum_schedule(settings, momentum_of(optimizer), total_steps=1_000_000)


def build_momentum_schedule(settings: ScheduleSettings, momentum: Number | None, total_steps: int) -> Schedule | None:
    """Return step -> momentum where the schedule moves it (one_cycle with low_momentum), else None."""
    if not isinstance(settings, OneCycleSettings) or settings.low_momentum == "none":
        return None
    if momentum is None or is_zero(momentum):
        raise InputError('schedule.low_momentum moves momentum, but the update rule has none. Set it to "none".')
    rising = warmup_steps(settings, total_steps)
    course = schedules.one_cycle_momentum(
        momentum, settings.low_momentum, max(1, total_steps - rising), settings.rise, settings.shape
    )
    return lambda step: course(max(0, step - rising))


def warmup_steps(settings: ScheduleSettings, total_steps: int) -> int:
    """Return how many steps the rate rises first, at most all but one."""
    if settings.warmup == "none":
        return 0
    steps = settings.warmup if isinstance(settings.warmup, int) else round(settings.warmup * total_steps)
    return min(steps, total_steps - 1)


def _course(settings: ScheduleSettings, value: Number, total: int, per_epoch: int) -> Schedule:
    """Return what comes after the warm-up."""
    if isinstance(settings, StepSettings):
        return schedules.step_decay(value, _steps([settings.every], total, per_epoch)[0], settings.factor)
    if isinstance(settings, StaircaseSettings):
        return schedules.staircase(value, _steps(settings.milestones, total, per_epoch), settings.factor)
    if isinstance(settings, ExponentialSettings):
        if settings.k != "none":
            return schedules.exponential(value, settings.k, per_epoch, whole_epochs=settings.whole_epochs)
        return schedules.exponential_rate(value, settings.rate, per_epoch, whole_epochs=settings.whole_epochs)
    if isinstance(settings, InverseTimeSettings):
        return schedules.inverse_time(value, settings.decay_rate, per_epoch, whole_epochs=settings.whole_epochs)
    if isinstance(settings, InverseSqrtSettings):
        return schedules.inverse_sqrt(value, per_epoch if settings.unit == "epoch" else 1)
    if isinstance(settings, LinearSettings):
        return schedules.linear(value, total, settings.final)
    if isinstance(settings, CosineSettings):
        return schedules.cosine(value, total, settings.final)
    if isinstance(settings, CosineRestartsSettings):
        period = _steps([settings.period], total, per_epoch)[0]
        return schedules.cosine_restarts(value, period, settings.multiplier, settings.final)
    if isinstance(settings, PolynomialSettings):
        return schedules.polynomial(value, total, settings.power, settings.final)
    if isinstance(settings, OneCycleSettings):
        start, end, rise = settings.start_divisor, settings.final_divisor, settings.rise
        return schedules.one_cycle(value, total, rise, start, end, settings.shape)
    if isinstance(settings, PiecewiseSettings):
        boundaries = _steps(settings.boundaries, total, per_epoch)
        return schedules.piecewise(value, boundaries, settings.factors, interpolate=settings.interpolate)
    return schedules.constant(value)


def _plateau(settings: PlateauSettings, value: Number, metric: str, rise: Schedule | None) -> Plateau:
    return Plateau(
        value,
        settings.factor,
        settings.patience,
        settings.threshold,
        settings.cooldown,
        settings.minimum,
        grows=metric != "loss",
        rise=rise,
    )


def _steps(times: Sequence[int | float], total: int, per_epoch: int) -> list[int]:
    """Return times in steps: whole epochs, or shares of the run; at least 1, and each later than the one before.

    Rounding may bring two shares of a very short run together; then the later one moves on by a step.
    """
    for one, other in pairwise(times):
        if type(one) is type(other) and other <= one:
            raise InputError(f"the schedule's times are {tuple(times)}; give each above the one before.")
    found: list[int] = []
    for time in times:
        steps = time * per_epoch if isinstance(time, int) else round(time * total)
        found.append(max(steps, found[-1] + 1 if found else 1))
    return found
