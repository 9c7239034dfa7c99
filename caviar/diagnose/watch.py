"""Watch anybody's training loop: two lines in it, and nothing left behind."""

import dataclasses
import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from caviar.core.errors import InputError, unknown_name
from caviar.core.findings import Finding
from caviar.core.observer import Moment
from caviar.core.records import Record
from caviar.diagnose.facts import Facts, facts_of
from caviar.diagnose.live import LiveFindings, worth_telling
from caviar.diagnose.quantities.classes import read_confusion
from caviar.diagnose.quantities.pending import Key
from caviar.diagnose.quantities.schedule import Schedule
from caviar.diagnose.quantities.smoothing import Smoother
from caviar.diagnose.quantities.watcher import Watcher
from caviar.diagnose.settings import WatchSettings
from caviar.diagnose.watch_hooks import Hooks
from caviar.diagnose.watch_kept import KeptLosses

SPLITS = ("train", "dev", "test")
METRICS = ("loss", "accuracy", "r2")
FLUSH_SECONDS = 1.0

Number = float | Tensor
Batch = tuple[Any, Any]


def watch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    quantities: Literal["default", "full"] = "default",
    every: int | Literal["auto", "log"] = "auto",
    loss: str = "",
    epochs: int = 0,
    best_error: float | None = None,
    live: bool = True,
    quiet: bool = False,
) -> "Watch":
    """Watch a training loop of your own, in a `with` block around it.

        with caviar.watch(model, optimizer) as watch:
            for inputs, targets in loader:
                ...
                optimizer.step()
                watch.step(loss)

    What is measured is what a caviar run records, on the same schedule, and the same rules read it. Rules that lack
    something stay silent: the more `step` and `evaluate` are told, the more they can say. Nothing of the training is
    changed, and nothing stays on model or optimiser when the block ends; a summary is then printed on stderr.

    Args:
        model: the network, called as model(...) in the loop.
        optimizer: the torch optimiser that holds its weights.
        quantities: default (about 3% of the time) or full (about 15%).
        every: steps between two looks inside; 1 for every step, "log" for ever rarer.
        loss: what is minimised, by its name in a recipe (cross_entropy, mean_squared_error, ...), if it is one of them.
        epochs: how many are planned.
        best_error: the least error to hope for, such as a person's: 0 to 1.
        live: print a line on stderr when something is found. quiet: print nothing at all.

    Raises:
        InputError: model or optimizer are not what they should be.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}; watch needs the torch.nn.Module that is trained.")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"optimizer is a {type(optimizer).__name__}; watch needs the torch.optim.Optimizer in use.")
    settings = WatchSettings(quantities=quantities, every=every)
    facts = dataclasses.replace(
        facts_of(model),
        loss=loss,
        epochs=epochs,
        optimizer=type(optimizer).__name__,
        best_error=-1.0 if best_error is None else best_error,
    )
    return Watch(model, optimizer, settings, facts, live=live and not quiet, quiet=quiet)


class Watch:
    """What `caviar.watch` returns. Use it as a context manager."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: WatchSettings,
        facts: Facts,
        *,
        live: bool,
        quiet: bool,
    ) -> None:
        self._model, self._optimizer, self._settings = model, optimizer, settings
        self._live = LiveFindings(facts, _print if live else None)
        self._quiet = quiet
        self._watcher: Watcher | None = None
        self._hooks: Hooks | None = None
        self._smoother = Smoother()
        self._kept = KeptLosses()
        self._losses: list[tuple[Moment, Number]] = []
        self._records: list[Record] = []
        self._step, self._epoch, self._batch = 0, 1, 0
        self._epoch_losses: list[float] = []
        self._evaluated: dict[str, Mapping[str, float]] = {}
        self._bad = False
        self._flushed = time.monotonic()

    def __enter__(self) -> Self:
        self._watcher = Watcher(
            self._model,
            self._optimizer,
            Schedule.of(self._settings),
            everything=self._settings.quantities == "full",
        )
        self._hooks = Hooks(self._model, self._optimizer, self._watcher)
        return self

    def __exit__(self, *exception: object) -> None:
        watcher, hooks = self._open()
        hooks.remove()
        self._flush()
        watcher.close()
        self._watcher = self._hooks = None
        if not self._quiet:
            self._summarise(failed=exception[0] is not None)

    @property
    def records(self) -> Sequence[Record]:
        """Everything recorded so far."""
        self._flush()
        return tuple(self._records)

    @property
    def facts(self) -> Facts:
        """What is known of the run besides its records."""
        return self._live.story.facts

    def step(self, loss: Number, batch: Batch | None = None) -> None:
        """Tell of a finished training step: after optimizer.step().

        loss: of the batch, a tensor (it is not kept with its graph) or a number. batch: its (inputs, targets), which
        lets rules judge targets, and inputs where the loss is not a number.
        """
        watcher, hooks = self._open()
        if self._evaluated:
            self._epoch, self._batch, self._evaluated = self._epoch + 1, 0, {}
        self._step += 1
        self._batch += 1
        moment = Moment(self._step, self._epoch, self._batch, 0)
        if isinstance(loss, Tensor):
            self._kept.add(loss)
            loss = loss.detach()
            if loss.device.type == "cpu":
                loss = float(loss)
        self._losses.append((moment, loss))
        if isinstance(loss, float) and not math.isfinite(loss) and not self._bad:
            self._bad = True
            hooks.look_at_inputs(moment, batch)
        if watcher.looking:
            hooks.finish_look(moment, batch, loss)
            watcher.pending.add_numbers(moment, {Key("losses_kept"): float(self._kept.count())})
        watcher.on_step(moment, loss if isinstance(loss, Tensor) else _NOTHING)
        if watcher.looking:
            hooks.begin_look()
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()

    def evaluate(
        self,
        split: str,
        *,
        loss: Number | None = None,
        accuracy: Number | None = None,
        r2: Number | None = None,
        confusion: Tensor | None = None,
        examples: int = 0,
    ) -> None:
        """Tell of an evaluation, in evaluation mode, of train (or a part of it), dev or test.

        confusion: counts (true classes, predicted classes). examples: how many there were; where it is not said, those
        that went through the network without gradients since the last step or evaluation. An evaluation of dev ends an
        epoch.
        """
        watcher, hooks = self._open()
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        given = {"loss": loss, "accuracy": accuracy, "r2": r2}
        values = {name: float(value) for name, value in given.items() if value is not None}
        moment = Moment(self._step, self._epoch, self._batch, 0)
        seen = hooks.finish_evaluation(moment, split)
        if split != "train":
            self._know(num_dev=examples or seen)
        pending = watcher.pending
        self._evaluated[split] = values
        pending.add_numbers(moment, {_key(split, name): value for name, value in values.items()})
        pending.add_numbers(moment, _gaps(self._evaluated.get("train", {}), self._evaluated.get("dev", {})))
        if confusion is not None:
            pending.add_numbers(moment, read_confusion(confusion.cpu()))
        self._flush()
        if split == "dev" and self._epoch_losses:
            mean = math.fsum(self._epoch_losses) / len(self._epoch_losses)
            self._keep([Record(0, self._step, self._epoch, "train", "", "loss", mean)])
            self._epoch_losses = []

    def findings(self) -> tuple[Finding, ...]:
        """Return what rules find in the records so far: causes first and the worst first."""
        self._flush()
        return self._live.read(finished=self._watcher is None).findings

    def _open(self) -> tuple[Watcher, Hooks]:
        if self._watcher is None or self._hooks is None:
            raise InputError("watch is not open: use it inside `with caviar.watch(model, optimizer) as watch:`.")
        return self._watcher, self._hooks

    def _know(self, **facts: Any) -> None:
        """Add to what is known of the run."""
        known = {name: value for name, value in facts.items() if value}
        self._live.story.facts = dataclasses.replace(self._live.story.facts, **known)

    def _flush(self) -> None:
        """Read what waits on the device, and let the rules see it."""
        if self._watcher is None or self._hooks is None:
            return
        found = self._watcher.drain()
        looks = {record.step for record in found if record.name == "weight_norm"}
        losses = _read([loss for _, loss in self._losses])
        for (moment, _), loss in zip(self._losses, losses, strict=True):
            found.append(Record(0, moment.step, moment.epoch, "train", "", "batch_loss", loss))
            smoothed = self._smoother.add(loss)
            if moment.step in looks:
                found.append(Record(0, moment.step, moment.epoch, "train", "", "smoothed_loss", smoothed))
        self._epoch_losses += losses
        self._losses = []
        self._know(**self._hooks.facts())
        self._keep(found)
        self._flushed = time.monotonic()

    def _keep(self, records: list[Record]) -> None:
        self._records += records
        self._live.take(records)

    def _summarise(self, *, failed: bool) -> None:
        diagnosis = self._live.read(finished=not failed, failed=failed)
        grave = worth_telling(diagnosis)
        if not grave:
            _print(f"caviar watched {self._step:,} steps and found nothing wrong.")
            return
        _print(f"caviar watched {self._step:,} steps:")
        for finding in grave:
            _print(f"  {finding.severity} {finding.code} {finding.title}: {finding.message}")
            _print(f"    {finding.remedies[0].do} (caviar explain {finding.code})")


_NOTHING = torch.zeros(())


def _print(line: str) -> None:
    print(line, file=sys.stderr)


def _read(losses: list[Number]) -> list[float]:
    """Return losses as numbers; those on a device are read together."""
    waiting = [loss for loss in losses if isinstance(loss, Tensor)]
    read = iter(torch.stack([loss.float().reshape(()) for loss in waiting]).tolist() if waiting else [])
    return [next(read) if isinstance(loss, Tensor) else float(loss) for loss in losses]


def _key(split: str, name: str) -> Key:
    return Key("evaluated_loss" if (split, name) == ("train", "loss") else name, split=split)


def _gaps(train: Mapping[str, float], dev: Mapping[str, float]) -> dict[Key, float]:
    found = {}
    for name in train.keys() & dev.keys():
        gap = dev[name] - train[name] if name == "loss" else train[name] - dev[name]
        found[Key("loss_gap" if name == "loss" else "gap", split="")] = gap
    return found
