"""What watches a run of many members: quantities while they train, findings live and last."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from rich.console import Console

from caviar.core.examples import Examples
from caviar.core.files import write_json
from caviar.core.formats import FACTS
from caviar.core.jsonable import jsonable
from caviar.core.observer import Moment
from caviar.core.records import Record
from caviar.core.runs import RunFolder
from caviar.core.store import Store
from caviar.diagnose.facts import Facts, differences, member_facts
from caviar.diagnose.groups import grouped
from caviar.diagnose.live_members import LiveMembers
from caviar.diagnose.quantities import MembersWatcher, Schedule, Smoother
from caviar.diagnose.quantities.classes import read_confusion
from caviar.diagnose.quantities.pending import Key
from caviar.diagnose.quantities.schedule import is_due
from caviar.diagnose.quantities.watcher import CLASS_STEPS, SAMPLE_COST, gaps
from caviar.population import Population, Step
from caviar.recipe import Recipe
from caviar.recipe.cohorts import differing_values
from caviar.train.judge import evaluate_members
from caviar.train.members import MembersFacts, MembersJob, Trial
from caviar.workflow.plan import Plan
from caviar.workflow.watching import facts_about, first_records, training_sample


class MembersEyes:
    """The observer that measures members and reads what was measured.

    trials: the members' numbers in the run. watcher: None where only losses and metrics are wanted; live: None where
    nobody asks rules. before: records of a run that is resumed.
    """

    def __init__(
        self,
        job: MembersJob,
        trials: Sequence[int],
        watcher: MembersWatcher | None,
        live: LiveMembers | None,
        before: Sequence[Record] = (),
    ) -> None:
        self._job, self._trials, self._watcher, self.live = job, trials, watcher, live
        self._sample: Examples | None = None if watcher is None else training_sample(job.train)
        self._smoothers = {trial: Smoother() for trial in trials}
        for record in before:
            if (record.name, record.split) == ("batch_loss", "train") and record.trial in self._smoothers:
                self._smoothers[record.trial].add(record.value)
        if watcher is not None:  # steps of an epoch that a stop has cut in two
            steps = [
                {record.step for record in before if record.name == name} for name in ("weight_norm", "smoothed_loss")
            ]
            watcher.looks += sorted(steps[0] - steps[1])
        self._evaluated: tuple[list[float], list[float]] | None = None
        self._records: list[Record] = []

    def before_step(self, population: Population, step: Step, number: int) -> None:
        if self._watcher is not None:
            self._watcher.before_step(population, step, number)

    def on_step(self, moment: Moment, num_members: int) -> None:  # noqa: ARG002
        if self._watcher is not None:
            self._watcher.on_step(moment)

    def on_judged(self, population: Population, step: int, epoch: int) -> None:
        """Evaluate the training sample now and then, as dev is."""
        job, sample, self._evaluated = self._job, self._sample, None
        if sample is None or job.example_weights is not None:  # what some train on is others' dev
            return
        if is_due(step, epoch, SAMPLE_COST * len(sample) // job.batch_size, job.epochs):
            loss, metric = evaluate_members(job, population, sample)
            self._evaluated = loss.tolist(), metric.tolist()

    def on_epoch(self, facts: MembersFacts, trials: Sequence[Trial]) -> None:
        """Read what dev tells of classes, how the training sample compares with it, and the course of the losses."""
        numbers = [self._trials[place] for place in facts.trials]
        if self._watcher is not None:
            self._smooth(facts, numbers, self._watcher.looks)
            self._watcher.looks.clear()
            if facts.confusions is not None and is_due(facts.step, facts.epoch, CLASS_STEPS, self._job.epochs):
                for trial, counts in zip(numbers, facts.confusions, strict=True):
                    self._add(facts, trial, read_confusion(counts))
            self._compare(facts, numbers)
        self.note_fates(trials)

    def note_fates(self, trials: Sequence[Trial]) -> None:
        """Let rules know which members train no more."""
        for number, fared in zip(self._trials, trials, strict=True):
            if self.live is not None and fared.fate != "training":
                self.live.end(number, diverged=fared.fate == "diverged")

    def on_save(self, step: int) -> None:
        """Nothing to do: whoever drains writes."""

    def drain(self) -> list[Record]:
        """Return everything measured since the last call; to be called when steps have been waited for."""
        found = self._records + ([] if self._watcher is None else self._watcher.drain())
        self._records = []
        return found

    def read(self, records: Sequence[Record]) -> None:
        """Let rules read what has been written."""
        if self.live is not None:
            self.live.take(records)

    def findings(self, *, finished: bool = False, failed: bool = False) -> list[dict[str, Any]] | None:
        """Return what rules say at the end, one entry for each code, as JSON; None where they are not asked."""
        if self.live is None:
            return None
        diagnosis = self.live.read(finished=finished, failed=failed)
        if failed:  # a run that ends well is told of at its end
            self.live.tell_rest(diagnosis)
        return [group.to_dict() for group in grouped(diagnosis.findings)]

    def _add(self, facts: MembersFacts, trial: int, numbers: Mapping[Key, float]) -> None:
        self._records += [
            Record(trial, facts.step, facts.epoch, key.split, key.layer, key.name, value)
            for key, value in numbers.items()
        ]

    def _smooth(self, facts: MembersFacts, numbers: Sequence[int], looks: Sequence[int]) -> None:
        first = facts.step - len(facts.batch_losses) + 1
        for trial, losses in zip(numbers, facts.batch_losses.T.tolist(), strict=True):
            smoothed = [self._smoothers[trial].add(loss) for loss in losses]
            for step in looks:
                if step >= first:
                    value = smoothed[step - first]
                    self._records.append(Record(trial, step, facts.epoch, "train", "", "smoothed_loss", value))

    def _compare(self, facts: MembersFacts, numbers: Sequence[int]) -> None:
        if self._evaluated is None:
            return
        name = "accuracy" if self._job.task == "classification" else "r2"
        dev = {key: values.tolist() for key, values in facts.values.items()}
        for place, (trial, loss, metric) in enumerate(zip(numbers, *self._evaluated, strict=True)):
            found = gaps({"loss": loss, name: metric}, {key: values[place] for key, values in dev.items()})
            self._add(facts, trial, found)


class Watched(NamedTuple):
    """A run of which members are watched. recipe: the whole run's; trials: their numbers, None where they are all."""

    folder: RunFolder
    store: Store
    recipe: Recipe
    trials: Sequence[int] | None = None


