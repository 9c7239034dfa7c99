"""INIT: the weights that training starts from."""

from collections.abc import Iterator

import numpy as np

from caviar.diagnose.rules.found import Found, Limits, Rule, percent, say, surely
from caviar.diagnose.story import LackingError, Story, blocks, level


def high_first_loss(story: Story, limits: Limits) -> Iterator[Found]:
    """INIT001: the first loss is far above that of equal odds."""
    first, expected = story.initial_loss, story.baseline
    if np.isfinite(first) and first > limits["times"] * expected:
        message = (
            f"the first loss is {say(first)}; a network that knows nothing and says so has {say(expected)}. "
            "It is sure of wrong answers before it has learned anything."
        )
        certain = surely(first / expected, limits["times"], 4 * limits["times"])
        yield Found("warning", certain, message, {"first": first, "expected": expected}, step=1, split="train")


def equal_units(story: Story, limits: Limits) -> Iterator[Found]:
    """INIT002: all units of a layer have the same weights, and keep them so."""
    curves = story.by_layer("unit_spread", "")
    names = [layer.name for layer in story.facts.layers]
    equal = [name for name, c in curves.items() if c.values[0] < limits["spread"] and c.last < limits["spread"]]
    hidden = [name for name in equal if name != (names[-1] if names else "")]
    if not hidden:
        return
    message = (
        f"all units of {', '.join(f'layer {name}' for name in hidden[:3])} have the same weights: they get the same "
        "gradients and stay copies of one unit."
    )
    step = int(curves[hidden[0]].steps[-1])
    yield Found("error", 0.97, message, {"layers": float(len(hidden))}, layer=hidden[0], step=step)


def slow_start(story: Story, limits: Limits) -> Iterator[Found]:
    """INIT003: the loss stands still for long before it begins to fall."""
    losses = story.need_steps(int(limits["steps"]))
    parts = blocks(losses.values, 40)
    done = _progress(story, losses.steps, len(parts))
    start, end = float(parts[0]), level(parts, 0.1, end=True)
    fall = start - end
    if fall < limits["fall"] * start:
        raise LackingError("the loss has not fallen much (yet)")
    begun = int(np.argmax(parts < start - limits["begun"] * fall))
    waited = float(done[begun])
    if waited > limits["waited"] and begun >= limits["blocks"]:
        step = int(losses.steps[min(len(losses) - 1, begun * len(losses) // len(parts))])
        message = (
            f"the loss stood near {say(start)} until step {step}, {percent(waited)} of the way (steps weighted by "
            f"their learning rate), and only then fell, to {say(end)}."
        )
        yield Found("warning", surely(waited, limits["waited"], 0.6), message, {"waited": waited}, step=step)


def _progress(story: Story, steps: "np.typing.NDArray[np.int64]", count: int) -> "np.typing.NDArray[np.float64]":
    """Return the share of all learning-rate-weighted steps done by the end of each part."""
    rates = np.ones(len(steps))
    if story.has("learning_rate"):
        rates = story.at("learning_rate", steps)
    total = np.cumsum(rates)
    ends = [part[-1] for part in np.array_split(total, count)]
    return np.array(ends) / max(float(total[-1]), 1e-30)


def signals_by_depth(story: Story, limits: Limits) -> Iterator[Found]:
    """INIT004: at the start, signals shrink or grow from layer to layer."""
    curves = story.by_layer("activation_std")
    stds = [float(curves[f.name].values[0]) for f in story.facts.hidden if f.name in curves]
    names = [f.name for f in story.facts.hidden if f.name in curves]
    if len(stds) < limits["layers"]:
        raise LackingError(f"it takes {limits['layers']:.0f} activations in a row")
    ratio = stds[-1] / stds[0] if stds[0] else float("inf")
    if ratio < limits["shrunk"] or ratio > limits["grown"] or not np.isfinite(ratio):
        how = "shrink" if ratio < 1 else "grow"
        message = (
            f"signals {how} with depth at the start: standard deviation {say(stds[0])} after {names[0]}, "
            f"{say(stds[-1])} after {names[-1]}."
        )
        certain = surely(abs(np.log(max(ratio, 1e-30))), abs(np.log(limits["grown"])), 7)
        yield Found("warning", certain, message, {"first": stds[0], "last": stds[-1]}, layer=names[-1], step=1)


def dead_at_start(story: Story, limits: Limits) -> Iterator[Found]:
    """INIT005: units are silent from the first steps on."""
    for layer, curve in story.by_layer("dead").items():
        early = curve.until(int(limits["until"]))
        if len(early) >= limits["looks"] and early.values[: int(limits["looks"])].min() > limits["share"]:
            share = float(early.values.min())
            message = f"{percent(share)} of the units of {layer} are 0 for every example, from the first step on."
            yield Found("warning", surely(share, limits["share"], 1.0), message, {"share": share}, layer=layer, step=1)


def saturated_at_start(story: Story, limits: Limits) -> Iterator[Found]:
    """INIT006: sigmoids or tanhs are at their ends from the first step on."""
    hidden = {layer.name for layer in story.facts.hidden}
    for layer, curve in story.by_layer("saturated").items():
        if layer in hidden and curve.values[0] > limits["share"]:
            share = float(curve.values[0])
            message = f"{percent(share)} of the values of {layer} are at the flat ends at the first step."
            yield Found("warning", surely(share, limits["share"], 0.9), message, {"share": share}, layer=layer, step=1)


def odd_scale(story: Story, limits: Limits) -> Iterator[Found]:
    """INIT007: the first weights of a layer are far too large or too small for its fan in."""
    gains = story.by_layer("initial_gain", "")
    plain = [layer for layer in story.facts.layers if "embedding" not in layer.kind.lower() and layer.name in gains]
    bypassed = _first_spread(story) > limits["spread"]
    for position, layer in enumerate(plain):
        gain, last = float(gains[layer.name].values[0]), position == len(plain) - 1
        if gain > limits["large"]:
            message = (
                f"the weights of {layer.name} start {say(gain)} times as large as 1 / sqrt(fan in); 1 to 1.4 is usual, "
                "and what comes out is as many times too large."
            )
            yield Found("warning", surely(gain, limits["large"], 50), message, {"gain": gain}, layer=layer.name, step=1)
        elif gain == 0 and bypassed:
            continue  # the end of a residual branch, which may well start at nothing: inputs arrive by the other way
        elif gain < limits["small"] and not last:
            message = (
                f"the weights of {layer.name} start at {say(gain)} of 1 / sqrt(fan in); 1 to 1.4 is usual, and signals "
                "and gradients all but vanish there."
            )
            certain = surely(limits["small"] / max(gain, 1e-9), 1, 10)
            yield Found("warning", certain, message, {"gain": gain}, layer=layer.name, step=1)


def _first_spread(story: Story) -> float:
    """How the outputs of the first batch vary, relative to their size (at least 1); 0 where nobody has looked."""
    if not story.has("output_spread", "train") or not story.has("output_std", "train"):
        return 0.0
    spread, size = story.curve("output_spread", "train").values[0], story.curve("output_std", "train").values[0]
    return float(spread / max(size, 1.0)) if np.isfinite(spread) and np.isfinite(size) else 0.0


RULES: dict[str, Rule] = {
    "INIT001": high_first_loss,
    "INIT002": equal_units,
    "INIT003": slow_start,
    "INIT004": signals_by_depth,
    "INIT005": dead_at_start,
    "INIT006": saturated_at_start,
    "INIT007": odd_scale,
}
