"""Train a planned run in its folder: start or go on, finish, and say in words what went wrong."""

import shlex
import sqlite3
import sys
from pathlib import Path

import torch
from rich.console import Console

from caviar.core.checkpoint import Checkpoint
from caviar.core.errors import CaviarError, DivergedError, InputError, Interrupted, RunError
from caviar.core.runs import OwnedRun, RunFolder
from caviar.core.seeds import derive_seed
from caviar.core.store import Store
from caviar.diagnose.groups import grouped
from caviar.recipe import Recipe
from caviar.train.checkpoints import Checkpoints
from caviar.train.loop import StopRequest, isolated_randomness
from caviar.train.members import MembersState
from caviar.train.state import State
from caviar.workflow.care import train_with_care
from caviar.workflow.diagnose import diagnose_run
from caviar.workflow.execute_cohorts import train_cohorts
from caviar.workflow.execute_members import finish_population, train_population
from caviar.workflow.hand_over import finish
from caviar.workflow.job import build_job
from caviar.workflow.observers import RunLog
from caviar.workflow.plan import Plan
from caviar.workflow.run import Run
from caviar.workflow.signals import stop_on_signals
from caviar.workflow.train_once import reason_of, train_plainly
from caviar.workflow.words import how_to_resume


def execute(
    plan: Plan, owned: OwnedRun, console: Console, start: Checkpoint | None = None, *, resumed: bool = False
) -> Run:
    """Train a planned run in its folder from `start` (None: the beginning), evaluate it on test and write its bundle.

    Raises:
        InputError: a new run cannot write even its initial state; its folder is removed.
        RunError: it failed later; what was saved is kept.
        Interrupted: SIGINT or SIGTERM; the state is saved, and the message says how to go on.
    """
    folder, recipe = owned.folder, plan.recipe
    log = RunLog(folder.log)
    randomness = isolated_randomness(derive_seed(recipe.seed, "trial", 0, "draws"), plan.device)
    try:
        with stop_on_signals() as stop, Store(folder.store) as store, randomness:
            log.write("resumed" if resumed else "started")
            for notice in plan.notices:
                log.write(f"note: {notice}")
            population = recipe.population
            train_run = _train if population.is_one else _train_cohorts if population.vary else _train_members
            train_run(plan, folder, store, log, start, stop, console, resumed)
    except Interrupted:
        raise
    except KeyboardInterrupt as error:  # a second signal
        message = f"stopped at once; what was saved is kept. Go on with: {how_to_resume(recipe, folder.path)}"
        raise Interrupted(message) from error
    except (OSError, sqlite3.Error, CaviarError) as error:
        if not resumed and not _has_saved(folder):
            owned.discard()
            raise InputError(
                f"{folder.path}: the run cannot begin: {reason_of(error)}. Nothing of it is left. "
                "Free some space, or choose another folder with --runs-dir."
            ) from error
        _note_and_raise(owned, log, recipe, error)
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        _note_and_raise(owned, log, recipe, error)
        raise
    except Exception as error:
        _note_failure(owned, log, RunError(f"{type(error).__name__}: {error}"))
        raise
    return Run(folder, plan.model if recipe.model.name not in ("mlp", "convnet") else None)


def _train(
    plan: Plan,
    folder: RunFolder,
    store: Store,
    log: RunLog,
    start: Checkpoint | None,
    stop: StopRequest,
    console: Console,
    resumed: bool,
) -> None:
    folder.checkpoints.mkdir(exist_ok=True)
    train_run = train_with_care if plan.recipe.training.care else train_plainly
    plan, job, state, done, findings = train_run(plan, folder, store, log, start, stop, console, resumed)
    if not done:
        folder.write_summary(findings=findings)
        _interrupted(plan, folder, store, log, state)
    bundle = finish(plan, job, state)
    bundle.save(folder.bundle)
    store.add_event(state.step, "finished")
    folder.write_summary(status="finished", metrics=bundle.metrics, findings=findings, epochs_run=state.epoch - 1)
    log.write("finished")


