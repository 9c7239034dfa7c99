"""Look before training: the learning rate's course, and what augmentation makes of pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caviar.augment.sheet import picture_sheet, rows_for
from caviar.core.errors import InputError
from caviar.core.files import write_atomic
from caviar.core.tensors import tensor_over
from caviar.optim import Plateau, build_momentum_schedule, build_schedule, momentum_of, plot_schedules, preview
from caviar.optim.lists import Number
from caviar.recipe import Recipe, Sparse
from caviar.train.batching import batch_bounds
from caviar.workflow.describe import complete_recipe
from caviar.workflow.source import Progress

NUM_ROWS = 21
NUM_PICTURES = 10


@dataclass(frozen=True)
class Course:
    """How learning rate (and momentum, where it moves) run over a training."""

    name: str
    total_steps: int
    steps_per_epoch: int
    learning_rate: Callable[[int], Number]
    momentum: Callable[[int], Number] | None
    waits: bool
    """the schedule waits for the dev metric to stall, and is shown as if that never happened"""

    def table(self, num_rows: int = NUM_ROWS) -> list[dict[str, Any]]:
        """Return rows of step (from 0), epoch (from 0, with its fraction), learning_rate and momentum."""
        rows: list[dict[str, Any]] = []
        for step, (rate,) in preview(self.learning_rate, self.total_steps, num_rows):
            row = {"step": step, "epoch": step / self.steps_per_epoch, "learning_rate": rate}
            rows.append(row if self.momentum is None else {**row, "momentum": float(self.momentum(step))})
        return rows

    def plot(self, path: Path) -> None:
        """Write the learning rate's course as an SVG picture."""
        curves = {"learning rate": self.learning_rate}
        title = f"learning rate: {self.name}"
        _write(path, plot_schedules(curves, self.total_steps, self.steps_per_epoch, title=title))


def preview_schedule(sparse: Sparse, progress: Progress | None = None) -> Course:
    """Return the course that training with this recipe on its data would take."""
    found = complete_recipe(sparse, progress)
    recipe, (total, per_epoch) = found.recipe, _steps(found.recipe, len(found.splits.train))
    rate = recipe.optimizer.learning_rate
    assert isinstance(rate, float)
    course = build_schedule(recipe.schedule, rate, total, per_epoch, recipe.training.metric)
    momentum = build_momentum_schedule(recipe.schedule, momentum_of(recipe.optimizer), total)
    return Course(recipe.schedule.name, total, per_epoch, course, momentum, isinstance(course, Plateau))


def preview_augmentation(sparse: Sparse, path: Path, progress: Progress | None = None) -> list[str]:
    """Write a sheet of training pictures under the recipe's augmentations, each alone and all together (PNG).

    Where the recipe has none, every augmentation there is is shown. Returns the rows' labels.
    Raises InputError when the data are no pictures or the file cannot be written.
    """
    found = complete_recipe(sparse, progress)
    if found.raw.kind != "pictures":
        raise InputError(f"augmentation is for pictures, and this data is of kind {found.raw.kind!r}.")
    train = found.splits.train
    chosen = np.unique(np.linspace(0, len(train) - 1, NUM_PICTURES).astype(np.int64))
    pixels = tensor_over(np.ascontiguousarray(found.raw.inputs[train[chosen]]))
    rows = rows_for(found.recipe.augment)
    picture_sheet(torch.as_tensor(pixels).permute(0, 3, 1, 2), path, seed=found.recipe.seed, rows=rows)
    return list(rows)


def _steps(recipe: Recipe, rows: int) -> tuple[int, int]:
    epochs, batch_size = recipe.training.epochs, recipe.training.batch_size
    assert isinstance(epochs, int)
    assert isinstance(batch_size, int)
    merge_single = getattr(recipe.model, "norm", "none") == "batch"
    per_epoch = len(batch_bounds(rows, batch_size, merge_single=merge_single))
    return epochs * per_epoch, per_epoch


def _write(path: Path, text: str) -> None:
    try:
        write_atomic(path, text.encode())
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}). Name another file.") from error
