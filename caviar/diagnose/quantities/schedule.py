"""At which steps one looks inside."""

from dataclasses import dataclass
from typing import Literal

from caviar.diagnose.settings import WatchSettings

AUTO = {"default": 150, "full": 40}
"""Steps between two looks: what keeps each set within its share of the time."""

GROWTH = 1.25
"""Of the distance from the start, from one look to the next, where they are spaced by the logarithm."""


@dataclass(frozen=True)
class Schedule:
    """Steps, counted from 1: every `every`-th, and with `early` the powers of two before; or ever rarer ("log")."""

    every: int | Literal["log"]
    early: bool = True

    @classmethod
    def of(cls, settings: WatchSettings) -> "Schedule":
        """Return what the recipe's section asks for."""
        every = settings.every
        if every == "auto":
            every = AUTO.get(settings.quantities, AUTO["default"])
        return cls(every, settings.early)

    def next_after(self, step: int) -> int:
        """Return the first step after `step` at which to look."""
        if self.every == "log":
            look = 1
            while look <= step:
                look = max(look + 1, int(look * GROWTH))
            return look
        regular = (step // self.every + 1) * self.every
        power: int = 1 << step.bit_length()
        return min(regular, power) if self.early and power < self.every else regular

    def is_early(self, step: int) -> bool:
        """Whether a step is a power of two: then what hardly changes is measured as well."""
        return step & (step - 1) == 0
