"""Learning a tiny sample by heart: whoever cannot do that has a fault somewhere between inputs and loss."""

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

from caviar.core.seeds import generator_for
from caviar.diagnose.checks_brief import Clock, adam, learn
from caviar.diagnose.checks_outputs import Kind, accuracy, constant_loss, floor_loss
from caviar.diagnose.checks_setup import Batch, Setup

EXAMPLES: Final = 20
STEPS: Final = 300
LOOK: Final = 10
RATES: Final = (3e-3, 1e-2, 1e-3, 3e-2, 1e-4)
"""Rates for Adam, likeliest first."""
BY_HEART: Final = 0.95
"""Share of the way from knowing nothing to the least loss that must be gone."""
DENSE: Final = 0.75
"""The same where an example has many targets, such as pixels or words."""


class Tiny(NamedTuple):
    """How a tiny sample was learned: at which rate of Adam, in how many steps, and up to what.

    floor, constant: the least loss there is, and that of the best constant output. dense: many targets an example.
    """

    examples: int
    rate: float
    steps: int
    loss: float
    floor: float
    constant: float
    accuracy: float | None
    dense: bool
    out_of_time: bool

    @property
    def share(self) -> float:
        """How much of the way from the best constant output to the least loss was gone."""
        way = self.constant - self.floor
        return (self.constant - self.loss) / way if way > 0 else float(self.loss <= self.floor)

    @property
    def by_heart(self) -> bool:
        """Whether nothing is left to learn: of many targets an example, some may not be known from its inputs."""
        if self.dense:
            return self.share >= DENSE
        return self.share >= BY_HEART and self.accuracy in (None, 1.0)


def fit_tiny(setup: Setup, kind: Kind, outputs: Tensor) -> Tiny:
    """Train fresh copies on a tiny sample, without dropout, at one rate after the other, until one has it by heart.

    outputs: the model's, for a batch: their shape tells how many examples the model has the parameters for.
    """
    batch = tiny_sample(setup, _room(setup, outputs))
    like = outputs[:1].expand(len(batch), *outputs.shape[1:])
    constant, _ = constant_loss(setup.loss, kind, like, batch.targets)
    floor = floor_loss(setup.loss, kind, like, batch.targets)
    clock = Clock(setup.seconds)
    best: Tiny | None = None
    for rate in RATES:
        found = _fit(setup, kind, batch, rate, (floor, constant), clock)
        if best is None or found.share > best.share:
            best = found
        if best.by_heart or found.out_of_time:
            best = best._replace(out_of_time=found.out_of_time)  # also where an earlier rate did better
            break
    assert best is not None
    return best


def _fit(setup: Setup, kind: Kind, batch: Batch, rate: float, ends: tuple[float, float], clock: Clock) -> Tiny:
    model = setup.fresh(training=True, dropout=False)
    best = Tiny(len(batch), rate, 0, math.inf, *ends, None, batch.targets.numel() > len(batch), False)

    def look(step: int) -> bool:
        nonlocal best
        if step % LOOK:
            return False
        with torch.no_grad():
            outputs = model(batch.inputs.clone())
            loss = float(setup.loss(outputs, batch.targets))
        if loss < best.loss:
            right = accuracy(kind, outputs, batch.targets) if isinstance(outputs, Tensor) else None
            best = best._replace(steps=step, loss=loss, accuracy=right)
        return best.by_heart

    brief = learn(model, setup, batch, adam(model, rate), steps=STEPS, batch_size=len(batch), clock=clock, look=look)
    return best._replace(out_of_time=brief.out_of_time)


def _room(setup: Setup, outputs: Tensor) -> int:
    """Return how many examples the model has at least two parameters each for, for every output; 2 to 20."""
    parameters = sum(each.numel() for each in setup.model.parameters() if each.requires_grad)
    return max(2, min(EXAMPLES, parameters // (2 * max(1, outputs[0].numel()))))


def tiny_sample(setup: Setup, size: int) -> Batch:
    """Return examples of all classes in turn, no two with equal inputs."""
    train, chosen = setup.train, list[int]()
    order = torch.randperm(len(train), generator=generator_for(setup.seed, "tiny")).tolist()
    for row in _in_turn(order, train.targets):
        if not any(torch.equal(train.inputs[row], train.inputs[other]) for other in chosen):
            chosen.append(row)
        if len(chosen) == size:
            break
    return train.take(torch.tensor(chosen, device=train.inputs.device))


def _in_turn(order: list[int], targets: Tensor) -> list[int]:
    """Return the rows so that the classes take turns, where the targets are classes; numbers stay in order."""
    if targets.numel() != len(targets) or (targets.is_floating_point() and len(torch.unique(targets)) > 2):
        return order
    labels, seen = targets.reshape(-1).tolist(), dict[float, int]()
    turns = []
    for row in order:
        turn = seen.get(labels[row], 0)
        seen[labels[row]] = turn + 1
        turns.append(turn)
    return [row for _, row in sorted(zip(turns, order, strict=True), key=lambda pair: pair[0])]
