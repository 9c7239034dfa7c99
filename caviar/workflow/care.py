"""Train one model with care: when findings appear, go back, try their remedies, and go on with the one that helps.

What care does is a function of the records alone, so that a rerun, or a resume, does the same again. Where it finds
nothing to do, training is what it would be without it, bit for bit.
"""

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from rich.console import Console
from torch import nn

from caviar.core.checkpoint import Checkpoint, read_checkpoint
from caviar.core.errors import DivergedError, InputError
from caviar.core.findings import Finding, at_least
from caviar.core.jsonable import jsonable
from caviar.core.observer import EpochFacts
from caviar.core.runs import RunFolder
from caviar.core.seeds import derive_seed
from caviar.core.store import Store
from caviar.diagnose.live import LiveFindings
from caviar.nn.settings import GivenSettings
from caviar.train.checkpoints import BEST_FILE, Checkpoints
from caviar.train.loop import Job, StopRequest
from caviar.train.state import State, unpack
from caviar.workflow.advice import advice_for
from caviar.workflow.job import build_job
from caviar.workflow.observers import RunLog
from caviar.workflow.plan import Plan, variant
from caviar.workflow.proof import Proof
from caviar.workflow.prove import choose_fork, note, seconds_an_epoch
from caviar.workflow.show import print_notes
from caviar.workflow.train_once import Place, Trained, checkpoints_of, note_start, train_once
from caviar.workflow.trial_runs import fork_state
from caviar.workflow.try_remedies import SEEDS, try_remedies
from caviar.workflow.watching import watch

CONFIDENT: Final = 0.8
"""A finding must be so sure for care to act on it."""
LOOKS: Final = 10
"""Care looks after epochs 1, 2, 4, 8, ... and after every tenth of the run."""
MOST_INTERVENTIONS: Final = 3
MOMENTARY_FAMILIES: Final = ("PERF", "SEARCH")
"""Findings about the machine, which another day would not show."""


@dataclass
class Care:
    """What care has done so far, as the run's events tell it. settings: taken over; let_be: codes nothing helps."""

    interventions: list[dict[str, Any]]
    let_be: set[str]

    @classmethod
    def of(cls, store: Store) -> "Care":
        """Read it from a run's events."""
        let_be = {code for event in store.events("let_be") for code in event["codes"]}
        return cls(store.events("intervened"), let_be)

    @property
    def settings(self) -> tuple[str, ...]:
        """Assignments of all interventions, in their order."""
        return tuple(setting for event in self.interventions for setting in event["settings"])


