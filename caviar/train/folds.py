"""Folds as members: what each of them sees, and how it is judged on the rows that it does not train on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caviar.core.examples import Examples
from caviar.population import Population, Views
from caviar.population.views import Shared
from caviar.train.batching import gather
from caviar.train.evaluate import MEMBERS_BATCH, Prepare

if TYPE_CHECKING:
    from caviar.train.members import MembersJob


@dataclass(frozen=True)
class View:
    """Examples as the preprocessing of one fold makes them, fitted on the rows that the fold keeps."""

    train: Examples
    test: Examples
    prepare: Prepare


@dataclass(frozen=True)
class Folds:
    """k folds of the rows that are not test. Trial m * (k + 1) + f is member m without fold f; with f = k, on all.

    views: of the k folds and, last, of all rows. held_out: for each fold its stored rows. common_inputs,
    common_targets: whether all views have the same ones.
    """

    views: tuple[View, ...]
    held_out: tuple[Tensor, ...]
    common_inputs: bool
    common_targets: bool

    def view_of(self, trial: int) -> int:
        """Return the fold that a trial holds out, or k."""
        return trial % len(self.views)

    def is_whole(self, trial: int) -> bool:
        """Whether a trial trains on all folds."""
        return self.view_of(trial) == len(self.views) - 1

    def others(self, whole: int) -> range:
        """Return the trials of the same member that hold out a fold."""
        return range(whole - len(self.views) + 1, whole)

    def weights(self, trials: int) -> Tensor:
        """Return the weights (trials, stored rows) of examples: 0 where a trial holds one out, else 1."""
        weights = torch.ones(trials, len(self.views[0].train.targets))
        for trial in (trial for trial in range(trials) if not self.is_whole(trial)):
            weights[trial, self.held_out[self.view_of(trial)].cpu()] = 0
        return weights


def views_over(trials: Sequence[int], folds: Folds, part_of: Callable[[int], Tensor]) -> Views:
    """Return a batch as each trial sees it; `part_of` makes the part of a view, only of those that are wanted."""
    wanted = sorted({folds.view_of(trial) for trial in trials})
    places = {view: place for place, view in enumerate(wanted)}
    return Views(tuple(part_of(view) for view in wanted), tuple(places[folds.view_of(trial)] for trial in trials))


def seen(
    folds: Folds, trials: Sequence[int], rows: Tensor, inputs: Tensor, targets: Tensor, device: torch.device
) -> tuple[Shared, Shared]:
    """Return a training batch as trials see it. inputs, targets: as the view of all rows has them stored."""
    last = folds.views[-1]

    def inputs_of(view: int) -> Tensor:
        own = folds.views[view]
        if own.train.inputs is last.train.inputs:
            return own.prepare(inputs)
        return own.prepare(gather(own.train, device, rows)[0])

    def targets_of(view: int) -> Tensor:
        return folds.views[view].train.targets.index_select(0, rows).to(device)

    found: Shared = last.prepare(inputs) if folds.common_inputs else views_over(trials, folds, inputs_of)
    return found, targets if folds.common_targets else views_over(trials, folds, targets_of)


@torch.no_grad()
def evaluate_views(
    job: "MembersJob",
    population: Population,
    folds: Folds,
    trials: Sequence[int],
    examples: Callable[[View], Examples],
    rows: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Return loss and metric (accuracy, or R2) of every trial, float64 [trials], each over its own view's rows.

    rows: stored rows for each view; NaN comes of a view without any.
    """
    counts = torch.tensor([len(rows[folds.view_of(t)]) if folds.view_of(t) < len(rows) else 0 for t in trials])
    sums = torch.zeros(5, len(trials), dtype=torch.float64)
    for start in range(0, int(counts.max()), MEMBERS_BATCH):
        batch = _Batch(folds, trials, examples, rows, start, job.device)
        outputs, labels = population.outputs(batch.inputs), batch.targets.stacked()
        weights = batch.weights.to(job.device)
        sums[0] += (job.loss_per_example(outputs, labels).double() * weights).sum(dim=1).cpu()
        if job.task == "classification":
            sums[1] += ((outputs.argmax(dim=2) == labels) * weights).sum(dim=1).cpu()
        else:
            wanted = labels.double()
            squares = torch.stack([(outputs.double().flatten(1) - wanted).square(), wanted, wanted.square()])
            sums[2:] += (squares * weights).sum(dim=2).cpu()
    if job.task == "classification":
        return sums[0] / counts, sums[1] / counts
    spread = sums[4] - sums[3].square() / counts
    return sums[0] / counts, torch.where(spread > 0, 1 - sums[2] / spread, torch.nan)


class _Batch:
    """Some rows of each view, as many for all: a view that has fewer gets its first again, with weight 0."""

    def __init__(
        self,
        folds: Folds,
        trials: Sequence[int],
        examples: Callable[[View], Examples],
        rows: Sequence[Tensor],
        start: int,
        device: torch.device,
    ) -> None:
        chosen = [found[start : start + MEMBERS_BATCH] for found in rows]
        size = max(len(found) for found in chosen)
        spare = next(found for found in chosen if len(found) == size)

        def part(view: int) -> tuple[Tensor, Tensor]:
            own = chosen[view] if view < len(chosen) else spare[:0]
            filled = torch.cat([own, spare[len(own) :]])
            inputs, targets = gather(examples(folds.views[view]), device, filled)
            return folds.views[view].prepare(inputs), targets

        wanted = {folds.view_of(trial) for trial in trials}
        parts = {view: part(view) for view in wanted}
        self.inputs = views_over(trials, folds, lambda view: parts[view][0])
        self.targets = views_over(trials, folds, lambda view: parts[view][1])
        known = [len(chosen[folds.view_of(t)]) if folds.view_of(t) < len(chosen) else 0 for t in trials]
        self.weights = (torch.arange(size) < torch.tensor(known).unsqueeze(1)).double()
