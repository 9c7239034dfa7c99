"""Records of one member, as rules read them: curves by name, and what is known of the run."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caviar.core.records import Record
from caviar.diagnose.facts import Facts

MOST_CLASSES = 10_000_000

Numbers = NDArray[np.float64]


class LackingError(Exception):
    """A rule cannot speak: the message says what it lacks."""


class Curve(NamedTuple):
    """Values of one quantity, in order of their steps."""

    steps: NDArray[np.int64]
    epochs: NDArray[np.int64]
    values: Numbers

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def last(self) -> float:
        return float(self.some().values[-1])

    @property
    def largest(self) -> float:
        return float(self.some().values.max())

    def some(self) -> "Curve":
        """Return the curve; LackingError where it is empty."""
        if not len(self):
            raise LackingError("a curve that it needs was never a number")
        return self

    def take(self, chosen: NDArray[Any]) -> "Curve":
        """Return the points chosen by a mask or by positions."""
        return Curve(self.steps[chosen], self.epochs[chosen], self.values[chosen])

    def after(self, step: int) -> "Curve":
        """Return the part behind a step."""
        return self.take(self.steps > step)

    def until(self, step: int) -> "Curve":
        """Return the part up to a step."""
        return self.take(self.steps <= step)

    def finite(self) -> "Curve":
        """Return the part with numbers."""
        return self.take(np.isfinite(self.values))

    def recent(self, count: int) -> Numbers:
        """Return the last values."""
        return self.values[-count:]

    def median(self) -> float:
        """Return the middle value."""
        return float(np.median(self.some().values))


Place = tuple[str, str, str]
"""Split, layer and name of a curve."""


@dataclass
class Story:
    """One member's curves so far. finished: whether the run has ended as planned (early stopping included).

    Asking for a curve that is not there raises `LackingError`, which makes a rule silent and says why.
    """

    facts: Facts = field(default_factory=Facts)
    member: int = 0
    finished: bool = False
    failed: bool = False
    _points: dict[Place, list[tuple[int, int, float]]] = field(default_factory=dict)
    _curves: dict[Place, Curve] = field(default_factory=dict)

    def add(self, records: Iterable[Record]) -> None:
        """Take in more records; of the same curve and step the later one counts."""
        for record in records:
            place = (record.split, record.layer, record.name)
            self._points.setdefault(place, []).append((record.step, record.epoch, record.value))
            self._curves.pop(place, None)
        self.__dict__.pop("losses", None)

    def has(self, name: str, split: str = "", layer: str = "") -> bool:
        """Whether a curve has any value."""
        return (split, layer, name) in self._points

    def curve(self, name: str, split: str = "", layer: str = "", least: int = 1) -> Curve:
        """Return a curve of at least so many values."""
        place = (split, layer, name)
        if place not in self._points:
            raise LackingError(f"there are no records of {_described(*place)}")
        if place not in self._curves:
            by_step = {step: (step, epoch, value) for step, epoch, value in self._points[place]}
            rows = sorted(by_step.values())
            steps, epochs, values = zip(*rows, strict=True)
            self._curves[place] = Curve(np.array(steps), np.array(epochs), np.array(values, dtype=np.float64))
        found = self._curves[place]
        if len(found) < least:
            raise LackingError(f"{_described(*place)} was recorded {len(found)} times, and it takes {least}")
        return found

    def by_layer(self, name: str, split: str = "train", least: int = 1) -> dict[str, Curve]:
        """Return the curves of a quantity for each layer that has enough values; at least one."""
        layers = [layer for s, layer, n in self._points if n == name and s == split and layer]
        found = {layer: self.curve(name, split, layer) for layer in layers}
        enough = {layer: curve for layer, curve in found.items() if len(curve) >= least}
        if not enough:
            raise LackingError(f"there are fewer than {least} records of {name} by layer")
        return enough

    @cached_property
    def losses(self) -> Curve:
        """Losses of the training batches; where nobody recorded them, of the epochs."""
        return self.curve("batch_loss" if self.has("batch_loss", "train") else "loss", "train")

    @property
    def last_step(self) -> int:
        """The last step that anything was recorded of."""
        return max((points[-1][0] for points in self._points.values()), default=0)

    def need_steps(self, count: int) -> Curve:
        """Return the finite training losses, of which there must be at least `count`."""
        found = self.losses.finite()
        if len(found) < count:
            raise LackingError(f"it takes {count} steps, and there are {len(found)}")
        return found

    def need_finished(self) -> None:
        """Raise where the run has not come to its end."""
        if not self.finished:
            raise LackingError("it judges runs that have come to their end")

    @property
    def metric(self) -> str:
        """The name of the metric: accuracy or r2."""
        for name in ("accuracy", "r2"):
            if self.has(name, "dev") or self.has(name, "train"):
                return name
        raise LackingError("there are no records of a metric on dev")

    @property
    def classes(self) -> int:
        """How many classes there are."""
        if self.facts.num_classes:
            return self.facts.num_classes
        if self.facts.task != "regression" and self.has("output_width", "train"):
            width = self.curve("output_width", "train").finite().last
            if 2 <= width <= MOST_CLASSES and (self.facts.task == "classification" or self.has("accuracy", "dev")):
                return round(width)
        raise LackingError("the number of classes is not known")

    @property
    def baseline(self) -> float:
        """The loss of the best answer that ignores the inputs."""
        loss = self.facts.loss
        if loss in ("", "cross_entropy"):
            shares = self._shares()
            if self.facts.class_weighted:
                shares = np.where(shares > 0, 1.0, 0.0) / np.count_nonzero(shares)
            smoothing = self.facts.label_smoothing
            shares = (1 - smoothing) * shares + smoothing / len(shares)
            return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())
        if loss == "hinge":
            return float(self.classes - 1)
        if loss == "logistic":
            shares = self._shares()
            inner = shares[(shares > 0) & (shares < 1)]
            return float(-(inner * np.log(inner) + (1 - inner) * np.log(1 - inner)).sum())
        if loss == "mean_squared_error" and self.facts.own_targets:
            return 1.0
        raise LackingError("the loss of a constant answer is not known")

    @property
    def known_baseline(self) -> float:
        """The baseline, or 0 where it is not known."""
        try:
            return self.baseline
        except LackingError:
            return 0.0

    def _shares(self) -> Numbers:
        return np.array(self.facts.train_shares or [1 / self.classes] * self.classes, dtype=np.float64)

    @property
    def initial_loss(self) -> float:
        """The loss of the first batch, before any update."""
        first = self.losses
        if not self.has("batch_loss", "train") or first.steps[0] != 1:
            raise LackingError("the loss of the first batch was not recorded")
        return float(first.values[0])

    @property
    def chance(self) -> float:
        """The metric on dev of the best answer that ignores the inputs."""
        if self.metric == "r2":
            return 0.0
        if self.has("largest_class_share", "dev"):
            return self.curve("largest_class_share", "dev").last
        if self.facts.dev_shares:
            return max(self.facts.dev_shares)
        return 1.0 / self.classes

    def metric_error(self, value: float) -> float:
        """The standard error of an accuracy on dev; of R2 about twice that of a correlation."""
        rows = self.facts.num_dev
        if not rows:
            raise LackingError("the number of dev examples is not known")
        if self.metric == "r2":
            return 2.0 * math.sqrt(max(1.0 - value, 0.0) / rows)
        share = min(max(value, 1.0 / rows), 1.0 - 1.0 / rows)
        return math.sqrt(share * (1 - share) / rows)

    def at(self, name: str, steps: NDArray[np.int64], split: str = "", layer: str = "") -> Numbers:
        """Return a curve's finite values at other steps, straight lines between them."""
        curve = self.curve(name, split, layer).finite()
        if not len(curve):
            raise LackingError(f"{_described(split, layer, name)} was never a number")
        return np.interp(steps, curve.steps, curve.values)

    def movement(self) -> float:
        """How far all steps together could have moved the weights, as a multiple of their size."""
        ratio = self.curve("update_ratio", "train", least=2).finite()
        if len(ratio) < 2:
            raise LackingError("updates were not finite")
        steps = np.concatenate([[0], ratio.steps])
        return float((np.diff(steps) * ratio.values).sum() + (self.last_step - ratio.steps[-1]) * ratio.values[-1])


