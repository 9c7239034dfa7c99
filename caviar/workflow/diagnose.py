"""Read findings from a run that is stored: finished, cut short, or still going."""

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caviar.core.errors import InputError
from caviar.core.formats import FACTS, check_version
from caviar.core.runs import RunFolder, open_run
from caviar.core.store import Store
from caviar.diagnose.engine import Diagnosis, diagnose
from caviar.diagnose.facts import Facts, merged
from caviar.diagnose.groups import spans
from caviar.diagnose.story import Story, stories
from caviar.recipe import Recipe, read_recipe, validate

FATES = ("diverged", "stopped_early")
NOT_GOING = ("finished", "failed", "interrupted")


@dataclass(frozen=True)
class RunDiagnosis:
    """What rules say of a run. status: as `caviar runs` gives it. recipe: None where it cannot be read.

    members: how many models it trains. fates: what became of those that have left.
    """

    folder: RunFolder
    status: str
    num_records: int
    recipe: Recipe | None
    diagnosis: Diagnosis
    members: int = 1
    fates: Mapping[int, str] = field(default_factory=dict)


def diagnose_run(path: str | Path, trial: int | None = None) -> RunDiagnosis:
    """Apply the rules to the records of a run; `trial`: to those of one member only.

    Raises:
        InputError: there is no run or no such member, or its records cannot be read.
    """
    folder = open_run(Path(path))
    status = _status(folder)
    recipe = None
    with contextlib.suppress(InputError):
        recipe = validate(read_recipe(folder.recipe))
    with Store(folder.store, read_only=True) as store:
        records, events = store.read(trial=trial), store.events()
        numbers = store.trials()
    if trial is not None and trial not in numbers:
        known = f"There are records of {_numbered(numbers)}." if numbers else "There are no records yet."
        raise InputError(f"{path} has no records of trial {trial}. {known}")
    shared = facts_of_run(folder, recipe)
    own = facts_of_trials(folder, shared)
    told = stories(records, shared, finished=status == "finished", failed=status == "failed")
    fates = _fates(events, told)
    for number, story in told.items():
        story.facts = own.get(number, shared)
        if number in fates:
            story.failed = fates[number] == "diverged"
            story.finished = not story.failed
    return RunDiagnosis(folder, status, len(records), recipe, diagnose(told), len(numbers), fates)


def _numbered(trials: Sequence[int]) -> str:
    return f"trial {trials[0]} only" if len(trials) == 1 else f"trials {spans(trials)}"


def _fates(events: Iterable[Mapping[str, Any]], told: Mapping[int, Story]) -> dict[int, str]:
    """Return what became of the members that have left; a member's last records are those of the epoch it left in."""
    return {
        event["trial"]: event["kind"].replace("_", " ")
        for event in events
        if event["kind"] in FATES and event.get("trial") in told and told[event["trial"]].last_step == event["step"]
    }


def _status(folder: RunFolder) -> str:
    try:
        status = str(folder.read_summary().get("status", "unknown"))
    except InputError:
        return "damaged"
    return "stopped" if status not in NOT_GOING and not folder.is_locked() else status


def facts_of_run(folder: RunFolder, recipe: Recipe | None) -> Facts:
    """Return what was noted of the run when it began; from its recipe, where that is missing or damaged."""
    try:
        values = json.loads(folder.facts.read_text(encoding="utf-8"))
        check_version("facts", values.get("version"), FACTS, folder.facts)
        return Facts.from_dict(values)
    except InputError:
        raise
    except (OSError, ValueError, TypeError, AttributeError):
        return Facts() if recipe is None else _facts_of_recipe(recipe)


def facts_of_trials(folder: RunFolder, shared: Facts) -> dict[int, Facts]:
    """Return the facts of each member of a population as they were noted when it began; {} for other runs."""
    try:
        members = json.loads(folder.facts.read_text(encoding="utf-8")).get("members", {})
        return {int(trial): merged(shared, own) for trial, own in members.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _facts_of_recipe(recipe: Recipe) -> Facts:
    training = recipe.training
    known = {
        "task": recipe.data.task if recipe.data.task != "auto" else "",
        "loss": recipe.loss.name,
        "optimizer": recipe.optimizer.name,
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "patience": training.patience,
    }
    return Facts.from_dict(known)  # what is still "auto" or "none" is left out there
