"""Every "auto" of a recipe turned into a choice, from the data's kind, task and size."""

import math
import os
from itertools import pairwise
from typing import Any

import torch

from caviar.core.columns import Task
from caviar.core.device import resolve_device
from caviar.core.errors import InputError
from caviar.core.examples import Splits
from caviar.core.settings import Settings
from caviar.data.raw import DataKind, RawData
from caviar.nn import resolve_init, resolve_loss
from caviar.nn.settings import ConvNetSettings, MLPSettings
from caviar.optim import check_average, check_schedule
from caviar.optim.settings import default_learning_rate
from caviar.recipe import Recipe

SMALL = 5_000
SHARED_PRODUCTS = 12_000_000
"""Multiplications of one forward pass from which a second thread is worth its waiting."""


def resolve(recipe: Recipe, raw: RawData, splits: Splits) -> Recipe:
    """Return the complete recipe: the same settings, with every "auto" replaced by what caviar chose.

    Training the result on the same data gives the same run.
    """
    rows = len(splits.train)
    model = recipe.model.model_copy(update=_model(recipe, raw, rows))
    training = _training(recipe, raw, rows)
    check_average(recipe.average, training["epochs"])
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update=_data(raw)),
            "split": recipe.split.model_copy(update=_split(recipe, raw, splits)),
            "preprocess": recipe.preprocess.model_copy(update=_preprocess(recipe, raw)),
            "model": model,
            "optimizer": recipe.optimizer.model_copy(update=_optimizer(recipe)),
            "loss": resolve_loss(recipe.loss, raw.task),
            "training": recipe.training.model_copy(update=training),
            "device": recipe.device.model_copy(update=_device(recipe, raw, model, training["batch_size"])),
        }
    )


def _data(raw: RawData) -> dict[str, Any]:
    chosen: dict[str, Any] = {"kind": raw.kind, "task": raw.task, "digest": raw.digest}
    if raw.kind == "table":
        chosen["ignore"] = raw.ignored
    if raw.kind == "pictures":
        height, width, channels = raw.inputs.shape[1:]
        chosen |= {"picture_size": (height, width), "picture_mode": "rgb" if channels == 3 else "grey"}
    return chosen


def _split(recipe: Recipe, raw: RawData, splits: Splits) -> dict[str, Any]:
    split = recipe.split
    if split.method == "auto":
        given = len(raw.parts) > 1
        method = (
            "column"
            if split.column != "none"
            else "group"
            if split.group != "none"
            else "given"
            if given
            else "fraction"
        )
    else:
        method = split.method
    return {
        "method": method,
        "dev": (len(splits.dev) or "auto") if split.dev == "auto" else split.dev,
        "test": len(splits.test) if split.test == "auto" else split.test,
    }


def _preprocess(recipe: Recipe, raw: RawData) -> dict[str, Any]:
    if recipe.preprocess.numeric != "auto":
        return {}
    own_module = recipe.model.name not in ("mlp", "convnet")
    return {"numeric": "none" if own_module and raw.kind == "arrays" else "zscore"}


def _model(recipe: Recipe, raw: RawData, rows: int) -> dict[str, Any]:
    if isinstance(recipe.model, ConvNetSettings):
        return resolve_init(recipe.model)
    if not isinstance(recipe.model, MLPSettings):
        return {}
    widths = (128, 128) if rows < SMALL or raw.task == "classification" else (256, 256)
    dropout = 0.3 if raw.task == "classification" or rows < SMALL else 0.1
    return resolve_init(recipe.model) | {
        "widths": widths if recipe.model.widths == "auto" else recipe.model.widths,
        "dropout": dropout if recipe.model.dropout == "auto" else recipe.model.dropout,
    }


def _optimizer(recipe: Recipe) -> dict[str, Any]:
    check_schedule(recipe.schedule, recipe.optimizer)
    if recipe.optimizer.name in ("lbfgs", "newton") and recipe.training.clip_norm != "none":
        raise InputError(
            f"training.clip_norm is {recipe.training.clip_norm}, but {recipe.optimizer.name} solves for its own step "
            'length. Set it to "none".'
        )
    if recipe.optimizer.learning_rate != "auto":
        return {}
    own_network = recipe.model.name in ("mlp", "convnet")
    return {"learning_rate": default_learning_rate(recipe.optimizer, own_network=own_network)}


def _training(recipe: Recipe, raw: RawData, rows: int) -> dict[str, Any]:
    training = recipe.training
    batch_size = default_batch_size(raw.kind, rows) if training.batch_size == "auto" else training.batch_size
    epochs = default_epochs(raw.task, rows, batch_size) if training.epochs == "auto" else training.epochs
    return {
        "epochs": epochs,
        "batch_size": batch_size,
        "metric": _metric(recipe, raw),
        "patience": max(10, epochs // 3) if training.patience == "auto" else training.patience,
    }


def default_batch_size(kind: DataKind, rows: int) -> int:
    """Return a power of two from 32, about a hundredth of the rows, at most 128 (pictures: 64; large tables: 1,024).

    Tables are large from 200,000 rows on. Fewer than 32 rows make one batch.
    """
    largest = 64 if kind == "pictures" else 128 if rows < 200_000 else 1024
    size = 32
    while size < largest and size * 100 < rows:
        size *= 2
    return min(size, rows)


def default_epochs(task: Task, rows: int, batch_size: int) -> int:
    """Return enough epochs for 2,200 steps (regression: 5,000), but 10 to 100; fewer than 10 from 300,000 rows on."""
    steps = 2_200 if task == "classification" else 5_000
    least = max(1, min(10, 3_000_000 // rows))
    return int(min(100, max(least, round(steps * batch_size / rows))))


def _metric(recipe: Recipe, raw: RawData) -> str:
    metric = recipe.training.metric
    allowed = ("loss", "accuracy") if raw.task == "classification" else ("loss", "r2")
    if metric != "auto" and metric not in allowed:
        raise InputError(
            f"training.metric is {metric!r}, which does not exist for {raw.task}; use {' or '.join(allowed)}."
        )
    return "loss" if metric == "auto" else metric


def _device(recipe: Recipe, raw: RawData, model: Settings, batch_size: int) -> dict[str, Any]:
    device = resolve_device(recipe.device.name)
    threads = recipe.device.threads
    return {"name": str(device), "threads": _default_threads(model, raw, batch_size) if threads == "auto" else threads}


def _default_threads(model: Settings, raw: RawData, batch_size: int) -> int:
    """Return 1 for a step too small to share (many threads then mostly wait for each other), else what torch has."""
    if not isinstance(model, MLPSettings) or model.widths == "auto":
        return torch.get_num_threads()
    inputs = len(raw.columns) if raw.kind == "table" else math.prod(raw.inputs.shape[1:])
    products = batch_size * sum(fan_in * fan_out for fan_in, fan_out in pairwise((inputs, *model.widths)))
    return 1 if products < SHARED_PRODUCTS else torch.get_num_threads()


def environment() -> dict[str, Any]:
    """Return the versions and the machine that a run's results belong to."""
    import platform

    import numpy as np
    import polars as pl

    from caviar import __version__

    return {
        "version": 1,
        "caviar": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "polars": pl.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
