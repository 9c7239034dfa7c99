"""Records of a healthy run, made up, to be broken in one place at a time."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from caviar.core.records import Record
from caviar.diagnose.facts import Facts, LayerFacts
from caviar.diagnose.story import Story

STEPS, PER_EPOCH = 1000, 50
LOOKS = [1, 2, 4, 8, 16, 32, 64, *range(100, STEPS + 1, 100)]
EPOCHS = range(1, STEPS // PER_EPOCH + 1)

FACTS = Facts(
    task="classification",
    loss="cross_entropy",
    num_classes=10,
    class_names=tuple("abcdefghij"),
    train_shares=(0.1,) * 10,
    dev_shares=(0.1,) * 10,
    num_train=1600,
    num_dev=400,
    batch_size=32,
    epochs=20,
    patience=10,
    optimizer="sgd",
    own_network=True,
    layers=(LayerFacts("a", "Linear", 64, 64), LayerFacts("b", "Linear", 64, 64), LayerFacts("c", "Linear", 64, 64),
            LayerFacts("d", "Linear", 64, 10)),
    hidden=(LayerFacts("ra", "ReLU"), LayerFacts("rb", "ReLU"), LayerFacts("rc", "ReLU")),
)  # fmt: skip

Key = tuple[str, str, str]
"""Name, split, layer."""
Curve = Mapping[int, float]


def healthy() -> dict[Key, dict[int, float]]:
    """Every curve of a run in which all is well."""
    draw = np.random.default_rng(0)
    steps = np.arange(1, STEPS + 1)
    losses = 0.1 + 2.3 * np.exp(-(steps - 1) / 150) * (1 + 0.03 * draw.normal(size=STEPS))
    losses[0] = 2.35
    ends = {epoch: epoch * PER_EPOCH for epoch in EPOCHS}
    level = {step: float(losses[max(0, step - 10) : step].mean()) for step in ends.values()}
    found: dict[Key, dict[int, float]] = {
        ("batch_loss", "train", ""): dict(zip(steps.tolist(), losses.tolist(), strict=True)),
        ("loss", "train", ""): dict(level),
        ("loss", "dev", ""): {step: 1.1 * value + 0.05 for step, value in level.items()},
        ("accuracy", "dev", ""): {step: 0.985 - 0.35 * (value - 0.1) for step, value in level.items()},
        ("accuracy", "train", ""): {step: 0.99 - 0.35 * (value - 0.1) for step, value in level.items()},
        ("evaluated_loss", "train", ""): dict(level),
        ("classes_never_predicted", "dev", ""): dict.fromkeys(level, 0.0),
        ("most_predicted_share", "dev", ""): dict.fromkeys(level, 0.11),
        ("largest_class_share", "dev", ""): dict.fromkeys(level, 0.1),
        ("balanced_accuracy", "dev", ""): dict.fromkeys(level, 0.9),
        ("learning_rate", "", ""): {step: 0.05 * (1 - step / (STEPS + 1)) for step in sorted({*LOOKS, *level})},
    }
    constant = {
        "momentum": 0.9, "weight_decay": 1e-4, "weight_norm": 12.0, "gradient_norm": 1.0, "update_ratio": 2e-3,
        "gradient_cosine": 0.2, "noise_scale": 100.0, "input_mean": 0.0, "input_std": 1.0, "input_min": -3.0,
        "input_max": 3.0, "input_scale_ratio": 2.0, "input_scale_excess": 1.5, "input_constant": 0.0,
        "output_mean": 0.0, "output_std": 2.0, "output_spread": 2.0, "output_width": 10.0, "output_form": 0.0,
        "frozen": 0.0, "no_gradient": 0.0, "not_held": 0.0, "data_wait": 0.05, "examples_per_second": 1e4,
        "memory": 1e9, "input_nonfinite": 0.0,
    }  # fmt: skip
    bare = {"momentum", "weight_decay", "weight_norm", "memory"}
    for name, value in constant.items():
        found[name, "" if name in bare else "train", ""] = dict.fromkeys(LOOKS, value)
    for layer in "abcd":
        found["gradient_norm", "train", layer] = dict.fromkeys(LOOKS, 0.5)
        found["weight_norm", "", layer] = dict.fromkeys(LOOKS, 6.0)
        found["update_ratio", "train", layer] = dict.fromkeys(LOOKS, 2e-3)
        found["unit_spread", "", layer] = dict.fromkeys(LOOKS[:7], 0.99)
        found["initial_gain", "", layer] = {1: 1.4}
    for layer in ("ra", "rb", "rc"):
        found["activation_mean", "train", layer] = dict.fromkeys(LOOKS, 0.4)
        found["activation_std", "train", layer] = dict.fromkeys(LOOKS, 0.6)
        found["dead", "train", layer] = dict.fromkeys(LOOKS, 0.02)
    for name, value in (("input_shift", 0.1), ("input_shift_sigma", 2.0), ("input_shift_mean", 0.05),
                        ("input_scale_shift", 0.03)):  # fmt: skip
        found[name, "dev", ""] = {0: value}
    return found


def records(curves: Mapping[Key, Curve], trial: int = 0) -> Iterable[Record]:
    """Turn curves into records."""
    for (name, split, layer), points in curves.items():
        for step, value in points.items():
            yield Record(trial, step, -(-step // PER_EPOCH), split, layer, name, value)


def story(
    changes: Mapping[Any, Any] | None = None, facts: Mapping[str, Any] | None = None, *, finished: bool = True
) -> Story:
    """Return the healthy story with some curves changed: a number (at every look), a function of (step, value), a new
    curve, or None to take it away. A name alone stands for its curves on train (or of the whole run).
    """
    curves = healthy()
    for key, change in (changes or {}).items():
        place = key if isinstance(key, tuple) else next((k for k in curves if k[0] == key), (key, "train", ""))
        if change is None:
            curves.pop(place)
        elif callable(change):
            curves[place] = {step: float(change(step, value)) for step, value in curves[place].items()}
        elif isinstance(change, Mapping):
            curves[place] = dict(change)
        else:
            curves[place] = dict.fromkeys(curves.get(place, LOOKS), float(change))
    found = Story(replace(FACTS, **(facts or {})), finished=finished)
    found.add(records(curves))
    return found
