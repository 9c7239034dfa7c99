"""Try what findings advise: fork the last good state, train each remedy beside an untouched control, and compare."""

import math
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from torch import nn

from caviar.core.checkpoint import read_checkpoint
from caviar.core.errors import DamagedError, InputError, unknown_name
from caviar.core.files import write_json
from caviar.core.findings import Finding, at_least
from caviar.core.formats import PROOF
from caviar.core.records import Record
from caviar.core.runs import RunFolder, own_run
from caviar.core.store import Store
from caviar.diagnose.engine import diagnose
from caviar.diagnose.story import stories
from caviar.recipe import Recipe, from_recipe
from caviar.train.checkpoints import Checkpoints
from caviar.workflow.advice import advice_for
from caviar.workflow.diagnose import RunDiagnosis, diagnose_run, facts_of_run
from caviar.workflow.plan import make_plan, torch_as_before, variant
from caviar.workflow.proof import Proof, Tried
from caviar.workflow.randomness import randomness_as_before
from caviar.workflow.show import notes_console
from caviar.workflow.source import InMemory
from caviar.workflow.trial_runs import Fork
from caviar.workflow.try_remedies import SEEDS, MakePlan, try_remedies

LEARNED: Final = 0.9
LAST_LOSSES: Final = 10
"""A run has learned something when its last batches cost less than so much of its first one."""


def prove(
    run: str | Path,
    code: str | None = None,
    *,
    data: Any = None,
    target: Any = None,
    model: nn.Module | None = None,
    epochs: int | None = None,
    seeds: int = SEEDS,
    allow_code: bool = False,
    progress: bool = True,
) -> Proof:
    """Try the remedies of a run's findings, each in a short run beside an untouched control.

    All begin with the run's last good state before the findings show (its first state where they are there from the
    start) and train to the same epoch; a remedy that makes another network, or prepares inputs otherwise, trains there
    from scratch. Each seed has an order of batches and random draws of its own, common to all remedies. The result is
    kept in the run's folder (proof.json) and noted among its events.

    Beside what findings advise, all that the recipe has otherwise than caviar would choose is tried at once. Where that
    ends well ahead, or the best remedy's own trial shows the same finding, further rounds go on from the best: with
    what is advised there, what else helped, and what caviar would choose, concern by concern. A run without findings is
    tried beside what caviar would choose, and at the rate that a search suggests.

    Args:
        run: its folder.
        code: of the finding to prove; by default all that are warnings or worse, or where there are none worth
            knowing, and no consequences of others.
        data, target, model: as given to `caviar.train`, where the run had its data in memory or a module of its own.
        epochs: to train from the fork on (a third of the run's, 10 at least, to its end at most).
        seeds: trials of each remedy.

    Raises:
        InputError: no such run or finding, no remedy that can be tried, or another process trains the run.
    """
    from caviar.workflow.train import describe

    sparse_memory = None if data is None else describe(data, target)[1]
    console = notes_console(quiet=not progress)
    found = diagnose_run(run)
    if found.recipe is None:
        raise InputError(f"{run}: its recipe cannot be read, so nothing can be tried.")
    if not found.recipe.population.is_one:
        raise InputError(f"{run} trained {found.recipe.population.members} members; --prove is for runs of one model.")
    if seeds < 1 or (epochs is not None and epochs < 1):
        raise InputError(f"seeds is {seeds} and epochs {epochs}; give 1 at least.")
    findings = _chosen(found, code)
    with randomness_as_before(), torch_as_before(), own_run(Path(run)) as owned:
        fork = choose_fork(owned.folder, findings)
        proof = try_remedies(
            findings,
            found.recipe,
            plans(found.recipe, sparse_memory, model, allow_code=allow_code),
            fork,
            epochs=epochs,
            seeds=seeds,
            console=console,
            wide=True,
            pace=seconds_an_epoch(owned.folder),
        )
        note(owned.folder, proof)
    return proof


def _chosen(found: RunDiagnosis, code: str | None) -> list[Finding]:
    every = found.diagnosis.findings
    if code is not None:
        chosen = [finding for finding in every if finding.code == code]
        if not chosen:
            raise unknown_name("finding of this run", code, sorted({finding.code for finding in every}))
    else:
        causes = [finding for finding in every if not finding.consequence_of]
        chosen = [finding for finding in causes if at_least(finding.severity, "warning")]
        chosen = chosen or [f for f in causes if found.recipe and advice_for([f], found.recipe)[0]]
    return chosen


def plans(recipe: Recipe, memory: InMemory | None, model: nn.Module | None, *, allow_code: bool) -> MakePlan:
    """Return what makes the plan of the same run under other settings."""
    base = make_plan(from_recipe(recipe), memory, model, allow_code=allow_code)
    return partial(variant, base, module=model)


def choose_fork(folder: RunFolder, findings: Sequence[Finding], *, kept_only: bool = False) -> Fork:
    """Return the last good state of the end of an epoch before any of the findings shows, or the first state.

    A state is good when the run had learned something by then, and rules that know no more than it find none of this.
    kept_only: of those states only that every such run keeps, however fast it is.
    """
    shows = min(((0 if f.step is None or f.family in ("INIT", "DATA") else f.step) for f in findings), default=0)
    codes, checkpoints = {finding.code for finding in findings}, Checkpoints(folder.checkpoints)
    with Store(folder.store, read_only=True) as store:
        every = store.read(trial=0)
    for step in reversed([step for step in checkpoints.steps() if step < max(shows, 1)]):
        try:
            checkpoint = read_checkpoint(checkpoints.path(step))
        except DamagedError:
            continue
        data = checkpoint.data
        if not data.get("good") or data.get("batch") != 0 or (kept_only and not data.get("keep")):
            continue
        records = tuple(record for record in every if record.step <= step)
        if step == 0 or (_has_learned(records) and not codes & _codes_of(folder, records)):
            return Fork(checkpoint, int(checkpoint.data["epoch"]) - 1, records)
    return Fork(None, 0)


def _has_learned(records: Sequence[Record]) -> bool:
    losses = [r.value for r in records if (r.name, r.split) == ("batch_loss", "train")]
    return bool(losses) and statistics.median(losses[-LAST_LOSSES:]) < LEARNED * losses[0]


def _codes_of(folder: RunFolder, records: Sequence[Record]) -> set[str]:
    told = stories(records, facts_of_run(folder, None), finished=False, failed=False)
    return {finding.code for finding in diagnose(told).findings}


def seconds_an_epoch(folder: RunFolder) -> float:
    """Return how long a run's epochs took, NaN where that was not recorded."""
    with Store(folder.store, read_only=True) as store:
        speeds = [record.value for record in store.read(name="examples_per_second", trial=0) if record.value > 0]
    rows = facts_of_run(folder, None).num_train
    return rows / statistics.median(speeds) if speeds and rows else math.nan


def note(folder: RunFolder, proof: Proof) -> None:
    """Keep a proof in the run's folder and among its events."""
    value = proof.to_dict()
    write_json(folder.proof, {"format": "caviar proof", "version": PROOF, **value})
    with Store(folder.store) as store:
        store.add_event(proof.from_step, "proved", **value)


__all__ = ["SEEDS", "Proof", "Tried", "prove"]
