"""Train: from data or a recipe to a finished run with its bundle."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from caviar.core.errors import InputError
from caviar.core.jsonable import jsonable
from caviar.core.runs import check_can_create, create_run, own_run
from caviar.recipe import Recipe, Sparse, absolute_paths, dump, from_dict, from_recipe, merge, read_recipe, validate
from caviar.workflow.cohorts import lay_out_cohorts, told_columns
from caviar.workflow.execute import execute
from caviar.workflow.folds import with_folds
from caviar.workflow.members import lay_out
from caviar.workflow.plan import Plan, make_plan, source_stem, torch_as_before, updates
from caviar.workflow.resolve import environment
from caviar.workflow.resume import (
    changed_environment,
    check_given,
    check_same_module,
    check_same_settings,
    first_summary,
    newest_checkpoint,
    read_or_renew_summary,
)
from caviar.workflow.run import Run
from caviar.workflow.show import notes_console, print_members, print_notes, print_plan, reading_progress
from caviar.workflow.show_cohorts import print_cohorts
from caviar.workflow.source import InMemory, framed, is_frame

PATHS = ("source", "dev", "test", "target")
"""Keys of [data] that may name files. A target that is a column's name stays as it is."""


def train(
    data: Any = None,
    target: Any = None,
    *,
    model: nn.Module | None = None,
    dev: Any = None,
    test: Any = None,
    epochs: int | None = None,
    seed: int | None = None,
    members: int | None = None,
    folds: int | None = None,
    care: bool | None = None,
    device: str | torch.device | None = None,
    settings: Mapping[str, Any] | Recipe | str | Path | None = None,
    name: str | None = None,
    runs_dir: str | Path = "runs",
    resume: str | Path | None = None,
    allow_code: bool = False,
    progress: bool = True,
) -> Run:
    """Train a model and return its finished run.

    Args:
        data: a file (CSV, TSV, Parquet, .npy, .npz), a folder of pictures, "sample:digits", a recipe (.toml file or
            Recipe), a data frame (pandas, Polars, Arrow), an array or tensor, a pair (inputs, targets), or a
            torch.utils.data.Dataset.
        target: the column to predict, or the targets themselves when `data` holds inputs only.
        model: an nn.Module of your own; it is copied, yours is not changed. Without it caviar builds one.
        dev, test: development and test data of their own, in the form of `data`; without them they are split off.
        epochs, seed, device: the settings training.epochs, seed and device.name.
        members: how many models train together (population.members); the best on dev is handed over, and the run's
            summary has the spread. Lists of hyperparameters, one for each member, are settings of [population].
        folds: cross-validation (population.folds): each member is trained once without each of so many folds of the
            rows that are not test, and once on all of them, which is handed over; the summary has their spread.
        care: when findings appear, go back to the last good state, try their remedies in short runs, and go on with
            the one that helps (training.care). Where there is nothing to do the weights are those of the plain run.
        settings: any other settings, such as {"optimizer.learning_rate": 3e-4} or {"optimizer": {"name": "sgd"}}; or a
            whole recipe (a Recipe or a .toml file), to train on data in memory as an earlier run did.
        name, runs_dir: the run's folder is runs_dir/name; without a name a readable one is made.
        resume: a run's folder to go on with; in-memory data and your own module must then be given again.
        allow_code: let the recipe build its network by importing and calling Python code.
        progress: show notes, the network and a progress bar on stderr.

    Raises:
        InputError: wrong input; nothing has been written.
        RunError: the run failed; its last good state is kept.
        Interrupted: SIGINT or SIGTERM; the state is saved, and the message says how to go on.
    """
    console = notes_console(quiet=not progress)
    sparse, memory = describe(data, target, dev, test)
    device = None if device is None else str(device)
    changes = merge(
        from_settings(settings or {}),
        updates(epochs=epochs, seed=seed, device=device, members=members, folds=folds, care=care),
    )
    if model is not None and not isinstance(model, nn.Module):
        raise InputError(
            f"model={model!r} is no torch.nn.Module. Give an instance of one, or choose a network of caviar's by "
            'settings={"model.name": "mlp"}.'
        )
    with torch_as_before():
        if resume is not None:
            if name is not None:
                raise InputError("name= is for a new run; resume= goes on with one that has its name. Leave one out.")
            return resume_run(Path(resume), sparse, changes, memory, model, allow_code=allow_code, console=console)
        if data is None:
            raise InputError("nothing to train on: give data, or resume=a run's folder.")
        return start_run(
            merge(sparse, changes), memory, model, name, Path(runs_dir), allow_code=allow_code, console=console
        )


def describe(data: Any, target: Any = None, dev: Any = None, test: Any = None) -> tuple[Sparse, InMemory | None]:
    """Turn what a user points at into a sparse recipe and, where the data is in memory, the data."""
    if data is None or isinstance(data, Recipe | str | Path):
        named = updates(target=_text("target", target), dev=_text("dev", dev), test=_text("test", test))
        if isinstance(data, Recipe):
            return merge(from_recipe(data), _absolute(named)), None
        if data is not None and str(data).endswith(".toml"):
            return merge(_recipe_file(data), _absolute(named)), None
        source = Sparse() if data is None else from_dict({"data": {"source": str(data)}}, "data")
        return _absolute(merge(source, named)), None
    if _is_framed_pair(data) and target is None:
        data, target = data
    if is_frame(data):
        data, target = framed(data, target)
        dev, test = (framed(*part)[0] if _is_framed_pair(part) else part for part in (dev, test))
    column = from_dict({"data": {"target": target}}, "target=") if isinstance(target, str) else Sparse()
    return column, InMemory(data, None if isinstance(target, str) else target, dev, test)


