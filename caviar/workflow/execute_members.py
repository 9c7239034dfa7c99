"""Train a planned population in its folder, evaluate every member, and hand over the best."""

import contextlib
import gc
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from rich.console import Console

from caviar.core.checkpoint import Checkpoint
from caviar.core.errors import CaviarError, RunError
from caviar.core.jsonable import jsonable
from caviar.core.runs import RunFolder
from caviar.core.store import Store
from caviar.population import Layout
from caviar.population.allocation import is_out_of_memory
from caviar.population.executors import intra_op_threads
from caviar.population.memory import with_less_memory
from caviar.recipe import Recipe
from caviar.train.checkpoints import Checkpoints
from caviar.train.loop import Job, StopRequest
from caviar.train.members import MembersState, pack_members, train_members, trial_steps, unpack_members
from caviar.train.state import Best, State
from caviar.workflow.hand_over import finish
from caviar.workflow.members import best_trial, describe_members, first_state, make_population, members_job
from caviar.workflow.members_observers import MembersBar, MembersRecorder, Portion
from caviar.workflow.observers import RunLog
from caviar.workflow.plan import Plan
from caviar.workflow.show import print_notes
from caviar.workflow.train_once import reason_of
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

    Where memory runs out, training goes back to the last saved state, with half as many members computed at once; a
    resume keeps to that. part: says which members of the run they are; without it they are all.

    Raises RunError: memory does not suffice for one member at a time.
    """
    place, whole = (folder, plan.recipe) if part is None else (part.folder, part.recipe)
    place.checkpoints.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(place.checkpoints, {"recipe": jsonable(whole.model_dump())})
    split: Split | None = None
    while True:
        try:
            return _train_from(plan, folder, store, log, checkpoints, start, split, stop, console, part)
        except _NoRoomError as error:
            split = error.split
        gc.collect()  # nothing holds what the failed step held any more
        if plan.device.type == "cuda":
            torch.cuda.empty_cache()
        start, _ = checkpoints.newest()
        print_notes(console, [split.words])
        log.write(split.words)


class Split(NamedTuple):
    """Fewer members at once, as memory ran out. to: (size, threads)."""

    to: tuple[int, int]
    words: str


class _NoRoomError(Exception):
    """Memory ran out; says how to go on. What was computed is not held by it."""

    def __init__(self, split: Split) -> None:
        super().__init__(split.words)
        self.split = split


def _train_from(
    plan: Plan,
    folder: RunFolder,
    store: Store,
    log: RunLog,
    checkpoints: Checkpoints,
    start: Checkpoint | None,
    split: Split | None,
    stop: StopRequest,
    console: Console,
    part: Part | None,
) -> tuple[MembersState, bool]:
    trials, whole = (None, plan.recipe) if part is None else (part.trials, part.recipe)
    job, population = members_job(plan), make_population(plan, trials)
    state = first_state(plan.recipe.population.trials)
    steps = trial_steps(job, state, 1)
    if start is not None:
        population, state = unpack_members(start, population)
    store.delete_after(-1 if start is None else state.step, trials)
    detail = {} if part is None else {"cohort": part.portion.number}
    if split is None:
        store.add_event(state.step, "started" if start is None else "resumed", **detail)
    else:
        state.split = split.to
        store.add_event(state.step, "split", size=split.to[0], threads=split.to[1], why=split.words, **detail)
        if start is not None:
            checkpoints.save(state.step, pack_members(population, state, keep=bool(start.data.get("keep"))))
    folder.write_summary(status="running", epoch=state.epoch - 1, epochs=job.epochs, error=None, **detail)
    eyes = watch_members(plan, job, Watched(folder, store, whole, trials), state.step, console)
    eyes.note_fates(state.trials)
    recorder = MembersRecorder(store, folder, log, eyes, trials)
    layout = layout_of(plan.recipe, len(population), state.split)
    portion = None if part is None else part.portion
    try:
        with (
            intra_op_threads(layout),
            MembersBar(job.epochs, len(job.train), job.batch_size, state.step, console, portion) as bar,
        ):
            population.prepare(steps, layout)
            done = train_members(job, population, state, checkpoints, [eyes, recorder, bar], stop)
    except Exception as error:
        if is_out_of_memory(error):
            population.drop()
            raise _NoRoomError(_split(layout, len(population), error)) from None
        with contextlib.suppress(OSError, CaviarError):  # what led to the failure is worth reading
            recorder.flush()
            store.add_event(state.step, "failed", error=str(error))
            folder.write_summary(findings=eyes.findings(failed=True))
        raise
    recorder.on_save(state.step)
    if part is None:
        folder.write_summary(findings=eyes.findings(finished=done))
    return state, done


def _split(layout: Layout, num_members: int, error: Exception) -> Split:
    smaller = with_less_memory(layout, num_members)
    if smaller is None:
        raise RunError(
            f"{reason_of(error)}, even for one member at a time. Use a smaller model or a smaller "
            "training.batch_size, or measure less (watch.quantities = none), or free some memory"
        ) from None
    said = f"{reason_of(error)} for {layout}; going on from the last saved state with {smaller}."
    return Split((smaller.size, smaller.threads), said)


def layout_of(recipe: Recipe, num_members: int, split: tuple[int, int] | None = None) -> Layout:
    """Return the way to run that a resolved recipe states, for the members that are left.

    split: takes the place of its size and threads.
    """
    settings = recipe.population
    assert isinstance(settings.size, int)
    assert isinstance(settings.threads, int)
    most, threads = split or (settings.size, settings.threads)
    size = min(most, num_members)
    return Layout(str(settings.executor), size, min(threads, -(-num_members // size)))


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
