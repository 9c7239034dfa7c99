"""Checks of the examples themselves: finite, centred and scaled, whole, balanced, with sane targets."""

from typing import Any, Final

import torch
from torch import Tensor, nn

from caviar.diagnose.checks_setup import Batch, Outcome, failed, passed, skipped
from caviar.diagnose.checks_subject import Subject, tails
from caviar.nn.probe import first_tensor

LARGE: Final = 5.0
"""Root mean square of an input column or channel above which it is not scaled (standardised ones have 1)."""
SMALL: Final = 0.02
"""Root mean square of all inputs together below which they are shrunk (pixels divided by 255 twice: 0.002)."""
OFF_CENTRE: Final = 5.0
"""Mean over standard deviation of an input column from which it is not centred."""
FAR: Final = 30.0
"""Root mean square of an example, over that of the typical one, from which it is far from all others."""
FEW: Final = 32
TARGET_RMS: Final = (0.03, 30.0)
"""Root mean squares of a regression's targets outside of which they are not scaled."""
MAJORITY: Final = 0.95
"""Share of the commonest class from which accuracy says little."""
ABSENT: Final = 0.5
"""Share of the network's classes without a single example from which the targets are doubtful."""
SEAM: Final = 0.6
"""A cyclic shift of pixel values that cuts a picture's total variation to this share shows an overflow."""
ENDS: Final = 0.3
"""Share of pixels at the very ends of the range above which pictures are drawings, whose overflow cannot be told."""
SMALLEST_PICTURE: Final = 8
WEIGHTED: Final = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.RNNBase, nn.MultiheadAttention)


def check_finite(subject: Subject) -> Outcome:
    """Look for NaN and infinity in inputs and targets."""
    setup = subject.setup
    counts = _bad_rows("train", setup.train) | ({} if setup.dev is None else _bad_rows("dev", setup.dev))
    if not any(counts.values()):
        return passed("inputs and targets are finite numbers.", **counts)
    where = ", ".join(f"{count} rows of the {name.replace('_', ' ')}" for name, count in counts.items() if count)
    return failed(
        f"NaN or infinity in {where}.",
        "Find where they arise (a missing value, the logarithm of 0, 0/0) and fill or drop those rows: one of them in "
        "a batch makes every weight NaN.",
        **counts,
    )


def _bad_rows(split: str, batch: Batch) -> dict[str, int]:
    return {
        f"{split}_{name}": int((~torch.isfinite(values)).reshape(len(values), -1).any(1).sum())
        for name, values in (("inputs", batch.inputs), ("targets", batch.targets))
    }


def check_scale(subject: Subject) -> Outcome:
    """Look whether what arrives at the first layer with weights is centred and scaled, column by column."""
    arriving = _arriving(subject)
    if arriving is None:
        return skipped("no floating-point inputs arrive at a linear, convolutional or recurrent layer.")
    name, values = arriving
    columns = _columns(values)
    if bool((columns.amax(0) == columns.amin(0)).all()):
        return failed(
            f"all examples are the same where they arrive at {name}.",
            "Look at what the data set returns: every example must have inputs of its own.",
            columns=columns.shape[1],
        )
    low, high = tails(columns)
    middle = columns.clamp(low, high)
    rms = middle.square().mean(0).sqrt()
    mean, std = middle.mean(0), middle.std(0, correction=0)
    whole = ((columns == low) | (columns == high)).all(0)  # yes or no: its centre is not worth a word
    ratio = torch.where((std > 0) & ~whole & (mean.abs() > 0.5), mean.abs() / std.clamp_min(1e-30), 0.0)
    worst, off = int(rms.argmax()), int(ratio.argmax())
    together = float(columns.square().mean().sqrt())
    numbers: dict[str, Any] = {
        "layer": name,
        "mean": float(columns.mean()),
        "rms": together,
        "largest_rms": float(rms[worst]),
        "largest_rms_column": worst,
        "largest_mean_over_std": float(ratio[off]),
    }
    remedy = (
        "Subtract the training mean and divide by the training standard deviation, column by column "
        "(caviar.preprocess; pictures: by channel)."
    )
    if rms[worst] > LARGE:
        many = int((rms > LARGE).sum())
        return failed(
            f"{many} of {len(rms)} input columns are not scaled: column {worst} has a root mean square of "
            f"{float(rms[worst]):.3g} where it arrives at {name} (1 when standardised).",
            remedy,
            **numbers,
        )
    if ratio[off] > OFF_CENTRE:
        return failed(
            f"input column {off} is not centred: its mean is {float(ratio[off]):.3g} times its standard deviation "
            f"where it arrives at {name}.",
            remedy,
            **numbers,
        )
    if together < SMALL:
        return failed(
            f"inputs are tiny where they arrive at {name}: root mean square {together:.2g} (1 when standardised). "
            "They may have been divided twice.",
            remedy,
            **numbers,
        )
    return passed(f"root mean square {together:.2g}, largest column {float(rms[worst]):.2g}.", **numbers)


