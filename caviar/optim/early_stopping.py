"""When to stop: a metric has not improved for some time."""

import math
from collections.abc import Mapping

from caviar.core.errors import InputError
from caviar.optim.checks import check_number


def is_better(value: float, best: float, *, grows: bool = False, threshold: float = 0.0) -> bool:
    """Say whether `value` beats `best` by more than `threshold`; NaN never does, and all else beats NaN.

    grows: whether a larger value is better (an accuracy) instead of a smaller one (a loss).
    """
    if math.isnan(value) or math.isnan(best):
        return not math.isnan(value)
    return value > best + threshold if grows else value < best - threshold


class EarlyStopping:
    """Says when a metric has not improved for `patience` observations in a row (Prechelt, 1998).

    Call `observe(metric)` after each epoch and stop once it returns True; the weights to keep are those of observation
    `best_at`, counted from 1 (0: none yet). Keep `state()` with a checkpoint for `load`.

    patience: at least 1. threshold: at least 0, what an improvement must exceed. grows: see `is_better`.
    When: nearly always; with a falling schedule leave it enough patience for the last stretch.
    Raises InputError when an argument is out of range.
    """

    def __init__(self, patience: int, threshold: float = 0.0, *, grows: bool = False) -> None:
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise InputError(f"patience is {patience!r}; it must be a whole number of at least 1.")
        check_number("threshold", threshold, least=0.0)
        self._patience, self._threshold, self._grows = patience, threshold, grows
        self._seen = 0
        self.best, self.best_at = math.nan, 0

    def observe(self, metric: float) -> bool:
        """Take the next value (NaN is no improvement) and say whether patience has run out."""
        self._seen += 1
        if is_better(metric, self.best, grows=self._grows, threshold=self._threshold):
            self.best, self.best_at = metric, self._seen
        return self._seen - self.best_at >= self._patience

    def state(self) -> dict[str, float]:
        """Return the memory, finite numbers only; what is absent has not been observed yet."""
        memory: dict[str, float] = {"seen": self._seen, "best_at": self.best_at}
        return {**memory, "best": self.best} if math.isfinite(self.best) else memory

    def load(self, state: Mapping[str, float]) -> None:
        """Go on from what `state` returned."""
        self.best = float(state.get("best", math.nan))
        self._seen, self.best_at = int(state["seen"]), int(state["best_at"])
