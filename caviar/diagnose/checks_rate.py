"""Is the learning rate of the right order of magnitude? A few steps at rates ten times apart, around the given one."""

import math
from typing import Any, Final, NamedTuple

from caviar.diagnose.checks_brief import Clock, learn
from caviar.diagnose.checks_outputs import constant_loss, floor_loss
from caviar.diagnose.checks_setup import Outcome, failed, passed, skipped
from caviar.diagnose.checks_subject import Subject
from caviar.optim import needs_closure

FACTORS: Final = (1.0, 10.0, 100.0, 0.1, 0.01, 1000.0, 0.001)
"""In the order in which they are tried, as time allows."""
STEPS: Final = 40
LAST: Final = 8
BATCH: Final = 32
EXPLODED: Final = 2.0
"""A loss so many times both the first one and that of knowing nothing has exploded."""
WORTH: Final = 0.1
"""Share of what there is to learn that the best rate must learn for anything to be said of the others."""
UNMOVED: Final = 0.03
"""Share of what there is to learn that a hundred times the rate must make a difference of."""
POOR: Final = 0.2
"""A rate that learns less than this share of what the best one learns is not of its order."""


class Rates(NamedTuple):
    """Losses after a few steps at the given rate times each factor, and what share of all there is they learned.

    exploded: whether the given rate did.
    """

    rate: float
    losses: dict[float, float]
    learned: dict[float, float]
    exploded: bool

    @property
    def best(self) -> float:
        """The factor at which most was learned."""
        return max(self.learned, key=lambda factor: self.learned[factor])

    @property
    def numbers(self) -> dict[str, Any]:
        """The evidence as data."""
        return {"learning_rate": self.rate, "loss_by_factor": self.losses, "best_factor": self.best}

    @property
    def words(self) -> str:
        """The evidence in words."""
        return f"{self.rate:.3g}: after {STEPS} steps the loss is {self.losses[1.0]:.3g}"


def try_rates(subject: Subject) -> Rates | str:
    """Train fresh copies for a few steps at rates ten times apart; return a reason where that cannot be."""
    setup = subject.setup
    if setup.optimizer is None:
        return "no optimizer was given."
    if subject.outputs is None:
        return "the outputs are no single tensor."
    optimizer = setup.optimizer(setup.fresh())
    if needs_closure(optimizer):
        return "the optimizer finds its own step length."
    like = subject.outputs[:1].expand(len(setup.train), *subject.outputs.shape[1:])
    constant, _ = constant_loss(setup.loss, subject.kind, like, setup.train.targets)
    way = constant - floor_loss(setup.loss, subject.kind, like, setup.train.targets)
    clock = Clock(setup.seconds)
    losses: dict[float, float] = {}
    for factor in FACTORS:
        found = _try(subject, factor, clock)
        if found is None:
            break
        losses[factor] = found
    if 1.0 not in losses:
        return "there was no time for a few steps."
    learned = {factor: (constant - loss) / way for factor, loss in losses.items()}
    exploded = losses[1.0] > EXPLODED * max(subject.start, constant)
    return Rates(max(group["lr"] for group in optimizer.param_groups), losses, learned, exploded)


def check_high(subject: Subject) -> Outcome:
    """Look whether the loss explodes at the given rate, or only rates far below it learn."""
    rates = subject.once(try_rates)
    if isinstance(rates, str):
        return skipped(rates)
    if rates.exploded or (rates.best <= 0.01 and _outdone(rates.learned, rates.best, 0.1)):
        lower = min(rates.best, 0.1)
        beside = f"; at {rates.rate * lower:.1g} it is {rates.losses[lower]:.3g}" if lower in rates.losses else ""
        return failed(
            f"learning rate {rates.words}{beside}.",
            f"Begin near {rates.rate * lower:.1g} (caviar find-lr finds a range).",
            **rates.numbers,
        )
    return passed(f"{rates.words}; the best of all is {rates.rate * rates.best:.2g}.", **rates.numbers)


def check_low(subject: Subject) -> Outcome:
    """Look whether nothing is learned at the given rate, but much at rates far above it."""
    rates = subject.once(try_rates)
    if isinstance(rates, str):
        return skipped(rates)
    unmoved = _unmoved(rates.learned) and subject.tiny.by_heart
    if unmoved or (rates.best >= 100 and _outdone(rates.learned, rates.best, 10.0)):
        higher = max(rates.best, 100.0)
        beside = f"; at {rates.rate * higher:.1g} it is {rates.losses[higher]:.3g}" if higher in rates.losses else ""
        return failed(
            f"learning rate {rates.words}{beside}.",
            f"Begin near {rates.rate * higher / 3:.1g} (caviar find-lr finds a range).",
            **rates.numbers,
        )
    return passed(f"{rates.words}; the best of all is {rates.rate * rates.best:.2g}.", **rates.numbers)


def _outdone(learned: dict[float, float], best: float, towards: float) -> bool:
    """Whether the best rate learns much that neither the given one does nor one ten times nearer to the best."""
    near = max(learned[1.0], learned.get(towards, learned[1.0]))
    return learned[best] > WORTH and near < POOR * learned[best]


def _unmoved(learned: dict[float, float]) -> bool:
    """Whether up to a hundred times the rate nothing is learned, and nothing breaks."""
    shares = [learned.get(factor, -math.inf) for factor in (1.0, 10.0, 100.0)]
    return max(shares) < WORTH and max(shares) - min(shares) < UNMOVED


def _try(subject: Subject, factor: float, clock: Clock) -> float | None:
    """Return the mean loss of the last of a few steps at so many times the rate; None when the time was up."""
    setup = subject.setup
    assert setup.optimizer is not None
    model = setup.fresh(training=True)
    optimizer = setup.optimizer(model)
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * factor
    size = min(setup.batch_size or BATCH, max(2, len(setup.train) // 2))
    brief = learn(model, setup, setup.train, optimizer, steps=STEPS, batch_size=size, clock=clock)
    if brief.out_of_time:
        return None
    last = brief.losses[-LAST:]
    return sum(last) / len(last) if math.isfinite(last[-1]) else math.inf
