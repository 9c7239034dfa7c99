"""Trials that differ in numbers only, trained as one population: the judgement of single trials, sooner."""

import copy
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from torch import Tensor

from caviar.core.errors import InputError
from caviar.core.observer import Moment
from caviar.core.runs import RunFolder
from caviar.core.seeds import derive_seed
from caviar.core.store import Store
from caviar.population import Population
from caviar.population.cohort import NAMES
from caviar.population.executors import intra_op_threads
from caviar.population.modules import stack_weights
from caviar.population.population import member_draws
from caviar.population.rules import optimizer_state
from caviar.population.settings import PopulationSettings
from caviar.recipe import Recipe
from caviar.train.loop import StopRequest, isolated_randomness
from caviar.train.members import MembersFacts, MembersState, train_members, trial_steps
from caviar.train.members import Trial as Fared
from caviar.workflow.find_lr import untimed_layout
from caviar.workflow.job import build_job
from caviar.workflow.members import check_together, first_state, make_population, members_job
from caviar.workflow.members_observers import MembersRecorder
from caviar.workflow.observers import RunLog
from caviar.workflow.plan import Plan
from caviar.workflow.trial_runs import Fork, Tell, Trial, fork_state, trial_of, trial_seed, watched_recipe
from caviar.workflow.watching_members import Watched, watch_members

STACKED: Final = {name: place for name, place in NAMES.items() if name not in ("label_smoothing", "init_gain")}
"""Numbers in which members may differ; not the label's smoothing, which is part of the loss that dev is judged by."""
FREE: Final = ("model.init", "model.init_gain", "model.init_fan_mode", "model.init_distribution")
"""Settings of the first weights, which may differ as they like."""
NO_LIMIT: Final = 1e30


def alike(plan: Plan) -> str | None:
    """Return what trials must have in common to train together; None where a plan trains one model only.

    What a single run remembers of an average or a plateau is not carried over into a population.
    """
    if plan.recipe.average.name != "none" or plan.recipe.schedule.name == "plateau":
        return None
    try:
        check_together(_uncared(plan.recipe))
    except InputError:
        return None
    values: dict[str, Any] = plan.recipe.model_dump(mode="json")
    for place in (*STACKED.values(), *FREE):
        section, _, key = place.partition(".")
        values[section].pop(key, None)
    modules = [f"{name} {type(module).__qualname__}" for name, module in plan.model.named_modules()]
    shapes = [f"{name} {tuple(tensor.shape)}" for name, tensor in plan.model.state_dict().items()]
    return json.dumps([values, modules, shapes], sort_keys=True)


def run_trials(
    plans: Sequence[Plan], fork: Fork | None, last_epoch: int, number: int, tell: Tell = int
) -> list[Trial] | None:
    """Train plans that are `alike` to the end of an epoch, as `run_trial` does with each; None where no stack pays."""
    first = plans[0]
    settings = PopulationSettings().model_copy(update={"members": len(plans), **_lists(plans)})
    plan = replace(first, recipe=_uncared(watched_recipe(first)).model_copy(update={"population": settings}))
    seed = trial_seed(first, number)
    job = replace(members_job(plan), seed=seed)
    draws = derive_seed(seed, "trial", 0, "draws")
    with tempfile.TemporaryDirectory(prefix="caviar-trial-") as place, isolated_randomness(draws, plan.device):
        population, state = _members(plan, plans, fork, seed, number)
        steps = trial_steps(job, state, 1)
        layout = untimed_layout(population.cohort, steps[0])
        if layout.kind == "singles":
            return None
        folder, stop = RunFolder(Path(place)), StopRequest()
        halt = _Halt(last_epoch, stop, tell, len(plans))
        with Store(folder.store) as store, intra_op_threads(layout):
            for member in range(len(plans)):
                store.write([record._replace(trial=member) for record in (fork.records if fork else ())])
            watched = Watched(folder, store, plan.recipe)
            eyes = watch_members(plan, job, watched, state.step, Console(quiet=True))
            recorder = MembersRecorder(store, folder, RunLog(folder.log), eyes)
            population.prepare(steps, layout)
            done = train_members(job, population, state, None, [eyes, recorder, halt], stop)
            recorder.flush()
        assert eyes.live is not None
        found = eyes.live.read(finished=done).findings
    trials = []
    for member, fared in enumerate(state.trials):
        metric, loss = (math.nan, math.nan) if fared.fate == "diverged" else halt.best[member]
        trials.append(trial_of(metric, loss, halt.epochs[member], [f for f in found if f.member == member]))
    return trials


