"""Who listens to the training loop: the record store, the run's summary and log, and the progress bar."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.table import Column
from rich.text import Text
from torch import Tensor

from caviar.core.jsonable import jsonable
from caviar.core.observer import EpochFacts, Moment
from caviar.core.records import Record
from caviar.core.runs import RunFolder
from caviar.core.store import Store
from caviar.diagnose.live import LiveFindings
from caviar.diagnose.quantities import Smoother, Watcher

FLUSH_SECONDS = 1.0
REFRESH_SECONDS = 0.2
PLAIN_SECONDS = 10.0
WIDE = 100


class RunLog:
    """Appends lines with the time to train.log."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, message: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")


class Recorder:
    """Writes records of every step and epoch, and keeps run.json current.

    Losses of steps are gathered where they are and read from the device once a second and before each checkpoint, and
    what the watcher has measured with them. findings: are handed every record. losses: of the steps before a resume.
    """

    def __init__(
        self,
        store: Store,
        folder: RunFolder,
        log: RunLog,
        trial: int = 0,
        *,
        watcher: Watcher | None = None,
        findings: LiveFindings | None = None,
        losses: Iterable[float] = (),
    ) -> None:
        self._store, self._folder, self._log, self._trial = store, folder, log, trial
        self._watcher, self._findings = watcher, findings
        self._smoother = Smoother()
        for loss in losses:
            self._smoother.add(loss)
        self._losses: list[Tensor] = []
        self._moments: list[Moment] = []
        self._records: list[Record] = []
        self._summary: dict[str, Any] = {}
        self._flushed = time.monotonic()

    def on_step(self, moment: Moment, loss: Tensor) -> None:
        self._losses.append(loss)
        self._moments.append(moment)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def on_epoch(self, facts: EpochFacts) -> None:
        values = {**facts.values, ("", "learning_rate"): facts.learning_rate}
        for (split, name), value in values.items():
            self._records.append(Record(self._trial, facts.step, facts.epoch, split, "", name, value))
        flat = {f"{split}_{name}": value for (split, name), value in facts.values.items()}
        self._summary["epoch"] = facts.epoch
        self._summary["last"] = jsonable(flat)
        if facts.best:
            self._summary["best"] = jsonable({"epoch": facts.epoch, **flat})
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()
            self._log.write(f"epoch {facts.epoch}: " + ", ".join(f"{k} {v:.5g}" for k, v in flat.items()))

    def on_save(self, step: int) -> None:
        self.flush()
        self._folder.note_progress(**self._summary, step=step)

    def flush(self) -> None:
        """Write everything gathered so far."""
        measured = [] if self._watcher is None else self._watcher.drain()
        looks = {record.step for record in measured if record.name == "weight_norm"}
        if self._losses:
            losses = torch.stack(self._losses).tolist()
            for moment, loss in zip(self._moments, losses, strict=True):
                self._records.append(Record(self._trial, moment.step, moment.epoch, "train", "", "batch_loss", loss))
                smoothed = self._smoother.add(loss)
                if moment.step in looks:
                    self._records.append(
                        Record(self._trial, moment.step, moment.epoch, "train", "", "smoothed_loss", smoothed)
                    )
        self._records += measured
        self._store.write(self._records)
        if self._findings is not None:
            self._findings.take(self._records)
        self._losses, self._moments, self._records = [], [], []
        self._flushed = time.monotonic()


class Rate(ProgressColumn):
    """Training examples a second."""

    def render(self, task: Any) -> Text:
        return Text(f"{short_number(task.speed)}/s" if task.speed else "", style="cyan")


class TimeLeft(ProgressColumn):
    """Time left at this rate, as minutes:seconds."""

    def render(self, task: Any) -> Text:
        seconds = task.time_remaining
        return Text("" if seconds is None else f"{duration(seconds)} left")


def short_number(value: float) -> str:
    """Write a count in at most seven characters: 987, 9,876, 98.76k, 9.876M."""
    if value < 10_000:
        return f"{value:,.0f}"
    size, unit = (1e3, "k") if value < 1e6 else (1e6, "M")
    return f"{value / size:.4g}{unit}"


def duration(seconds: float) -> str:
    """Write a span of time: 0:07, 12:34 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class ProgressBar:
    """One line: epoch, bar, examples a second, time left, training and validation loss; plain lines without a terminal.

    On a terminal of 100 columns or more the metric stands there as well. The line fits into 80.
    """

    def __init__(self, epochs: int, rows: int, batch_size: int, first_step: int, console: Console) -> None:
        self._epochs, self._console = epochs, console
        self._wide = console.width >= WIDE
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=24 if self._wide else 6),
            Rate(),
            TimeLeft(),
            TextColumn("{task.fields[losses]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        steps_an_epoch = max(1, -(-rows // batch_size))
        done, batches = divmod(first_step, steps_an_epoch)
        completed = done * rows + batches * batch_size
        epoch = min(done + 1, epochs)
        self._task = self._bar.add_task(
            "", total=epochs * rows, completed=completed, epoch=epoch, epochs=epochs, losses=""
        )
        self._rows = rows
        self._train, self._dev, self._other = "", "", ""
        self._shown = 0.0
        self._said = time.monotonic()

    def __enter__(self) -> "ProgressBar":
        if self._console.is_terminal and not self._console.quiet:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar.live.is_started:
            self._bar.stop()

    def on_step(self, moment: Moment, loss: Tensor) -> None:
        now = time.monotonic()
        if now - self._shown < REFRESH_SECONDS:
            return
        self._shown = now
        self._train = f"train {loss.item():.4g}"
        self._show(moment.epoch, (moment.epoch - 1 + moment.batch / moment.num_batches) * self._rows)

    def on_epoch(self, facts: EpochFacts) -> None:
        self._train = f"train {facts.values[('train', 'loss')]:.4g}"
        name, value = next((n, v) for (split, n), v in facts.values.items() if split == "dev" and n != "loss")
        self._dev = f"validation {facts.values[('dev', 'loss')]:.4g}"
        self._other = f"{name} {value:.4f}"
        now = time.monotonic()
        if now - self._shown > REFRESH_SECONDS or facts.epoch == self._epochs:
            self._shown = now
            self._show(facts.epoch, facts.epoch * self._rows)
        if not self._console.is_terminal and now - self._said > PLAIN_SECONDS:
            self._said = now
            self._console.print(f"epoch {facts.epoch}/{self._epochs}  {self._losses(wide=True)}", soft_wrap=True)

    def on_save(self, step: int) -> None:
        """Nothing to do."""

    def _show(self, epoch: int, completed: float) -> None:
        if self._console.is_terminal:
            self._bar.update(self._task, completed=completed, epoch=epoch, losses=self._losses(wide=self._wide))
            self._bar.refresh()

    def _losses(self, *, wide: bool) -> str:
        parts = (self._train, self._dev, self._other if wide else "")
        return " ".join(["loss", *(part for part in parts if part)]) if self._train else ""
