"""Train a planned run of one model once through, from a state to its end, a stop or a failure."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

from rich.console import Console
from torch import Tensor

from caviar.core.checkpoint import Checkpoint
from caviar.core.errors import CaviarError
from caviar.core.jsonable import jsonable
from caviar.core.observer import EpochFacts, Moment
from caviar.core.runs import RunFolder
from caviar.core.store import Store
from caviar.population.allocation import is_out_of_memory, shortage
from caviar.recipe import Recipe
from caviar.train.checkpoints import Checkpoints
from caviar.train.loop import Job, StopRequest
from caviar.train.loop import train as run_loop
from caviar.train.state import State, unpack
from caviar.workflow.job import build_job
from caviar.workflow.observers import ProgressBar, Recorder, RunLog
from caviar.workflow.plan import Plan
from caviar.workflow.watching import Watched, watch


class Trained(NamedTuple):
    """How training ended. done: False where a stop was requested. findings: as JSON, None where rules are not asked."""

    plan: Plan
    job: Job
    state: State
    done: bool
    findings: list[dict[str, Any]] | None


class Place(NamedTuple):
    """Where a run is written, and who is told."""

    folder: RunFolder
    store: Store
    log: RunLog
    console: Console


def train_plainly(
    plan: Plan,
    folder: RunFolder,
    store: Store,
    log: RunLog,
    start: Checkpoint | None,
    stop: StopRequest,
    console: Console,
    resumed: bool,
) -> Trained:
    """Train to the end, whatever rules say meanwhile."""
    place, job = Place(folder, store, log, console), build_job(plan)
    checkpoints = checkpoints_of(folder, plan.recipe)
    state = State() if start is None else unpack(start, job.model, job.optimizer, job.device, job.averaged_model)
    store.delete_after(-1 if start is None else state.step)
    if start is not None:
        start.tensors.clear()  # they have been copied: a second state need not stay in memory
    note_start(place, state, resumed=resumed)
    with contextlib.closing(watch(plan, job, folder, store, state.step, console)) as watched:
        done = train_once(place, job, state, checkpoints, watched, stop)
    return Trained(plan, job, state, done, watched.findings(finished=done))


def checkpoints_of(folder: RunFolder, recipe: Recipe, **notes: Any) -> Checkpoints:
    """Return a run's checkpoints, which say what recipe they belong to."""
    return Checkpoints(folder.checkpoints, {"recipe": jsonable(recipe.model_dump()), **notes})


def note_start(place: Place, state: State, *, resumed: bool) -> None:
    """Leave word that training begins or goes on."""
    place.store.add_event(state.step, "resumed" if resumed else "started")
    place.folder.write_summary(status="running", epoch=state.epoch - 1, error=None)


def train_once(
    place: Place,
    job: Job,
    state: State,
    checkpoints: Checkpoints,
    watched: Watched,
    stop: StopRequest,
    look: Callable[[EpochFacts], None] | None = None,
) -> bool:
    """Train from `state` on and record it; return True when done, False when a stop was requested.

    look: called after every epoch, once all of its records are with the rules.
    """
    folder, store, log, console = place
    recorder = Recorder(store, folder, log, watcher=watched.watcher, findings=watched.live, losses=watched.losses)
    looking = [] if look is None else [_Looking(recorder, look)]
    try:
        with ProgressBar(job.epochs, len(job.train), job.batch_size, state.step, console) as bar:
            done = run_loop(job, state, checkpoints, [*watched.observers, recorder, bar, *looking], stop)
    except Exception as error:
        with contextlib.suppress(OSError, CaviarError):  # what led to the failure is worth reading
            recorder.flush()
            store.add_event(state.step, "failed", error=reason_of(error))
            folder.write_summary(findings=watched.findings(failed=True))
        raise
    recorder.on_save(state.step)
    return done


class _Looking:
    """Hands the records of an epoch over before somebody looks at them."""

    def __init__(self, recorder: Recorder, look: Callable[[EpochFacts], None]) -> None:
        self._recorder, self._look = recorder, look

    def on_step(self, moment: Moment, loss: Tensor) -> None:
        """Nothing to do."""

    def on_epoch(self, facts: EpochFacts) -> None:
        self._recorder.flush()
        self._look(facts)

    def on_save(self, step: int) -> None:
        """Nothing to do."""


def reason_of(error: Exception) -> str:
    """Return what went wrong in a few words, without a full stop."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    if is_out_of_memory(error):
        return shortage(error)
    return str(error).rstrip(".") or type(error).__name__
