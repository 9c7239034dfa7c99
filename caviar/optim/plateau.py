"""A schedule that listens: the rate falls when the metric no longer improves."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from caviar.core.errors import InputError
from caviar.optim.checks import check_number
from caviar.optim.lists import Number


class Plateau:
    """Multiplies the rate by `factor` once the metric has not improved for more than `patience` observations.

    A schedule with a memory: `plateau(step)` (or `value(step)`) is the present rate; call `observe(metric)` after each
    epoch, and keep `state()` with a checkpoint for `load`.

    grows: whether a larger metric is better (an accuracy) instead of a smaller one (a loss). threshold: what counts as
    better is better by this share; where the metric grows, by this much. cooldown: observations after a drop that do
    not count. minimum: the smallest share of the rate. rise: step -> factor, for a warm-up in front.
    When: the length of the run is not known in advance.
    Raises InputError when an argument is out of range.
    """

    def __init__(
        self,
        value: Number,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        cooldown: int = 0,
        minimum: float = 0.0,
        *,
        grows: bool = False,
        rise: Callable[[int], Number] | None = None,
    ) -> None:
        check_number("value", value, least=0.0)
        check_number("factor", factor, above=0.0, below=1.0)
        check_number("threshold", threshold, least=0.0)
        check_number("minimum", minimum, least=0.0, most=1.0)
        for name, count in (("patience", patience), ("cooldown", cooldown)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise InputError(f"{name} is {count!r}; it must be a whole number of at least 0.")
        self._base, self._factor, self._minimum = value, factor, minimum
        self._patience, self._threshold, self._cooldown = patience, threshold, cooldown
        self._grows, self._rise = grows, rise
        self._best = math.nan
        self._waited = self._cooling = self._drops = 0

    def value(self, step: int = 0) -> Number:
        """Return the present rate; the step matters during a warm-up only."""
        value = self._base * max(self._factor**self._drops, self._minimum)
        return value if self._rise is None else value * self._rise(step)

    __call__ = value

    def observe(self, metric: float) -> bool:
        """Take the metric of a finished epoch (NaN is no improvement) and say whether the rate has fallen."""
        if self._improves(metric):
            self._best, self._waited = metric, 0
        else:
            self._waited += 1
        if self._cooling > 0:
            self._cooling, self._waited = self._cooling - 1, 0
        if self._waited <= self._patience:
            return False
        self._drops, self._cooling, self._waited = self._drops + 1, self._cooldown, 0
        return True

    def _improves(self, metric: float) -> bool:
        if math.isnan(metric) or math.isnan(self._best):
            return not math.isnan(metric)
        if self._grows:
            return metric > self._best + self._threshold
        return metric < self._best - self._threshold * abs(self._best)

    def state(self) -> dict[str, float]:
        """Return the memory, finite numbers only; what is absent has not been observed yet."""
        memory: dict[str, float] = {"waited": self._waited, "cooling": self._cooling, "drops": self._drops}
        return {**memory, "best": self._best} if math.isfinite(self._best) else memory

    def load(self, state: Mapping[str, float]) -> None:
        """Go on from what `state` returned."""
        self._best = float(state.get("best", math.nan))
        self._waited, self._cooling, self._drops = (int(state[name]) for name in ("waited", "cooling", "drops"))


class Plateaus:
    """A plateau for each member of a population: each listens to its own metric and has its own rate.

    plateaus: one for each member, without a warm-up of their own. rise: step -> factor, for a warm-up common to all.
    When: many models train at once, and each shall slow down when it stalls, not when the others do.
    """

    def __init__(self, plateaus: Sequence[Plateau], rise: Callable[[int], Number]) -> None:
        self._plateaus, self._rise = list(plateaus), rise
        self._settled = self._values()

    def value(self, step: int = 0) -> Tensor:
        """Return the present rates, float64 [members]; the step matters during a warm-up only."""
        return self._settled * self._rise(step)

    __call__ = value

    def observe(self, members: Sequence[int], metrics: Sequence[float]) -> None:
        """Take the metrics that some members came to in a finished epoch."""
        for member, metric in zip(members, metrics, strict=True):
            self._plateaus[member].observe(metric)
        self._settled = self._values()

    def state(self) -> list[dict[str, float]]:
        """Return the memory of every member."""
        return [plateau.state() for plateau in self._plateaus]

    def load(self, state: Sequence[Mapping[str, float]]) -> None:
        """Go on from what `state` returned."""
        for plateau, memory in zip(self._plateaus, state, strict=True):
            plateau.load(memory)
        self._settled = self._values()

    def _values(self) -> Tensor:
        return torch.tensor([float(plateau.value()) for plateau in self._plateaus], dtype=torch.float64)
