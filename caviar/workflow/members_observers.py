"""Who listens to the training of a population: the record store, the run's summary and log, and one progress bar."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column
from torch import Tensor

from caviar.core.jsonable import jsonable
from caviar.core.observer import Moment
from caviar.core.records import Record
from caviar.core.runs import RunFolder
from caviar.core.store import Store
from caviar.train.members import MembersFacts, Trial
from caviar.workflow.observers import PLAIN_SECONDS, REFRESH_SECONDS, WIDE, Rate, RunLog, TimeLeft
from caviar.workflow.watching_members import MembersEyes

EPOCH_RECORDS = 20_000
"""Batch losses stored of an epoch, of all members together: of more, every n-th step."""
FLUSH_SECONDS = 1.0


class MembersRecorder:
    """Writes records of every trial and epoch and what `eyes` have seen, and keeps run.json current.

    trials: the members' numbers in the whole run, where they are not all of it.
    """

    def __init__(
        self, store: Store, folder: RunFolder, log: RunLog, eyes: MembersEyes, trials: Sequence[int] | None = None
    ) -> None:
        self._store, self._folder, self._log, self._eyes, self._trials = store, folder, log, eyes, trials
        self._records: list[Record] = []
        self._summary: dict[str, Any] = {}
        self._flushed = time.monotonic()

    def on_step(self, moment: Moment, num_members: int) -> None:
        """Nothing to do: losses are read once an epoch."""

    def on_epoch(self, facts: MembersFacts, trials: Sequence[Trial]) -> None:
        facts = replace(facts, trials=tuple(self._number(place) for place in facts.trials))
        values = {**facts.values, ("", "learning_rate"): facts.learning_rates}
        for (split, name), numbers in values.items():
            for trial, value in zip(facts.trials, numbers.tolist(), strict=True):
                self._records.append(Record(trial, facts.step, facts.epoch, split, "", name, value))
        self._add_batch_losses(facts)
        flat = {f"{split}_{name}": _spread(numbers) for (split, name), numbers in facts.values.items()}
        fates = {
            fate: sum(trial.fate == fate for trial in trials) for fate in ("training", "stopped early", "diverged")
        }
        self._summary |= {"epoch": facts.epoch, "last": jsonable(flat), "members": fates}
        for place, fared in enumerate(trials):
            if fared.at_step == facts.step and fared.fate != "training":
                number = self._number(place)
                self._log.write(f"trial {number}: {fared.fate} in epoch {facts.epoch}")
                self._store.add_event(facts.step, fared.fate.replace(" ", "_"), trial=number)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def _number(self, place: int) -> int:
        return place if self._trials is None else self._trials[place]

    def _add_batch_losses(self, facts: MembersFacts) -> None:
        losses = facts.batch_losses
        every = max(1, -(-losses.numel() // EPOCH_RECORDS))
        first = facts.step - len(losses) + 1
        for place in range(0, len(losses), every):
            for trial, value in zip(facts.trials, losses[place].tolist(), strict=True):
                record = Record(trial, first + place, facts.epoch, "train", "", "batch_loss", value)
                self._records.append(record)

    def on_save(self, step: int) -> None:
        self.flush()
        self._folder.note_progress(**self._summary, step=step)

    def flush(self) -> None:
        """Write everything gathered so far, and let rules read it."""
        records = self._records + self._eyes.drain()
        self._store.write(records)
        self._records = []
        self._eyes.read(records)
        self._flushed = time.monotonic()


def _spread(numbers: Tensor) -> dict[str, float]:
    finite = numbers[torch.isfinite(numbers)]
    if not len(finite):
        return {}
    return {"mean": float(finite.mean()), "lowest": float(finite.min()), "highest": float(finite.max())}


class Portion(NamedTuple):
    """The place of one cohort among a run's: its number (from 1) of how many, and how many members it has.

    before, total: examples that members of earlier cohorts, and of all, see in training.
    """

    number: int
    of: int
    members: int
    before: int
    total: int


class MembersBar:
    """One line for all members: epoch, members, bar, examples a second (of all together), time left, dev's spread.

    portion: of a run of several cohorts, whose bars look like one.
    """

    def __init__(
        self,
        epochs: int,
        rows: int,
        batch_size: int,
        first_step: int,
        console: Console,
        portion: Portion | None = None,
    ) -> None:
        self._epochs, self._rows, self._console = epochs, rows, console
        self._before, self._each = (0, 1) if portion is None else (portion.before, portion.members)
        self._cohort = "" if portion is None else f"cohort {portion.number}/{portion.of}, "
        wide = console.width >= WIDE
        self._bar = Progress(
            TextColumn(
                self._cohort + "epoch {task.fields[epoch]}/{task.fields[epochs]}, {task.fields[members]} members"
            ),
            BarColumn(bar_width=24 if wide else 6),
            Rate(table_column=Column(no_wrap=True)),
            TimeLeft(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[said]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        done, batches = divmod(first_step, max(1, -(-rows // batch_size)))
        completed = self._before + (done * rows + batches * batch_size) * self._each
        total, members = (epochs * rows, "") if portion is None else (portion.total, str(portion.members))
        fields: dict[str, Any] = {"epoch": min(done + 1, epochs), "epochs": epochs, "members": members, "said": ""}
        self._task = self._bar.add_task("", total=total, completed=completed, **fields)
        self._said, self._members = "", 0
        self._shown, self._printed = 0.0, time.monotonic()

    def __enter__(self) -> "MembersBar":
        if self._console.is_terminal and not self._console.quiet:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar.live.is_started:
            self._bar.stop()

    def on_step(self, moment: Moment, num_members: int) -> None:
        self._members = num_members
        now = time.monotonic()
        if now - self._shown >= REFRESH_SECONDS:
            self._shown = now
            self._show(moment.epoch, (moment.epoch - 1 + moment.batch / moment.num_batches) * self._rows)

    def on_epoch(self, facts: MembersFacts, trials: Sequence[Trial]) -> None:
        name, values = next((n, v) for (split, n), v in facts.values.items() if split == "dev" and n != "loss")
        spread = _spread(values)
        gone = sum(trial.fate == "diverged" for trial in trials)
        lost = f", {gone} diverged" if gone else ""
        if spread:
            low, high = f"{spread['lowest']:.4f}", f"{spread['highest']:.4f}"
            ends = f"{low} to {high}" if self._cohort else f"best {high}, worst {low}"
            numbers = f"{spread['mean']:.4f} ({ends})"
            self._said = f"validation {name} {numbers}{lost}"
        now = time.monotonic()
        if now - self._shown > REFRESH_SECONDS or facts.epoch == self._epochs:
            self._shown = now
            self._show(facts.epoch, facts.epoch * self._rows)
        if not self._console.is_terminal and now - self._printed > PLAIN_SECONDS:
            self._printed = now
            self._console.print(f"{self._cohort}epoch {facts.epoch}/{self._epochs}  {self._said}", soft_wrap=True)

    def on_save(self, step: int) -> None:
        """Nothing to do."""

    def _show(self, epoch: int, examples: float) -> None:
        if self._console.is_terminal:
            completed = self._before + examples * self._each
            self._bar.update(self._task, completed=completed, epoch=epoch, members=self._members, said=self._said)
            self._bar.refresh()
