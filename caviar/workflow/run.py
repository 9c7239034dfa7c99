"""A run as a user holds it."""

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from caviar.bundle import Bundle, load_bundle
from caviar.core.checkpoint import read_checkpoint
from caviar.core.errors import InputError
from caviar.core.jsonable import jsonable
from caviar.core.records import Record
from caviar.core.runs import RunFolder, open_run
from caviar.core.store import Store
from caviar.recipe import Recipe, read_recipe, validate
from caviar.recipe.cohorts import cohort_recipes, single_recipes
from caviar.train.checkpoints import BEST_FILE


@dataclass(frozen=True)
class Run:
    """A run's folder, and what can be asked of it. `caviar.train` returns one; `Run.open` finds an old one."""

    folder: RunFolder
    module: nn.Module | None = None

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open the run at `path`; an InputError names the nearest one when there is none."""
        return cls(open_run(Path(path)))

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def summary(self) -> dict[str, Any]:
        """Return run.json: status, epoch, last and best dev values, test metrics."""
        return self.folder.read_summary()

    @property
    def metrics(self) -> dict[str, Any]:
        """Return the evaluation on the test split."""
        found: dict[str, Any] = self.summary.get("metrics", {})
        return found

    @property
    def recipe(self) -> Recipe:
        """Return the resolved recipe."""
        return validate(read_recipe(self.folder.recipe))

    @cached_property
    def bundle(self) -> Bundle:
        """Load the bundle of a finished run."""
        return load_bundle(self.path, self.module)

    def member(self, trial: int) -> Bundle:
        """Return the bundle of any trial of a population, with its best weights; `bundle` is that of the best trial.

        Not of one that held out a fold: its preprocessing was the fold's own, and is not kept.
        """
        recipe = self.recipe
        trials, views = recipe.population.trials, recipe.population.views
        if not 0 <= trial < trials or trials == 1:
            raise InputError(f"{self.path} has no trial {trial} to choose; it trained {trials} members, from 0.")
        if views > 1 and trial % views != views - 1:
            raise InputError(
                f"trial {trial} held out a fold, and its preprocessing is not kept. Those trained on all rows are "
                f"{', '.join(str(whole) for whole in range(views - 1, trials, views))}."
            )
        folder, place = _home(self.folder, recipe, trial)
        fates = {row["trial"]: row for row in self.summary.get("trials", [])}
        if not folder.bundle.exists() or not fates.get(trial, {}).get("best_epoch", 1):
            raise InputError(f"{self.path}: trial {trial} has no weights to hand over: it diverged, or has not ended.")
        weights = read_checkpoint(folder.checkpoints / BEST_FILE).tensors
        bundle = load_bundle(folder.bundle, self.module)
        own = single_recipes(recipe)[trial // views]
        network = copy.deepcopy(bundle.network)
        network.load_state_dict({name: weights[name][place] for name in network.state_dict()})
        changes = {"recipe": jsonable(own.model_dump()), "model": jsonable(own.model.model_dump())}
        return replace(bundle, network=network, manifest=replace(bundle.manifest, **changes))

    @property
    def model(self) -> nn.Module:
        """Return the trained network with its best weights."""
        return self.bundle.network

    def records(self, **wanted: Any) -> list[Record]:
        """Return records, narrowed by name, split, layer, trial or after_step."""
        with Store(self.folder.store, read_only=True) as store:
            return store.read(**wanted)


def _home(folder: RunFolder, recipe: Recipe, trial: int) -> tuple[RunFolder, int]:
    """Return where the weights of a trial are kept, and its place among those that are kept there."""
    if not recipe.population.vary:
        return folder, trial
    member, view = divmod(trial, recipe.population.views)
    cohorts = enumerate(cohort_recipes(recipe), 1)
    number, members = next((number, members) for number, (members, _) in cohorts if member in members)
    return folder.cohort(number), members.index(member) * recipe.population.views + view
