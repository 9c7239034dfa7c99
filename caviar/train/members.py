"""The training loop of a population: as the one of a single model, for all members at once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from caviar.core.checkpoint import Checkpoint
from caviar.core.columns import Task
from caviar.core.errors import InputError
from caviar.core.examples import Examples
from caviar.core.observer import Moment, SaveObserver
from caviar.core.seeds import generator_for
from caviar.optim import AverageTimes, Plateaus, is_better
from caviar.optim.lists import Number
from caviar.population import Population, Step
from caviar.population.views import Shared
from caviar.train.batching import batch_bounds, epoch_rows, gather
from caviar.train.checkpoints import Checkpoints
from caviar.train.evaluate import Prepare
from caviar.train.folds import Folds, seen
from caviar.train.judge import judge, judged_weights, showing
from caviar.train.loop import EXPLODED, MID_EPOCH_FACTOR, MID_EPOCH_SECONDS, StopRequest
from caviar.train.saving import Saver
from caviar.train.state import Metric

NUMBERS = ("best", "dev_loss", "dev_metric")

Fate = Literal["training", "finished", "stopped early", "diverged"]


@dataclass(frozen=True)
class MembersJob:
    """All that the training of a population consists of; the fields are those of `caviar.train.loop.Job`.

    schedule, momentum: at a step counted from 0, a number or one for each trial. average: when running averages of the
    weights take them in; once begun, they are what is judged and handed over. loss_per_example: from outputs
    (members, batch, ...) and targets (batch,) to (members, batch). example_weights: (trials, stored rows of train), or
    None. folds: what trials hold out, in place of dev; or None.
    """

    schedule: Callable[[int], Number]
    loss_per_example: Callable[[Tensor, Tensor], Tensor]
    train: Examples
    dev: Examples
    prepare: Prepare
    device: torch.device
    task: Task
    metric: Metric
    epochs: int
    batch_size: int
    merge_single: bool
    patience: int | None
    checkpoint_seconds: float
    seed: int
    augment: Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]] | None = None
    momentum: Callable[[int], Number] | None = None
    example_weights: Tensor | None = None
    folds: Folds | None = None
    average: AverageTimes | None = None


@dataclass
class Trial:
    """How one member fares. best: its best value on dev, at best_epoch (0: none yet); at_step: when its fate came.

    dev_loss, dev_metric: what it last came to on dev.
    """

    fate: Fate = "training"
    waited: int = 0
    best_epoch: int = 0
    best: float = math.nan
    at_step: int = 0
    dev_loss: float = math.nan
    dev_metric: float = math.nan


@dataclass
class MembersState:
    """Where a population's run stands. best_weights: by name, (trials, ...): those of each trial's best epoch.

    schedule: the memory of a schedule that has one (plateau), of each trial. split: (size, threads) of the way to run
    where memory did not suffice for the one that was chosen; or None.
    """

    trials: list[Trial]
    epoch: int = 1
    batch: int = 0
    step: int = 0
    losses: list[Tensor] = field(default_factory=list)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    best_step: int = 0
    schedule: list[dict[str, float]] = field(default_factory=list)
    split: tuple[int, int] | None = None

    @property
    def alive(self) -> list[int]:
        """Trials that still train."""
        return [number for number, trial in enumerate(self.trials) if trial.fate == "training"]


@dataclass(frozen=True)
class MembersFacts:
    """What one finished epoch came to, for the trials that trained in it.

    values: (split, name) -> [trials]; learning_rates: [trials]; better: which were better on dev than ever before.
    confusions: counts on dev (trials, true classes, predicted classes), None where they would be many.
    """

    epoch: int
    step: int
    trials: tuple[int, ...]
    learning_rates: Tensor
    values: dict[tuple[str, str], Tensor]
    better: Tensor
    batch_losses: Tensor
    confusions: Tensor | None = None


@runtime_checkable
class MembersInsideObserver(Protocol):
    """An observer that looks inside the steps it chooses."""

    def before_step(self, population: Population, step: Step, number: int) -> None:
        """Before every step is handed out; `number` counts from 1. Nothing of the members may be changed."""

    def on_judged(self, population: Population, step: int, epoch: int) -> None:
        """Once dev has been evaluated, while the members have the weights that were judged (see `showing`)."""


class MembersObserver(SaveObserver, Protocol):
    """Somebody who wants to know how a population fares."""

    def on_step(self, moment: Moment, num_members: int) -> None:
        """After every step has been handed out."""

    def on_epoch(self, facts: MembersFacts, trials: Sequence[Trial]) -> None:
        """After every epoch, once dev has been evaluated and fates are known."""


def train_members(
    job: MembersJob,
    population: Population,
    state: MembersState,
    checkpoints: Checkpoints | None,
    observers: Sequence[MembersObserver],
    stop: StopRequest,
) -> bool:
    """Train a population from `state` on; return True when done, False when a stop was requested (it is saved).

    A member whose loss or weights are not finite, or whose loss explodes, is diverged and leaves; so does one that has
    not improved for `patience` epochs. The others go on as if it had never been there.
    """
    with Saver(checkpoints, observers) as saver:
        if checkpoints is not None and state.step == 0:
            saver.save(0, pack_members(population, state, keep=True))
            saver.wait()
        running = _Running(population)
        try:
            return _train(job, running, state, saver, observers, stop)
        except BaseException:
            running.population.drop()
            raise


@dataclass
class _Running:
    """The population that trains now: a smaller one once members have left."""

    population: Population


def _train(
    job: MembersJob,
    running: _Running,
    state: MembersState,
    saver: Saver,
    observers: Sequence[MembersObserver],
    stop: StopRequest,
) -> bool:
    population = running.population
    bounds = batch_bounds(len(job.train), job.batch_size, merge_single=job.merge_single)
    if isinstance(job.schedule, Plateaus) and state.schedule:
        job.schedule.load(state.schedule)
    mid_epoch = MID_EPOCH_FACTOR * job.checkpoint_seconds + MID_EPOCH_SECONDS
    inside = [observer for observer in observers if isinstance(observer, MembersInsideObserver)]
    while state.alive and state.epoch <= job.epochs:
        rows = epoch_rows(job.train, job.seed, state.epoch)
        for start, end in bounds[state.batch :]:
            step = make_step(job, state, rows[start:end])
            for watcher in inside:
                watcher.before_step(population, step, state.step + 1)
            population.take(step)
            state.batch += 1
            state.step += 1
            for observer in observers:
                observer.on_step(Moment(state.step, state.epoch, state.batch, len(bounds)), len(population))
            if stop.requested or saver.age > mid_epoch:
                state.losses.append(population.losses())
                saver.save(state.step, pack_members(population, state))
                if stop.requested:
                    return False

        facts = _finish_epoch(job, population, state, bounds, inside)
        for observer in observers:
            observer.on_epoch(facts, state.trials)
        population = running.population = _without_the_gone(population, facts, state)
        done = not state.alive or state.epoch > job.epochs
        log_spaced = facts.epoch & (facts.epoch - 1) == 0
        if log_spaced or saver.age >= job.checkpoint_seconds or stop.requested or done:
            saver.save(state.step, pack_members(population, state, keep=log_spaced))
        if stop.requested and not done:
            population.close()
            return False
    finish_state(state, job)
    population.close()
    return True


def finish_state(state: MembersState, job: MembersJob) -> bool:
    """Whether training has come to its end; who still trained then has finished."""
    if state.alive and state.epoch <= job.epochs:
        return False
    for number in state.alive:
        state.trials[number].fate, state.trials[number].at_step = "finished", state.step
    return True


def make_step(job: MembersJob, state: MembersState, rows: Tensor) -> Step:
    """Fetch a batch and say what the schedules want: the step that all members take."""
    stored, targets = gather(job.train, job.device, rows)
    if job.augment is not None:
        generator = generator_for(job.seed, "augment", state.epoch, state.batch)
        stored, targets = job.augment(stored, targets, generator)
    alive = state.alive
    weights = None if job.example_weights is None else _weights(job.example_weights, alive, rows).to(job.device)
    batch: tuple[Shared, Shared]
    if job.folds is None:
        batch = job.prepare(stored), targets
    else:
        batch = seen(job.folds, alive, rows, stored, targets, job.device)
    momentum = None if job.momentum is None else _of(job.momentum(state.step), alive)
    average = None if job.average is None else job.average.share(state.step + 1)
    return Step(*batch, weights, _of(job.schedule(state.step), alive), momentum, average)


def _weights(weights: Tensor, alive: list[int], rows: Tensor) -> Tensor:
    """Return the weights (trials that train, rows) of some stored rows."""
    found = weights.index_select(1, rows.to(weights.device))
    return found if len(alive) == len(weights) else found[alive]


def trial_steps(job: MembersJob, state: MembersState, count: int = 3) -> list[Step]:
    """Return the first few steps of the run, to time executors with."""
    rows = epoch_rows(job.train, job.seed, 1)
    size = min(job.batch_size, len(rows))
    starts = range(0, max(1, len(rows) - size + 1), size)
    return [make_step(job, state, rows[start : start + size]) for start in list(starts)[:count]]


def _of(number: Number, trials: list[int]) -> Number:
    return number[trials] if isinstance(number, Tensor) and number.dim() else number


def _finish_epoch(
    job: MembersJob,
    population: Population,
    state: MembersState,
    bounds: list[tuple[int, int]],
    inside: Sequence[MembersInsideObserver],
) -> MembersFacts:
    """Evaluate dev, note each member's best, decide fates, move the state to the start of the next epoch."""
    alive = state.alive
    losses = torch.cat([*state.losses, population.losses()]).double()
    sizes = _batch_sizes(job, state, bounds)
    train_loss = (losses * sizes).sum(dim=0) / sizes.sum(dim=0)
    current = population.state()
    judged = judged_weights(job, population, state, current)
    confusions: list[Tensor] = []
    with showing(population, judged, current):
        dev_loss, metric = judge(job, population, state, confusions)
        for watcher in inside:
            watcher.on_judged(population, state.step, state.epoch)
    name = "accuracy" if job.task == "classification" else "r2"
    value = dev_loss if job.metric == "loss" else metric
    trials = [state.trials[number] for number in alive]
    grows = job.metric != "loss"
    better = torch.tensor([is_better(float(v), t.best, grows=grows) for v, t in zip(value, trials, strict=True)])
    _remember(state, judged, alive, better)
    finite = _finite_members(current)
    exploded = train_loss > EXPLODED * losses[0].clamp_min(1.0)
    diverged = ~torch.isfinite(losses).all(dim=0) | exploded | ~finite
    waits = job.average is None or job.average.begun(state.step)  # patience cannot run out before the average begins
    for place, trial in enumerate(trials):
        if better[place]:
            trial.best_epoch, trial.best = state.epoch, float(value[place])
        trial.dev_loss, trial.dev_metric = float(dev_loss[place]), float(metric[place])
        trial.waited = trial.waited + 1 if waits and not better[place] else 0
        if diverged[place]:
            trial.fate, trial.at_step = "diverged", state.step
        elif job.patience is not None and trial.waited >= job.patience and not _is_whole(job, alive[place]):
            trial.fate, trial.at_step = "stopped early", state.step
    _end_wholes(job, state)
    if bool(better.any()):
        state.best_step = state.step
    rates = torch.as_tensor(_of(job.schedule(state.step - 1), alive), dtype=torch.float64).expand(len(alive))
    values = {("train", "loss"): train_loss, ("dev", "loss"): dev_loss, ("dev", name): metric}
    counts = torch.stack(confusions).sum(dim=0) if confusions else None
    facts = MembersFacts(state.epoch, state.step, tuple(alive), rates, values, better, losses, counts)
    if isinstance(job.schedule, Plateaus):
        job.schedule.observe(alive, value.tolist())
        state.schedule = job.schedule.state()
    state.epoch += 1
    state.batch, state.losses = 0, []
    return facts


