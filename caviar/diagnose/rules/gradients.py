"""GRAD: gradients and updates on their way through the network."""

from collections.abc import Iterator

import numpy as np

from caviar.core.findings import Severity
from caviar.diagnose.rules.found import Found, Limits, Rule, graver, percent, say, surely
from caviar.diagnose.story import Curve, LackingError, Story, level


def _depth_ratio(story: Story, looks: int) -> tuple[float, str, str, Curve]:
    """Return the middle ratio of the first layer's gradient (over its weights) to the largest of the later ones.

    The last layer is left out: what it gets depends on the loss, not on the depth.
    """
    curves = story.by_layer("gradient_norm", least=looks)
    names = [layer.name for layer in story.facts.layers if layer.name in curves and "mbedding" not in layer.kind]
    if len(names) < 3:
        raise LackingError("it takes three layers with gradients")
    steps = set.intersection(*(set(curves[name].steps.tolist()) for name in names))
    pull = {}
    for name in names:
        chosen = [i for i, step in enumerate(curves[name].steps.tolist()) if step in steps]
        weights = story.at("weight_norm", curves[name].steps[chosen], layer=name)
        pull[name] = curves[name].values[chosen] / np.maximum(weights, 1e-12)
    known = [name for name in names[1:-1] if np.isfinite(pull[name]).any()]
    if not known:
        raise LackingError("gradients were not finite")
    later = max(known, key=lambda name: float(np.nanmedian(pull[name])))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = pull[names[0]] / pull[later]
    ratio = ratio[np.isfinite(ratio)]
    if len(ratio) < looks:
        raise LackingError("gradients were zero, or not finite")
    return float(np.median(ratio)), names[0], later, curves[names[0]]


def vanishing(story: Story, limits: Limits) -> Iterator[Found]:
    """GRAD001: gradients shrink on the way back to the first layer."""
    ratio, first, later, curve = _depth_ratio(story, int(limits["looks"]))
    if ratio < limits["ratio"]:
        message = (
            f"the gradient of {first} is {say(ratio)} of that of {later}, each over its weights: next to nothing "
            f"arrives at the first layers ({len(story.facts.layers)} layers)."
        )
        yield Found(
            "warning", surely(-np.log(max(ratio, 1e-30)), -np.log(limits["ratio"]), 12), message, {"ratio": ratio},
            layer=first, step=int(curve.steps[-1]), split="train",
        )  # fmt: skip


def exploding(story: Story, limits: Limits) -> Iterator[Found]:
    """GRAD002: gradients grow on the way back, or grow from step to step."""
    ratio, first, later, curve = _depth_ratio(story, int(limits["looks"]))
    if ratio > limits["ratio"]:
        message = f"the gradient of {first} is {say(ratio)} times that of {later}, each over its weights: it grows on "
        message += "its way back through the layers."
        certain = surely(np.log(ratio), np.log(limits["ratio"]), 12)
        yield Found("warning", certain, message, {"ratio": ratio}, layer=first, step=int(curve.steps[-1]))


def no_gradient(story: Story, limits: Limits) -> Iterator[Found]:
    """GRAD003: a layer that should learn gets no gradient."""
    share = story.curve("no_gradient", "train", least=int(limits["looks"]))
    if share.last <= 0:
        return
    layers = [x.name for x in story.facts.layers if story.has("no_gradient", "train", x.name)]
    named = f" ({', '.join(layers[:4])})" if layers else ""
    message = f"no gradient reaches {percent(share.last)} of the weights{named}: they are detached, or never used."
    layer = layers[0] if layers else ""
    yield Found("error", 0.95, message, {"share": share.last}, layer=layer, step=int(share.steps[-1]), split="train")


def dead_units(story: Story, limits: Limits) -> Iterator[Found]:
    """GRAD004: units of rectifiers have died: 0 for every example."""
    for layer, curve in story.by_layer("dead", least=int(limits["looks"])).items():
        share = float(np.median(curve.recent(3)))
        if share > limits["share"]:
            grown = share - float(curve.values[0])
            message = (
                f"{percent(share)} of the units of {layer} are 0 for every example seen lately, so no gradient reaches "
                f"them any more ({percent(float(curve.values[0]))} at the start)."
            )
            yield Found(
                "error" if share > limits["lost"] else "warning", surely(share, limits["share"], 0.9), message,
                {"share": share, "grown": grown}, layer=layer, step=int(curve.steps[-1]), split="train",
            )  # fmt: skip


