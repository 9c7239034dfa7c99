"""How the members of a population do on rows that they are not trained on."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caviar.core.examples import Examples
from caviar.nn import keeps_statistics, recalibrate
from caviar.population import Population
from caviar.population.modules import make_member
from caviar.population.singles import under
from caviar.train.batching import batch_bounds, epoch_rows, gather
from caviar.train.evaluate import EVALUATION_BATCH, MEMBERS_BATCH, batches
from caviar.train.folds import evaluate_views
from caviar.train.loop import RECALIBRATION_EXAMPLES

MOST_COUNTS = 4_000_000
"""Numbers in the confusion matrices of all members; of more classes they are not kept."""

if TYPE_CHECKING:
    from caviar.train.members import MembersJob, MembersState


@torch.no_grad()
def evaluate_members(
    job: "MembersJob", population: Population, examples: Examples, confusions: list[Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return loss and metric (accuracy, or R2) of every member over a split, float64 [members].

    confusions: is given the counts of `confusion_of` of each batch, unless they would be many.
    """
    total = torch.zeros(len(population), dtype=torch.float64)
    hits, squares = torch.zeros_like(total), torch.zeros_like(total)
    y = y2 = 0.0
    for stored, targets in batches(examples, MEMBERS_BATCH):
        labels = targets.to(job.device)
        outputs = population.outputs(job.prepare(stored.to(job.device)))
        total += job.loss_per_example(outputs, labels).double().sum(dim=1).cpu()
        if job.task == "classification":
            predicted = outputs.argmax(dim=2)
            hits += (predicted == labels).sum(dim=1).cpu()
            if confusions is not None and len(predicted) * outputs.shape[2] ** 2 <= MOST_COUNTS:
                confusions.append(confusion_of(labels, predicted, outputs.shape[2]).cpu())
        else:
            wanted = labels.double().view(-1)
            squares += (outputs.double().flatten(1) - wanted).square().sum(dim=1).cpu()
            y, y2 = y + float(wanted.sum()), y2 + float(wanted.square().sum())
    rows = len(examples)
    if job.task == "classification":
        return total / rows, hits / rows
    spread = y2 - y * y / rows
    metric = 1 - squares / spread if spread > 0 else torch.full_like(squares, math.nan)
    return total / rows, metric


def confusion_of(labels: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Return counts (members, true classes, predicted classes) from labels (rows,) and predictions (members, rows)."""
    members = torch.arange(len(predicted), device=labels.device).unsqueeze(1)
    places = (members * num_classes + labels.long()) * num_classes + predicted
    counts = torch.bincount(places.flatten(), minlength=len(predicted) * num_classes**2)
    return counts.view(len(predicted), num_classes, num_classes)


def judge(
    job: "MembersJob", population: Population, state: "MembersState", confusions: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return loss and metric of every trial that trains on what judges it: dev, its fold, or the mean over folds.

    A fold that has left counts with what it last came to; NaN where one has diverged. confusions: is given the counts
    of each batch of dev; folds have none.
    """
    if job.folds is None:
        return evaluate_members(job, population, job.dev, confusions)
    alive = state.alive
    loss, metric = evaluate_views(job, population, job.folds, alive, lambda view: view.train, job.folds.held_out)
    now = {trial: place for place, trial in enumerate(alive)}
    for whole in (trial for trial in alive if job.folds.is_whole(trial)):
        others = job.folds.others(whole)
        gone = [state.trials[other] for other in others if other not in now]
        here = [now[other] for other in others if other in now]
        lost = any(trial.fate == "diverged" for trial in gone)
        for found, last in ((loss, [t.dev_loss for t in gone]), (metric, [t.dev_metric for t in gone])):
            values = [*found[here].tolist(), *last]
            found[now[whole]] = math.nan if lost else sum(values) / len(values)
    return loss, metric


def judged_weights(
    job: "MembersJob", population: Population, state: "MembersState", current: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return what dev judges and the run hands over: the averages once they have begun, or the weights.

    Batch norms of an average need statistics of their own: see `caviar.train.loop.judged_model`.
    """
    if job.average is None or not job.average.begun(state.step):
        return under(current, "model/")
    weights = under(current, "average/")
    template = population.cohort.template
    if keeps_statistics(template):
        for place, trial in enumerate(state.alive):
            module = make_member(template, weights, place)
            recalibrate(module, _recalibration_batches(job, trial))
            for name, tensor in module.state_dict().items():
                weights[name][place] = tensor
    return weights


def _recalibration_batches(job: "MembersJob", trial: int) -> Iterator[Tensor]:
    """Yield training inputs that a trial sees, mixed, none of which it holds out."""
    rows = epoch_rows(job.train, job.seed, 0)
    view = None if job.folds is None else job.folds.views[job.folds.view_of(trial)]
    if job.folds is not None and not job.folds.is_whole(trial):
        rows = rows[~torch.isin(rows, job.folds.held_out[job.folds.view_of(trial)])]
    rows = rows[:RECALIBRATION_EXAMPLES]
    examples, prepare = (job.train, job.prepare) if view is None else (view.train, view.prepare)
    for start, end in batch_bounds(len(rows), min(EVALUATION_BATCH, len(rows)), merge_single=True):
        yield prepare(gather(examples, job.device, rows[start:end])[0])


@contextlib.contextmanager
def showing(population: Population, weights: Mapping[str, Tensor], current: Mapping[str, Tensor]) -> Iterator[None]:
    """Let a population have other weights inside the block, and be as it was in state `current` after it."""
    if all(weights[name] is tensor for name, tensor in under(current, "model/").items()):
        yield
        return
    population.load({**current, **{f"model/{name}": tensor for name, tensor in weights.items()}})
    try:
        yield
    finally:
        population.load(current)
