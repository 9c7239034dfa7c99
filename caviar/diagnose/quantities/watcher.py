"""The observer that looks inside some steps."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from caviar.core.observer import EpochFacts, Moment
from caviar.core.records import Record
from caviar.diagnose.quantities.classes import read_confusion
from caviar.diagnose.quantities.layout import Layout
from caviar.diagnose.quantities.machine import Clock
from caviar.diagnose.quantities.pending import Emit, Key, Pending
from caviar.diagnose.quantities.schedule import Schedule, is_due
from caviar.diagnose.quantities.signals import Signals
from caviar.diagnose.quantities.structure import initial, learning, modes
from caviar.diagnose.quantities.updates import Updates

TrainSample = Callable[[], Mapping[str, float]]
"""Evaluates a fixed sample of the training examples, as dev is evaluated: loss and metric by name."""

CLASS_STEPS = 200
"""Predictions by class are summed up once in so many steps, and in each epoch that is longer."""

SAMPLE_COST = 40
"""The training sample is evaluated once for so many times as many examples trained on: about 1% of the time."""


class Watcher:
    """Measures on a schedule what goes on inside, without a wait for the device in any step.

    Between looks a step costs one comparison. `looking` says whether the step under way is looked at: `on_gradients`
    is then to be called once its gradients are there. `drain` waits for the device and returns records. Training is not
    changed by it: no random number is drawn, no tensor written to. `close` takes the last hook away.

    inside: whether activations can be hooked (a compiled network does not run its modules). everything: look at the
    outputs of layers with weights as well. train_sample: see `TrainSample`; sample_size: examples in it;
    last_epoch: the last one planned, after which it is evaluated in any case. batch_size: where it is known.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        *,
        first_step: int = 0,
        trial: int = 0,
        inside: bool = True,
        everything: bool = False,
        train_sample: TrainSample | None = None,
        sample_size: int = 0,
        last_epoch: int = 0,
        batch_size: int = 0,
    ) -> None:
        self._model, self._optimizer, self._schedule = model, optimizer, schedule
        self._trial, self._inside = trial, inside
        self.layout = Layout.of(model, everything=everything)
        self._signals, self._updates = Signals(model, self.layout), Updates(self.layout)
        self.pending = Pending()
        self._device = next((p.device for p in self.layout.parameters), torch.device("cpu"))
        self._clock = Clock(first_step)
        self._train_sample, self._sample_size, self._last_epoch = train_sample, sample_size, last_epoch
        self._batch_size = batch_size
        self.looking = self._full = self._pair = self._seen = False
        self._early = self._first = False
        self._facts: dict[Key, float] = {}
        self._weights: tuple[Tensor, Emit] | None = None
        self._next = schedule.next_after(first_step)
        self._arm(first_step)

    @property
    def batch_size(self) -> int:
        """Examples in a batch: as seen in the last look."""
        return self._batch_size

    @property
    def outputs(self) -> Tensor | None:
        """What the network gave in the step looked at."""
        return self._signals.outputs

    @property
    def is_second(self) -> bool:
        """Whether the step under way follows one that was looked at, and its gradient is compared with that one's."""
        return self._pair

    def on_gradients(self) -> None:
        """Measure gradients and weights; to be called only while `looking`, before the weights move."""
        self._seen = True
        if self._pair:
            self._updates.compare()
        if self._full:
            self._updates.before()
            if self._early:
                ids = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
                params = self.layout.parameters
                held = {i for i, p in enumerate(params) if id(p) in ids}
                self._facts = learning(self.layout, {i for i, p in enumerate(params) if p.grad is not None}, held)
                self._weights = initial(self.layout, first=self._first)

    def on_step(self, moment: Moment, loss: Tensor) -> None:  # noqa: ARG002
        """After every step: finish a look, and get ready for the next one."""
        if not self.looking and moment.step + 1 < self._next:
            return
        if self.looking:
            self._finish(moment)
        if moment.step >= self._next:
            self._next = self._schedule.next_after(moment.step)
        self._arm(moment.step)

    def on_epoch(self, facts: EpochFacts) -> None:
        """After an epoch: how dev's predictions spread over classes, and now and then train evaluated as dev is."""
        moment = Moment(facts.step, facts.epoch, 0, 0)
        if facts.confusion is not None and is_due(facts.step, facts.epoch, CLASS_STEPS, self._last_epoch):
            self.pending.add_numbers(moment, read_confusion(facts.confusion))
        examples = SAMPLE_COST * self._sample_size
        steps = examples // max(self._batch_size, 1)
        if self._train_sample is not None and is_due(facts.step, facts.epoch, steps, self._last_epoch):
            self.pending.add_numbers(moment, gaps(self._train_sample(), facts.values))

    def on_save(self, step: int) -> None:
        """Nothing to do: whoever drains writes."""

    def drain(self) -> list[Record]:
        """Return everything measured since the last call."""
        return self.pending.drain(self._trial)

    def close(self) -> None:
        """Take away what a look under way has put on the network."""
        self._signals.detach()
        self._updates.forget()
        self.looking = False

    def _arm(self, step: int) -> None:
        """Get ready to look at the step after `step`, if it is to be looked at."""
        pair, full = self._full, step + 1 >= self._next
        self.looking, self._pair, self._full, self._seen = pair or full, pair, full, False
        if self.looking:
            self._early, self._first = self._schedule.is_early(step + 1), step == 0
            self._signals.attach(inside=full and self._inside)
            self._armed = time.perf_counter()

    def _finish(self, moment: Moment) -> None:
        batch_size = self._signals.batch_size or self._batch_size
        self._batch_size = batch_size
        pending = self.pending
        if self._pair:
            self._updates.hand_pair(moment, pending, batch_size)
            if not self._full and self._signals.began and moment.batch != 1:
                whole = time.perf_counter() - self._armed
                pending.add_numbers(moment, {Key("data_wait"): (self._signals.began - self._armed) / whole})
        if self._full:
            if self._seen:
                self._updates.after(moment, pending, moved=True)
            self._signals.collect(moment, pending, early=self._early)
            self._whole(moment, batch_size)
        self._signals.detach()

    def _whole(self, moment: Moment, batch_size: int) -> None:
        numbers = modes(self.layout, self._model) | self._clock.read(moment.step, batch_size, self._device)
        numbers |= _hyperparameters(self._optimizer) | self._facts
        if self._weights is not None:
            self.pending.add(moment, *self._weights)
        self.pending.add_numbers(moment, numbers)
        self._facts, self._weights = {}, None


