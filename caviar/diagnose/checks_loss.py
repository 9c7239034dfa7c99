"""Checks of the loss: its value at the start, the outputs that it is given, its pairing of rows, the penalty."""

import math
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from caviar.core.seeds import generator_for
from caviar.diagnose.checks_outputs import Kind, value
from caviar.diagnose.checks_setup import Outcome, failed, passed, skipped
from caviar.diagnose.checks_subject import Subject
from caviar.nn.probe import probe

Form = Literal["free", "rows sum to 1", "log probabilities", "0 to 1", "-1 to 1", "not negative", "columns sum to 1"]

TIMES: Final = 2.5
"""A start above so many times the loss of knowing nothing is too high: outputs begin large and wrong."""
TIMES_NUMBERS: Final = 6.0
"""The same for losses of numbers, where outputs of unit size alone triple the variance."""
LARGE_STEP: Final = 100.0
"""The last layer is made so many times larger to see which limits its outputs keep."""
CLOSE: Final = 1e-3
FREE: Final = ("logits", "margins", "sigmoids")
"""Kinds of losses that take scores of any size."""
ACTIVATIONS: Final[dict[Form, str]] = {
    "rows sum to 1": "softmax",
    "0 to 1": "sigmoid",
    "-1 to 1": "tanh",
    "not negative": "relu",
}
"""What makes outputs keep to such limits."""
DROWNED: Final = 10.0
"""A penalty so many times the loss drowns it."""

LIMITS: Final[dict[Form, tuple[float, float]]] = {
    "0 to 1": (0.0, 1.0),
    "rows sum to 1": (0.0, 1.0),
    "-1 to 1": (-1.0, 1.0),
    "not negative": (0.0, math.inf),
}

EXPECTED: Final[dict[Kind, str]] = {
    "logits": "log C for softmax",
    "margins": "C - 1 margins for hinge",
    "sigmoids": "log 2 for each sigmoid",
    "log_probabilities": "log C for equal probabilities",
    "probabilities": "the loss of equal probabilities",
    "numbers": "the variance, or what stands for it",
}


def check_number(subject: Subject) -> Outcome:
    """Look whether the fresh model's loss is a number."""
    if not math.isfinite(subject.start):
        return failed(
            f"the loss is {subject.start} before the first step.",
            "Look for a logarithm or division of 0 in the model or loss, and for weights that are too large.",
            initial=subject.start,
        )
    return passed(f"it is {subject.start:.3g}.", initial=subject.start)


def check_start(subject: Subject) -> Outcome:
    """Compare the fresh model's loss with that of knowing nothing."""
    if not math.isfinite(subject.start):
        return skipped("the loss is not a number.", initial=subject.start)
    if subject.outputs is None or subject.kind == "unknown":
        return skipped("what this loss should come to is not known.", initial=subject.start)
    expected = subject.constant if subject.kind == "numbers" else subject.neutral
    numbers = {
        "initial": subject.start,
        "expected": expected,
        "best_constant": subject.constant,
        "kind": subject.kind,
    }
    times = TIMES_NUMBERS if subject.kind == "numbers" else TIMES
    words = f"{subject.start:.3g}; expected {expected:.3g} ({EXPECTED[subject.kind]})"
    if subject.kind != "numbers":
        words += f", {subject.constant:.3g} with the class shares known"
    if subject.start > times * max(expected, subject.constant) > 0:
        return failed(
            f"the loss starts at {words}.",
            "Draw the last layer's weights smaller (or 0), its bias from the class shares or the mean target, and "
            "look at the scale of inputs and targets.",
            **numbers,
        )
    return passed(f"{words}.", **numbers)


def output_form(subject: Subject) -> Form:
    """Say which limits the outputs keep however large the last layer's weights are."""
    seen: list[Tensor] = []
    for sign in (1.0, -1.0):
        model = subject.setup.fresh(training=subject.trains, dropout=False)
        layer = _last_layer(model, subject.batch.inputs)
        if layer is None:
            return "free"
        generator = generator_for(subject.setup.seed, "output form")  # the same draws both times
        with torch.no_grad():
            for parameter in layer.parameters(recurse=False):
                size = LARGE_STEP * parameter.std(correction=0).clamp_min(0.01)
                draw = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.copy_(sign * (parameter + draw * size))  # exactly turned around: a free output changes sign
            found = model(subject.batch.inputs)
        if not isinstance(found, Tensor) or not bool(torch.isfinite(found).all()):
            return "free"
        seen.append(found.detach().double())
    return _form(torch.cat(seen), seen)