def _described(split: str, layer: str, name: str) -> str:
    words = [name, f"on {split}" if split else "", f"of layer {layer}" if layer else ""]
    return " ".join(word for word in words if word)


def stories(
    records: Iterable[Record], facts: Facts, *, finished: bool = True, failed: bool = False
) -> Mapping[int, Story]:
    """Sort records into one story for each member."""
    found: dict[int, Story] = {}
    for member, own in sorted(by_trial(records).items()):
        found[member] = Story(facts, member, finished, failed)
        found[member].add(own)
    return found


def by_trial(records: Iterable[Record]) -> dict[int, list[Record]]:
    """Sort records by trial, in the order in which they come."""
    found: dict[int, list[Record]] = {}
    for record in records:
        found.setdefault(record.trial, []).append(record)
    return found


def blocks(values: Numbers, count: int) -> Numbers:
    """Return the means of `count` consecutive parts of about the same length (fewer when there are fewer values)."""
    if not len(values):
        raise LackingError("there are no finite values")
    count = max(1, min(count, len(values)))
    return np.array([part.mean() for part in np.array_split(values, count)])


def level(values: Numbers, share: float, *, end: bool, least: int = 3) -> float:
    """Return the median of the first or last share of the values, of at least `least`."""
    if not len(values):
        raise LackingError("there are no finite values")
    count = min(len(values), max(least, round(share * len(values))))
    return float(np.median(values[-count:] if end else values[:count]))