class _Eye:
    """Looks at the records of finished epochs, and halts training where there is something to try."""

    def __init__(self, live: LiveFindings, plan: Plan, let_be: set[str], stop: StopRequest) -> None:
        self._live, self._plan, self._let_be, self._stop = live, plan, let_be, stop
        self.found: list[Finding] = []

    def on_epoch(self, facts: EpochFacts) -> None:
        """Look, when it is time."""
        if not self._stop.requested:  # a run that is stopped looks when it goes on
            self.look(facts.epoch)
            self._stop.requested = bool(self.found)

    def look(self, epoch: int, *, failed: bool = False) -> None:
        """Ask the rules, when it is time after so many epochs, or training has failed."""
        epochs = self._plan.recipe.training.epochs
        assert isinstance(epochs, int)
        due = epoch & (epoch - 1) == 0 or epoch % max(1, epochs // LOOKS) == 0
        if failed or (epoch > 0 and due):
            self.found = self._worth_acting(self._live.read(finished=False, failed=failed).findings)

    def _worth_acting(self, findings: Sequence[Finding]) -> list[Finding]:
        grave = [
            f
            for f in findings
            if at_least(f.severity, "warning")
            and not f.consequence_of
            and f.confidence >= CONFIDENT
            and f.family not in MOMENTARY_FAMILIES
            and f.code not in self._let_be
        ]
        advice = advice_for(grave, self._plan.recipe)[0]
        return grave if any(not each.lengthens for each in advice) else []


def train_with_care(
    plan: Plan,
    folder: RunFolder,
    store: Store,
    log: RunLog,
    start: Checkpoint | None,
    stop: StopRequest,
    console: Console,
    resumed: bool,
) -> Trained:
    """Train to the end; whenever findings appear, try their remedies and take over the one that helps.

    Raises:
        InputError: the recipe turns off what care looks at.
        DivergedError: training diverged, and no remedy helps.
    """
    watching = plan.recipe.watch
    if watching.findings == "none" or watching.quantities == "none":
        raise InputError("training.care looks at findings; leave watch.findings and watch.quantities on.")
    first, place = plan, Place(folder, store, log, console)
    module = copy.deepcopy(plan.model) if isinstance(plan.recipe.model, GivenSettings) else None
    job: Job | None = None
    state = State()
    while True:
        care = Care.of(store)
        if job is None:
            plan = variant(first, care.settings, module) if care.settings else first
            job = build_job(plan)
            state = _begin(care, job, start, folder, store)
            note_start(place, state, resumed=resumed or bool(care.interventions))
        checkpoints = checkpoints_of(folder, first.recipe, interventions=len(care.interventions))
        with contextlib.closing(watch(plan, job, folder, store, state.step, console)) as watched:
            assert watched.live is not None
            eye, failure, done = _Eye(watched.live, plan, care.let_be, stop), None, False
            if state.batch == 0:
                eye.look(state.epoch - 1)
            if not eye.found:
                try:
                    done = train_once(place, job, state, checkpoints, watched, stop, eye.on_epoch)
                except DivergedError as error:
                    failure = error
                    eye.look(state.epoch, failed=True)
        if not eye.found:
            if failure is not None:
                raise failure
            folder.write_summary(interventions=[_told(event) for event in care.interventions] or None)
            return Trained(plan, job, state, done, watched.findings(finished=done))
        stop.requested = False
        if _intervene(place, plan, module, eye.found, care):
            start, job = None, None
        elif failure is not None:
            raise failure


def _begin(care: Care, job: Job, start: Checkpoint | None, folder: RunFolder, store: Store) -> State:
    """Return the state to train from: what the last intervention went back to, if no checkpoint knows of it yet."""
    done = len(care.interventions)
    if done and (start is None or start.data.get("interventions", 0) < done):
        last, checkpoints = care.interventions[-1], Checkpoints(folder.checkpoints)
        anew, from_step = bool(last["from_scratch"]), int(last["from_step"])
        state = State()
        if anew:
            torch.manual_seed(derive_seed(job.seed, "trial", 0, "draws"))  # as every run begins
        else:
            state = fork_state(read_checkpoint(checkpoints.path(from_step)), job, keep_best=True)
        for step in checkpoints.steps():
            if anew or step > from_step:
                checkpoints.path(step).unlink()
        if not state.best.epoch:
            (folder.checkpoints / BEST_FILE).unlink(missing_ok=True)
        store.delete_after(-1 if anew else min(from_step, state.step))
        return state
    state = State() if start is None else unpack(start, job.model, job.optimizer, job.device, job.averaged_model)
    store.delete_after(-1 if start is None else state.step)
    if start is not None:
        start.tensors.clear()  # they have been copied: a second state need not stay in memory
    return state


def _intervene(place: Place, plan: Plan, module: nn.Module | None, findings: Sequence[Finding], care: Care) -> bool:
    """Try the remedies of findings; note the one to take over and return True, or that nothing helps."""
    codes = list(dict.fromkeys(finding.code for finding in findings))
    proof: Proof | None = None
    if len(care.interventions) < MOST_INTERVENTIONS:
        _say(place, f"{', '.join(codes)}: {findings[0].message} Trying remedies.")
        fork = choose_fork(place.folder, findings, kept_only=True)
        make = partial(variant, plan, module=module)
        recipe = plan.recipe
        pace = seconds_an_epoch(place.folder)
        proof = try_remedies(findings, recipe, make, fork, epochs=None, seeds=SEEDS, console=place.console, pace=pace)
        note(place.folder, proof)
    if proof is None or proof.winner is None:
        place.store.add_event(0 if proof is None else proof.from_step, "let_be", codes=codes)
        _say(place, f"{', '.join(codes)}: nothing that was tried does better. Going on unchanged.")
        return False
    winner, metric = proof.winner, proof.metric
    begin = {"from_step": proof.from_step, "from_epoch": proof.from_epoch, "from_scratch": winner.anew}
    gain = jsonable({"metric": metric, "gain": winner.gain, "gain_spread": winner.spread})
    place.store.add_event(proof.from_step, "intervened", codes=codes, settings=list(winner.settings), **begin, **gain)
    where = f"from the end of epoch {proof.from_epoch}" if proof.from_epoch else "from the first state"
    where = "from scratch" if winner.anew else where
    _say(place, f"Going on {where} with {' '.join(f'--set {setting}' for setting in winner.settings)}.")
    return True


def _say(place: Place, message: str) -> None:
    place.log.write(f"care: {message}")
    print_notes(place.console, [message])


def _told(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in ("time", "kind", "step")}
