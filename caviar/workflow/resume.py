"""Whether a run can go on as it began: the same settings and module, an undamaged state, the recipe unedited."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from caviar.core.checkpoint import Checkpoint
from caviar.core.errors import DamagedError, InputError
from caviar.core.runs import RunFolder
from caviar.nn.settings import GivenSettings
from caviar.recipe import Recipe, Sparse, diff, from_dict, merge, validate
from caviar.train.checkpoints import Checkpoints
from caviar.workflow.observers import RunLog
from caviar.workflow.resolve import environment
from caviar.workflow.source import InMemory
from caviar.workflow.words import how_to_resume

DECISIVE = ("caviar", "torch", "numpy", "polars", "machine", "cpu_capability", "cuda", "gpu")
"""What of the environment may change the numbers that a run comes to."""


def read_or_renew_summary(folder: RunFolder, stored: Recipe) -> tuple[dict[str, Any], list[str]]:
    """Return run.json; a damaged one, which a power cut may leave, is made anew from the recipe, and that is noted."""
    try:
        return folder.read_summary(), []
    except DamagedError as error:
        folder.begin_summary(**first_summary(stored))
        return folder.read_summary(), [f"{error} It has been made anew."]


def first_summary(recipe: Recipe) -> dict[str, Any]:
    """Return what run.json says of a resolved recipe."""
    return {
        "source": recipe.data.source,
        "task": recipe.data.task,
        "epochs": recipe.training.epochs,
        "epoch": 0,
    }


def changed_environment(folder: RunFolder) -> list[str]:
    """Return a notice when versions or the machine are not those that the run began with."""
    try:
        began = json.loads(folder.environment.read_text(encoding="utf-8"))
        now = environment()
        changed = [f"{key} {began[key]} -> {now[key]}" for key in DECISIVE if began[key] != now[key]]
    except (OSError, ValueError, KeyError, TypeError):
        return [f"{folder.environment} cannot be read: whether the versions are those of the run's start is not known."]
    if not changed:
        return []
    return [f"since this run began there are other versions here, so its end may differ: {', '.join(changed)}."]


def check_given(path: Path, stored: Recipe, memory: InMemory | None) -> None:
    """Refuse to go on without data that was in memory."""
    if stored.data.source == "none" and memory is None:
        raise InputError(
            f"{path}: this run trained on data that was handed over in memory; give it again: "
            f"{how_to_resume(stored, path)}."
        )


def check_same_settings(path: Path, stored: Recipe, asked: Sparse) -> None:
    """Refuse settings that differ from the run's own recipe, naming them."""
    stated = merge(from_dict(stored.model_dump(), "the run's recipe"), asked)
    if differing := diff(stored, validate(stated)):
        raise InputError(
            f"{path}: a resume goes on with the run's own recipe, but these settings differ: "
            f"{'; '.join(differing)}. Leave them out, or start a new run."
        )


def check_same_module(path: Path, stored: Recipe, model: nn.Module | None) -> None:
    """Refuse a module that is missing, of another class, or not wanted."""
    if not isinstance(stored.model, GivenSettings):
        if model is not None:
            raise InputError(f"{path}: this run builds its own network ({stored.model.name}); leave model= out.")
        return
    if model is None:
        raise InputError(
            f"{path}: this run trained a module of your own, {stored.model.class_name}, which cannot be rebuilt from "
            f"data. Give it again: {how_to_resume(stored, path)}."
        )
    if type(model).__name__ != stored.model.class_name.rpartition(".")[2]:
        raise InputError(
            f"{path}: this run trained a module of class {stored.model.class_name}, but model= is a "
            f"{type(model).__module__}.{type(model).__qualname__}. Give the same module, or start a new run."
        )


def newest_checkpoint(
    folder: RunFolder, stored: Recipe, summary: Mapping[str, Any], cohort: RunFolder | None = None
) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest good checkpoint (None: none was saved yet) and what is wrong with newer ones, also logged.

    cohort: the folder of the cohort that is meant, in a run of several.

    Raises:
        InputError: every checkpoint is damaged, or recipe.toml is no longer the one that they belong to.
    """
    place = (cohort or folder).checkpoints
    found, problems = Checkpoints(place).newest()
    if found is None and problems:
        raise InputError(
            f"{folder.path}: every checkpoint is damaged, so the run cannot go on: {' '.join(problems)} "
            f"Train it anew: caviar train {folder.recipe}"
        )
    step = found.data["step"] if found is not None else 0
    if not problems and summary.get("step", 0) > step:
        problems.append(f"{place}: the checkpoint of step {summary['step']} is missing.")
    notices = [f"{problem} Going on from step {step}." for problem in problems]
    if step and not (folder.store.is_file() and folder.store.stat().st_size):
        notices.append(f"{folder.store} is missing: the records before step {step} are lost.")
    for notice in notices:
        RunLog(folder.log).write(notice)
    if found is not None:
        _check_unedited(folder, stored, found)
    return found, notices


def _check_unedited(folder: RunFolder, stored: Recipe, checkpoint: Checkpoint) -> None:
    """Refuse a recipe.toml that was changed since the checkpoint was written; only the data may have moved."""
    known = checkpoint.data.get("recipe")
    if not isinstance(known, dict) or not isinstance(known.get("data"), dict):
        raise InputError(f"{folder.path}: its checkpoints do not say what recipe they belong to.")
    moved = {key: getattr(stored.data, key) for key in ("source", "dev", "test")}
    was = validate(from_dict(known | {"data": known["data"] | moved}, str(folder.checkpoints)))
    if differing := diff(was, stored):
        raise InputError(
            f"{folder.recipe} was edited since this run began: {'; '.join(differing)}. Undo that to go on with the "
            f"run, or start a new one: caviar train {folder.recipe}"
        )