def _arriving(subject: Subject) -> tuple[str, Tensor] | None:
    """Return the first layer with weights that runs, and what arrives at it; None where that is no numbers."""
    model = subject.setup.fresh(training=subject.trains, dropout=False)
    found: list[tuple[str, Tensor]] = []

    def enter(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any) -> None:  # noqa: ARG001
            values = first_tensor(arguments)
            if values is not None and not found:
                found.append((name or "the model", values.detach().clone()))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, WEIGHTED):
            module.register_forward_pre_hook(enter(name))
    with torch.no_grad():
        model(subject.batch.inputs)
    name, values = found[0] if found else ("the model", subject.batch.inputs)
    if not values.is_floating_point() or values.dim() < 2 or not bool(torch.isfinite(values).all()):
        return None
    return name, values.float()


def _columns(values: Tensor) -> Tensor:
    """Return (rows, columns): channels of pictures, the last axis of sequences, else columns."""
    if values.dim() >= 4:
        return values.movedim(1, -1).flatten(0, -2)[:100_000]
    return values.flatten(0, -2)[:100_000]


def check_outliers(subject: Subject) -> Outcome:
    """Look for a few examples that are far from all others."""
    inputs = subject.setup.train.inputs
    if not inputs.is_floating_point() or len(inputs) < FEW:
        return skipped(f"the inputs are no floating-point numbers, or fewer than {FEW} examples.")
    sizes = inputs.double().flatten(1).square().mean(1).sqrt()
    usual, largest = float(sizes.median()), float(sizes.max())
    far = int((sizes > FAR * usual).sum())
    numbers = {"usual": usual, "largest": largest, "row": int(sizes.argmax()), "far": far}
    if usual > 0 and far:
        return failed(
            f"{far} of {len(inputs)} examples are over {FAR:g} times as large as the typical one (the largest "
            f"{largest / usual:.3g} times).",
            "Look at those examples: wrong units, a missing value written as a number, a broken file? Mend, clip or "
            "drop them, or scale by quartiles.",
            **numbers,
        )
    return passed(
        f"the largest example is {largest / max(usual, 1e-30):.2g} times as large as the typical one.", **numbers
    )


def check_overflow(subject: Subject) -> Outcome:
    """Look for pixel values that wrapped around: integer arithmetic in eight bits."""
    pictures = subject.batch.inputs
    if pictures.dim() != 4 or min(pictures.shape[2:]) < SMALLEST_PICTURE:
        return skipped("the inputs are no pictures of 8 x 8 pixels or more.")
    pixels = pictures.float()
    low, high = pixels.amin(), pixels.amax()
    if not bool(high > low) or not bool(torch.isfinite(high - low)):
        return skipped("the pictures have no range of values.")
    pixels = (pixels - low) / (high - low)
    at_ends = float(((pixels < 1e-3) | (pixels > 1 - 1e-3)).float().mean())
    if at_ends > ENDS:
        return skipped(f"{at_ends:.0%} of the pixels are black or white, as in drawings.", at_ends=at_ends)
    here = _variation(pixels)
    shifted = min(_variation((pixels + shift / 8) % 1.0) for shift in range(1, 8))
    ratio = float(shifted / here)
    if ratio < SEAM:
        return failed(
            f"pixel values seem to have wrapped around: shifted cyclically, the pictures vary {ratio:.2f} times as "
            "much from pixel to pixel.",
            "Turn pixels into floating-point numbers before any arithmetic on them: uint8 wraps at 256.",
            variation_ratio=ratio,
        )
    return passed(f"no seam: shifted cyclically, pictures vary {ratio:.2f} times as much.", variation_ratio=ratio)