def _form(values: Tensor, parts: list[Tensor]) -> Form:
    low, high = float(values.min()), float(values.max())
    several = values.dim() >= 2 and values.shape[1] > 1
    if several and high <= CLOSE and bool((values.logsumexp(1).abs() < CLOSE).all()):
        return "log probabilities"
    if high <= CLOSE and all(bool((part.logsumexp(0).abs() < CLOSE).all()) for part in parts):
        return "columns sum to 1"
    if low >= -CLOSE and high <= 1 + CLOSE:
        if several and bool(((values.sum(1) - 1).abs() < CLOSE).all()):
            return "rows sum to 1"
        if all(bool(((part.sum(0) - 1).abs() < CLOSE).all()) for part in parts):
            return "columns sum to 1"
        return "0 to 1"
    if low >= -1 - CLOSE and high <= 1 + CLOSE:
        return "-1 to 1"
    return "not negative" if low >= 0 else "free"


def _last_layer(model: nn.Module, inputs: Tensor) -> nn.Module | None:
    """Return the layer with weights of two or more axes that finishes last."""
    _, calls = probe(model, inputs[:2])
    for call in reversed(calls):
        if any(parameter.dim() >= 2 for parameter in call.module.parameters(recurse=False)):
            return call.module
    return None


def check_extra(subject: Subject) -> Outcome:
    """Look for a last activation that the loss applies itself, or that takes scores their freedom."""
    if subject.outputs is None or subject.kind not in FREE:
        return skipped("the loss does not take free scores.")
    form, kind = subject.once(output_form), subject.kind
    numbers = {"outputs": form, "loss_takes": kind}
    made = ACTIVATIONS.get(form)
    if made is None:
        return passed(f"outputs are {form}; the loss takes {kind}.", **numbers)
    twice = (kind, made) in (("logits", "softmax"), ("sigmoids", "sigmoid"))
    why = "the loss applies it again" if twice else "the loss takes free scores"
    return failed(
        f"the outputs have gone through a {made}, and {why}.",
        f"Take the last {made} out of the model; apply it to predictions only.",
        **numbers,
    )


def check_across(subject: Subject) -> Outcome:
    """Look for a softmax that runs over the examples of a batch."""
    if subject.outputs is None:
        return skipped("the outputs are no single tensor.")
    form = subject.once(output_form)
    if form == "columns sum to 1":
        return failed(
            "the outputs of a batch sum to 1 over its examples: the softmax runs over axis 0.",
            "Take the softmax over the classes (dim=1), or leave it to the loss.",
            outputs=form,
        )
    return passed(f"outputs are {form}.", outputs=form)


def check_missing(subject: Subject) -> Outcome:
    """Look whether outputs keep to the range that the loss, or the targets, need."""
    if subject.outputs is None or subject.kind not in ("log_probabilities", "probabilities", "numbers"):
        return skipped("the loss does not ask for a last activation.")
    form, kind = subject.once(output_form), subject.kind
    fault, remedy = _mismatch(kind, form, subject.batch.targets)
    numbers = {"outputs": form, "loss_takes": kind}
    if fault:
        return failed(fault, remedy, **numbers)
    return passed(f"outputs are {form}; the loss takes {kind.replace('_', ' ')}.", **numbers)


def _mismatch(kind: Kind, form: Form, targets: Tensor) -> tuple[str, str]:
    """Return what is wrong with such outputs for such a loss, and the remedy; ("", "") when nothing is."""
    if kind == "log_probabilities" and form != "log probabilities":
        made = "probabilities" if form == "rows sum to 1" else "scores"
        return (
            f"the loss takes log probabilities, but the outputs are {made}.",
            "End the model with log_softmax, or use the cross-entropy loss, which takes scores.",
        )
    if kind == "probabilities" and form not in ("rows sum to 1", "0 to 1"):
        return (
            "the loss takes probabilities, but the outputs are not kept between 0 and 1.",
            "Use the loss that takes scores (binary cross-entropy with logits, cross-entropy): it is also exact where "
            "probabilities round to 0.",
        )
    return _bounded(form, targets) if kind == "numbers" else ("", "")


