"""Find a learning rate: the same first weights and the same batches at each of many rates, for several seeds."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from rich.console import Console
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.core.seeds import derive_seed
from caviar.nn import has_convolutions
from caviar.optim.settings import OptimizerSettings
from caviar.population import Layout, Population, Step, candidates, choose
from caviar.population.cohort import Cohort
from caviar.population.executors import build_executor, intra_op_threads
from caviar.population.memory import fitting
from caviar.population.population import member_draws
from caviar.population.rules import check_first_order
from caviar.population.settings import PopulationSettings
from caviar.recipe import Recipe, Sparse, merge
from caviar.train.batching import batch_bounds, epoch_rows
from caviar.train.members import MembersJob, MembersState, Trial, make_step
from caviar.workflow.learning_rates import LearningRates, judge
from caviar.workflow.members import make_population, members_job
from caviar.workflow.plan import Plan, make_plan, torch_as_before, updates
from caviar.workflow.randomness import randomness_as_before
from caviar.workflow.show import notes_console, print_notes, reading_progress, steps_progress
from caviar.workflow.source import InMemory

UNTOUCHED = 1e-30
"""The rate of a member that stands beside the others and stays what it was."""
TOGETHER = 10
"""Steps that are handed out before they are waited for."""
MOST_TRIALS = 1000
WORTH_TIMING = 100
"""Steps of a whole sweep from which on the ways to run it are timed: that takes as long as some tens of steps."""


class Sweep(NamedTuple):
    """Which rates are tried. rates: so many, evenly spaced in factors from low to high; steps: of each trial.

    timed: the way to run them is chosen by timing, whose outcome (and with it the last digits) another day may change.
    """

    rates: int = 32
    low: float = 1e-6
    high: float = 10.0
    seeds: int = 3
    steps: int = 100
    timed: bool = True

    def values(self) -> tuple[float, ...]:
        """Return the rates, ascending."""
        exponents = torch.logspace(0, 1, self.rates, base=self.high / self.low, dtype=torch.float64)
        return tuple(float(f"{self.low * factor:.6g}") for factor in exponents.tolist())

    def check(self) -> None:
        """Refuse what cannot be swept over."""
        if not 0 < self.low < self.high or self.high == float("inf"):
            raise InputError(f"rates from {self.low} to {self.high}: give 0 < low < high, such as 1e-6 and 10.")
        for name, value, least in (("rates", self.rates, 2), ("seeds", self.seeds, 1), ("steps", self.steps, 2)):
            if value < least:
                raise InputError(f"{name} is {value}; give {least} at least.")
        if self.rates > MOST_TRIALS:
            raise InputError(f"rates is {self.rates}; give {MOST_TRIALS} at most.")


class Trainer(Protocol):
    """Trains all rates of one seed at once; a Population does."""

    def take(self, step: Step) -> None:
        """Train every member on one batch."""

    def losses(self) -> Tensor:
        """Wait, and return the losses (steps since the last call, members)."""

    def close(self) -> None:
        """Let go of what is held."""


Start = Callable[[int], tuple[Trainer, Iterator[Step]]]
"""From a seed's number to what trains its members, and their batches without end."""