def saturated(story: Story, limits: Limits) -> Iterator[Found]:
    """GRAD005: hidden sigmoids or tanhs sit at their flat ends."""
    hidden = {layer.name for layer in story.facts.hidden}
    for layer, curve in story.by_layer("saturated", least=int(limits["looks"])).items():
        share = float(np.median(curve.recent(3)))
        if layer in hidden and share > limits["share"]:
            message = (
                f"{percent(share)} of the values of {layer} are where its slope is below 0.01: little gets through."
            )
            yield Found(
                "warning", surely(share, limits["share"], 0.9), message, {"share": share},
                layer=layer, step=int(curve.steps[-1]), split="train",
            )  # fmt: skip


def leftover(story: Story, limits: Limits) -> Iterator[Found]:
    """GRAD006: gradients of earlier steps are still there when new ones are added."""
    left = story.curve("leftover_gradient", "train", least=int(limits["looks"]))
    share = float((left.values > limits["left"]).mean())
    if share >= limits["of_looks"]:
        message = (
            f"before backward the gradient of the step before is still there ({say(left.median())} times the new one): "
            "zero_grad() is missing, and each step adds up all gradients so far."
        )
        yield Found("error", 0.95, message, {"left": left.median()}, step=int(left.steps[-1]), split="train")


def not_held(story: Story, limits: Limits) -> Iterator[Found]:
    """GRAD007: the optimiser does not hold weights that have gradients."""
    share = story.curve("not_held", "train").last
    if share <= 0:
        return
    layers = [x.name for x in story.facts.layers if story.has("not_held", "train", x.name)]
    named = f" ({', '.join(layers[:4])})" if layers else ""
    message = (
        f"the optimiser does not hold {percent(share)} of the weights that ask for gradients{named}: they never move. "
        "Was it made before the network, or a layer, was replaced?"
    )
    severity: Severity = "error" if share > limits["most"] else "warning"
    yield Found(severity, 0.97, message, {"share": share}, layer=layers[0] if layers else "")


def frozen(story: Story, limits: Limits) -> Iterator[Found]:
    """GRAD008: layers are frozen."""
    share = story.curve("frozen", "train").last
    names = [x.name for x in story.facts.layers if story.has("frozen", "train", x.name)]
    if not names:
        return
    bounds = [story.curve("weight_bound", "", name).last for name in names if story.has("weight_bound", "", name)]
    seen = [story.curve("looks_fresh", "", name).last > 0 for name in names if story.has("looks_fresh", "", name)]
    near_one = any(limits["fresh_from"] < bound <= 1.0 for bound in bounds)
    fresh = story.facts.own_network or near_one or any(seen)
    order = [layer.name for layer in story.facts.layers]
    behind = not seen and any(name not in names for name in order[: order.index(names[-1])])
    message = f"{percent(share)} of the weights are frozen ({', '.join(names[:4])})"
    if fresh:
        message += ", with weights that look freshly drawn: random numbers that never learn."
    elif behind:
        message += ", behind layers that learn."
    else:
        message += "; as it should be where they come from a trained network."
    odd = fresh or behind
    confidence = 0.9 if fresh else 0.6
    yield Found(graver(odd), confidence, message, {"share": share}, layer=names[0], split="train")