def _bounded(form: Form, targets: Tensor) -> tuple[str, str]:
    if form not in LIMITS:
        return "", ""
    low, high = LIMITS[form]
    outside = float(((targets < low) | (targets > high)).float().mean())
    if outside <= 0.01:
        return "", ""
    return (
        f"the outputs stay within {low:g} and {high:g}, but {outside:.0%} of the targets lie outside.",
        "Let the last layer be linear, or scale the targets into its range.",
    )


def check_rows(subject: Subject) -> Outcome:
    """Look whether the loss compares each output with its own target: shapes that broadcast compare all with all."""
    outputs, targets = subject.outputs, subject.batch.targets
    if outputs is None or len(targets) < 4 or len(outputs) != len(targets):
        return skipped("outputs and targets are not one for each example.")
    shapes: dict[str, Any] = {"outputs": list(outputs.shape), "targets": list(targets.shape)}
    generator = generator_for(subject.setup.seed, "rows")
    draw = torch.randn(outputs.shape, generator=generator).to(outputs)
    if targets.is_floating_point():  # numbers of their size: else what differs between targets is lost in rounding
        draw = draw * targets.std(correction=0) + targets.mean()
    if subject.kind in ("probabilities", "log_probabilities"):
        draw = outputs + 0.01 * draw if subject.kind == "log_probabilities" else draw.sigmoid()
    order = torch.randperm(len(targets), generator=generator).to(targets.device)
    here, mixed = value(subject.setup.loss, draw, targets), value(subject.setup.loss, draw, targets[order])
    if not math.isfinite(here) or bool((targets == targets[order]).all()):
        return skipped("the loss cannot be tried on other outputs.", **shapes)
    if abs(here - mixed) <= 1e-6 * max(abs(here), 1e-6):
        return failed(
            f"the loss is the same when targets change places: outputs {tuple(outputs.shape)} and targets "
            f"{tuple(targets.shape)} are not compared row by row.",
            "Bring both to one shape: outputs.squeeze(1), or targets.unsqueeze(1).",
            **shapes,
        )
    return passed("each output is compared with its own target.", **shapes)


def check_penalty(subject: Subject) -> Outcome:
    """Look whether the penalty rises when the weights grow, and reaches them."""
    penalty = subject.setup.penalty
    if penalty is None:
        return skipped("no penalty is set.")
    model = subject.setup.fresh()
    found = penalty(model)
    here = float(found.detach())
    if not math.isfinite(here) or here < 0:
        return failed(
            f"the penalty is {here:.3g}.", "A penalty is a finite number of at least 0; look at its sign.", penalty=here
        )
    if not found.requires_grad:
        return failed(
            "the penalty has no gradient: it changes the loss that is shown, not the weights.",
            "Compute it from the parameters themselves, without .data, detach, item or no_grad.",
            penalty=here,
        )
    doubled = subject.setup.fresh()
    with torch.no_grad():
        for parameter in doubled.parameters():
            parameter.mul_(2.0)
        risen = float(penalty(doubled))
    numbers = {"penalty": here, "with_weights_doubled": risen}
    if risen <= here:
        return failed(
            f"the penalty is {here:.3g}, and {risen:.3g} when all weights are doubled: it does not rise.",
            "Let the penalty grow with the weights' size, and compute it anew in every step.",
            **numbers,
        )
    return passed(f"{here:.3g}; {risen:.3g} when all weights are doubled.", **numbers)


def check_drowned(subject: Subject) -> Outcome:
    """Look whether the penalty leaves the loss to be heard."""
    penalty = subject.setup.penalty
    if penalty is None:
        return skipped("no penalty is set.")
    with torch.no_grad():
        here = float(penalty(subject.setup.fresh()))
    ratio = here / max(abs(subject.start), 1e-30)
    numbers = {"penalty": here, "loss": subject.start, "over_loss": ratio}
    if ratio > DROWNED:
        return failed(
            f"the penalty ({here:.3g}) is {ratio:.3g} times the loss ({subject.start:.3g}) and drowns it.",
            f"Divide its strength by {10 ** math.ceil(math.log10(ratio)):g}.",
            **numbers,
        )
    return passed(f"{here:.3g} at the start, {ratio:.2g} times the loss.", **numbers)