def find_lr(
    model: Any,
    data: Any = None,
    loss: Any = None,
    *,
    target: Any = None,
    optimizer: torch.optim.Optimizer | OptimizerSettings | Mapping[str, Any] | str | None = None,
    batch_size: int | None = None,
    rates: int = 32,
    seeds: int = 3,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    dev: Any = None,
    settings: Mapping[str, Any] | Recipe | str | Path | None = None,
    seed: int | None = None,
    device: str | torch.device | None = None,
    allow_code: bool = False,
    progress: bool = True,
) -> LearningRates:
    """Find out which learning rates learn, and suggest one to begin with.

    Every rate trains from the same weights on the same batches, for a short while at a constant rate, as members of one
    population; each seed has a batch order (and, where weights are drawn, first weights) of its own. A rate is good
    when it wins at least half, best when it wins at least 95% of what the best one does. Nothing of yours is changed.

    `find_lr(model, data, loss)`: a module of your own, or a function that makes one, which is called for each seed.
    `find_lr("adult_train.csv", target="income")`, `find_lr(recipe)`: for what `caviar.train` would do with the same
    arguments. `find_lr(model, "adult_train.csv", target="income")`: the same with a module of your own.

    Args:
        model: a module; or the data or recipe, as for `caviar.train`.
        data: with a loss, a pair (inputs, targets) of tensors or arrays, a Dataset of pairs, or batches of pairs.
        loss: a name ("cross_entropy"), settings, or (outputs, targets) -> one number.
        target, dev, settings, device, allow_code: as for `caviar.train` (without a loss).
        optimizer: a name ("adamw"), settings, or an optimiser over the model's parameters, which is built anew for each
            rate (its groups keep their ratio of rates); with a loss. Default: adamw.
        batch_size: examples in a batch; a DataLoader tells its own (32).
        rates, low, high: so many rates from low to high, evenly spaced in factors.
        seeds, steps: trials of each rate, and training steps of each trial.
        seed: decides weights and orders (0).
        progress: show a progress bar on stderr.

    Raises:
        InputError: the model cannot take the data, the rule finds its own step length, or the numbers make no range.
    """
    from caviar.workflow.train import describe, from_settings

    sweep = Sweep(rates, low, high, seeds, steps)
    sweep.check()
    console = notes_console(quiet=not progress)
    with randomness_as_before(), torch_as_before():
        if loss is not None:
            from caviar.workflow.find_lr_given import given_start

            _refuse("with a loss", target=target, settings=settings, device=device, dev=dev)
            start = given_start(model, data, loss, optimizer or "adamw", batch_size, sweep, seed or 0)
            return run_sweep(start, sweep, console)
        _refuse("without a loss", optimizer=optimizer, batch_size=batch_size)
        source, module = (data, model) if isinstance(model, nn.Module) else (model, None)
        if module is None and data is not None:
            raise InputError(
                f"model={type(model).__name__} with data but no loss. Give find_lr(model, data, loss), or "
                "find_lr(data, target=...) for a network of caviar's."
            )
        sparse, memory = describe(source, target, dev)
        changes = merge(
            from_settings(settings or {}), updates(seed=seed, device=None if device is None else str(device))
        )
        return _find(merge(sparse, changes), memory, module, sweep, allow_code, console)


def find_recipe_lr(sparse: Sparse, sweep: Sweep, *, allow_code: bool, console: Console) -> LearningRates:
    """Sweep over the learning rates of a sparse recipe; `find_lr` for the command line."""
    sweep.check()
    with randomness_as_before(), torch_as_before():
        return _find(sparse, None, None, sweep, allow_code, console)


def _refuse(where: str, **given: Any) -> None:
    if named := [name for name, value in given.items() if value is not None]:
        raise InputError(
            f"{' and '.join(named)} cannot be used {where}. find_lr(model, data, loss) takes optimizer and batch_size; "
            "find_lr(data) takes target, dev, settings and device."
        )


def _find(
    sparse: Sparse,
    memory: InMemory | None,
    module: nn.Module | None,
    sweep: Sweep,
    allow_code: bool,
    console: Console,
) -> LearningRates:
    with reading_progress(console) as progress:
        plan = make_plan(sparse, memory, module, allow_code=allow_code, progress=progress)
    print_notes(console, plan.notices)
    return run_sweep(planned_start(plan, sweep), sweep, console)


def run_sweep(start: Start, sweep: Sweep, console: Console) -> LearningRates:
    """Train every rate of every seed, and return what that means."""
    with steps_progress(console, "trying rates", sweep.seeds * sweep.steps) as show:
        losses = torch.stack([_train(*start(number), sweep, show) for number in range(sweep.seeds)])
    return judge(sweep.values(), losses[:, :, :-1], losses[:, :, -1])


def _train(trainer: Trainer, batches: Iterator[Step], sweep: Sweep, show: Callable[[int], object]) -> Tensor:
    parts: list[Tensor] = []
    with contextlib.closing(trainer):
        for step in range(sweep.steps):
            trainer.take(next(batches))
            if (step + 1) % TOGETHER == 0 or step + 1 == sweep.steps:
                parts.append(trainer.losses())
                show(len(parts[-1]))
    return torch.cat(parts)


