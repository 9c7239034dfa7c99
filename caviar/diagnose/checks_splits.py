"""Checks of the splits: nothing of dev in train, no column that is the target, dev drawn from where train is."""

from typing import Any, Final

import torch
from torch import Tensor

from caviar.diagnose.checks_setup import Batch, Outcome, failed, passed, skipped
from caviar.diagnose.checks_subject import Subject, tails

REPEATED: Final = 0.01
"""Share of a split's rows that may stand in train as well, beyond what train repeats of itself."""
SAME: Final = 0.9999
"""Correlation from which an input column is the target."""
ENOUGH: Final = 50
"""Examples below which nothing is said of a column."""
EACH: Final = 5
"""Examples that every class must have for a column to be judged."""
SHIFTED: Final = 0.5
"""Difference of the means of train and dev, in standard deviations of train, that counts."""
SURE: Final = 8.0
"""How many standard errors such a difference must have."""
MOVED: Final = 0.15
"""Share of examples that would have to change class for dev to have train's class shares."""


def check_repeats(subject: Subject) -> Outcome:
    """Look for rows of dev and test that stand in train as well."""
    repeats = subject.setup.repeats
    if not repeats or not set(repeats) - {"train"}:
        return skipped("there is no dev split of its own to compare with.")
    own, rows = repeats.get("train", (0, 1))
    usual = own / max(rows, 1)
    shares = {name: count / max(rows, 1) for name, (count, rows) in repeats.items() if name != "train"}
    numbers: dict[str, Any] = {f"{name}_in_train": share for name, share in shares.items()}
    numbers["train_repeats"] = usual
    worst = max(shares, key=lambda name: shares[name])
    if shares[worst] > REPEATED + 2 * usual and repeats[worst][0] >= EACH:
        return failed(
            f"{shares[worst]:.1%} of the {worst} rows stand in train as well ({usual:.1%} of train's rows repeat).",
            "Split before rows are repeated, resampled or augmented, and keep all rows of one subject on one side "
            "(split.group).",
            **numbers,
        )
    return passed(f"{shares[worst]:.1%} of the {worst} rows stand in train as well.", **numbers)


def check_column_leak(subject: Subject) -> Outcome:
    """Look for one input column that gives the target away."""
    batch = subject.setup.train
    inputs, targets = batch.inputs, batch.targets
    if inputs.dim() != 2 or targets.numel() != len(targets) or len(targets) < ENOUGH:
        return skipped(f"the inputs are no table of {ENOUGH} rows or more with one target each.")
    values, wanted = inputs.double(), targets.reshape(-1)
    numeric = wanted.is_floating_point() and len(torch.unique(wanted)) > 2
    found = _correlated(values, wanted.double()) if numeric else _separating(values, wanted.long())
    if found is None:
        return skipped("a class has too few examples.")
    column, strength = found
    if strength >= SAME:
        return failed(
            f"input column {column} alone gives the target away.",
            "Leave the column out, unless it is truly known before the target is.",
            column=column,
            strength=strength,
        )
    return passed(f"no column does; the strongest is column {column}.", column=column, strength=strength)


def _correlated(values: Tensor, targets: Tensor) -> tuple[int, float]:
    moved, wanted = values - values.mean(0), targets - targets.mean()
    scale = moved.norm(dim=0) * wanted.norm()
    strength = torch.where(scale > 0, (moved.T @ wanted).abs() / scale.clamp_min(1e-300), 0.0)
    best = int(strength.argmax())
    return best, float(strength[best])


def _separating(values: Tensor, labels: Tensor) -> tuple[int, float] | None:
    """Return the column that tells most neighbouring classes apart without overlap, and the share of those."""
    classes, counts = torch.unique(labels, return_counts=True)
    if len(classes) < 2 or int(counts.min()) < EACH:
        return None
    lows = torch.stack([values[labels == each].amin(0) for each in classes])
    highs = torch.stack([values[labels == each].amax(0) for each in classes])
    lows, order = lows.sort(0)
    highs = highs.gather(0, order)
    apart = (highs[:-1] < lows[1:]).double().mean(0)
    best = int(apart.argmax())
    return best, float(apart[best])


def check_shift(subject: Subject) -> Outcome:
    """Compare the means of dev's inputs with those of train."""
    train, dev = subject.setup.train, subject.setup.dev
    if dev is None or len(dev) < ENOUGH or len(train) < ENOUGH:
        return skipped(f"there is no dev split of its own with {ENOUGH} examples or more.")
    column, distance, error = _farthest(_features(train), _features(dev))
    numbers = {"column": column, "distance": distance, "standard_error": error}
    if distance > SHIFTED and distance > SURE * error:
        return failed(
            f"dev differs from train: the mean of input {column} is {distance:.2g} standard deviations away.",
            "Draw dev and test from where the model will be used, prepare them with the numbers fitted on train, and "
            "shuffle before splitting.",
            **numbers,
        )
    return passed(f"the means of inputs differ by {distance:.2g} standard deviations at most.", **numbers)


def check_class_shares(subject: Subject) -> Outcome:
    """Compare the shares of dev's classes with those of train."""
    train, dev = subject.setup.train, subject.setup.dev
    if dev is None or min(len(dev), len(train)) < ENOUGH:
        return skipped(f"there is no dev split of its own with {ENOUGH} examples or more.")
    if train.targets.is_floating_point() or train.targets.dim() != 1:
        return skipped("the targets are no classes.")
    moved, noise = _moved_classes(train.targets, dev.targets)
    if moved > MOVED and moved > 2 * noise:
        return failed(
            f"dev has other class shares than train: {moved:.0%} of its examples would have to change class.",
            "Split at random or by class (stratified), after shuffling.",
            moved=moved,
        )
    return passed(f"{moved:.0%} of dev would have to change class for equal shares.", moved=moved)


def _features(batch: Batch) -> Tensor:
    """Return (rows, features): columns of a table; mean and spread of each channel of a picture or sequence."""
    values = batch.inputs.double()
    if values.dim() <= 2:
        return values.reshape(len(values), -1)
    channels = values.flatten(2) if values.dim() >= 4 else values.movedim(-1, 1)
    return torch.cat([channels.mean(2), channels.std(2, correction=0)], 1)


def _farthest(train: Tensor, dev: Tensor) -> tuple[int, float, float]:
    """Return the feature whose means differ most, by how many of train's standard deviations, and the error of that."""
    low, high = tails(train)
    width = (high - low).clamp_min(1e-12)
    inside, outside = train.clamp(low, high), dev.clamp(low - width, high + width)
    std = inside.std(0, correction=0)
    apart = torch.where(std > 1e-12, (outside.mean(0) - inside.mean(0)).abs() / std.clamp_min(1e-12), 0.0)
    worst = int(apart.argmax())
    spread = max(1.0, float(outside.std(0, correction=0)[worst] / std[worst].clamp_min(1e-12)))
    return worst, float(apart[worst]), (1 / len(train) + spread**2 / len(dev)) ** 0.5


def _moved_classes(train: Tensor, dev: Tensor) -> tuple[float, float]:
    """Return the total variation distance of the class shares, and what chance alone makes of it."""
    classes = int(max(train.max(), dev.max())) + 1
    shares = [torch.bincount(part.clamp_min(0), minlength=classes).double() / len(part) for part in (train, dev)]
    present = int((shares[0] + shares[1] > 0).sum())
    return float((shares[0] - shares[1]).abs().sum() / 2), 0.5 * (present / len(dev)) ** 0.5
