"""The ways to run a cohort, by name, and the choice between them by timing."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from caviar.core.errors import InputError
from caviar.population.allocation import is_out_of_memory
from caviar.population.chain import build_chain
from caviar.population.cohort import Blocks, Cohort, Executor, Step, Task
from caviar.population.side_by_side import SideBySide
from caviar.population.singles import Singles
from caviar.population.stacked import build_stacked
from caviar.population.views import Shared, slice_of

KINDS = ("singles", "stacked", "chain")
BLOCKS = (8, 1)
"""Members of a chain that is smaller than a thread's share: fewer weights stay in the processor's cache."""
TRIAL_STEPS = 6
TRIAL_SECONDS = 1.5
"""A candidate is timed over so many steps, or so many seconds if those come first (but at least one step)."""


class Layout(NamedTuple):
    """How a cohort is run. kind: of each part; size: members of a part; threads: parts that run at once.

    With one thread, parts follow one another, each step on all intra-op threads of the process.
    """

    kind: str
    size: int
    threads: int = 1

    def __str__(self) -> str:
        place = "one after another" if self.threads == 1 else f"on {self.threads} threads"
        return f"{self.kind}, {self.size} at a time, {place}"


@dataclass(frozen=True)
class Timing:
    """What a candidate took. seconds: of one step of all members; None where it cannot run, for a reason."""

    layout: Layout
    seconds: float | None
    reason: str = ""


class InTurn:
    """Trains consecutive parts of a cohort one after another."""

    def __init__(self, parts: Sequence[Executor]) -> None:
        self._parts = list(parts)
        self.num_members = sum(part.num_members for part in self._parts)

    def _bounds(self) -> Iterator[tuple[Executor, int, int]]:
        start = 0
        for part in self._parts:
            yield part, start, start + part.num_members
            start += part.num_members

    def step(self, step: Step) -> None:
        for part, start, end in self._bounds():
            part.step(step.slice(start, end))

    def losses(self) -> Tensor:
        return torch.cat([part.losses() for part in self._parts], dim=1)

    def outputs(self, inputs: Shared) -> Tensor:
        return torch.cat([part.outputs(slice_of(inputs, start, end)) for part, start, end in self._bounds()])

    def visit(self, task: Task) -> None:
        task(self, 0)

    def live(self) -> Blocks:
        for part, start, _ in self._bounds():
            for first, tensors in part.live():
                yield start + first, tensors

    def state(self) -> dict[str, Tensor]:
        states = [part.state() for part in self._parts]
        return {name: torch.cat([state[name] for state in states]) for name in states[0]}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for part, start, end in self._bounds():
            part.load({name: tensor[start:end] for name, tensor in state.items()})

    def close(self) -> None:
        for part in self._parts:
            part.close()


def build_executor(cohort: Cohort, layout: Layout, example: Shared) -> "Executor | str":
    """Return an executor of a cohort laid out so, or in words why there is none.

    example: a batch of prepared inputs, for trials of the forms. Members that draw from torch's global generator run
    one after another only.
    """
    bounds = [(start, min(start + layout.size, len(cohort))) for start in range(0, len(cohort), layout.size)]
    parts: list[Executor] = []
    for start, end in bounds:
        part = _build_part(cohort.slice(start, end), layout.kind, slice_of(example, start, end))
        if isinstance(part, str):
            return part
        if layout.threads > 1 and getattr(part, "draws_globally", False):
            return "its modules draw from torch's global generator, which threads would share"
        parts.append(part)
    if layout.threads == 1:
        return parts[0] if len(parts) == 1 else InTurn(parts)
    share = -(-len(parts) // layout.threads)
    groups = [parts[start : start + share] for start in range(0, len(parts), share)]
    return SideBySide([group[0] if len(group) == 1 else InTurn(group) for group in groups])


def _build_part(cohort: Cohort, kind: str, example: Shared) -> "Executor | str":
    if kind == "singles":
        return Singles(cohort, example)
    if kind == "stacked":
        return build_stacked(cohort, example)
    if kind == "chain":
        return build_chain(cohort, example)
    raise InputError(f"there is no executor {kind!r}; there are {', '.join(KINDS)}.")


def candidates(num_members: int, device: torch.device) -> list[Layout]:
    """Return the layouts worth timing for so many members on a device."""
    found = [Layout("singles", num_members)]
    if num_members == 1:
        return found
    found += [Layout("stacked", num_members), Layout("chain", num_members)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = min(num_members, cores)
    if device.type == "cpu" and threads > 1:
        share = -(-num_members // threads)
        found += [Layout(kind, share, threads) for kind in KINDS]
        found += [Layout("chain", size, threads) for size in BLOCKS if size < share]
    return found


def choose(
    cohort: Cohort, steps: Sequence[Step], layouts: Sequence[Layout] | None = None
) -> tuple[Layout, list[Timing]]:
    """Time a few real steps of each layout on copies of the members, and return the fastest and all that was timed.

    steps: real steps, of the usual batch size. The members and their generators are as they were afterwards.
    """
    device = steps[0].inputs.device
    timings = [_time(cohort, layout, steps) for layout in layouts or candidates(len(cohort), device)]
    measured = [timing for timing in timings if timing.seconds is not None]
    if not measured:
        reasons = "; ".join(dict.fromkeys(f"{timing.layout.kind}: {timing.reason}" for timing in timings))
        raise InputError(f"these members cannot be run as asked ({reasons}). Leave the executor to be chosen (auto).")
    return min(measured, key=lambda timing: timing.seconds or 0.0).layout, timings


def _time(cohort: Cohort, layout: Layout, steps: Sequence[Step]) -> Timing:
    try:
        return _timed(cohort, layout, steps)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return Timing(layout, None, "there is not enough memory")


def _timed(cohort: Cohort, layout: Layout, steps: Sequence[Step]) -> Timing:
    draws = tuple(torch.Generator() for _ in cohort.draws)
    copied = replace(cohort, weights={n: t.clone() for n, t in cohort.weights.items()}, draws=draws)
    with intra_op_threads(layout):
        executor = build_executor(copied, layout, steps[0].inputs)
        if isinstance(executor, str):
            return Timing(layout, None, executor)
        try:
            executor.step(steps[0])
            executor.losses()
            started, count = time.perf_counter(), 0
            while count == 0 or (count < TRIAL_STEPS and time.perf_counter() - started < TRIAL_SECONDS):
                executor.step(steps[count % len(steps)])
                count += 1
            executor.losses()
            return Timing(layout, (time.perf_counter() - started) / count)
        finally:
            executor.close()


@contextmanager
def intra_op_threads(layout: Layout) -> Iterator[None]:
    """Let the process's own thread work alone while parts run on threads, and put its number back afterwards."""
    before = torch.get_num_threads()
    if layout.threads > 1 and before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
