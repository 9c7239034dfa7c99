"""NORM and REG: normalisation, modes, penalties, dropout and other limits."""

from collections.abc import Iterator

import numpy as np

from caviar.diagnose.rules.found import Found, Limits, Rule, graver, percent, say, surely
from caviar.diagnose.story import LackingError, Story, level

DECOUPLED = ("adamw", "sgdw", "lion", "muon", "ranger", "lamb")
"""Rules whose weight decay is not part of the gradient."""


def evaluation_mode(story: Story, limits: Limits) -> Iterator[Found]:
    """NORM001: the network trains in evaluation mode."""
    share = story.curve("evaluation_mode", "train", least=int(limits["looks"]))
    training = story.curve("model_training", "train").values
    recent = int(limits["looks"])
    if share.recent(recent).min() > limits["share"] and training[-recent:].max() == 0:
        step = int(share.steps[-1])
        message = (
            "training steps run in evaluation mode: dropout drops nothing, and batch norm uses (and never updates) "
        )
        message += "its running statistics. Is model.train() called after each evaluation?"
        yield Found("error", 0.95, message, {"share": share.last}, step=step, split="train")


def lagging_norm(story: Story, limits: Limits) -> Iterator[Found]:
    """NORM002: running statistics are far from those of the batches."""
    found = []
    looks = int(limits["looks"])
    for layer, curve in story.by_layer("norm_mean_lag", least=looks).items():
        later = curve.after(int(limits["after"])).finite()
        variance = story.curve("norm_variance_lag", "train", layer).after(int(limits["after"])).finite()
        if len(later) >= looks and len(variance) >= looks:
            found.append((float(np.median(later.recent(5))), float(np.median(variance.recent(5))), layer))
    if not found:
        raise LackingError(f"it takes {looks} looks behind step {limits['after']:.0f}")
    for mean_lag, variance_lag, layer in found:
        worst = max(mean_lag / limits["mean"], variance_lag / limits["variance"])
        if worst > 1:
            message = (
                f"the running statistics of {layer} are off: batches differ from them by {say(mean_lag)} standard "
                f"deviations in mean and a factor of {say(float(np.exp(variance_lag)))} in variance. Evaluation uses "
                "the running ones."
            )
            numbers = {"mean_lag": mean_lag, "variance_lag": variance_lag}
            yield Found("warning", surely(worst, 1, 3), message, numbers, layer=layer, split="train")
            return


def tiny_batches(story: Story, limits: Limits) -> Iterator[Found]:
    """NORM003: batch norm on very few examples."""
    if not story.facts.norms:
        raise LackingError("there is no batch norm")
    if not story.facts.batch_size:
        raise LackingError("the batch size is not known")
    if story.facts.batch_size < limits["examples"]:
        message = (
            f"batch norm over {story.facts.batch_size} examples: mean and variance of so few are mostly noise, and "
            "differ from those that evaluation uses."
        )
        yield Found("warning", 0.8, message, {"batch_size": float(story.facts.batch_size)})


def modes_disagree(story: Story, limits: Limits) -> Iterator[Found]:
    """NORM004: the same examples do far worse in evaluation than in training."""
    if not story.facts.norms:
        raise LackingError("there is no batch norm")
    clean = story.curve("evaluated_loss", "train").after(int(limits["after"])).finite()
    if not len(clean):
        raise LackingError(f"train was not evaluated behind step {limits['after']:.0f}")
    losses = story.losses.finite().until(int(clean.steps[-1]))
    batch = level(losses.values, 0.05, end=True, least=20)
    evaluated = float(np.median(clean.recent(3)))
    if evaluated > limits["times"] * batch and evaluated - batch > limits["of_baseline"] * story.known_baseline:
        message = (
            f"the loss of training batches is {say(batch)}, of training examples in evaluation {say(evaluated)}: what "
            "batch norm remembers of the data is not what it normalises with while training."
        )
        certain = surely(evaluated / max(batch, 1e-12), limits["times"], 4 * limits["times"])
        yield Found("warning", certain, message, {"batch": batch, "evaluated": evaluated}, split="train")


def frozen_norms(story: Story, limits: Limits) -> Iterator[Found]:
    """NORM005: batch norms are frozen while the rest trains."""
    share = story.curve("frozen_norms", "train", least=int(limits["looks"]))
    training = story.curve("model_training", "train")
    if float(np.median(share.values)) > limits["share"] and float(np.median(training.values)) == 1:
        message = f"{percent(share.last)} of the batch norms keep their running statistics while the network trains; "
        message += "right for few examples of what they were trained on, wrong for fresh ones."
        yield Found("info", 0.7, message, {"share": share.last}, split="train")


