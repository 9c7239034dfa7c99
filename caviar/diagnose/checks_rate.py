"""Is the learning rate of the right order of magnitude? A few steps at rates ten times apart, around the given one."""

import math
import time
from typing import Final

import torch

from caviar.diagnose.checks_brief import learn
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
POOR: Final = 0.1
"""A rate that learns less than this share of what the best one learns is not of its order."""


def check_rate(subject: Subject) -> Outcome:
    """Train for a few steps at the given rate and at rates of other orders of magnitude."""
    setup = subject.setup
    if setup.optimizer is None:
        return skipped("no optimizer was given.")
    if subject.outputs is None:
        return skipped("the outputs are no single tensor.")
    if needs_closure(setup.optimizer(setup.fresh())):
        return skipped("the optimizer finds its own step length.")
    like = subject.outputs[:1].expand(len(setup.train), *subject.outputs.shape[1:])
    constant, _ = constant_loss(setup.loss, subject.kind, like, setup.train.targets)
    way = constant - floor_loss(setup.loss, subject.kind, like, setup.train.targets)
    deadline = time.monotonic() + setup.seconds
    reached: dict[float, float] = {}
    for factor in FACTORS:
        found = _try(subject, factor, deadline)
        if found is None:
            break
        reached[factor] = found
    if 1.0 not in reached:
        return skipped("there was no time for a few steps.")
    rate = _rate(setup.optimizer(setup.fresh()))
    learned = {
        factor: (constant - loss) / way if math.isfinite(loss) else -math.inf for factor, loss in reached.items()
    }
    best = max(learned, key=lambda factor: learned[factor])
    numbers = {"learning_rate": rate, "loss_by_factor": reached, "best_factor": best, "knowing_nothing": constant}
    here = learned[1.0]
    exploded = not math.isfinite(reached[1.0]) or reached[1.0] > EXPLODED * max(subject.start, constant)
    if exploded or (best < 1 and here < POOR * learned[best] and learned[best] > WORTH):
        lower = min(best, 0.1)
        beside = f"; at {rate * lower:.1g} it is {reached[lower]:.3g}" if lower in reached else ""
        return failed(
            f"learning rate {rate:.3g} is too high: after {STEPS} steps the loss is {reached[1.0]:.3g}{beside}.",
            f"Begin near {rate * lower:.1g} (caviar find-lr finds a range).",
            **numbers,
        )
    too_low = best >= 100 and max(here, learned.get(10.0, here)) < 2 * POOR * learned[best] and learned[best] > WORTH
    if too_low:
        return failed(
            f"learning rate {rate:.3g} is too low: after {STEPS} steps the loss is {reached[1.0]:.3g}; at "
            f"{rate * best:.1g} it is {reached[best]:.3g}.",
            f"Begin near {rate * best / 3:.1g} (caviar find-lr finds a range).",
            **numbers,
        )
    words = f"{rate:.3g}: after {STEPS} steps the loss is {reached[1.0]:.3g}; the best of all is {rate * best:.2g}."
    return passed(words, **numbers)


def _try(subject: Subject, factor: float, deadline: float) -> float | None:
    """Return the mean loss of the last of a few steps at so many times the rate; None when the time was up."""
    setup = subject.setup
    assert setup.optimizer is not None
    model = setup.fresh(training=True)
    optimizer = setup.optimizer(model)
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * factor
    size = min(setup.batch_size or BATCH, max(2, len(setup.train) // 2))
    brief = learn(model, setup, setup.train, optimizer, steps=STEPS, batch_size=size, deadline=deadline)
    if brief.out_of_time:
        return None
    last = brief.losses[-LAST:]
    return sum(last) / len(last) if math.isfinite(last[-1]) else math.inf


def _rate(optimizer: torch.optim.Optimizer) -> float:
    return float(max(group["lr"] for group in optimizer.param_groups))
