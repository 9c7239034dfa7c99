"""The complete recipe that caviar would use, without training."""

from typing import NamedTuple

from caviar.core.device import resolve_device
from caviar.core.examples import Splits
from caviar.data.raw import RawData
from caviar.data.splits import make_splits
from caviar.recipe import Recipe, Sparse
from caviar.workflow.plan import complete_members, resolve_members
from caviar.workflow.source import Progress, open_source


class Completed(NamedTuple):
    """A recipe without any "auto", the data it names, and its splits."""

    recipe: Recipe
    raw: RawData
    splits: Splits


def complete_recipe(sparse: Sparse, progress: Progress | None = None) -> Completed:
    """Read the data that a sparse recipe names and replace every "auto" by the choice that training would make."""
    members, population = complete_members(sparse, None, None)
    recipe = members[0]
    resolve_device(recipe.device.name)
    raw = open_source(recipe.data, recipe.split, None, progress)
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
    return Completed(resolve_members(members, population, raw, splits), raw, splits)