def _is_framed_pair(data: Any) -> bool:
    return isinstance(data, tuple) and len(data) == 2 and is_frame(data[0])


def _text(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str | Path):
        return None if value is None else str(value)
    raise InputError(f"{name} is a {type(value).__name__}, but the data is a file: give the name of a column or file.")


def _recipe_file(path: str | Path) -> Sparse:
    """Read a recipe, its relative paths taken from its own folder."""
    sparse = read_recipe(path)
    based = absolute_paths(validate(sparse), Path(path).absolute().parent)
    paths = {key: getattr(based.data, key) for key in PATHS}
    return merge(sparse, from_dict({"data": paths}, str(path)))


def _absolute(sparse: Sparse) -> Sparse:
    recipe = absolute_paths(validate(sparse))
    section = sparse.values.get("data", {})
    paths = {key: getattr(recipe.data, key) for key in PATHS if key in section}
    return merge(sparse, from_dict({"data": paths}, "data")) if paths else sparse


def from_settings(settings: Mapping[str, Any] | Recipe | str | Path) -> Sparse:
    """Turn {"section.key": value}, nested settings, a recipe or a recipe's file into a sparse recipe."""
    if isinstance(settings, Recipe):
        return from_recipe(settings)
    if isinstance(settings, str | Path):
        return _recipe_file(settings)
    parts = []
    for key, value in settings.items():
        nested: Any = value
        for word in reversed(key.split(".")):
            nested = {word: nested}
        parts.append(from_dict(nested, f"settings {key!r}"))
    return merge(Sparse(), *parts)


def start_run(
    sparse: Sparse,
    memory: InMemory | None,
    model: nn.Module | None,
    name: str | None,
    runs_dir: Path,
    *,
    allow_code: bool,
    console: Console,
) -> Run:
    """Plan a new run, create its folder, train it to the end."""
    check_can_create(runs_dir, name)
    plan = _plan(sparse, memory, model, allow_code, console)
    plan, facts = _lay_out(plan, sparse, console)
    files = {"recipe.toml": dump(plan.recipe).encode(), "environment.json": _json(environment())}
    summary = first_summary(plan.recipe) | {"notices": list(plan.notices)} | facts
    with create_run(runs_dir, name, source_stem(plan.recipe), files, summary) as owned:
        return execute(plan, owned, console)


def _lay_out(plan: Plan, asked: Sparse, console: Console) -> tuple[Plan, dict[str, Any]]:
    """Choose how members are run, print it, and return what the run's summary says of it."""
    if not plan.recipe.population.vary:
        plan, sentences, timings = lay_out(plan)
        print_members(console, sentences, timings)
        return plan, {}
    columns = told_columns(plan.recipe, asked)
    plan, cohorts = lay_out_cohorts(plan, columns)
    print_cohorts(console, cohorts, columns)
    return plan, {"varied": columns, "cohorts": jsonable([cohort.to_dict() for cohort in cohorts])}


def resume_run(
    path: Path,
    sparse: Sparse,
    changes: Sparse,
    memory: InMemory | None,
    model: nn.Module | None,
    *,
    allow_code: bool,
    console: Console,
) -> Run:
    """Go on with a run that was stopped, exactly as if it had not been. A finished run is returned as it is."""
    with own_run(path) as owned:
        folder = owned.folder
        stored = validate(read_recipe(folder.recipe))
        summary, notices = read_or_renew_summary(folder, stored)
        check_same_settings(path, stored, merge(sparse, changes))
        check_same_module(path, stored, model)
        if summary["status"] == "finished" and folder.bundle.exists():
            print_notes(console, [f"{path} is finished already."])
            return Run(folder, model)
        check_given(path, stored, memory)
        start, problems = (None, []) if stored.population.vary else newest_checkpoint(folder, stored, summary)
        print_notes(console, [*notices, *problems, *changed_environment(folder)])
        own = from_dict(stored.model_dump(), str(folder.recipe))
        plan = _plan(own, memory, model, allow_code, console, same_data=True)
        return execute(replace(plan, recipe=stored), owned, console, start, resumed=True)


def _plan(
    sparse: Sparse,
    memory: InMemory | None,
    model: nn.Module | None,
    allow_code: bool,
    console: Console,
    *,
    same_data: bool = False,
) -> Plan:
    with reading_progress(console) as progress:
        plan = make_plan(
            sparse, memory, model, allow_code=allow_code, progress=progress, same_data=same_data, pooled=True
        )
    print_notes(console, plan.notices)
    print_plan(console, plan)
    return with_folds(plan)


def _json(value: Any) -> bytes:
    import json

    return (json.dumps(value, indent=2) + "\n").encode()
