"""Read findings from a run that is stored: finished, cut short, or still going."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from caviar.core.errors import InputError
from caviar.core.formats import FACTS, check_version
from caviar.core.runs import RunFolder, open_run
from caviar.core.store import Store
from caviar.diagnose.engine import Diagnosis, diagnose
from caviar.diagnose.facts import Facts
from caviar.diagnose.story import stories
from caviar.recipe import Recipe, read_recipe, validate

NOT_GOING = ("finished", "failed", "interrupted")


@dataclass(frozen=True)
class RunDiagnosis:
    """What rules say of a run. status: as `caviar runs` gives it. recipe: None where it cannot be read."""

    folder: RunFolder
    status: str
    num_records: int
    recipe: Recipe | None
    diagnosis: Diagnosis


def diagnose_run(path: str | Path) -> RunDiagnosis:
    """Apply the rules to the records of a run.

    Raises:
        InputError: there is no run, or its records cannot be read.
    """
    folder = open_run(Path(path))
    status = _status(folder)
    recipe = None
    with contextlib.suppress(InputError):
        recipe = validate(read_recipe(folder.recipe))
    with Store(folder.store, read_only=True) as store:
        records = store.read()
    told = stories(records, facts_of_run(folder, recipe), finished=status == "finished", failed=status == "failed")
    return RunDiagnosis(folder, status, len(records), recipe, diagnose(told))


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