def shrinking_weights(story: Story, limits: Limits) -> Iterator[Found]:
    """REG001: weights are decaying to nothing, or decay overshoots."""
    norms = story.curve("weight_norm", least=int(limits["looks"])).finite()
    if len(norms) < 2:
        raise LackingError("weights were hardly ever finite")
    decay = story.curve("weight_decay").finite().largest if story.has("weight_decay") else 0.0
    rate = story.curve("learning_rate").finite().largest if story.has("learning_rate") else 0.0
    strength = float(rate * max(decay, story.facts.l2))
    left = norms.last / max(float(norms.values[0]), 1e-12)
    end = level(story.losses.finite().values, 0.1, end=True)
    poor = not story.known_baseline or end > limits["poor"] * story.known_baseline
    if strength > limits["overshoot"]:
        message = f"weight decay times learning rate is {say(strength)}: each step takes off more than the weights are."
        yield Found("error", 0.95, message, {"strength": strength})
    elif left < limits["left"] and poor and (strength > 0 or story.facts.l1 > 0):
        message = (
            f"the weights have shrunk to {percent(left)} of what they were, and the loss stands at {say(end)}: the "
            f"penalty (weight decay {say(float(decay))}) is stronger than what the data teach."
        )
        yield Found(
            "error", surely(limits["left"] / max(left, 1e-12), 1, 5), message, {"left": left, "decay": float(decay)}
        )


def drowning_penalty(story: Story, limits: Limits) -> Iterator[Found]:
    """REG002: penalties pull harder than the data."""
    looks = int(limits["looks"])
    gradient = story.curve("gradient_norm", "train", least=looks).finite()
    if len(gradient) < looks:
        raise LackingError("gradients were hardly ever finite")
    decay = story.curve("weight_decay").finite().largest if story.has("weight_decay") else 0.0
    sizes = story.at("weight_norm", gradient.steps)
    decoupled = any(word in story.facts.optimizer.lower() for word in DECOUPLED)
    inside = story.facts.l2 + (0.0 if decoupled else decay)
    count = sum(layer.fan_in * layer.units for layer in story.facts.layers)
    pulls = inside * sizes + story.facts.l1 * count**0.5  # the gradient of an L1 penalty is +-l1 for every weight
    pull = float(np.median(pulls / np.maximum(gradient.values, 1e-30)))
    if decoupled and decay:
        ratio = story.curve("update_ratio", "train").finite()
        share = float(np.median(story.at("learning_rate", ratio.steps) * decay / np.maximum(ratio.values, 1e-30)))
        pull = max(pull, share / max(1 - share, 0.02))
    end = level(story.losses.finite().values, 0.1, end=True)
    if pull > limits["pull"]:
        share = end / story.baseline
        poor = share > limits["poor"] or (pull > limits["strong"] and share > limits["left"])
        message = f"penalties pull on the weights {say(pull)} times as hard as the data do; the loss is {say(end)}."
        severity = graver(poor)
        confidence = surely(pull, limits["pull"], 10 * limits["pull"])
        yield Found(severity, confidence, message, {"pull": pull, "loss": end})


def strong_dropout(story: Story, limits: Limits) -> Iterator[Found]:
    """REG003: dropout keeps the network from learning train."""
    rate = story.facts.dropout
    if rate < limits["rate"]:
        raise LackingError("there is no strong dropout")
    clean = story.curve("evaluated_loss", "train").finite()
    losses = story.need_steps(int(limits["steps"]))
    if not len(clean):
        raise LackingError("train was never evaluated")
    batch = level(losses.values, 0.1, end=True, least=10)
    left = clean.last / story.baseline
    if left > limits["left"] and (batch > limits["times"] * clean.last or rate > limits["extreme"]):
        message = (
            f"with dropout {say(rate)} the loss is {say(batch)} on training batches and still {say(clean.last)} on the "
            f"same examples without it, {percent(left)} of that of a constant answer."
        )
        yield Found("warning", surely(left, limits["left"], 1.0), message, {"rate": rate, "left": left}, split="train")


def growing_weights(story: Story, limits: Limits) -> Iterator[Found]:
    """REG004: weights grow and grow."""
    norms = story.curve("weight_norm", least=int(limits["looks"])).finite()
    if len(norms) < 2:
        raise LackingError("weights were hardly ever finite")
    grown = norms.last / max(float(norms.values[0]), 1e-12)
    later = norms.values[len(norms) // 2 :]
    if grown > limits["grown"] and later[-1] > limits["still"] * later[0]:
        message = f"the weights have grown to {say(grown)} times what they were, and go on growing."
        yield Found("info", surely(grown, limits["grown"], 10 * limits["grown"]), message, {"grown": grown})


RULES: dict[str, Rule] = {
    "NORM001": evaluation_mode,
    "NORM002": lagging_norm,
    "NORM003": tiny_batches,
    "NORM004": modes_disagree,
    "NORM005": frozen_norms,
    "REG001": shrinking_weights,
    "REG002": drowning_penalty,
    "REG003": strong_dropout,
    "REG004": growing_weights,
}
