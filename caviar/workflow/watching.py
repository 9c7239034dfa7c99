"""What watches a run: facts and first records from its plan, quantities while it trains, findings live and last."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console

from caviar.core.examples import Examples
from caviar.core.files import write_json
from caviar.core.formats import FACTS
from caviar.core.jsonable import jsonable
from caviar.core.records import Record
from caviar.core.runs import RunFolder
from caviar.core.store import Store
from caviar.diagnose.facts import Facts, facts_of
from caviar.diagnose.live import LiveFindings
from caviar.diagnose.quantities import Schedule, Watcher
from caviar.diagnose.quantities.inputs import moments_of, shift_between
from caviar.nn.settings import ConvNetSettings, MLPSettings
from caviar.train.evaluate import evaluate
from caviar.train.loop import Job
from caviar.train.members import MembersJob
from caviar.workflow.plan import Plan

SAMPLE_ROWS = 500
"""Training examples that are evaluated now and then as dev is: at most so many, and a quarter of all."""
COMPARED_ROWS = 512


def facts_about(plan: Plan) -> Facts:
    """Return what rules may ask of a planned run."""
    recipe, raw, splits = plan.recipe, plan.raw, plan.splits
    training, optimizer, penalties = recipe.training, recipe.optimizer, recipe.regularization
    own = isinstance(recipe.model, MLPSettings | ConvNetSettings)
    network = facts_of(plan.model)
    classes = len(raw.classes) if raw.task == "classification" else 0
    shares = [_shares(raw.targets[rows], classes) for rows in (splits.train, splits.dev)]
    assert isinstance(training.epochs, int)
    assert isinstance(training.batch_size, int)
    return Facts(
        task=raw.task,
        loss=recipe.loss.name,
        num_classes=classes,
        class_names=tuple(raw.classes),
        train_shares=shares[0],
        dev_shares=shares[1],
        num_train=len(splits.train),
        num_dev=len(splits.dev),
        batch_size=training.batch_size,
        epochs=training.epochs,
        patience=training.patience if isinstance(training.patience, int) else 0,
        label_smoothing=getattr(recipe.loss, "label_smoothing", 0.0),
        class_weighted=getattr(recipe.loss, "class_weights", "none") != "none",
        optimizer=optimizer.name,
        schedule=recipe.schedule.name,
        clip_norm=training.clip_norm if isinstance(training.clip_norm, float) else 0.0,
        l1=penalties.l1,
        l2=penalties.l2,
        dropout=network.dropout,
        augmented=plan.prepared.augment is not None,
        mixes_labels=recipe.augment.mixup > 0 or recipe.augment.cutmix > 0,
        precision=recipe.device.precision,
        own_network=own,
        own_targets=plan.prepared.scaler is not None,
        layers=network.layers,
        hidden=network.hidden,
        norms=network.norms,
        best_error=recipe.watch.best_error if isinstance(recipe.watch.best_error, float) else -1.0,
    )


def _shares(labels: "np.typing.NDArray[np.generic]", classes: int) -> tuple[float, ...]:
    if not classes or not len(labels):
        return ()
    counts = np.bincount(labels.astype(np.int64), minlength=classes)
    return tuple((counts / counts.sum()).tolist())


@torch.no_grad()
def first_records(job: Job | MembersJob, trials: Iterable[int] = (0,)) -> list[Record]:
    """Return what the data tell before training: whether inputs are finite, and how dev's compare with train's."""
    some = {name: _portion(examples, COMPARED_ROWS) for name, examples in (("train", job.train), ("dev", job.dev))}
    moments = {name: moments_of(job.prepare(rows.inputs.to(job.device))) for name, rows in some.items()}
    numbers: dict[tuple[str, str], float] = {}
    if moments["train"] is not None and moments["dev"] is not None:
        shift = shift_between(moments["train"], moments["dev"])
        numbers |= {("dev", name): value for name, value in shift.items()}
    stored = job.train.inputs
    if stored.is_floating_point() and job.train.rows is None:
        whole = bool(torch.isfinite(stored.sum()))  # one pass; a sum that overflows is looked at again
        numbers["train", "input_nonfinite"] = 0.0 if whole else float((~torch.isfinite(stored)).float().mean())
    return [Record(t, 0, 0, split, "", name, value) for t in trials for (split, name), value in numbers.items()]


def training_sample(examples: Examples) -> Examples:
    """Return the training examples that are evaluated now and then as dev is."""
    return _portion(examples, max(1, min(SAMPLE_ROWS, len(examples) // 4)))


def _portion(examples: Examples, count: int) -> Examples:
    """Return up to `count` examples, evenly spread, gathered."""
    rows = examples.spread(count)
    return Examples(examples.inputs.index_select(0, rows), examples.targets.index_select(0, rows))


def build_watcher(plan: Plan, job: Job, first_step: int) -> Watcher | None:
    """Return the observer that measures what the recipe asks for, or None."""
    settings = plan.recipe.watch
    if settings.quantities == "none":
        return None
    sample = training_sample(job.train)
    metric = "accuracy" if job.task == "classification" else "r2"

    def evaluate_sample() -> Mapping[str, float]:
        average = job.average  # once begun, dev is judged by it
        model = average.average.model if average is not None and average.begun else job.model
        found = evaluate(model, sample, job.prepare, job.loss_per_example, job.task, job.device)
        return {"loss": found.loss, metric: found.metric}

    return Watcher(
        job.model,
        job.optimizer,
        Schedule.of(settings),
        first_step=first_step,
        inside=not job.compile,
        everything=settings.quantities == "full",
        train_sample=evaluate_sample,
        sample_size=len(sample),
        last_epoch=job.epochs,
        batch_size=job.batch_size,
    )


@dataclass(frozen=True)
class Watched:
    """Who watches a run: the observer that measures, the rules that read, both None where they are not wanted.

    losses: those of the steps before a resume.
    """

    watcher: Watcher | None
    live: LiveFindings | None
    losses: tuple[float, ...]

    @property
    def observers(self) -> list[Watcher]:
        """The observers that the loop shall call."""
        return [] if self.watcher is None else [self.watcher]

    def findings(self, *, finished: bool = False, failed: bool = False) -> list[dict[str, Any]] | None:
        """Return what rules say at the end, as JSON; None where they are not asked."""
        if self.live is None:
            return None
        diagnosis = self.live.read(finished=finished, failed=failed)
        if failed:  # a run that ends well is told of at its end
            self.live.tell_rest(diagnosis)
        return [finding.to_dict() for finding in diagnosis.findings]

    def close(self) -> None:
        """Take every hook off the network."""
        if self.watcher is not None:
            self.watcher.close()


def watch(plan: Plan, job: Job, folder: RunFolder, store: Store, first_step: int, console: Console) -> Watched:
    """Set up what the recipe's section [watch] asks for, and write down what is known beforehand."""
    settings = plan.recipe.watch
    facts = facts_about(plan)
    write_json(folder.facts, jsonable({"format": "caviar facts", "version": FACTS, **facts.to_dict()}), durable=False)
    if settings.quantities != "none":
        store.write(first_records(job))
    before = store.read(trial=0)
    losses = tuple(r.value for r in before if (r.name, r.split) == ("batch_loss", "train"))
    live = None
    if settings.findings != "none":
        say = partial(console.print, soft_wrap=True) if settings.findings == "live" else None
        live = LiveFindings(facts, say, before)
    return Watched(build_watcher(plan, job, first_step), live, losses)
