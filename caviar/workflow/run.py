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
from caviar.core.records import Record
from caviar.core.runs import RunFolder, open_run
from caviar.core.store import Store
from caviar.recipe import Recipe, read_recipe, validate
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
        path = self.path / "checkpoints" / BEST_FILE
        weights = read_checkpoint(path).tensors
        settings = self.recipe.population
        trials, views = settings.trials, settings.views
        if not 0 <= trial < trials or trials == 1:
            raise InputError(f"{self.path} has no trial {trial} to choose; it trained {trials} members, from 0.")
        if views > 1 and trial % views != views - 1:
            raise InputError(
                f"trial {trial} held out a fold, and its preprocessing is not kept. Those trained on all rows are "
                f"{', '.join(str(whole) for whole in range(views - 1, trials, views))}."
            )
        network = copy.deepcopy(self.bundle.network)
        network.load_state_dict({name: weights[name][trial] for name in network.state_dict()})
        return replace(self.bundle, network=network)

    @property
    def model(self) -> nn.Module:
        """Return the trained network with its best weights."""
        return self.bundle.network

    def records(self, **wanted: Any) -> list[Record]:
        """Return records, narrowed by name, split, layer, trial or after_step."""
        with Store(self.folder.store, read_only=True) as store:
            return store.read(**wanted)
