"""LR: learning rate, its schedule and momentum."""

from collections.abc import Iterator

import numpy as np

from caviar.diagnose.rules.found import Found, Limits, Rule, graver, percent, say, surely
from caviar.diagnose.story import LackingError, Numbers, Story, blocks, level


def _typical_ratio(story: Story, layer: str = "", looks: int = 2) -> float:
    """Return the middle update-to-weight ratio while the learning rate is at least half its peak, start left out."""
    ratio = story.curve("update_ratio", "train", layer, least=looks).after(2).finite()
    if not len(ratio):
        raise LackingError("no update was looked at behind the start")
    if story.has("learning_rate"):
        rates = story.at("learning_rate", ratio.steps)
        ratio = ratio.take(rates >= rates.max() / 2)
    return ratio.median()


def _rolling(values: Numbers, width: int = 3) -> Numbers:
    """Return the running median of three (or more) values; the first ones as they are."""
    if len(values) < width:
        return values
    windows = np.lib.stride_tricks.sliding_window_view(values, width)
    return np.concatenate([values[: width - 1], np.median(windows, axis=1)])


def too_low(story: Story, limits: Limits) -> Iterator[Found]:
    """LR001: the loss hardly moves, because the weights hardly do."""
    losses = story.need_steps(int(limits["steps"]))
    start, end = level(losses.values, 0.05, end=False), level(losses.values, 0.1, end=True)
    fall = (start - end) / abs(start) if start else 0.0
    numbers = {"fall": fall, "start": start, "end": end}
    if fall > limits["fall"] or fall < -limits["fall"]:
        return
    if not story.has("update_ratio", "train"):
        parts = blocks(losses.values, 10)
        trend = float(np.corrcoef(np.arange(len(parts)), parts)[0, 1]) if parts.std() else 0.0
        if limits["least"] < fall < limits["slow"] and trend < -limits["trend"]:
            message = f"the loss creeps in a straight line, from {say(start)} to {say(end)}: the rate is far too low."
            yield Found("warning", 0.6, message, numbers, split="train")
        return
    moved, ratio = story.movement(), _typical_ratio(story)
    if moved < limits["moved"] and ratio < limits["ratio"]:
        moved_by = f"fallen by {percent(fall)}" if fall >= 0 else f"risen by {percent(-fall)}"
        message = (
            f"the loss has {moved_by} only ({say(start)} to {say(end)}), and no wonder: a step changes "
            f"the weights by {say(ratio)} of their size (0.001 is usual), {len(losses):,} steps together by "
            f"{say(moved)} at most."
        )
        numbers |= {"update_ratio": ratio, "movement": moved}
        yield Found("warning", surely(limits["moved"] / max(moved, 1e-9), 1, 5), message, numbers, split="train")


def too_high(story: Story, limits: Limits) -> Iterator[Found]:
    """LR002: the loss stays high because steps are too large to settle."""
    losses = story.need_steps(int(limits["steps"]))
    ratio = _typical_ratio(story, looks=int(limits["looks"]))
    end = level(losses.values, 0.1, end=True, least=10)
    share = end / story.baseline
    numbers = {"update_ratio": ratio, "loss": end, "of_baseline": share}
    if ratio > limits["ratio"] and share > limits["poor"]:
        message = (
            f"a step changes the weights by {say(ratio)} of their size (0.001 is usual), and the loss stays at "
            f"{say(end)}, {percent(share)} of that of a constant answer: steps too large to settle anywhere."
        )
        yield Found("warning", surely(ratio, limits["ratio"], 10 * limits["ratio"]), message, numbers, split="train")


def explodes(story: Story, limits: Limits) -> Iterator[Found]:
    """LR003: the loss grows without bound."""
    losses = story.losses
    good = losses.finite()
    if len(good) < 2:
        raise LackingError("it takes two finite losses")
    start = max(float(good.values[0]), story.known_baseline / 2)
    tail = float(np.median(good.recent(3)))
    times = tail / max(start, 1e-12)
    ended = len(good) < len(losses)
    if times > limits["times"] or (ended and times > limits["before_nan"]):
        then = ", and then was not a number any more" if ended else ""
        message = f"the loss grew from {say(good.values[0])} to {say(good.last)} within {len(good)} steps{then}: "
        message += "every step overshoots by more than the last."
        step = int(good.steps[int(np.argmax(good.values > limits["before_nan"] * start))])
        certain = surely(np.log(times), np.log(limits["before_nan"]), 5)
        yield Found("error", certain, message, {"times": times, "start": start}, step=step, split="train")