def _batch_sizes(job: MembersJob, state: MembersState, bounds: list[tuple[int, int]]) -> Tensor:
    """Return how much each batch of the epoch counts for each trial that trains: (batches, 1) or (batches, trials)."""
    if job.example_weights is None:
        return torch.tensor([end - start for start, end in bounds], dtype=torch.float64).unsqueeze(1)
    weights = _weights(job.example_weights, state.alive, epoch_rows(job.train, job.seed, state.epoch))
    return torch.stack([weights[:, start:end].sum(dim=1) for start, end in bounds]).double().cpu()


def _is_whole(job: MembersJob, trial: int) -> bool:
    return job.folds is not None and job.folds.is_whole(trial)


def _end_wholes(job: MembersJob, state: MembersState) -> None:
    """Let members that train on all folds leave once no fold is left to judge them."""
    for whole in (trial for trial in state.alive if _is_whole(job, trial)):
        assert job.folds is not None
        fates = {state.trials[other].fate for other in job.folds.others(whole)}
        if "training" not in fates:
            fate: Fate = "stopped early" if "stopped early" in fates else "diverged"
            state.trials[whole].fate, state.trials[whole].at_step = fate, state.step


def _remember(state: MembersState, weights: dict[str, Tensor], alive: list[int], better: Tensor) -> None:
    places = better.nonzero().flatten()
    numbers = torch.tensor(alive)[places]
    for name, tensor in weights.items():
        if name not in state.best_weights:
            state.best_weights[name] = torch.zeros((len(state.trials), *tensor.shape[1:]), dtype=tensor.dtype)
        state.best_weights[name][numbers] = tensor[places.to(tensor.device)].cpu()


