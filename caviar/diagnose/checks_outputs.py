"""What a loss expects of a network's outputs, found by trying it, and the losses that knowing nothing comes to.

A loss is a function that may come from anywhere, so nothing rests on its name. Its answers to made-up outputs tell its
kind; what it comes to at neutral outputs (all logits 0) and at the best constant output follows from the same calls.
"""

import math
from typing import Final, Literal

import torch
from torch import Tensor

from caviar.core.seeds import generator_for
from caviar.diagnose.checks_setup import Loss

Kind = Literal["logits", "margins", "sigmoids", "log_probabilities", "probabilities", "numbers", "unknown"]

CLOSE: Final = 1e-3
NEWTON_STEPS: Final = 60
LOG_2: Final = math.log(2.0)


def loss_kind(loss: Loss, outputs: Tensor, targets: Tensor) -> Kind:
    """Say what the loss takes the outputs for.

    logits: of a softmax over axis 1. margins: scores of which only differences count (hinge). sigmoids: one logit for
    each yes or no. log_probabilities, probabilities: what the last activation must have made. numbers: as they are.
    """
    draw = torch.randn(outputs.shape, generator=generator_for(0, "loss kind")).to(outputs)
    if _is_classes(outputs, targets):
        return _kind_for_classes(loss, draw, targets)
    if not targets.is_floating_point() and outputs.shape != targets.shape and outputs.dim() < 2:
        return "unknown"
    return _kind_for_values(loss, draw, targets)


def _is_classes(outputs: Tensor, targets: Tensor) -> bool:
    """Whether targets are class numbers and axis 1 of the outputs holds one score for each class."""
    several = outputs.dim() >= 2 and outputs.shape[1] > 1
    return not targets.is_floating_point() and several and outputs.dim() == targets.dim() + 1


def _kind_for_classes(loss: Loss, draw: Tensor, targets: Tensor) -> Kind:
    here, moved = value(loss, draw, targets), value(loss, draw + 1.0, targets)
    if _same(moved, here - 1.0):
        return "log_probabilities"
    if _same(moved, here):
        classes = draw.shape[1]
        hits = torch.nn.functional.one_hot(targets, classes).movedim(-1, 1).to(draw)
        return "margins" if value(loss, 10.0 * hits, targets) == 0.0 else "logits"
    shares = draw.softmax(1)
    doubled = value(loss, 2.0 * shares, targets)
    if _same(doubled, value(loss, shares, targets) - LOG_2):
        return "probabilities"
    return "sigmoids" if _is_one_sided(loss, draw, targets) else "unknown"


def _kind_for_values(loss: Loss, draw: Tensor, targets: Tensor) -> Kind:
    wanted = targets.to(draw.dtype)
    if wanted.shape == draw.shape and wanted.dim() >= 2 and wanted.shape[1] > 1:
        here = value(loss, draw, targets)
        sums = wanted.sum(1)
        if _same(value(loss, draw + 1.0, targets), here) and bool((sums - 1.0).abs().max() < CLOSE):
            return "logits"
    if wanted.numel() == draw.numel():
        at_targets = value(loss, wanted.reshape(draw.shape), targets)
        between = bool(((wanted >= 0) & (wanted <= 1)).all())
        if between and not math.isfinite(value(loss, 3.0 + draw.abs(), targets)):
            return "probabilities"
        if between and _same(value(loss, torch.full_like(draw, 0.5), targets), LOG_2):
            return "probabilities"
        if abs(at_targets) < CLOSE * max(abs(value(loss, wanted.reshape(draw.shape) + 1.0, targets)), 1e-12):
            return "numbers"
        if between and _is_one_sided(loss, draw, targets):
            return "sigmoids"
    return "unknown"


def _is_one_sided(loss: Loss, draw: Tensor, targets: Tensor) -> bool:
    """Whether the loss is that of sigmoids: k log 2 at 0, or 0 far on the right side and linear on the wrong one."""
    at_zero = value(loss, torch.zeros_like(draw), targets) / LOG_2
    if at_zero > 0.5 and abs(at_zero - round(at_zero)) < CLOSE:
        return True
    if _is_classes(draw, targets):
        hits = torch.nn.functional.one_hot(targets, draw.shape[1]).movedim(-1, 1).to(draw)
    else:
        hits = targets.reshape(draw.shape).to(draw)
    right = 50.0 * (2.0 * hits - 1.0)
    wrong, twice = value(loss, -right, targets), value(loss, -2.0 * right, targets)
    return value(loss, right, targets) < CLOSE and wrong > 1.0 and _same(twice, 2.0 * wrong)


