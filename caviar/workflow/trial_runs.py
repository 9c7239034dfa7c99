"""A short run on trial: from a state of another run, or from scratch, with what rules say of it; nothing is kept."""

import contextlib
import copy
import math
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from caviar.core.checkpoint import Checkpoint
from caviar.core.errors import DivergedError, InputError
from caviar.core.findings import Finding, at_least
from caviar.core.observer import EpochFacts, Moment
from caviar.core.records import Record
from caviar.core.runs import RunFolder
from caviar.core.seeds import derive_seed
from caviar.core.store import Store
from caviar.recipe import Recipe
from caviar.train.batching import batch_bounds
from caviar.train.loop import Job, StopRequest, isolated_randomness
from caviar.train.loop import train as run_loop
from caviar.train.state import Best, State, load_weights, set_generator_states, unpack
from caviar.workflow.job import build_job
from caviar.workflow.observers import Recorder, RunLog
from caviar.workflow.plan import Plan
from caviar.workflow.watching import watch

FROM_SCRATCH = ("data", "split", "preprocess", "model")
"""Sections whose change makes another network, or other examples, than a checkpoint is of."""
STACKABLE = ("model.dropout",)
"""Their keys that do not."""


Tell = Callable[[int], object]
"""Is told of so many more epochs."""


@dataclass(frozen=True)
class Fork:
    """The state that trials begin with. epoch: finished ones; records: of the run up to there."""

    checkpoint: Checkpoint | None
    epoch: int
    records: tuple[Record, ...] = ()


@dataclass(frozen=True)
class Trial:
    """What a short run came to.

    metric: accuracy or R2 on dev in its best epoch; NaN where it diverged. loss: on dev, in the same epoch.
    epochs: that were trained. codes: of findings that are warnings or worse. findings: all that is no consequence.
    """

    metric: float
    loss: float
    epochs: int
    codes: frozenset[str]
    findings: tuple[Finding, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether it diverged."""
        return math.isnan(self.metric)


def begins_anew(assignments: tuple[str, ...]) -> bool:
    """Whether settings cannot be taken up by a run that is under way."""
    names = [assignment.split("=", 1)[0] for assignment in assignments]
    return any(name.split(".")[0] in FROM_SCRATCH and name not in STACKABLE for name in names)


def run_trial(plan: Plan, fork: Fork | None, last_epoch: int, number: int, tell: Tell = int) -> Trial:
    """Train a plan to the end of an epoch (its own last one at most), from a fork or (None) from its first weights.

    number: 0 takes the run's own order and draws; every other one has its own. tell: of epochs that are done.
    """
    seed = trial_seed(plan, number)
    plan = replace(plan, model=copy.deepcopy(plan.model), recipe=watched_recipe(plan))
    job = replace(build_job(plan), seed=seed)
    randomness = isolated_randomness(derive_seed(seed, "trial", 0, "draws"), plan.device)
    with tempfile.TemporaryDirectory(prefix="caviar-trial-") as place, randomness:
        folder = RunFolder(Path(place))
        with Store(folder.store) as store:
            return _run(plan, job, fork, Halt(last_epoch, StopRequest(), tell), number, folder, store)


def trial_seed(plan: Plan, number: int) -> int:
    """Return where the randomness of a trial comes from: trial 0 takes the run's own."""
    return plan.recipe.seed if number == 0 else derive_seed(plan.recipe.seed, "proof", number)


def watched_recipe(plan: Plan) -> Recipe:
    """Return the recipe with rules that speak at the end only."""
    watching = plan.recipe.watch.model_copy(update={"findings": "end"})
    return plan.recipe.model_copy(update={"watch": watching})


def _run(plan: Plan, job: Job, fork: Fork | None, halt: "Halt", number: int, folder: RunFolder, store: Store) -> Trial:
    state = State()
    if fork is not None and fork.checkpoint is not None:
        draws = torch.get_rng_state()
        state = fork_state(fork.checkpoint, job)
        store.write(fork.records)
        if number:
            torch.set_rng_state(draws)
    quiet = Console(quiet=True)
    with contextlib.closing(watch(plan, job, folder, store, state.step, quiet)) as watched:
        recorder = Recorder(
            store, folder, RunLog(folder.log), watcher=watched.watcher, findings=watched.live, losses=watched.losses
        )
        failed = done = False
        try:
            done = run_loop(job, state, None, [*watched.observers, recorder, halt], halt.stop)
        except DivergedError:
            failed = True
        recorder.flush()
        assert watched.live is not None
        found = watched.live.read(finished=done, failed=failed).findings
    metric, loss = (math.nan, math.nan) if failed else halt.best
    return trial_of(metric, loss, halt.epochs, found)


def trial_of(metric: float, loss: float, epochs: int, findings: Iterable[Finding]) -> Trial:
    """Return what a trial came to, of all that rules found."""
    causes = tuple(finding for finding in findings if not finding.consequence_of)
    codes = frozenset(finding.code for finding in causes if at_least(finding.severity, "warning"))
    return Trial(metric, loss, epochs, codes, causes)


class Halt:
    """Stops a run at the end of an epoch, and notes how its best epoch did on dev."""

    def __init__(self, last_epoch: int, stop: StopRequest, tell: Tell) -> None:
        self._last, self.stop, self._tell = last_epoch, stop, tell
        self.best, self.epochs = (math.nan, math.nan), 0

    def on_step(self, moment: Moment, loss: Tensor) -> None:
        """Nothing to do."""

    def on_epoch(self, facts: EpochFacts) -> None:
        self.epochs += 1
        if facts.best:
            metric = next(v for (split, name), v in facts.values.items() if split == "dev" and name != "loss")
            self.best = (metric, facts.values["dev", "loss"])
        self.stop.requested = self.stop.requested or facts.epoch >= self._last
        self._tell(1)

    def on_save(self, step: int) -> None:
        """Nothing is saved."""


def fork_state(checkpoint: Checkpoint, job: Job, *, keep_best: bool = False) -> State:
    """Put a checkpoint of the end of an epoch into a job whose settings may differ from those it was saved under.

    What the update rule remembers is kept where the rule is the same; its settings are the job's. keep_best: the best
    epoch so far counts on.
    """
    settings = [{k: v for k, v in group.items() if k != "params"} for group in job.optimizer.param_groups]
    try:
        state = unpack(checkpoint, job.model, job.optimizer, job.device, job.averaged_model)
    except InputError:  # another rule: only the weights go on
        weights = {n.removeprefix("model/"): t for n, t in checkpoint.tensors.items() if n.startswith("model/")}
        load_weights(job.model, weights, "the checkpoint")
        draws = {n.removeprefix("generator/"): t for n, t in checkpoint.tensors.items() if n.startswith("generator/")}
        set_generator_states(draws, job.device)
        state = State(epoch=checkpoint.data["epoch"])
    for group, own in zip(job.optimizer.param_groups, settings, strict=True):
        group.update(own)
    per_epoch = len(batch_bounds(len(job.train), job.batch_size, merge_single=job.merge_single))
    state.step, state.batch, state.waited = (state.epoch - 1) * per_epoch, 0, 0
    state.losses = torch.zeros(0)
    if not keep_best:
        state.best = Best()
    return state
