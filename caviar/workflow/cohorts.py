"""Members that cannot all be stacked: a plan for each cohort, and the way to run each."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from caviar.core.errors import InputError
from caviar.population import NAMES
from caviar.population.settings import HYPERPARAMETERS
from caviar.recipe import Recipe, Sparse, varied_keys
from caviar.recipe.cohorts import CohortRecipe, cohort_recipes, differing_values
from caviar.workflow.folds import with_folds
from caviar.workflow.members import lay_out_members
from caviar.workflow.plan import Plan, assemble

LAYOUT = ("executor", "size", "threads")


class CohortPlan(NamedTuple):
    """A cohort's members and trials by their numbers in the run, and their plan as a population of their own."""

    members: tuple[int, ...]
    trials: tuple[int, ...]
    plan: Plan


class CohortLayout(NamedTuple):
    """How a cohort was chosen to run. parameters: of one member's network. values: the settings all of it share.

    seconds: of one step of all members; None where nothing was timed. bytes: of memory that is needed.
    """

    trials: tuple[int, ...]
    values: dict[str, Any]
    parameters: int
    executor: str
    size: int
    threads: int
    seconds: float | None
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {**self._asdict(), "trials": list(self.trials)}


def cohort_plans(plan: Plan) -> Iterator[CohortPlan]:
    """Yield the plans of a run's cohorts in order; each is made when it is asked for, and torch's threads are its own.

    Examples are shared between cohorts that prepare them alike.

    Raises InputError: the recipe states the ways to run another number of cohorts.
    """
    cohorts = cohort_recipes(plan.recipe)
    others = [plan]
    for members, recipe in _laid_out(plan.recipe, cohorts):
        trials = plan.recipe.population.trials_of(members)
        with named_trials(trials):
            found = plan_for(plan, recipe, others)
        others = [plan, found]
        yield CohortPlan(members, trials, found)


@contextlib.contextmanager
def named_trials(trials: Sequence[int]) -> Iterator[None]:
    """Let wrong input that shows in the block say which members it is about."""
    try:
        yield
    except InputError as error:
        many = "s" if len(trials) > 1 else ""
        raise InputError(f"trial{many} {', '.join(map(str, trials))}: {error}") from error


def plan_for(plan: Plan, recipe: Recipe, others: Sequence[Plan] = ()) -> Plan:
    """Return the plan of a cohort or a member, on the same data and splits."""
    assert isinstance(recipe.device.threads, int)
    torch.set_num_threads(recipe.device.threads)
    given = plan.model if recipe.model.name == "given" else None
    found = assemble(recipe, plan.raw, plan.splits, given, plan.device, others or [plan])
    same = next((other.folds for other in others or [plan] if other.prepared is found.prepared), None)
    return with_folds(found) if same is None else replace(found, folds=same)


def _laid_out(recipe: Recipe, cohorts: Sequence[CohortRecipe]) -> Iterator[CohortRecipe]:
    """Give each cohort the executor, size and threads that the recipe states for it."""
    for key in LAYOUT:
        stated = getattr(recipe.population, key)
        if isinstance(stated, tuple) and len(stated) != len(cohorts):
            raise InputError(
                f"population.{key} has {len(stated)} entries for {len(cohorts)} cohorts. Give one for each, one for "
                'all, or "auto".'
            )
    for place, cohort in enumerate(cohorts):
        stated = {key: getattr(recipe.population, key) for key in LAYOUT}
        own = {key: value[place] if isinstance(value, tuple) else value for key, value in stated.items()}
        if isinstance(own["size"], int):
            own["size"] = min(own["size"], len(cohort.trials) * recipe.population.views)
        population = cohort.recipe.population.model_copy(update=own)
        yield cohort._replace(recipe=cohort.recipe.model_copy(update={"population": population}))


def lay_out_cohorts(plan: Plan, columns: Sequence[str]) -> tuple[Plan, list[CohortLayout]]:
    """Return the plan with the way to run each cohort chosen, and what was chosen.

    The choices stand in the resolved recipe, so that a rerun or a resume repeats them. columns: of what members differ
    in, what is told of a cohort where all of it is equal in that.
    """
    values = differing_values(plan.recipe)
    found: list[CohortLayout] = []
    for members, trials, cohort in cohort_plans(plan):
        with named_trials(trials):
            laid = lay_out_members(cohort)
        own = {key: [values[member].get(key) for member in members] for key in columns}
        known = [timing.seconds for timing in laid.timings if timing.seconds is not None]
        found.append(
            CohortLayout(
                trials=trials,
                values={key: its[0] for key, its in own.items() if all(value == its[0] for value in its)},
                parameters=sum(parameter.numel() for parameter in cohort.model.parameters()),
                executor=laid.layout.kind,
                size=laid.layout.size,
                threads=laid.layout.threads,
                seconds=min(known, default=None),
                bytes=laid.memory.total,
            )
        )
    chosen = {key: tuple(getattr(each, key) for each in found) for key in LAYOUT}
    population = plan.recipe.population.model_copy(update=chosen)
    assert isinstance(plan.recipe.device.threads, int)
    torch.set_num_threads(plan.recipe.device.threads)
    return replace(plan, recipe=plan.recipe.model_copy(update={"population": population})), found


def told_columns(recipe: Recipe, asked: Sparse) -> list[str]:
    """Return what members differ in as it was asked for, by the names of `differing_values`.

    What follows from it (more epochs with larger batches, other initial weights for another activation) is left out.
    """
    section = asked.values.get("population", {})
    wanted = {*varied_keys(section.get("vary", {})), *(name for name in HYPERPARAMETERS if name in section)}
    keys = dict.fromkeys(key for values in differing_values(recipe) for key in values)
    return [key for key in keys if key in wanted or NAMES.get(key) in wanted]