def _uncared(recipe: Recipe) -> Recipe:
    """Return a recipe without care, which is no matter of a trial."""
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"care": False})})


def _lists(plans: Sequence[Plan]) -> dict[str, tuple[float, ...]]:
    """Return the numbers in which plans differ, one for each, by the names of [population]."""
    found = {}
    for name in STACKED:
        values = [_number(plan, name) for plan in plans]
        if None not in values and len(set(values)) > 1:
            found[name] = tuple(float(value) for value in values if value is not None)
    return found


def _number(plan: Plan, name: str) -> float | None:
    section, _, key = STACKED[name].partition(".")
    value = getattr(getattr(plan.recipe, section), key, None)
    if isinstance(value, tuple):
        value = value[int(name[-1]) - 1]
    return NO_LIMIT if value == "none" else value


def _members(
    plan: Plan, plans: Sequence[Plan], fork: Fork | None, seed: int, number: int
) -> tuple[Population, MembersState]:
    """Return the members as they begin: with first weights of their own, or all in the state of the fork."""
    count = len(plans)
    alone = replace(plan, recipe=plan.recipe.model_copy(update={"population": PopulationSettings()}))
    cohort = replace(
        make_population(alone).cohort,
        weights=stack_weights([each.model for each in plans]),
        draws=tuple(member_draws(seed, 0) for _ in plans),
        values={name: torch.tensor(values, dtype=torch.float64) for name, values in _lists(plans).items()},
    )
    population, state = Population.of(cohort, range(count)), first_state(count)
    if fork is not None and fork.epoch and fork.checkpoint is not None:
        job = build_job(replace(alone, model=copy.deepcopy(alone.model)))
        own = fork_state(fork.checkpoint, job)
        names = {parameter: name for name, parameter in job.model.named_parameters()}
        tensors: dict[str, Tensor] = {f"model/{name}": tensor for name, tensor in job.model.state_dict().items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in optimizer_state(job.optimizer, names).items()}
        tensors["draws"] = cohort.draws[0].get_state() if number else torch.get_rng_state()
        population.load(
            {name: tensor.detach().expand(count, *tensor.shape).clone() for name, tensor in tensors.items()}
        )
        state.epoch, state.step = own.epoch, own.step
    return population, state


class _Halt:
    """Stops at the end of an epoch, and notes how each member's best epoch did on dev."""

    def __init__(self, last_epoch: int, stop: StopRequest, tell: Tell, members: int) -> None:
        self._last, self._stop, self._tell = last_epoch, stop, tell
        self.best, self.epochs = [(math.nan, math.nan)] * members, [0] * members

    def on_step(self, moment: Moment, num_members: int) -> None:
        """Nothing to do."""

    def on_epoch(self, facts: MembersFacts, trials: Sequence[Fared]) -> None:  # noqa: ARG002
        metric = next(values for (split, name), values in facts.values.items() if split == "dev" and name != "loss")
        for place, member in enumerate(facts.trials):
            self.epochs[member] += 1
            if facts.better[place]:
                self.best[member] = (float(metric[place]), float(facts.values["dev", "loss"][place]))
        self._stop.requested = self._stop.requested or facts.epoch >= self._last
        self._tell(len(facts.trials))

    def on_save(self, step: int) -> None:
        """Nothing is saved."""
