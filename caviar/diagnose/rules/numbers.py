"""NUM: numbers that are not finite, and outputs and losses that do not belong together."""

import math
from collections.abc import Iterator

import numpy as np

from caviar.diagnose.quantities.outputs import ACROSS_BATCH, LOG_ACROSS_BATCH, PROBABILITIES
from caviar.diagnose.rules.found import Found, Limits, Rule, say
from caviar.diagnose.story import LackingError, Story, level

SHOWN_BY = ("input_mean", "activation_mean", "output_mean", "gradient_norm")


def not_finite(story: Story, limits: Limits) -> Iterator[Found]:
    """NUM001: the training loss became NaN or infinite."""
    losses = story.losses
    bad = np.flatnonzero(~np.isfinite(losses.values))
    if not len(bad):
        return
    first = int(losses.steps[bad[0]])
    good = losses.values[: bad[0]]
    numbers = {"step": float(first), "bad_losses": float(len(bad))}
    message = f"the training loss is {losses.values[bad[0]]} at step {first}"
    if len(good) >= limits["steps_before"]:
        grown = level(good[-3:], 1, end=True) / max(level(good, 0.2, end=False), 1e-12)
        numbers["growth_before"] = grown
        how = "after growing" if grown > limits["growth"] else "at once, without growing"
        message += f", {how}: {say(good[-1])} the step before"
    layer, shown = _first_bad_layer(story, first)
    message += f"; first seen in {shown}." if shown else "."
    yield Found("error", 1.0, message, numbers, layer=layer, step=first, split="train")


def _first_bad_layer(story: Story, until: int) -> tuple[str, str]:
    """Return the layer that was first, in the order of the network, to show a number that is not finite."""
    layers = [layer.name for layer in (*story.facts.layers, *story.facts.hidden)]
    found: list[tuple[int, int, str, str]] = []
    for rank, name in enumerate(SHOWN_BY):
        for layer in ("", *layers):
            if story.has(name, "train", layer):
                curve = story.curve(name, "train", layer)
                bad = np.flatnonzero(~np.isfinite(curve.values))
                if len(bad) and curve.steps[bad[0]] <= until:
                    found.append((int(curve.steps[bad[0]]), rank, layer, f"{name} at step {curve.steps[bad[0]]}"))
    if not found:
        return "", ""
    _, _, layer, shown = min(found)
    return layer, f"{shown} of layer {layer}" if layer else shown


def bad_inputs(story: Story, limits: Limits) -> Iterator[Found]:
    """NUM002: inputs hold NaN or infinity."""
    share = 0.0
    step = None
    if story.has("input_nonfinite", "train"):
        curve = story.curve("input_nonfinite", "train")
        share = float(curve.values.max())
        step = int(curve.steps[int(curve.values.argmax())]) or None
    elif story.has("input_mean", "train"):
        curve = story.curve("input_mean", "train")
        bad = ~np.isfinite(curve.values)
        share, step = float(bad.mean()), int(curve.steps[bad.argmax()])
    else:
        raise LackingError("nobody has looked at the inputs")
    if share > limits["share"]:
        when = f" at step {step}" if step else ""
        message = f"inputs of the network hold NaN or infinity{when}."
        yield Found("error", 1.0, message, {"share": share}, step=step, split="train")


def softmax_twice(story: Story, limits: Limits) -> Iterator[Found]:
    """NUM003: the network gives probabilities to a loss that takes logits."""
    forms = story.curve("output_form", "train", least=2).values
    if (forms == PROBABILITIES).mean() < limits["looks"]:
        return
    classes = story.classes
    floor = math.log1p((classes - 1) / math.e)
    losses = story.need_steps(int(limits["steps"]))
    lowest = float(np.min(losses.values))
    sure = story.facts.loss == "cross_entropy"
    if not sure and lowest < limits["floor"] * floor:
        return  # the loss does take probabilities
    message = (
        f"the outputs are probabilities already (each row sums to 1), and the loss never fell below {say(lowest)}: "
        f"a softmax of probabilities cannot get below {say(floor)} with {classes} classes."
    )
    reached = story.curve(story.metric, "dev").last if story.has("accuracy", "dev") else 0.0
    fits_ill = reached > limits["accuracy"]  # so many right answers with so high a loss: probabilities were squashed
    confidence = 0.98 if sure else 0.9 if fits_ill else 0.6
    yield Found("error" if sure or fits_ill else "warning", confidence, message, {"floor": floor, "lowest": lowest})


