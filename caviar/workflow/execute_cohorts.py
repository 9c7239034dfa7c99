"""Train the cohorts of a run one after another, and hand over the best member of all."""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console

from caviar.bundle import Bundle
from caviar.core.checkpoint import Checkpoint
from caviar.core.errors import RunError
from caviar.core.runs import RunFolder
from caviar.core.store import Store
from caviar.optim import is_better
from caviar.population.settings import HYPERPARAMETERS
from caviar.recipe import Recipe
from caviar.recipe.cohorts import cohort_recipes, differing_values, single_recipes
from caviar.train.loop import StopRequest
from caviar.train.members import MembersState, finish_state, unpack_members
from caviar.train.state import Best as BestState
from caviar.train.state import State
from caviar.workflow.cohorts import cohort_plans, plan_for
from caviar.workflow.execute_members import Part, dev_values, train_population
from caviar.workflow.hand_over import finish
from caviar.workflow.job import build_job
from caviar.workflow.members import (
    best_trial,
    judged_by_folds,
    make_population,
    member_rows,
    members_job,
    summarise,
    summarise_folds,
)
from caviar.workflow.members_observers import Portion
from caviar.workflow.observers import RunLog
from caviar.workflow.plan import Plan
from caviar.workflow.resume import newest_checkpoint
from caviar.workflow.show import print_notes

HEAD = ("trial", "fate", "best_epoch", "member", "fold")


class Best(NamedTuple):
    """The best member so far of all cohorts."""

    trial: int
    value: float
    epoch: int
    epochs_run: int
    epochs: int
    bundle: Bundle


def train_cohorts(
    plan: Plan, folder: RunFolder, store: Store, log: RunLog, stop: StopRequest, console: Console, resumed: bool
) -> tuple[MembersState, str]:
    """Train every cohort that is not done, and write the bundle of the member that is best on dev.

    Returns where the last one stands, and which one it is where a stop was requested before the end ("" otherwise).

    Raises RunError: every member of every cohort diverged in its first epoch.
    """
    singles, values = single_recipes(plan.recipe), differing_values(plan.recipe)
    settings, portions = plan.recipe.population, _portions(plan)
    with contextlib.suppress(OSError):
        folder.checkpoints.rmdir()  # each cohort has its own
    rows: list[dict[str, Any]] = []
    best: Best | None = None
    lost: RunError | None = None
    for portion, (_, trials, cohort) in zip(portions, cohort_plans(plan), strict=True):
        part = Part(trials, folder.cohort(portion.number), plan.recipe, portion)
        start = _newest(plan, folder, part, console) if resumed else None
        state, done = _train_one(cohort, part, folder, store, log, start, stop, console)
        if not done:
            return state, f"cohort {portion.number} of {portion.of}"
        job = members_job(cohort)
        own = judged_by_folds(member_rows(cohort, job, state), job, state)
        rows += _named(own, trials, values, settings.views)
        rows.sort(key=lambda row: int(row["trial"]))
        if job.folds is None:
            folder.write_summary(**summarise(rows, job))
        try:
            found = _best_of(plan, cohort, part, state, singles)
        except RunError as error:
            lost = error
            continue
        if best is None or is_better(found.value, best.value, grows=job.metric != "loss"):
            best = found
    if best is None:
        assert lost is not None
        raise lost
    best.bundle.save(folder.bundle)
    row = next(row for row in rows if row["trial"] == best.trial)
    if job.folds is not None:
        folder.write_summary(**summarise_folds(rows, job, best.trial // settings.views))
    told = {"trial": best.trial, "epoch": best.epoch, **dev_values(row)}
    run = {"epochs_run": best.epochs_run, "epoch": best.epochs_run, "epochs": best.epochs}
    folder.write_summary(metrics=best.bundle.metrics, best=told, **run)
    return state, ""


def _portions(plan: Plan) -> list[Portion]:
    """Return each cohort's share of the run, by the examples that its members see."""
    cohorts, rows = cohort_recipes(plan.recipe), len(plan.splits.train)
    sizes = [recipe.population.trials * int(recipe.training.epochs) * rows for _, recipe in cohorts]
    return [
        Portion(number, len(cohorts), cohort.recipe.population.trials, sum(sizes[: number - 1]), sum(sizes))
        for number, cohort in enumerate(cohorts, 1)
    ]


def _newest(plan: Plan, folder: RunFolder, part: Part, console: Console) -> Checkpoint | None:
    """Return the state that a cohort goes on from; None where it has not begun."""
    summary = folder.read_summary()
    here = summary.get("cohort") == part.portion.number
    start, problems = newest_checkpoint(folder, plan.recipe, summary if here else {}, part.folder)
    print_notes(console, problems)
    return start


def _train_one(
    cohort: Plan,
    part: Part,
    folder: RunFolder,
    store: Store,
    log: RunLog,
    start: Checkpoint | None,
    stop: StopRequest,
    console: Console,
) -> tuple[MembersState, bool]:
    """Train a cohort from `start` on; one that had come to its end is only read."""
    if start is not None:
        _, state = unpack_members(start, make_population(cohort, part.trials))
        if finish_state(state, members_job(cohort)):
            return state, True
    log.write(f"cohort {part.portion.number} of {part.portion.of}: trials {', '.join(map(str, part.trials))}")
    return train_population(cohort, folder, store, log, start, stop, console, part)


def _named(
    rows: Sequence[dict[str, Any]], trials: Sequence[int], values: Sequence[dict[str, Any]], views: int
) -> list[dict[str, Any]]:
    """Give the rows of a cohort's trials their numbers in the run, and all that members of the run differ in.

    values: of every member of the run. views: trials of each member.
    """
    found = []
    for row, trial in zip(rows, trials, strict=True):
        measured = {key: value for key, value in row.items() if key not in HYPERPARAMETERS}
        head = {key: measured.pop(key) for key in HEAD if key in measured}
        if "member" in head:
            head["member"] = trial // views
        found.append(head | {"trial": trial} | values[trial // views] | measured)
    return found


def _best_of(plan: Plan, cohort: Plan, part: Part, state: MembersState, singles: Sequence[Recipe]) -> Best:
    """Write the bundle of a cohort's best member: its network, with its own recipe, and the cohort's preprocessing."""
    metric = cohort.recipe.training.metric
    assert metric != "auto"
    place = best_trial(state, metric, cohort.folds)
    trial, fared = part.trials[place], state.trials[place]
    own = plan_for(plan, singles[trial // plan.recipe.population.views], [cohort])
    weights = {name: tensor[place].to(plan.device) for name, tensor in state.best_weights.items()}
    bundle = finish(own, build_job(own), State(best=BestState(fared.best_epoch, state.step, fared.best, weights)))
    bundle.save(part.folder.bundle)
    return Best(trial, fared.best, fared.best_epoch, state.epoch - 1, members_job(cohort).epochs, bundle)
