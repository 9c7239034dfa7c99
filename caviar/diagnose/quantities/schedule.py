"""At which steps one looks inside."""

from dataclasses import dataclass
from typing import Literal

from caviar.diagnose.settings import WatchSettings

AUTO = {"default": 150, "full": 40}
"""Steps between two looks: what keeps each set within its share of the time."""
AUTO_MEMBERS = {"default": 500, "full": 150}
"""The same for a population, where a look is a pass of its own beside the step."""

GROWTH = 1.25
"""Of the distance from the start, from one look to the next, where they are spaced by the logarithm."""


@dataclass(frozen=True)
class Schedule:
    """Steps, counted from 1: every `every`-th, and with `early` the powers of two before; or ever rarer ("log").

    base: of the powers, 2 or a power of 2.
    """

    every: int | Literal["log"]
    early: bool = True
    base: int = 2

    @classmethod
    def of(cls, settings: WatchSettings, *, members: bool = False) -> "Schedule":
        """Return what the recipe's section asks for; `members`: of a population."""
        every, auto = settings.every, AUTO_MEMBERS if members else AUTO
        if every == "auto":
            every = auto.get(settings.quantities, auto["default"])
        return cls(every, settings.early, 4 if members else 2)

    def next_after(self, step: int) -> int:
        """Return the first step after `step` at which to look."""
        if self.every == "log":
            look = 1
            while look <= step:
                look = max(look + 1, int(look * GROWTH))
            return look
        regular = (step // self.every + 1) * self.every
        power = 1
        while power <= step:
            power *= self.base
        return min(regular, power) if self.early and power < self.every else regular

    def is_early(self, step: int) -> bool:
        """Whether a step is such a power: then what hardly changes is measured as well."""
        while step > 1 and step % self.base == 0:
            step //= self.base
        return step == 1


def is_due(step: int, epoch: int, every: int, last_epoch: int) -> bool:
    """Whether a multiple of `every` steps was passed in the epoch that ends at `step`; also in the last one planned."""
    begin, period = step - step // epoch, max(1, every)
    return epoch == last_epoch or step // period > begin // period