def softmax_across(story: Story, limits: Limits) -> Iterator[Found]:
    """NUM004: a softmax runs over the examples of the batch instead of the classes."""
    forms = story.curve("output_form", "train", least=2).values
    share = float(np.isin(forms, (ACROSS_BATCH, LOG_ACROSS_BATCH)).mean())
    if share >= limits["looks"]:
        message = "outputs sum to 1 over the examples of the batch, not over the classes: a softmax has the wrong axis."
        yield Found("error", 0.98, message, {"share_of_looks": share})


def negative_loss(story: Story, limits: Limits) -> Iterator[Found]:
    """NUM005: a classification loss below zero."""
    losses = story.need_steps(int(limits["steps"]))
    known = story.facts.loss in ("cross_entropy", "hinge", "logistic", "mean_squared_error", "huber")
    lowest = float(losses.values.min())
    if lowest >= -limits["zero"]:
        return
    classifies = story.facts.task == "classification" or story.has("accuracy", "dev") or story.has("accuracy", "train")
    if not known and not classifies:
        raise LackingError("it is not known whether this loss may be negative")
    falling = level(losses.values, 0.1, end=True) < level(losses.values, 0.1, end=False)
    message = (
        f"the loss is negative ({say(lowest)} at its lowest), which no loss for classes can be: does it get logits "
        "where it takes log probabilities, or is a sign turned?"
    )
    yield Found("error", 0.97 if falling else 0.85, message, {"lowest_loss": lowest}, split="train")


def huge_numbers(story: Story, limits: Limits) -> Iterator[Found]:
    """NUM006: activations or outputs grow very large."""
    found = []
    for name in ("activation_std", "output_std"):
        layers = {layer for layer in ("", *(f.name for f in story.facts.hidden)) if story.has(name, "train", layer)}
        for layer in layers:
            curve = story.curve(name, "train", layer).finite()
            if len(curve):
                found.append((float(curve.recent(3).max()), layer, int(curve.steps[-1])))
    if not found:
        raise LackingError("nobody has looked at the activations")
    largest, layer, step = max(found)
    limit = limits["half"] if story.facts.precision in ("bf16", "fp16") else limits["single"]
    if largest > limit:
        message = (
            f"values of size {say(largest)} go through {f'layer {layer}' if layer else 'the outputs'}; "
            "sums and exponentials of such numbers lose their digits."
        )
        yield Found("warning", 0.8, message, {"std": largest}, layer=layer, step=step, split="train")


def broadcast_targets(story: Story, limits: Limits) -> Iterator[Found]:
    """NUM007: outputs (batch, 1) against targets (batch,): every output is compared with every target."""
    curve = story.curve("target_broadcast", "train")
    if curve.values.mean() >= limits["looks"]:
        message = (
            "outputs of shape (batch, 1) meet targets of shape (batch,): a difference of the two is (batch, batch), "
            "every output against every target, and the best answer is the mean for all."
        )
        yield Found("error", 0.9, message, {"share_of_looks": float(curve.values.mean())}, split="train")


RULES: dict[str, Rule] = {
    "NUM001": not_finite,
    "NUM002": bad_inputs,
    "NUM003": softmax_twice,
    "NUM004": softmax_across,
    "NUM005": negative_loss,
    "NUM006": huge_numbers,
    "NUM007": broadcast_targets,
}