def always_clipped(story: Story, limits: Limits) -> Iterator[Found]:
    """GRAD009: the gradient is cut in nearly every step."""
    limit = story.facts.clip_norm
    if limit <= 0:
        raise LackingError("nothing is clipped")
    norms = story.curve("gradient_norm", "train", least=int(limits["looks"])).finite()
    later = norms.values[len(norms) // 4 :]
    share = float((later > limit).mean()) if len(later) else 0.0
    if share > limits["share"]:
        message = (
            f"the gradient's norm (typically {say(float(np.median(later)))}) is above clip_norm = {say(limit)} in "
            f"{percent(share)} of the steps looked at: clipping sets the step size, not the learning rate."
        )
        yield Found("info", 0.9, message, {"share": share, "norm": float(np.median(later))}, split="train")


def growing(story: Story, limits: Limits) -> Iterator[Found]:
    """GRAD010: the gradient grows from step to step, and the loss does not fall."""
    norms = story.curve("gradient_norm", "train", least=int(limits["looks"])).after(4)
    if len(norms) < limits["looks"]:
        raise LackingError(f"it takes {limits['looks']:.0f} looks behind the start")
    finite = norms.finite().values
    if not len(finite):
        raise LackingError("gradients were never finite")
    start, end = level(finite, 0.25, end=False, least=2), level(finite, 0.25, end=True, least=2)
    losses = story.losses.finite().values
    better = level(losses, 0.1, end=True) < limits["loss"] * level(losses, 0.1, end=False)
    if end > limits["times"] * max(start, 1e-12) and not better:
        message = f"the gradient's norm grew from {say(start)} to {say(end)}, and the loss did not fall."
        certain = surely(np.log(end / max(start, 1e-12)), np.log(limits["times"]), 10)
        yield Found("warning", certain, message, {"start": start, "end": end}, step=int(norms.steps[-1]), split="train")


def nothing_moves(story: Story, limits: Limits) -> Iterator[Found]:
    """GRAD011: weights do not move although there are gradients."""
    stepped = story.curve("optimizer_stepped", "train") if story.has("optimizer_stepped", "train") else None
    if stepped is not None and len(stepped) >= limits["looks"] and stepped.values.max() == 0:
        message = f"the optimiser took no step in any of the {len(stepped)} steps looked at: call optimizer.step()."
        yield Found("error", 0.95, message, {"looks": float(len(stepped))}, split="train")
        return
    ratios = story.curve("update_ratio", "train", least=int(limits["looks"])).values
    norms = story.curve("gradient_norm", "train").finite().values
    if ratios.max() == 0 and len(norms) and np.median(norms) > 0:
        message = (
            f"weights did not move in any of the {len(ratios)} steps looked at, although their gradient is "
            f"{say(float(np.median(norms)))}: the learning rate is 0, or other weights are being updated."
        )
        yield Found("error", 0.9, message, {"gradient_norm": float(np.median(norms))}, split="train")


def same_answer(story: Story, limits: Limits) -> Iterator[Found]:
    """GRAD012: the network gives every example the same answer."""
    spread = story.curve("output_spread", "train", least=int(limits["looks"])).after(int(limits["after"])).finite()
    if len(spread) < limits["looks"]:
        raise LackingError(f"it takes {limits['looks']:.0f} looks behind step {limits['after']:.0f}")
    inputs = story.curve("input_std", "train").finite() if story.has("input_std", "train") else None
    if inputs is not None and (not len(inputs) or inputs.last == 0):
        raise LackingError("all inputs are the same")
    recent = float(np.median(spread.recent(int(limits["looks"]))))
    size = story.curve("output_std", "train").finite()
    scale = max(float(size.last) if len(size) else 0.0, 1.0)
    if recent < limits["spread"] * scale:
        message = (
            f"outputs vary by {say(recent)} over a batch: every example gets the same answer, so nothing of the inputs "
            "reaches the end of the network."
        )
        yield Found("error", 0.9, message, {"spread": recent}, step=int(spread.steps[-1]), split="train")


def zero_gradient(story: Story, limits: Limits) -> Iterator[Found]:
    """GRAD013: the whole gradient is zero while the loss is not."""
    norms = story.curve("gradient_norm", "train", least=int(limits["looks"]))
    losses = story.losses.finite()
    recent = norms.recent(int(limits["looks"]))
    if len(losses) and np.all(recent <= limits["zero"]) and losses.last > limits["loss"]:
        message = f"the gradient is zero at the last {len(recent)} looks, and the loss is {say(losses.last)}: learning "
        message += "has stopped for good."
        yield Found("error", 0.9, message, {"loss": losses.last}, step=int(norms.steps[-1]), split="train")


RULES: dict[str, Rule] = {
    "GRAD001": vanishing,
    "GRAD002": exploding,
    "GRAD003": no_gradient,
    "GRAD004": dead_units,
    "GRAD005": saturated,
    "GRAD006": leftover,
    "GRAD007": not_held,
    "GRAD008": frozen,
    "GRAD009": always_clipped,
    "GRAD010": growing,
    "GRAD011": nothing_moves,
    "GRAD012": same_answer,
    "GRAD013": zero_gradient,
}
