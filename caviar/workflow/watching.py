"""What watches a run: facts and first records from its plan, quantities while it trains, findings live and last."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console

from caviar.core.examples import Examples
from caviar.core.files import write_json
from caviar.core.findings import Finding, at_least
from caviar.core.formats import FACTS
from caviar.core.jsonable import jsonable
from caviar.core.records import Record
from caviar.core.runs import RunFolder
from caviar.core.store import Store
from caviar.diagnose.engine import Diagnosis, diagnose
from caviar.diagnose.facts import Facts, facts_of
from caviar.diagnose.quantities import Schedule, Watcher
from caviar.diagnose.quantities.inputs import moments_of, shift_between
from caviar.diagnose.story import Story
from caviar.nn.settings import ConvNetSettings, MLPSettings
from caviar.train.evaluate import evaluate
from caviar.train.loop import Job
from caviar.workflow.plan import Plan

SAMPLE_ROWS = 500
"""Training examples that are evaluated now and then as dev is: at most so many, and a quarter of all."""
COMPARED_ROWS = 512
LEAST_SECONDS = 3.0
COST_FACTOR = 200.0
"""Live rules rest for so many times as long as they took: half a per cent of the time."""


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
def first_records(job: Job, trial: int = 0) -> list[Record]:
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
    return [Record(trial, 0, 0, split, "", name, value) for (split, name), value in numbers.items()]


def _portion(examples: Examples, count: int) -> Examples:
    """Return up to `count` examples, evenly spread, gathered."""
    spread = torch.linspace(0, len(examples) - 1, min(count, len(examples))).long()
    rows = spread if examples.rows is None else examples.rows.cpu()[spread].long()
    rows = rows.to(examples.inputs.device)
    return Examples(examples.inputs.index_select(0, rows), examples.targets.index_select(0, rows))


def build_watcher(plan: Plan, job: Job, first_step: int) -> Watcher | None:
    """Return the observer that measures what the recipe asks for, or None."""
    settings = plan.recipe.watch
    if settings.quantities == "none":
        return None
    sample = _portion(job.train, max(1, min(SAMPLE_ROWS, len(job.train) // 4)))
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
    live: "LiveFindings | None"
    losses: tuple[float, ...]

    @property
    def observers(self) -> list[Watcher]:
        """The observers that the loop shall call."""
        return [] if self.watcher is None else [self.watcher]

    def findings(self, *, finished: bool = False, failed: bool = False) -> list[dict[str, Any]] | None:
        """Return what rules say at the end, as JSON; None where they are not asked."""
        if self.live is None:
            return None
        return [finding.to_dict() for finding in self.live.finish(finished=finished, failed=failed).findings]

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
        live = LiveFindings(facts, console, before, live=settings.findings == "live")
    return Watched(build_watcher(plan, job, first_step), live, losses)


class LiveFindings:
    """Reads records as they are written, and says on the console what rules find: each finding once.

    A finding is told when two looks in a row have made it, or at once when it is sure and grave.
    """

    def __init__(self, facts: Facts, console: Console, before: Iterable[Record] = (), *, live: bool = True) -> None:
        self._story = Story(facts)
        self._story.add(before)
        self._console, self._live = console, live
        self._told: set[tuple[str, str]] = set()
        self._seen: set[tuple[str, str]] = set()
        self._next = time.monotonic() + LEAST_SECONDS

    def take(self, records: Sequence[Record]) -> None:
        """Take in new records, and apply the rules when it is time."""
        self._story.add(records)
        began = time.monotonic()
        if not self._live or began < self._next:
            return
        findings = _worth_telling(diagnose({0: self._story}))
        for finding in findings:
            key = (finding.code, finding.layer)
            if key in self._seen or (finding.severity == "error" and finding.confidence >= 0.9):
                self._tell(finding)
        self._seen = {(finding.code, finding.layer) for finding in findings}
        now = time.monotonic()
        self._next = now + max(LEAST_SECONDS, COST_FACTOR * (now - began))

    def finish(self, *, finished: bool, failed: bool = False) -> Diagnosis:
        """Apply the rules for the last time, and return what they say."""
        self._story.finished, self._story.failed = finished, failed
        return diagnose({0: self._story})

    def _tell(self, finding: Finding) -> None:
        key = (finding.code, finding.layer)
        if key not in self._told:
            self._told.add(key)
            self._console.print(finding_line(finding), soft_wrap=True)


def _worth_telling(diagnosis: Diagnosis) -> list[Finding]:
    return [f for f in diagnosis.findings if at_least(f.severity, "warning") and not f.consequence_of]


def finding_line(finding: Finding) -> str:
    """Return a finding in one line."""
    return f"{finding.severity} {finding.code} {finding.title}: {finding.message}"