def _finite_members(current: dict[str, Tensor]) -> Tensor:
    """Return which members' weights are finite throughout."""
    floats = [t for name, t in current.items() if name.startswith("model/") and t.is_floating_point()]
    return torch.stack([torch.isfinite(t.flatten(1)).all(dim=1).cpu() for t in floats if t.numel()]).all(dim=0)


def _without_the_gone(population: Population, facts: MembersFacts, state: MembersState) -> Population:
    """Return the population without the members whose fate has come, compacted."""
    staying = [place for place, number in enumerate(facts.trials) if state.trials[number].fate == "training"]
    if len(staying) == len(facts.trials) or not staying:
        return population
    smaller = population.select(staying)
    population.close()
    return smaller


def pack_members(population: Population, state: MembersState, *, keep: bool = False) -> Checkpoint:
    """Gather all that going on needs: members, generators, position, fates and best weights so far."""
    tensors = {f"member/{name}": tensor for name, tensor in population.state().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in state.best_weights.items()}
    tensors["losses"] = torch.cat(state.losses) if state.losses else torch.zeros(0)
    data: dict[str, Any] = {
        "epoch": state.epoch,
        "batch": state.batch,
        "best": {"epoch": max((trial.best_epoch for trial in state.trials), default=0), "step": state.best_step},
        "trials": [_words(trial) for trial in state.trials],
        "schedule": state.schedule,
        "split": state.split,
        "members": list(population.trials),
        "keep": keep,
    }
    return Checkpoint(tensors, data)


def unpack_members(checkpoint: Checkpoint, population: Population) -> tuple[Population, MembersState]:
    """Return the population and the state that a checkpoint holds; `population` is the whole one of the run's start.

    Raises InputError when the checkpoint is not one of such members.
    """
    data = checkpoint.data
    try:
        trials = [
            Trial(**words | {name: float(words[name]) for name in NUMBERS if name in words}) for words in data["trials"]
        ]
        members = [int(number) for number in data["members"]]
        losses = checkpoint.tensors["losses"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the checkpoint is not one of a population ({type(error).__name__}: {error}).") from error
    if len(members) != len(population):
        population = population.select(members)
    population.load(_under(checkpoint.tensors, "member/"))
    state = MembersState(trials, data["epoch"], data["batch"], data["step"])
    state.losses = [losses] if losses.numel() else []
    state.best_weights = _under(checkpoint.tensors, "best/")
    state.best_step = data["best"]["step"]
    state.schedule = data.get("schedule", [])
    state.split = None if data.get("split") is None else (int(data["split"][0]), int(data["split"][1]))
    return population, state


def _words(trial: Trial) -> dict[str, Any]:
    return {name: _word(value) for name, value in vars(trial).items()}


def _word(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
