"""Train: from data or a recipe to a finished run with its bundle."""

import sqlite3
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from caviar.bundle import Bundle, Manifest
from caviar.bundle.predict import report_for
from caviar.core.errors import CaviarError, InputError, Interrupted, RunError
from caviar.core.jsonable import jsonable
from caviar.core.observer import Observer
from caviar.core.runs import OwnedRun, check_can_create, create_run, own_run
from caviar.core.seeds import derive_seed
from caviar.core.store import Store
from caviar.nn import build_loss, has_batch_norm
from caviar.optim import build_optimizer, build_schedule
from caviar.recipe import Recipe, Sparse, absolute_paths, diff, dump, from_dict, merge, read_recipe, validate
from caviar.train.batching import batch_bounds
from caviar.train.checkpoints import Checkpoints
from caviar.train.evaluate import outputs_of
from caviar.train.loop import Job, StopRequest, isolated_randomness
from caviar.train.loop import train as run_loop
from caviar.train.state import State, unpack
from caviar.workflow.observers import ProgressBar, Recorder, RunLog
from caviar.workflow.plan import Plan, make_plan, source_stem, updates
from caviar.workflow.resolve import environment
from caviar.workflow.run import Run
from caviar.workflow.signals import stop_on_signals
from caviar.workflow.source import InMemory, is_frame


