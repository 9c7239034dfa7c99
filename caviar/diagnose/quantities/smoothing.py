"""The smoothed loss."""

from dataclasses import dataclass

DECAY = 0.98
"""Of the running average a step: it looks back about 50 steps."""


@dataclass
class Smoother:
    """A bias-corrected exponentially weighted average: s_t = b s_{t-1} + (1 - b) x_t, reported as s_t / (1 - b^t).

    The correction of Adam (Kingma and Ba, 2015): the first average is the first value, not a tenth of it. A value that
    is not finite makes the average so for good.
    """

    decay: float = DECAY
    count: int = 0
    total: float = 0.0

    def add(self, value: float) -> float:
        """Take in a value and return the average."""
        self.count += 1
        self.total = self.decay * self.total + (1.0 - self.decay) * value
        return self.total / (1.0 - self.decay**self.count)