def above_start(story: Story, limits: Limits) -> Iterator[Found]:
    """LR004: the loss rose above three times its first value."""
    losses = story.need_steps(int(limits["steps"]))
    start = max(float(losses.values[0]), story.known_baseline / 2)
    smooth = _rolling(losses.values)
    worst = int(smooth.argmax())
    times = float(smooth[worst]) / max(start, 1e-12)
    if times > limits["times"]:
        step = int(losses.steps[worst])
        end = level(losses.values, 0.1, end=True)
        message = f"the loss rose to {say(smooth[worst])} at step {step}, {say(times)} times what it began with; it is "
        message += f"{say(end)} now."
        lasted = float((smooth > start).mean())
        came_back = end < limits["back"] * start and lasted < limits["lasted"]
        severity = graver(times >= limits["far"] or not came_back)
        yield Found(severity, surely(times, limits["times"], 30), message, {"times": times}, step=step, split="train")


def oscillates(story: Story, limits: Limits) -> Iterator[Found]:
    """LR005: the loss goes up and down from epoch to epoch."""
    curve = story.curve("loss", "train", least=int(limits["epochs"])).finite()
    later = curve.values[len(curve) // 3 :]
    if len(later) < limits["epochs"] / 2:
        raise LackingError("too few epochs had a finite loss")
    moves = np.diff(later)
    ups = float((moves > 0).mean())
    swing = float(np.abs(moves).mean() / max(np.abs(later).mean(), 1e-12))
    poor = float(np.median(later)) > limits["poor"] * story.known_baseline
    if ups > limits["ups"] and swing > limits["swing"] and poor:
        message = (
            f"from epoch to epoch the loss goes up and down by {percent(swing)}, up in {percent(ups)} of the epochs, "
            f"around {say(float(np.median(later)))}."
        )
        yield Found(
            "warning", surely(swing, limits["swing"], 0.6), message, {"swing": swing, "ups": ups}, split="train"
        )


def layer_too_fast(story: Story, limits: Limits) -> Iterator[Found]:
    """LR006: updates of a layer are large beside its weights."""
    layers = story.by_layer("update_ratio", least=int(limits["looks"]))
    found = [(_typical_ratio(story, layer), layer) for layer in layers]
    ratio, layer = max(found)
    if ratio > limits["ratio"]:
        message = f"a step changes the weights of {layer} by {say(ratio)} of their size; 0.001 is usual, 0.01 is much."
        severity = graver(ratio > limits["far"])
        certain = surely(ratio, limits["ratio"], 10 * limits["ratio"])
        yield Found(severity, certain, message, {"update_ratio": ratio}, layer=layer, split="train")


def layer_too_slow(story: Story, limits: Limits) -> Iterator[Found]:
    """LR007: updates of a layer are tiny beside its weights, unlike those of others."""
    layers = story.by_layer("update_ratio", least=int(limits["looks"]))
    found = [(_typical_ratio(story, layer), layer) for layer in layers]
    ratio, layer = min(found)
    usual = float(np.median([value for value, _ in found]))
    if 0 < ratio < limits["ratio"] and ratio < limits["below_others"] * usual:
        message = (
            f"a step changes the weights of {layer} by {say(ratio)} of their size, those of others by {say(usual)}: "
        )
        message += "it hardly learns."
        yield Found("info", 0.7, message, {"update_ratio": ratio, "others": usual}, layer=layer, split="train")


def plateau(story: Story, limits: Limits) -> Iterator[Found]:
    """LR008: the loss has stood still for long at an unchanged rate."""
    losses = story.need_steps(int(limits["steps"]))
    rate = story.curve("learning_rate").finite()
    parts = blocks(losses.values, 20)
    before, after = float(parts[8:12].mean()), float(parts[-4:].mean())
    gained = (before - after) / max(abs(before), 1e-12)
    fell = (float(parts[0]) - before) / max(abs(float(parts[0])), 1e-12)
    same = rate.last > limits["rate"] * rate.largest
    poor = after > limits["poor"] * story.known_baseline
    if abs(gained) < limits["gained"] and fell > limits["fell"] and same and poor:
        message = f"the loss has stood at {say(after)} for half the run, and the learning rate at {say(rate.last)}."
        yield Found("info", 0.7, message, {"gained": gained, "loss": after}, split="train")


def decayed_too_soon(story: Story, limits: Limits) -> Iterator[Found]:
    """LR009: the rate went to next to nothing while the loss was still falling."""
    losses = story.need_steps(int(limits["steps"]))
    story.curve("learning_rate", least=3)
    rates = story.at("learning_rate", losses.steps)
    peak = int(rates.argmax())
    low = np.flatnonzero((rates < limits["of_peak"] * rates.max()) & (np.arange(len(rates)) > peak))
    if not len(low):
        return
    begin = int(low[0])
    idle = 1 - begin / len(losses)
    if idle < limits["idle"] or begin < limits["least"]:
        return
    parts = blocks(losses.values[:begin], 8)
    middle = float(parts[len(parts) // 2])
    falling = (middle - float(parts[-1])) / max(abs(middle), 1e-12)
    end = level(losses.values, 0.1, end=True)
    if falling > limits["falling"] and end > limits["poor"] * story.known_baseline:
        message = (
            f"the learning rate was below {percent(limits['of_peak'])} of its peak from step {losses.steps[begin]} on, "
            f"{percent(idle)} of the run, and the loss was still falling then; it ended at {say(end)}."
        )
        yield Found("warning", surely(idle, limits["idle"], 0.9), message, {"idle": idle, "falling": falling})


def momentum_too_high(story: Story, limits: Limits) -> Iterator[Found]:
    """LR010: momentum remembers longer than training can bear."""
    momentum = story.curve("momentum").finite().largest
    if momentum < limits["momentum"]:
        return
    losses = story.losses.finite().values
    memory = 1 / max(1 - momentum, 1e-9)
    smooth = blocks(losses, 30)
    bounced = len(smooth) >= 5 and float(smooth[len(smooth) // 5 :].max()) > limits["bounce"] * float(smooth.min())
    message = f"momentum is {say(float(momentum))}: a step is the sum of the last {memory:,.0f} gradients, "
    message += "so learning answers late and overshoots" + (", as the loss shows." if bounced else ".")
    yield Found("warning", 0.9 if bounced else 0.6, message, {"momentum": float(momentum), "memory": memory})


def spikes(story: Story, limits: Limits) -> Iterator[Found]:
    """LR011: the loss jumps up all of a sudden."""
    losses = story.need_steps(int(limits["steps"]))
    baseline = story.baseline
    width, stay = int(limits["window"]), int(limits["stay"])
    windows = np.lib.stride_tricks.sliding_window_view(losses.values, width)[: -stay or None]
    later = np.median(np.lib.stride_tricks.sliding_window_view(losses.values[width:], stay), axis=1)
    windows, later = windows[: len(later)], later[: len(windows)]
    before = np.median(windows, axis=1)
    jump = later / np.maximum(
        before, 1e-12
    )  # several steps in a row above all of those before: more than one odd batch
    high = (jump > limits["times"]) & (later > windows.max(axis=1)) & (later > limits["of_baseline"] * baseline)
    if not high.any():
        return
    at = int(np.argmax(np.where(high, jump, 0.0)))
    step, end = int(losses.steps[at + width]), level(losses.values, 0.05, end=True)
    back = end < limits["back"] * before[at]
    message = f"the loss jumped from {say(before[at])} to {say(later[at])} at step {step}"
    message += "; it has come back since." if back else f", and is {say(end)} now."
    numbers = {"before": float(before[at]), "peak": float(later[at]), "end": end}
    yield Found(graver(not back), 0.75, message, numbers, step=step, split="train")


def still_falling(story: Story, limits: Limits) -> Iterator[Found]:
    """LR012: training ended while the loss was still falling fast."""
    story.need_finished()
    losses = story.need_steps(int(limits["steps"]))
    if story.facts.epochs and int(losses.epochs[-1]) < story.facts.epochs:
        raise LackingError("it was stopped early")
    parts = blocks(losses.values, 5)  # fifths: in shorter parts a short run's noise is larger than its fall
    lately, whole = float(parts[-2]) - float(parts[-1]), float(parts[0]) - float(parts[-1])
    gained, of_all = lately / max(abs(float(parts[-2])), 1e-12), lately / whole if whole > 0 else 0.0
    much = gained > limits["gained"] or (gained > limits["at_least"] and of_all > limits["of_all"])
    dev = story.curve("loss", "dev", least=2).finite()
    at_best = len(dev) >= 2 and int(dev.values.argmin()) >= len(dev) - 1 - len(dev) // 20
    if much and at_best and float(parts[-1]) > limits["poor"] * story.known_baseline:
        message = (
            f"in its last fifth the loss still fell by {percent(gained)}, to {say(float(parts[-1]))}, and dev was best "
            "at the end: more epochs would have gone further."
        )
        numbers = {"gained": gained, "of_all": of_all}
        yield Found("info", surely(gained, limits["gained"], 0.5), message, numbers, split="train")


def rough_start(story: Story, limits: Limits) -> Iterator[Found]:
    """LR013: the loss rises at first, before it falls."""
    losses = story.need_steps(int(limits["steps"]))
    start = max(float(losses.values[0]), story.known_baseline / 2)
    early = _rolling(losses.values)[: max(5, len(losses) // 10)]
    peak, end = float(early.max()), level(losses.values, 0.1, end=True)
    if peak > limits["times"] * start and end < limits["end"] * start:
        step = int(losses.steps[int(early.argmax())])
        message = f"the loss rose from {say(start)} to {say(peak)} by step {step} before it fell: the first steps are "
        message += "too large for fresh weights."
        yield Found("info", 0.8, message, {"start": start, "peak": peak}, step=step, split="train")


def curve_shape(story: Story, limits: Limits) -> Iterator[Found]:
    """LR014: which of the four textbook shapes the loss has: of a very high, high, low or good rate."""
    story.need_finished()
    losses = story.need_steps(int(limits["steps"]))
    parts = np.array([np.median(part) for part in np.array_split(losses.values, 20)])  # no odd batch makes a shape
    start, quarter, middle, end = (float(parts[a:b].mean()) for a, b in ((0, 1), (4, 6), (9, 11), (18, 20)))
    whole, highest = start - end, limits["above"] * max(float(losses.values[0]), story.known_baseline)
    numbers = {"start": start, "middle": middle, "end": end}
    if len(losses) < len(story.losses) or end > highest:
        shape = "very high: it ends far above where it began"
    elif whole < limits["fall"] * abs(start) or start > highest or end > limits["learned"] * story.known_baseline > 0:
        return  # it hardly fell, or from a height that it had climbed first: other rules say why
    elif (start - middle) / whole < limits["straight"]:
        shape = "low: it falls in a straight line, and has not begun to flatten out"
    elif (
        (start - quarter) / whole > limits["early"]
        and end > limits["poor"] * story.known_baseline
        and _typical_ratio(story) > limits["ratio"]
    ):
        shape = "high: it falls at once, and then stays where it is, far above 0, while steps are large"
    else:
        shape = "good: it falls steeply at first and then flattens out"
    message = f"the loss went from {say(start)} over {say(middle)} half way to {say(end)}. That is the shape of a rate "
    yield Found("info", 0.6, f"{message}that is {shape}.", numbers, split="train")


RULES: dict[str, Rule] = {
    "LR001": too_low,
    "LR002": too_high,
    "LR003": explodes,
    "LR004": above_start,
    "LR005": oscillates,
    "LR006": layer_too_fast,
    "LR007": layer_too_slow,
    "LR008": plateau,
    "LR009": decayed_too_soon,
    "LR010": momentum_too_high,
    "LR011": spikes,
    "LR012": still_falling,
    "LR013": rough_start,
    "LR014": curve_shape,
}
