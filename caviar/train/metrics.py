"""How good a model is on a split: sums gathered on the device, read once at the end."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caviar.core.seeds import derive_seed

NORMAL_975 = 1.959963984540054
BOOTSTRAP_ROUNDS = 2000
BOOTSTRAP_CELLS = 20_000_000


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its 95% interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


def wilson_interval(successes: int, trials: int) -> Interval:
    """Return a proportion with its 95% score interval (Wilson, 1927): defined also for 0 and for all successes."""
    share = successes / trials
    z2 = NORMAL_975**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = NORMAL_975 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def confusion_matrix(labels: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """Return counts (classes, classes), int64: rows are true classes, columns predicted ones."""
    return torch.bincount(labels * num_classes + predictions, minlength=num_classes**2).view(num_classes, num_classes)


def classification_report(
    confusion: NDArray[np.int64], classes: tuple[str, ...], loss: float, majority: int
) -> dict[str, Any]:
    """Turn a confusion matrix into the report of a classifier.

    `majority` is the most frequent class of the training split: always saying it is the baseline.
    """
    total = int(confusion.sum())
    support, predicted, hits = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    return {
        "task": "classification",
        "rows": total,
        "metric": "accuracy",
        "accuracy": wilson_interval(int(hits.sum()), total).to_dict(),
        "loss": loss,
        "baseline": {"name": f"always {classes[majority]!r}", "accuracy": float(support[majority] / total)},
        "classes": [
            {
                "class": name,
                "rows": int(support[i]),
                "recall": float(hits[i] / support[i]) if support[i] else None,
                "precision": float(hits[i] / predicted[i]) if predicted[i] else None,
            }
            for i, name in enumerate(classes)
        ],
        "most_confused": _most_confused(confusion, classes),
    }


def _most_confused(confusion: NDArray[np.int64], classes: tuple[str, ...]) -> dict[str, Any] | None:
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    true, said = np.unravel_index(int(wrong.argmax()), wrong.shape)
    count = int(wrong[true, said])
    if not count:
        return None
    share = count / int(confusion[true].sum())
    return {"class": classes[int(true)], "predicted_as": classes[int(said)], "rows": count, "share": share}


def r2_score(targets: NDArray[np.float64], predictions: NDArray[np.float64]) -> float:
    """Return 1 - sum (y - p)^2 / sum (y - mean y)^2: 1 is perfect, 0 is no better than the mean; NaN for constant y."""
    spread = float(np.square(targets - targets.mean()).sum())
    return 1.0 - float(np.square(targets - predictions).sum()) / spread if spread else math.nan


def regression_report(
    targets: NDArray[np.float64], predictions: NDArray[np.float64], train_mean: float, seed: int
) -> dict[str, Any]:
    """Return the report of a regression, in the target's own units; intervals by the percentile bootstrap over rows.

    The baseline says the training mean for every row.
    """
    r2, rmse, mae = _bootstrap(targets, predictions, seed)
    baseline_error = targets - train_mean
    return {
        "task": "regression",
        "rows": len(targets),
        "metric": "r2",
        "r2": r2.to_dict(),
        "rmse": rmse.to_dict(),
        "mae": mae.to_dict(),
        "baseline": {
            "name": f"always the training mean {train_mean:.6g}",
            "r2": r2_score(targets, np.full_like(targets, train_mean)),
            "rmse": float(np.sqrt(np.square(baseline_error).mean())),
            "mae": float(np.abs(baseline_error).mean()),
        },
    }


def _bootstrap(
    targets: NDArray[np.float64], predictions: NDArray[np.float64], seed: int
) -> tuple[Interval, Interval, Interval]:
    rows = len(targets)
    rounds = max(200, min(BOOTSTRAP_ROUNDS, BOOTSTRAP_CELLS // rows))
    draw = np.random.default_rng(derive_seed(seed, "bootstrap"))
    squares, absolutes = np.square(targets - predictions), np.abs(targets - predictions)
    centred = targets - targets.mean()  # R2 does not move with the origin; a small one keeps the sums exact
    samples = np.empty((3, rounds))
    for i in range(rounds):
        chosen = draw.integers(0, rows, rows)
        square, y = squares[chosen].mean(), centred[chosen]
        spread = y.var()
        samples[:, i] = (1 - square / spread if spread else math.nan, math.sqrt(square), absolutes[chosen].mean())
    values = (r2_score(targets, predictions), math.sqrt(squares.mean()), float(absolutes.mean()))
    with np.errstate(invalid="ignore"):
        low, high = (np.nanquantile(samples, q, axis=1) if rows > 1 else samples[:, 0] for q in (0.025, 0.975))
    r2, rmse, mae = (Interval(v, float(a), float(b)) for v, a, b in zip(values, low, high, strict=True))
    return r2, rmse, mae