def value(loss: Loss, outputs: Tensor, targets: Tensor) -> float:
    """Return the loss as a number; NaN where it refuses such outputs."""
    try:
        with torch.no_grad():
            return float(loss(outputs, targets))
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError):
        return float("nan")


def _same(first: float, second: float) -> bool:
    return abs(first - second) <= CLOSE * max(abs(first), abs(second), 1e-2)


def shaped(kind: Kind, free: Tensor, *, classes: bool) -> Tensor:
    """Turn free numbers into outputs that a loss of this kind can take. classes: one distribution over axis 1."""
    if kind == "log_probabilities":
        return free.log_softmax(1)
    if kind == "probabilities":
        return free.softmax(1) if classes else free.sigmoid()
    return free


def neutral_loss(loss: Loss, kind: Kind, outputs: Tensor, targets: Tensor) -> float:
    """Return the loss of outputs that prefer nothing: equal classes, one half, or zeros."""
    zeros = torch.zeros_like(outputs)
    return value(loss, shaped(kind, zeros, classes=_is_classes(outputs, targets)), targets)


def constant_loss(loss: Loss, kind: Kind, outputs: Tensor, targets: Tensor) -> tuple[float, Tensor]:
    """Return the least loss that one output common to all examples comes to, and that output (1, ...).

    For a softmax it is the entropy of the classes' shares, for squared error the variance: all that can be known
    without looking at the inputs.
    """
    start = torch.zeros_like(outputs[:1])
    if kind == "numbers" and targets.numel() == outputs.numel():
        start = targets.to(outputs.dtype).reshape(outputs.shape).mean(0, keepdim=True)
    return _least(loss, kind, start, targets, outputs.shape)


def floor_loss(loss: Loss, kind: Kind, outputs: Tensor, targets: Tensor) -> float:
    """Return the least loss that any outputs come to for these targets (0, but for smoothed labels and the like)."""
    start = torch.zeros_like(outputs)
    if kind == "numbers" and targets.numel() == outputs.numel():
        start = targets.to(outputs.dtype).reshape(outputs.shape).clone()
    return _least(loss, kind, start, targets, outputs.shape)[0]


def _least(loss: Loss, kind: Kind, start: Tensor, targets: Tensor, shape: torch.Size) -> tuple[float, Tensor]:
    classes = len(shape) >= 2 and shape[1] > 1 and not targets.is_floating_point() and len(shape) == targets.dim() + 1
    free = start.detach().clone().requires_grad_()
    solver = torch.optim.LBFGS([free], max_iter=NEWTON_STEPS, line_search_fn="strong_wolfe")

    def at() -> Tensor:
        return loss(shaped(kind, free, classes=classes).expand(shape), targets)

    def closure() -> Tensor:
        found = at()
        (gradient,) = torch.autograd.grad(found, free)
        free.grad = gradient.nan_to_num()
        return found.detach()

    best = float(at().detach())
    with torch.enable_grad():
        solver.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        reached = float(at())
        if reached <= best:
            return reached, shaped(kind, free.detach(), classes=classes)
    return best, shaped(kind, start, classes=classes)


def accuracy(kind: Kind, outputs: Tensor, targets: Tensor) -> float | None:
    """Return the share of right answers, or None where the targets are no classes."""
    if kind == "numbers" or kind == "unknown":
        return None
    with torch.no_grad():
        if _is_classes(outputs, targets):
            return float((outputs.argmax(1) == targets).float().mean())
        if kind == "logits":
            return float((outputs.argmax(1) == targets.argmax(1)).float().mean())
        limit = 0.5 if kind == "probabilities" else 0.0
        return float(((outputs > limit) == (targets.reshape(outputs.shape) > 0.5)).float().mean())
