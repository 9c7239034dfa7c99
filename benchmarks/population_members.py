"""Caviar's population as benchmarks/population.py measures it, one number of members in a process."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from plain_loops import LEARNING_RATE, MOMENTUM
from population_works import Task, step_flops
from torch import nn

from caviar.nn import MLP, ConvNet
from caviar.nn.layout import use_channels_last
from caviar.population import Layout, Population, Step
from caviar.population.executors import intra_op_threads
from caviar.population.memory import predict_memory

PEAK_SIZE = {"cpu": 2048, "cuda": 8192}
PEAK_REPEATS = 3


class Session:
    """A population over a task, which trains turn by turn on batches that all members share.

    layout: how to run, or None to choose by timing among those of `kind` (or all, "auto").
    """

    def __init__(self, task: Task, members: int, kind: str = "auto", layout: Layout | None = None) -> None:
        order = _order(task)
        self._task = replace(task, inputs=task.inputs.contiguous(memory_format=order))
        population = Population(
            lambda: caviar_net(task).to(task.inputs.device, memory_format=order),
            members,
            optimizer={"name": "sgd", "learning_rate": LEARNING_RATE, "momentum": MOMENTUM},
            executor=kind,
        )
        if task.work.bf16:
            population = Population.of(replace(population.cohort, autocast=True), population.trials, kind)
        self.population = population
        self._batches = self._endless()
        self.layout = population.prepare([next(self._batches) for _ in range(3)], layout)
        self._steps: int | None = None

    def _endless(self) -> Iterator[Step]:
        task = self._task
        while True:
            order = torch.randperm(len(task.inputs)).to(task.inputs.device)
            for start in range(0, len(order) - task.batch_size + 1, task.batch_size):
                rows = order[start : start + task.batch_size]
                yield Step(task.inputs.index_select(0, rows), task.labels.index_select(0, rows))

    def train(self, steps: int) -> float:
        """Train so many steps, wait for their losses, and return the seconds."""
        with intra_op_threads(self.layout):
            started = time.perf_counter()
            for _ in range(steps):
                self.population.take(next(self._batches))
            self.population.losses()
            return time.perf_counter() - started

    def turn(self, seconds: float) -> dict[str, float]:
        """Train about so long, at most an epoch; the number of steps is fixed by what the first turn takes."""
        if self._steps is None:
            self.train(1)
            work = self._task.work
            self._steps = min(max(2, int(seconds / max(self.train(2) / 2, 1e-9))), work.steps * work.epochs)
        spent = self.train(self._steps)
        trial_epochs = len(self.population) * self._steps / self._task.work.steps
        flops = step_flops(self._task) * self._steps * len(self.population)
        return {"seconds": spent, "trial_epochs": trial_epochs, "flops": flops / spent}

    def describe(self) -> dict[str, Any]:
        """Return how the members run, and what was timed to find out."""
        timings = [
            {"layout": str(timing.layout), "seconds": timing.seconds, "reason": timing.reason}
            for timing in self.population.timings
        ]
        device = self._task.inputs.device.type
        return {"device": device, "layout": list(self.layout), "runs": str(self.layout), "timings": timings}


def measure_memory(task: Task, members: int, layout: Layout) -> dict[str, int | None]:
    """Return the bytes that a population takes at most, beside what it should: the data and the libraries left out.

    should: parameters, gradients, the optimiser's memory and one set of activations.
    """
    inputs = task.inputs.contiguous(memory_format=_order(task)).clone()  # not mapped from a file: all in memory now
    task = replace(task, inputs=inputs)
    Session(task, 1, layout=Layout(layout.kind, 1)).train(2)  # what the libraries take is there before
    with contextlib.closing(_Peak(task.inputs.device)) as peak:
        session = Session(task, members, layout=layout)
        session.train(3)
        taken = peak.bytes()
    return {"taken": taken, "should": _should(session, task)}


def _should(session: Session, task: Task) -> int:
    """Return what a population must hold."""
    inputs, labels = task.inputs[: task.batch_size].clone(), task.labels[: task.batch_size].clone()
    fresh = session.population.select(range(len(session.population))).cohort
    return predict_memory(fresh, session.layout, inputs, labels).total


def _order(task: Task) -> torch.memory_format:
    last = use_channels_last(caviar_net(task), task.inputs[: task.batch_size].cpu())
    return torch.channels_last if last else torch.contiguous_format


def product_peak(device: torch.device) -> float:
    """Return the operations a second of large float32 matrix products on all cores, the best of a few."""
    size, best = PEAK_SIZE[device.type], 0.0
    left, right = (torch.randn(size, size, device=device) for _ in range(2))
    out = torch.empty_like(left)
    torch.mm(left, right, out=out)
    for _ in range(PEAK_REPEATS):
        _wait(device)
        started = time.perf_counter()
        torch.mm(left, right, out=out)
        _wait(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def caviar_net(task: Task) -> nn.Module:
    """Return caviar's own net of a work's architecture."""
    work = task.work
    if work.channels:
        return ConvNet((3, 32, 32), work.channels, (), 10)
    return MLP(work.widths[0], work.widths[1:-1], work.widths[-1])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Peak:
    """The most memory that was in use since it was made; None where the system does not say."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before: int | None = torch.cuda.memory_allocated(device)
        else:
            self._before = None
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # the highest so far is the present size
                self._before = _status("VmRSS")

    def bytes(self) -> int | None:
        if self._device.type == "cuda":
            most: int | None = torch.cuda.max_memory_allocated(self._device)
        else:
            most = _status("VmHWM")
        return None if most is None or self._before is None else most - self._before

    def close(self) -> None:
        """Nothing is held."""


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)
