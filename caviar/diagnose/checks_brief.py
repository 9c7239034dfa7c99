"""A few steps of training, for checks that must see the network learn."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from caviar.core.seeds import generator_for
from caviar.diagnose.checks_setup import Batch, Setup
from caviar.nn.probe import untouched

CHUNKS: Final = 12
"""Parts in which dev is evaluated: their spread is the error of its loss."""
LARGEST_CHUNK: Final = 256


class Clock:
    """Says when a check has trained for long enough: by this process's own time, so that a busy machine changes little.

    seconds: of computing on each thread, or three times as many by the clock on the wall.
    """

    def __init__(self, seconds: float) -> None:
        self._busy, self._wall = seconds * torch.get_num_threads(), 3 * seconds
        self._began = time.process_time(), time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        busy, wall = self._began
        return time.process_time() - busy > self._busy or time.monotonic() - wall > self._wall


class Brief(NamedTuple):
    """What a few steps came to: the loss of every step, and whether the time was up before the last of them."""

    losses: list[float]
    out_of_time: bool


def learn(
    model: nn.Module,
    setup: Setup,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    batch_size: int,
    clock: Clock,
    look: Callable[[int], bool] | None = None,
) -> Brief:
    """Train `model` in its present mode on random batches; stop early where `look(step)` says so, or at NaN.

    Gradients are taken with respect to this model's parameters alone, so that a loss which reaches into another model
    (the user's own) leaves nothing there.
    """
    parameters = [each for each in model.parameters() if each.requires_grad]
    rows = _batches(len(batch), batch_size, setup.seed, batch.inputs.device)
    losses: list[float] = []
    for step in range(1, steps + 1):
        if clock.is_over:
            return Brief(losses, True)
        part = batch.take(next(rows))  # a copy: layers that work in place may have it
        found = setup.loss(model(part.inputs), part.targets)
        gradients = torch.autograd.grad(found, parameters, allow_unused=True) if found.requires_grad else ()
        for parameter, gradient in zip(parameters, gradients, strict=False):
            parameter.grad = gradient
        optimizer.step()
        losses.append(float(found.detach()))
        if not math.isfinite(losses[-1]) or (look is not None and look(step)):
            break
    return Brief(losses, False)


def _batches(num_rows: int, batch_size: int, seed: int, device: torch.device) -> Iterator[Tensor]:
    """Yield the rows of one batch after the other for ever, in a new order each time round; short ones are left out."""
    generator = generator_for(seed, "brief order")
    size = min(batch_size, num_rows)
    while True:
        order = torch.randperm(num_rows, generator=generator).to(device)
        for start in range(0, num_rows - size + 1, size):
            yield order[start : start + size]


def adam(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """Return Adam over the trainable parameters: the rule that asks least of the one who sets it."""
    return torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=rate)


def losses_on(model: nn.Module, setup: Setup, batch: Batch) -> Tensor:
    """Return the loss of each chunk of a batch in evaluation mode; the model is left as it was."""
    with untouched(model, training=False):
        return torch.tensor([float(setup.loss(model(part.inputs.clone()), part.targets)) for part in chunks(batch)])


def chunks(batch: Batch) -> Iterator[Batch]:
    """Yield the examples of a batch in parts of equal size."""
    size = max(1, min(LARGEST_CHUNK, len(batch) // CHUNKS))
    for start in range(0, len(batch) - size + 1, size):
        yield batch.take(slice(start, start + size))