def watch_members(plan: Plan, job: MembersJob, run: Watched, first_step: int, console: Console) -> MembersEyes:
    """Set up what the recipe's section [watch] asks for, and write down what is known beforehand."""
    settings, store = plan.recipe.watch, run.store
    numbers = list(range(plan.recipe.population.trials)) if run.trials is None else list(run.trials)
    facts = facts_of_members(plan, numbers, run.recipe)
    note_facts(run.folder, facts, whole=run.trials is None)
    if settings.quantities != "none" and first_step == 0 and job.example_weights is None:
        store.write(first_records(job, numbers))
    before = [record for record in store.read() if record.trial in facts] if first_step else []
    watcher = None
    if settings.quantities != "none":
        schedule = Schedule.of(settings, members=True)
        everything = settings.quantities == "full"
        watcher = MembersWatcher(schedule, first_step=first_step, everything=everything, numbers=numbers)
    live = None
    if settings.findings != "none":
        say = partial(console.print, soft_wrap=True) if settings.findings == "live" else None
        live = LiveMembers(facts, say, before)
    return MembersEyes(job, numbers, watcher, live, before)


def facts_of_members(plan: Plan, trials: Sequence[int], whole: Recipe) -> dict[int, Facts]:
    """Return what rules may ask of each member of a planned population; `whole`: the recipe of all the run's."""
    shared, values, views = facts_about(plan), differing_values(whole), whole.population.views
    return {trial: member_facts(shared, _numbers(values[trial // views])) for trial in trials}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def note_facts(folder: RunFolder, facts: Mapping[int, Facts], *, whole: bool) -> None:
    """Write what is known of members: what they share, and how each differs. `whole`: they are all of the run's."""
    known: dict[str, Any] = {}
    if not whole and folder.facts.is_file():
        known = json.loads(folder.facts.read_text(encoding="utf-8"))
    first = next(iter(facts.values()))
    shared = Facts.from_dict(known) if known else first
    members = known.get("members", {}) | {str(trial): differences(own, shared) for trial, own in facts.items()}
    head = {"format": "caviar facts", "version": FACTS}
    write_json(folder.facts, jsonable({**head, **shared.to_dict(), "members": members}), durable=False)


__all__ = ["MembersEyes", "Watched", "facts_of_members", "note_facts", "watch_members"]
