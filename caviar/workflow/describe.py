"""The complete recipe that caviar would use, without training."""

from typing import Any

from caviar.core.device import resolve_device
from caviar.data.splits import make_splits
from caviar.recipe import Recipe, Sparse
from caviar.workflow.plan import complete
from caviar.workflow.resolve import resolve
from caviar.workflow.source import Progress, open_source


def complete_recipe(sparse: Sparse, progress: Progress | None = None, **memory: Any) -> Recipe:
    """Read the data that a sparse recipe names and replace every "auto" by the choice that training would make."""
    recipe = complete(sparse, memory.get("memory"), None)
    resolve_device(recipe.device.name)
    raw = open_source(recipe.data, recipe.split, memory.get("memory"), progress)
    splits = make_splits(
        recipe.split,
        raw.targets,
        raw.task,
        raw.parts,
        recipe.seed,
        split_column=raw.split_column,
        groups=raw.groups,
        class_names=raw.classes,
    )
    return resolve(recipe, raw, splits)