def _variation(pixels: Tensor) -> Tensor:
    return (pixels[..., 1:] - pixels[..., :-1]).abs().mean() + (pixels[..., 1:, :] - pixels[..., :-1, :]).abs().mean()


def check_target(subject: Subject) -> Outcome:
    """Look whether numbers to be predicted are scaled."""
    if subject.outputs is None or subject.kind not in ("numbers", "unknown"):
        return skipped("the targets are no numbers.")
    targets = subject.setup.train.targets
    if not targets.is_floating_point():
        return skipped("the targets are no numbers.")
    values = targets.float()
    mean, std, rms = float(values.mean()), float(values.std(correction=0)), float(values.square().mean().sqrt())
    numbers = {"mean": mean, "std": std, "rms": rms}
    if not TARGET_RMS[0] <= rms <= TARGET_RMS[1]:
        return failed(
            f"targets have mean {mean:.3g} and standard deviation {std:.3g}: a fresh network's outputs are near 1.",
            "Standardise the targets by the training mean and standard deviation, and scale predictions back.",
            **numbers,
        )
    return passed(f"targets have mean {mean:.2g} and standard deviation {std:.2g}.", **numbers)


def check_variety(subject: Subject) -> Outcome:
    """Look whether targets differ, and whether the network's classes have examples."""
    targets = subject.setup.train.targets
    if len(targets) > 1 and bool((targets == targets[:1]).all()):
        return failed(
            f"all {len(targets)} targets are the same ({float(targets.flatten()[0]):g}).",
            "Look at how targets are read: there is nothing to learn from one value.",
            distinct=1,
        )
    present = len(torch.unique(targets))
    outputs = subject.outputs
    if targets.is_floating_point() or outputs is None or outputs.dim() != targets.dim() + 1 or outputs.shape[1] == 1:
        return passed(f"{present} different values.", distinct=present)
    classes = outputs.shape[1]
    numbers = {"classes": classes, "present": present}
    if present < (1 - ABSENT) * classes and len(targets) >= 20 * classes:
        return failed(
            f"the network has {classes} classes, but only {present} of them have an example among {len(targets)}.",
            "Look at how class numbers are made; they count from 0 to the number of classes less one.",
            **numbers,
        )
    return passed(f"{present} of {classes} classes have examples.", **numbers)


def check_balance(subject: Subject) -> Outcome:
    """Look whether one class is nearly all there is."""
    targets = subject.setup.train.targets
    if targets.is_floating_point():
        if targets.numel() != len(targets) or not bool(((targets == 0) | (targets == 1)).all()):
            return skipped("the targets are no classes.")
        targets = targets.long()
    counts = torch.bincount(targets.flatten()[targets.flatten() >= 0])
    shares = counts[counts > 0] / counts.sum()
    largest, smallest = float(shares.max()), float(shares.min())
    numbers = {"largest_share": largest, "smallest_share": smallest, "classes": len(shares)}
    if largest >= MAJORITY:
        return failed(
            f"{largest:.1%} of the examples are of class {int(counts.argmax())}: always saying so is that accurate.",
            "Weight the classes in the loss (loss.class_weights = balanced), draw the rare ones more often, and judge "
            "by recall of each class rather than by accuracy.",
            **numbers,
        )
    return passed(f"class shares from {smallest:.1%} to {largest:.1%}.", **numbers)