def train(
    data: Any = None,
    target: Any = None,
    *,
    model: nn.Module | None = None,
    dev: Any = None,
    test: Any = None,
    epochs: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    settings: Mapping[str, Any] | None = None,
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
        settings: any other settings, such as {"optimizer.learning_rate": 3e-4} or {"optimizer": {"name": "sgd"}}.
        name, runs_dir: the run's folder is runs_dir/name; without a name a readable one is made.
        resume: a run's folder to go on with; in-memory data and your own module must then be given again.
        allow_code: let the recipe build its network by importing and calling Python code.
        progress: show a progress bar on stderr.

    Raises:
        InputError: wrong input; nothing has been written.
        RunError: the run failed; its last good state is kept.
        Interrupted: SIGINT or SIGTERM; the state is saved, and the message says how to go on.
    """
    console = Console(stderr=True, quiet=not progress)
    sparse, memory = describe(data, target, dev, test)
    changes = merge(updates(epochs=epochs, seed=seed, device=device), from_settings(settings or {}))
    if resume is not None:
        return resume_run(Path(resume), sparse, changes, memory, model, allow_code=allow_code, console=console)
    if data is None:
        raise InputError("nothing to train on: give data, or resume=a run's folder.")
    return start_run(
        merge(sparse, changes), memory, model, name, Path(runs_dir), allow_code=allow_code, console=console
    )


def describe(data: Any, target: Any = None, dev: Any = None, test: Any = None) -> tuple[Sparse, InMemory | None]:
    """Turn what a user points at into a sparse recipe and, where the data is in memory, the data."""
    if data is None:
        return Sparse(), None
    if isinstance(data, Recipe):
        return from_dict(data.model_dump(), "the recipe"), None
    if isinstance(data, str | Path):
        named = updates(target=_text("target", target), dev=_text("dev", dev), test=_text("test", test))
        if str(data).endswith(".toml"):
            sparse = read_recipe(data)
            based = absolute_paths(validate(sparse), Path(data).absolute().parent)
            paths = {key: getattr(based.data, key) for key in ("source", "dev", "test")}
            return merge(sparse, from_dict({"data": paths}, str(data)), _absolute(named)), None
        return _absolute(merge(from_dict({"data": {"source": str(data)}}, "data"), named)), None
    if is_frame(data) and not isinstance(target, str):
        raise InputError(
            'training on a data frame needs the name of its target column: caviar.train(frame, target="...").'
        )
    column = from_dict({"data": {"target": target}}, "target=") if isinstance(target, str) else Sparse()
    return column, InMemory(data, None if isinstance(target, str) else target, dev, test)


def _text(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str | Path):
        return None if value is None else str(value)
    raise InputError(f"{name} is a {type(value).__name__}, but the data is a file: give the name of a column or file.")


def _absolute(sparse: Sparse) -> Sparse:
    recipe = absolute_paths(validate(sparse))
    section = sparse.values.get("data", {})
    paths = {key: getattr(recipe.data, key) for key in ("source", "dev", "test") if key in section}
    return merge(sparse, from_dict({"data": paths}, "data")) if paths else sparse


def from_settings(settings: Mapping[str, Any]) -> Sparse:
    """Turn {"section.key": value} or nested settings into a sparse recipe."""
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
    files = {"recipe.toml": dump(plan.recipe).encode(), "environment.json": _json(environment())}
    summary = {
        "source": plan.recipe.data.source,
        "task": plan.raw.task,
        "epochs": plan.recipe.training.epochs,
        "epoch": 0,
    }
    with create_run(runs_dir, name, source_stem(plan.recipe), files, summary) as owned:
        return execute(plan, owned, console, resumed=False)


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
        stated = merge(from_dict(stored.model_dump(), str(folder.recipe)), _without_memory(sparse, memory), changes)
        if differing := diff(stored, validate(stated)):
            raise InputError(
                f"{path}: a resume goes on with the run's own recipe, but these settings differ: "
                f"{'; '.join(differing)}. Leave them out, or start a new run."
            )
        if folder.read_summary()["status"] == "finished" and folder.bundle.exists():
            console.print(f"{path} is finished already.", highlight=False)
            return Run(folder, model)
        plan = _plan(from_dict(_with_open_digest(stored), str(folder.recipe)), memory, model, allow_code, console)
        if plan.recipe.data.digest != stored.data.digest:
            raise InputError(
                f"{path}: the data has changed since this run began (its digest was {stored.data.digest}, now it is "
                f"{plan.recipe.data.digest}). Put the old data back, or start a new run."
            )
        plan = replace(plan, recipe=stored)
        return execute(plan, owned, console, resumed=True)


def _with_open_digest(recipe: Recipe) -> dict[str, Any]:
    values = recipe.model_dump()
    return values | {"data": values["data"] | {"digest": "auto"}}


def _without_memory(sparse: Sparse, memory: InMemory | None) -> Sparse:
    return Sparse() if memory is not None else sparse


def _plan(sparse: Sparse, memory: InMemory | None, model: nn.Module | None, allow_code: bool, console: Console) -> Plan:
    from caviar.workflow.show import reading_progress

    with reading_progress(console) as progress:
        plan = make_plan(sparse, memory, model, allow_code=allow_code, progress=progress)
    for notice in plan.notices:
        console.print(f"[yellow]note:[/] {_escaped(notice)}", highlight=False)
    return plan


def execute(plan: Plan, owned: OwnedRun, console: Console, *, resumed: bool) -> Run:
    """Train a planned run in its folder, evaluate it on test and write its bundle."""
    folder, recipe = owned.folder, plan.recipe
    log = RunLog(folder.log)
    try:
        with ExitStack() as stack:
            stop = stack.enter_context(stop_on_signals())
            store = stack.enter_context(Store(folder.store))
            stack.enter_context(isolated_randomness(derive_seed(recipe.seed, "trial", 0, "draws"), plan.device))
            log.write("resumed" if resumed else "started")
            for notice in plan.notices:
                log.write(f"note: {notice}")
            job = build_job(plan)
            state = _starting_state(job, Checkpoints(folder.checkpoints), store, log, console)
            store.add_event(state.step, "resumed" if resumed else "started")
            folder.write_summary(status="running")
            recorder = Recorder(store, folder, log)
            bar = stack.enter_context(ProgressBar(job.epochs, len(job.train), job.batch_size, state.step, console))
            done = _run(job, state, Checkpoints(folder.checkpoints), [recorder, bar], stop)
            recorder.on_save(state.step)
            if not done:
                raise _interrupted(owned, store, log, state)
            bundle = finish(plan, job, state)
            bundle.save(folder.bundle)
            folder.write_summary(status="finished", metrics=bundle.metrics, epochs_run=state.epoch - 1)
            store.add_event(state.step, "finished")
            log.write("finished")
        return Run(folder, plan.model if recipe.model.name not in ("mlp", "convnet") else None)
    except (OSError, sqlite3.Error, MemoryError, torch.OutOfMemoryError) as error:
        failure = RunError(
            f"{folder.path}: the run stopped: {error}. Its last good state is kept; once the cause is mended go on "
            f"with: caviar train --resume {folder.path}"
        )
        _note_failure(owned, log, failure)
        raise failure from error
    except CaviarError as error:
        _note_failure(owned, log, error)
        raise
    except Exception as error:
        _note_failure(owned, log, RunError(f"{type(error).__name__}: {error}"))
        raise


def _run(job: Job, state: State, checkpoints: Checkpoints, observers: Sequence[Observer], stop: StopRequest) -> bool:
    return run_loop(job, state, checkpoints, observers, stop)


def build_job(plan: Plan) -> Job:
    """Turn a plan into what the loop needs."""
    recipe, training = plan.recipe, plan.recipe.training
    epochs, batch_size, patience, clip = training.epochs, training.batch_size, training.patience, training.clip_norm
    assert isinstance(epochs, int)
    assert isinstance(batch_size, int)
    assert training.metric != "auto"
    learning_rate = recipe.optimizer.learning_rate
    assert isinstance(learning_rate, float)
    merge_single = has_batch_norm(plan.model)
    examples = plan.prepared.examples
    steps = epochs * len(batch_bounds(len(examples["train"]), batch_size, merge_single=merge_single))
    return Job(
        model=plan.model,
        loss=build_loss(recipe.loss, plan.raw.task),
        loss_per_example=build_loss(recipe.loss, plan.raw.task, "none"),
        optimizer=build_optimizer(recipe.optimizer, plan.model),
        schedule=build_schedule(recipe.schedule, learning_rate, steps),
        train=examples["train"],
        dev=examples["dev"],
        prepare=plan.prepared.prepare,
        device=plan.device,
        task=plan.raw.task,
        metric=training.metric,
        epochs=epochs,
        batch_size=batch_size,
        merge_single=merge_single,
        patience=patience if isinstance(patience, int) else None,
        clip_norm=clip if isinstance(clip, float) else None,
        autocast=recipe.device.precision == "bf16",
        compile=recipe.device.compile,
        checkpoint_seconds=training.checkpoint_seconds,
        seed=recipe.seed,
    )


def _starting_state(job: Job, checkpoints: Checkpoints, store: Store, log: RunLog, console: Console) -> State:
    checkpoint, problems = checkpoints.newest()
    for problem in problems:
        log.write(problem)
        console.print(f"[yellow]note:[/] {_escaped(problem)} The newest good one before it is used.", highlight=False)
    if checkpoint is None:
        store.delete_after(-1)
        return State()
    state = unpack(checkpoint, job.model, job.optimizer, job.device)
    store.delete_after(state.step)
    return state


def _interrupted(owned: OwnedRun, store: Store, log: RunLog, state: State) -> Interrupted:
    store.add_event(state.step, "interrupted")
    owned.folder.write_summary(status="interrupted")
    log.write(f"interrupted after step {state.step}")
    return Interrupted(
        f"stopped after step {state.step} (epoch {state.epoch}); everything is saved. Go on with: "
        f"caviar train --resume {owned.folder.path}"
    )


def _note_failure(owned: OwnedRun, log: RunLog, error: Exception) -> None:
    """Leave word of a failure; on a full disk even that may fail, and the failure itself matters more."""
    try:
        log.write(f"failed: {error}")
        owned.folder.write_summary(status="failed", error=str(error))
    except (OSError, CaviarError) as second:
        print(f"(the failure could not be noted in the run's folder: {second})", file=sys.stderr)


def finish(plan: Plan, job: Job, state: State) -> Bundle:
    """Put the best weights back, evaluate them on the test split, and make the bundle."""
    if state.best.weights:
        job.model.load_state_dict(state.best.weights)
    job.model.eval()
    bundle = Bundle(_manifest(plan), plan.prepared.preprocess, job.model, plan.prepared.scaler)
    outputs = outputs_of(job.model, plan.prepared.examples["test"], job.prepare, job.device)
    report = report_for(bundle, outputs, plan.raw.targets[plan.splits.test], plan.recipe.seed)
    metrics = jsonable(report | {"best_epoch": state.best.epoch, "split": "test"})
    return replace(bundle, manifest=replace(bundle.manifest, metrics=metrics))


def _manifest(plan: Plan) -> Manifest:
    raw, recipe, prepared = plan.raw, plan.recipe, plan.prepared
    train_targets = raw.targets[plan.splits.train]
    classification = raw.task == "classification"
    counts = torch.bincount(torch.from_numpy(train_targets)) if classification else None
    config = getattr(prepared.preprocess, "config")  # noqa: B009 (every preprocessing has one)
    return Manifest(
        kind=raw.kind,
        task=raw.task,
        classes=raw.classes,
        columns=raw.columns,
        target=recipe.data.target,
        input_shape=prepared.input_shape,
        outputs=len(raw.classes) if classification else 1,
        model=jsonable(recipe.model.model_dump()),
        preprocess=jsonable(config()),
        scaler=prepared.scaler.config() if prepared.scaler is not None else {},
        reading=_reading(plan),
        recipe=jsonable(recipe.model_dump()),
        majority=int(counts.argmax()) if counts is not None else 0,
        train_mean=0.0 if classification else float(train_targets.mean()),
    )


def _reading(plan: Plan) -> dict[str, Any]:
    data = plan.recipe.data
    if plan.raw.kind == "pictures":
        size = list(data.picture_size) if data.picture_size != "auto" else []
        return {"picture_size": size, "picture_mode": data.picture_mode, "max_pixels": data.max_pixels}
    if plan.raw.kind == "arrays":
        return {"array_shape": list(plan.raw.inputs.shape[1:])}
    return {"delimiter": data.delimiter, "encoding": data.encoding, "memory_budget": data.memory_budget}


def _json(value: Any) -> bytes:
    import json

    return (json.dumps(value, indent=2) + "\n").encode()


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
