"""Train a planned population in its folder, evaluate every member, and hand over the best."""

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.console import Console

from caviar.core.checkpoint import Checkpoint
from caviar.core.errors import CaviarError
from caviar.core.jsonable import jsonable
from caviar.core.runs import RunFolder
from caviar.core.store import Store
from caviar.population import Layout
from caviar.population.executors import intra_op_threads
from caviar.recipe import Recipe
from caviar.train.checkpoints import Checkpoints
from caviar.train.loop import Job, StopRequest
from caviar.train.members import MembersState, train_members, trial_steps, unpack_members
from caviar.train.state import Best, State
from caviar.workflow.hand_over import finish
from caviar.workflow.members import best_trial, describe_members, first_state, make_population, members_job
from caviar.workflow.members_observers import MembersBar, MembersRecorder, Portion
from caviar.workflow.observers import RunLog
from caviar.workflow.plan import Plan
from caviar.workflow.watching_members import Watched, watch_members


class Part(NamedTuple):
    """Members of a run that train apart from the others.

    trials: their numbers in the run. folder: where their states are kept. recipe: the whole run's. portion: of the
    run's work.
    """

    trials: tuple[int, ...]
    folder: RunFolder
    recipe: Recipe
    portion: Portion


def train_population(
    plan: Plan,
    folder: RunFolder,
    store: Store,
    log: RunLog,
    start: Checkpoint | None,
    stop: StopRequest,
    console: Console,
    part: Part | None = None,
) -> tuple[MembersState, bool]:
    """Train the members from `start` on; return where they stand, and whether they are done.

    part: says which members of the run they are; without it they are all.
    """
    trials = None if part is None else part.trials
    job, population = members_job(plan), make_population(plan, trials)
    place, whole = (folder, plan.recipe) if part is None else (part.folder, part.recipe)
    place.checkpoints.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(place.checkpoints, {"recipe": jsonable(whole.model_dump())})
    state = first_state(plan.recipe.population.trials)
    steps = trial_steps(job, state, 1)
    if start is not None:
        population, state = unpack_members(start, population)
    store.delete_after(-1 if start is None else state.step, trials)
    detail = {} if part is None else {"cohort": part.portion.number}
    store.add_event(state.step, "started" if start is None else "resumed", **detail)
    folder.write_summary(status="running", epoch=state.epoch - 1, epochs=job.epochs, error=None, **detail)
    eyes = watch_members(plan, job, Watched(folder, store, whole, trials), state.step, console)
    eyes.note_fates(state.trials)
    recorder, layout = MembersRecorder(store, folder, log, eyes, trials), layout_of(plan.recipe, len(population))
    portion = None if part is None else part.portion
    try:
        with (
            intra_op_threads(layout),
            MembersBar(job.epochs, len(job.train), job.batch_size, state.step, console, portion) as bar,
        ):
            population.prepare(steps, layout)
            done = train_members(job, population, state, checkpoints, [eyes, recorder, bar], stop)
    except Exception as error:
        with contextlib.suppress(OSError, CaviarError):  # what led to the failure is worth reading
            recorder.flush()
            store.add_event(state.step, "failed", error=str(error))
            folder.write_summary(findings=eyes.findings(failed=True))
        raise
    recorder.on_save(state.step)
    if part is None:
        folder.write_summary(findings=eyes.findings(finished=done))
    return state, done


def layout_of(recipe: Recipe, num_members: int) -> Layout:
    """Return the way to run that a resolved recipe states, for the members that are left."""
    settings = recipe.population
    assert isinstance(settings.size, int)
    assert isinstance(settings.threads, int)
    size = min(settings.size, num_members)
    return Layout(str(settings.executor), size, min(settings.threads, -(-num_members // size)))


def finish_population(plan: Plan, job: Job, state: MembersState, folder: RunFolder) -> None:
    """Evaluate every member on dev and test, and write the bundle of the one that is best on dev."""
    training = plan.recipe.training
    assert training.metric != "auto"
    best = best_trial(state, training.metric, plan.folds)
    weights = {name: tensor[best].to(plan.device) for name, tensor in state.best_weights.items()}
    trial = state.trials[best]
    bundle = finish(plan, job, State(best=Best(trial.best_epoch, state.step, trial.best, weights)))
    bundle.save(folder.bundle)
    found = describe_members(plan, members_job(plan), state)
    told = {"trial": best, "epoch": trial.best_epoch, **dev_values(found["trials"][best])}
    folder.write_summary(metrics=bundle.metrics, best=told, epochs_run=state.epoch - 1, **found)


def dev_values(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a trial reached on dev."""
    return {key: value for key, value in row.items() if key.startswith("dev_")}