def gaps(sample: Mapping[str, float], values: Mapping[tuple[str, str], float]) -> dict[Key, float]:
    """Return what the evaluated training sample came to, loss and metric, and how dev's ("dev", name) differ."""
    numbers = {Key(f"evaluated_{name}" if name == "loss" else name): value for name, value in sample.items()}
    for name, value in sample.items():
        dev = values.get(("dev", name))
        if dev is not None:
            gap = dev - value if name == "loss" else value - dev
            numbers[Key("loss_gap" if name == "loss" else "gap", split="")] = gap
    return numbers


def _hyperparameters(optimizer: torch.optim.Optimizer) -> dict[Key, float]:
    """Return learning rate, weight decay and momentum, the largest of all groups."""
    groups: list[dict[str, Any]] = optimizer.param_groups
    found: dict[Key, float] = {}
    for name, option in (("learning_rate", "lr"), ("weight_decay", "weight_decay"), ("momentum", "momentum")):
        values = [group[option] for group in groups if isinstance(group.get(option), int | float)]
        if values:
            found[Key(name, split="")] = float(max(values))
    betas = [group["betas"][0] for group in groups if isinstance(group.get("betas"), tuple | list)]
    if betas and isinstance(betas[0], int | float):
        found[Key("momentum", split="")] = float(max(betas))
    return found