def _train_members(
    plan: Plan,
    folder: RunFolder,
    store: Store,
    log: RunLog,
    start: Checkpoint | None,
    stop: StopRequest,
    console: Console,
    resumed: bool,  # noqa: ARG001
) -> None:
    state, done = train_population(plan, folder, store, log, start, stop, console)
    if not done:
        _interrupted(plan, folder, store, log, state)
    finish_population(plan, build_job(plan), state, folder)
    store.add_event(state.step, "finished")
    folder.write_summary(status="finished")
    log.write("finished")


def _train_cohorts(
    plan: Plan,
    folder: RunFolder,
    store: Store,
    log: RunLog,
    start: Checkpoint | None,  # noqa: ARG001 (each cohort has its own)
    stop: StopRequest,
    console: Console,
    resumed: bool,
) -> None:
    state, stopped_in = train_cohorts(plan, folder, store, log, stop, console, resumed)
    if stopped_in:
        _interrupted(plan, folder, store, log, state, f" of {stopped_in}")
    store.add_event(state.step, "finished")
    folder.write_summary(status="finished")
    if plan.recipe.watch.findings != "none":
        found = diagnose_run(folder.path).diagnosis
        folder.write_summary(findings=[group.to_dict() for group in grouped(found.findings)])
    log.write("finished")


def _has_saved(folder: RunFolder) -> bool:
    places = [folder, *map(RunFolder, folder.cohorts.glob("*"))]
    return any(Checkpoints(place.checkpoints).steps() for place in places)


def _interrupted(
    plan: Plan, folder: RunFolder, store: Store, log: RunLog, state: State | MembersState, where: str = ""
) -> None:
    """Leave word of a stop that was asked for, and raise it."""
    store.add_event(state.step, "interrupted")
    folder.write_summary(status="interrupted")
    log.write(f"interrupted after step {state.step}{where}")
    raise Interrupted(
        f"stopped after step {state.step} (epoch {state.epoch}){where}; everything is saved. "
        f"Go on with: {how_to_resume(plan.recipe, folder.path)}"
    )


def _note_and_raise(owned: OwnedRun, log: RunLog, recipe: Recipe, error: Exception) -> None:
    """Raise a RunError that says how to go on, after leaving word of it; wrong input is left to the caller to raise."""
    path = owned.folder.path
    if isinstance(error, InputError):
        _note_failure(owned, log, error)
        return
    if isinstance(error, DivergedError):
        failure: RunError = DivergedError(f"{path}: {error} {_how_to_retry(recipe, path)}")
    else:
        failure = RunError(
            f"{path}: the run stopped: {reason_of(error)}. Its last good state is kept; once the cause is mended, "
            f"go on with: {how_to_resume(recipe, path)}"
        )
    _note_failure(owned, log, failure)
    raise failure from error


def _how_to_retry(recipe: Recipe, path: Path) -> str:
    rate = recipe.optimizer.learning_rate
    lower = f"{rate / 10:.3g}" if isinstance(rate, float) else "..."
    if recipe.data.source == "none" or recipe.model.name == "given":
        return f'Resuming it would meet the same; train anew with settings={{"optimizer.learning_rate": {lower}}}.'
    return (
        "Resuming it would meet the same; start a new run: "
        f"caviar train {shlex.quote(str(path / 'recipe.toml'))} --set optimizer.learning_rate={lower}"
    )


def _note_failure(owned: OwnedRun, log: RunLog, error: CaviarError) -> None:
    """Leave word of a failure; on a full disk even that may fail, and the failure itself matters more.

    Wrong input changes nothing about how the run stands.
    """
    try:
        log.write(f"failed: {error}")
        if not isinstance(error, InputError):
            owned.folder.write_summary(status="failed", error=str(error))
    except (OSError, CaviarError) as second:
        print(f"(the failure could not be noted in the run's folder: {second})", file=sys.stderr)
