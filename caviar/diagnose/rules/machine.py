"""PERF: time and memory."""

from collections.abc import Iterator

import numpy as np

from caviar.diagnose.rules.found import Found, Limits, Rule, percent, say, surely
from caviar.diagnose.story import LackingError, Story, level


def starved(story: Story, limits: Limits) -> Iterator[Found]:
    """PERF001: steps wait for data."""
    wait = story.curve("data_wait", "train", least=int(limits["looks"])).finite()
    if not len(wait):
        raise LackingError("waiting was never measured")
    share = wait.median()
    if share > limits["share"]:
        message = f"{percent(share)} of a step's time goes by before the forward pass begins: reading, preparing and "
        message += "augmenting a batch takes longer than learning from it."
        yield Found("warning", surely(share, limits["share"], 0.9), message, {"share": share}, split="train")


def noisy_batches(story: Story, limits: Limits) -> Iterator[Found]:
    """PERF002: the batch is far below the gradient noise scale."""
    scale = story.curve("noise_scale", "train", least=int(limits["looks"])).finite()
    batch = story.facts.batch_size
    if not batch or len(scale) < limits["looks"]:
        raise LackingError("the batch size, or the noise scale, is not known")
    typical = float(np.median(scale.values[len(scale) // 2 :]))
    if typical > limits["times"] * batch:
        message = (
            f"the gradient noise scale is about {say(typical)} examples and a batch has {batch}: larger batches would "
            "need nearly as many times fewer steps, and use the device better."
        )
        yield Found("info", 0.6, message, {"noise_scale": typical, "batch_size": float(batch)}, split="train")


def wasteful_batches(story: Story, limits: Limits) -> Iterator[Found]:
    """PERF003: the batch is far above the gradient noise scale."""
    scale = story.curve("noise_scale", "train", least=int(limits["looks"])).finite()
    batch = story.facts.batch_size
    if not batch or len(scale) < limits["looks"]:
        raise LackingError("the batch size, or the noise scale, is not known")
    typical = float(np.median(scale.values[len(scale) // 2 :]))
    if batch > limits["times"] * typical:
        message = (
            f"a batch has {batch} examples and the gradient noise scale is about {say(typical)}: most of a batch says "
            "what the rest has said, and smaller ones would learn as much a step."
        )
        yield Found("info", 0.6, message, {"noise_scale": typical, "batch_size": float(batch)}, split="train")


def slower(story: Story, limits: Limits) -> Iterator[Found]:
    """PERF004: steps take longer and longer."""
    rate = story.curve("examples_per_second", "train", least=int(limits["looks"])).finite().values
    if len(rate) < limits["looks"]:
        raise LackingError("speed was hardly ever measured")
    start, end = level(rate, 0.33, end=False), level(rate, 0.33, end=True)
    trend = float(np.corrcoef(np.arange(len(rate)), rate)[0, 1]) if rate.std() else 0.0
    if end < limits["left"] * start and trend < -limits["trend"]:
        message = f"training slowed down from {say(start)} to {say(end)} examples a second, steadily."
        yield Found(
            "warning", surely(start / max(end, 1e-9), 1 / limits["left"], 4), message, {"from": start, "to": end}
        )


def leaking(story: Story, limits: Limits) -> Iterator[Found]:
    """PERF005: losses are kept with their graphs, or memory in use grows from look to look."""
    kept = story.curve("losses_kept", "train").last if story.has("losses_kept", "train") else 0.0
    if kept > limits["kept"] and _are_all_kept(story, kept, limits["of_steps"]):
        message = (
            f"the losses of {kept:,.0f} earlier steps are still held together with their graphs: in a list, or in a "
            "sum of losses that is a tensor."
        )
        yield Found("warning", 0.95, message, {"kept": kept}, split="train")
        return
    memory = story.curve("memory", least=int(limits["looks"]))
    later = memory.values[len(memory) // 4 :]
    grown = float(later[-1] - later[0])
    steady = float((np.diff(later) > 0).mean()) if len(later) > 1 else 0.0
    if grown > limits["bytes"] and grown > limits["share"] * later[0] and steady > limits["steady"]:
        message = (
            f"memory grew from {later[0] / 2**20:,.0f} to {later[-1] / 2**20:,.0f} MiB, step by step: something is "
            "kept of every step, such as a loss with its graph."
        )
        yield Found("warning", 0.8, message, {"from": float(later[0]), "to": float(later[-1])})


def _are_all_kept(story: Story, kept: float, share: float) -> bool:
    """Whether those are the losses of the whole run so far, and not just of the epoch that goes on."""
    last = story.curve("losses_kept", "train")
    return kept > share * last.steps[-1] and int(last.epochs[-1]) > int(last.epochs[0])


RULES: dict[str, Rule] = {
    "PERF001": starved,
    "PERF002": noisy_batches,
    "PERF003": wasteful_batches,
    "PERF004": slower,
    "PERF005": leaking,
}