def trial_rates(sweep: Sweep) -> Tensor:
    """Return the rates of the members of one seed: those to try, and last that of the untouched one."""
    return torch.tensor([*sweep.values(), UNTOUCHED], dtype=torch.float64)


def planned_start(plan: Plan, sweep: Sweep) -> Start:
    """Return the trials of a planned run: seed 0 takes its own first weights and its own batches."""
    recipe = plan.recipe
    check_first_order(recipe.optimizer)
    seeds = PopulationSettings(members=sweep.seeds)
    plan = replace(plan, recipe=recipe.model_copy(update={"population": seeds}))
    every, job = make_population(plan).cohort, members_job(plan)
    values = trial_rates(sweep)
    layouts: list[Layout] = []

    def start(number: int) -> tuple[Trainer, Iterator[Step]]:
        same = torch.full((len(values),), number)
        cohort = replace(
            every,
            weights={name: tensor[same.to(tensor.device)] for name, tensor in every.weights.items()},
            draws=tuple(member_draws(recipe.seed, number) for _ in values),
            values={"learning_rate": values},
        )
        seed = recipe.seed if number == 0 else derive_seed(recipe.seed, "find learning rate", number)
        own = replace(job, seed=seed, schedule=lambda _step: values, momentum=None)
        population = Population.of(cohort, range(len(values)))
        if not layouts:
            layouts.append(choose_layout(population, _batches(own, len(values)), sweep))
        return Together(population, layouts[0], next(_batches(own, len(values)))), _batches(own, len(values))

    return start


def choose_layout(population: Population, batches: Iterator[Step], sweep: Sweep) -> Layout:
    """Return the fastest way to run a population, of those that fit into memory; timing has to pay."""
    if not sweep.timed:
        return untimed_layout(population.cohort, next(batches))
    if sweep.seeds * sweep.steps < WORTH_TIMING:
        return Layout("singles", len(population))
    steps = [next(batches) for _ in range(3)]
    device = steps[0].inputs.device
    layouts = fitting(population.cohort, candidates(len(population), device), steps[0].inputs, steps[0].targets)
    return layouts[0] if len(layouts) == 1 else choose(population.cohort, steps, layouts)[0]


def untimed_layout(cohort: Cohort, step: Step) -> Layout:
    """Return a way to run a cohort that follows from what it is alone, never from a clock."""
    if next(iter(cohort.weights.values())).is_cuda:
        wanted = "stacked"
    elif has_convolutions(cohort.template):
        wanted = "singles"
    else:
        wanted = "chain"
    layout = Layout(wanted, len(cohort))
    return layout if can_run(cohort, layout, step) else Layout("singles", len(cohort))


def can_run(cohort: Cohort, layout: Layout, step: Step) -> bool:
    """Whether a cohort has the executor that a layout names."""
    executor = build_executor(cohort, layout, step.inputs)
    if isinstance(executor, str):
        return False
    executor.close()
    return True


class Together:
    """A population whose threads have the process to themselves while it trains."""

    def __init__(self, population: Population, layout: Layout, first: Step) -> None:
        self._population = population
        self._threads = contextlib.ExitStack()
        self._threads.enter_context(intra_op_threads(layout))
        population.prepare([first], layout)

    def take(self, step: Step) -> None:
        self._population.take(step)

    def losses(self) -> Tensor:
        return self._population.losses()

    def close(self) -> None:
        self._population.close()
        self._threads.close()


def _batches(job: MembersJob, members: int) -> Iterator[Step]:
    """Yield the steps of a run, epoch after epoch, as it would take them."""
    state = MembersState([Trial() for _ in range(members)])
    bounds = batch_bounds(len(job.train), job.batch_size, merge_single=job.merge_single)
    while True:
        rows = epoch_rows(job.train, job.seed, state.epoch)
        for start, end in bounds:
            yield make_step(job, state, rows[start:end])
            state.batch += 1
            state.step += 1
        state.epoch += 1
        state.batch = 0


__all__ = ["LearningRates", "Sweep", "find_lr", "find_recipe_lr"]
