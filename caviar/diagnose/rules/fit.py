"""FIT: what the curves of train and dev say."""

import math
from collections.abc import Iterator

import numpy as np

from caviar.diagnose.rules.found import Found, Limits, Rule, graver, percent, say, surely
from caviar.diagnose.story import Curve, LackingError, Story


def _train_and_dev(story: Story, name: str) -> tuple[Curve, Curve]:
    """Return a metric, or "loss", of train as evaluated and of dev, at the epochs where both were taken."""
    train = story.curve("evaluated_loss" if name == "loss" else name, "train").finite()
    dev = story.curve(name, "dev").finite()
    steps, first, second = np.intersect1d(train.steps, dev.steps, return_indices=True)
    if not len(steps):
        raise LackingError(f"{name} of train and dev was never taken at the same time")
    return train.take(first), dev.take(second)


def overfits(story: Story, limits: Limits) -> Iterator[Found]:
    """FIT001: train is learned far better than dev."""
    metric = story.metric
    train, dev = _train_and_dev(story, metric)
    gap, error = train.last - dev.last, story.metric_error(dev.last)
    if gap < limits["gap"] or gap < limits["errors"] * error:
        return
    curve = story.curve("loss", "dev", least=2).finite()
    rise = curve.last / max(float(curve.values.min()), 1e-12) if len(curve) else 1.0
    numbers = {"train": train.last, "dev": dev.last, "gap": gap, "dev_loss_rise": rise}
    message = f"{metric} is {say(train.last)} on train and {say(dev.last)} on dev, a gap of {say(gap)}"
    worse = rise > limits["rise"]
    message += f"; dev's loss has risen to {say(rise)} times its lowest." if worse else "."
    bad = gap > limits["large"] or (worse and gap > limits["gap_and_rise"])
    yield Found(graver(bad), surely(gap, limits["gap"], 0.4), message, numbers, split="dev")


def underfits(story: Story, limits: Limits) -> Iterator[Found]:
    """FIT002: even train is hardly learned."""
    story.need_finished()
    train, dev = _train_and_dev(story, "loss")
    learned = 1 - train.last / story.baseline
    gap = (dev.last - train.last) / story.baseline
    moved = story.movement()
    if learned < limits["learned"] and gap < limits["gap"] and moved > limits["moved"]:
        message = (
            f"the loss on train is {say(train.last)}, where answers that ignore the inputs have {say(story.baseline)}: "
            f"{percent(max(learned, 0.0))} of it is explained, and dev does no worse. The network cannot, or was not "
            "let, learn more."
        )
        severity = graver(learned < limits["little"])
        numbers = {"learned": learned, "gap": gap}
        yield Found(severity, surely(limits["learned"] - learned, 0, 0.2), message, numbers)


def dev_better(story: Story, limits: Limits) -> Iterator[Found]:
    """FIT003: dev does better than train, both evaluated alike."""
    metric = story.metric
    train, dev = _train_and_dev(story, metric)
    lead, error = float(np.median((dev.values - train.values)[-3:])), story.metric_error(dev.last)
    if lead > limits["lead"] and lead > limits["errors"] * error:
        message = (
            f"{metric} is {say(dev.last)} on dev and {say(train.last)} on train, although both are evaluated alike: "
            "dev is easier, or holds examples of train many times over."
        )
        severity = graver(lead > limits["large"])
        found = surely(lead, limits["lead"], 0.15)
        yield Found(severity, found, message, {"train": train.last, "dev": dev.last}, split="dev")


def no_better_than_chance(story: Story, limits: Limits) -> Iterator[Found]:
    """FIT004: dev is no better than answers that ignore the inputs."""
    metric = story.metric
    dev = story.curve(metric, "dev", least=int(limits["epochs"])).finite()
    story.need_steps(int(limits["steps"]))
    if not len(dev):
        raise LackingError(f"{metric} on dev was never a number")
    error = story.metric_error(max(story.chance, 0.05) if metric == "accuracy" else 0.0)
    best, needed = float(dev.values.max()), story.chance + max(limits["margin"], limits["errors"] * error)
    losses = story.curve("loss", "dev").finite().values if story.has("loss", "dev") else np.zeros(0)
    explained = len(losses) and story.known_baseline and losses.min() < limits["loss"] * story.known_baseline
    if best < needed and not explained:
        message = f"the best {metric} on dev is {say(best)}; answers that ignore the inputs reach {say(story.chance)}."
        yield Found("warning", 0.85, message, {"best": best, "chance": story.chance}, split="dev")


def verdict(story: Story, limits: Limits) -> Iterator[Found]:
    """FIT005: where the remaining error comes from: bias or variance."""
    story.need_finished()
    metric = story.metric
    train, dev = _train_and_dev(story, metric)
    if train.last - story.chance < limits["learned"] * (1 - story.chance):
        raise LackingError("it has not learned enough for a verdict")
    hoped = max(story.facts.best_error, 0.0)
    bias, variance = max(1 - train.last - hoped, 0.0), max(train.last - dev.last, 0.0)
    if max(bias, variance) < limits["least"]:
        return
    known = f"hoped for {say(hoped)}" if story.facts.best_error >= 0 else "the least error possible is not known"
    message = f"error {say(1 - train.last)} on train, {say(1 - dev.last)} on dev ({known}): "
    if bias > limits["much_more"] * variance:
        message += "mostly bias. First a larger network, longer or better training; more data would not help yet."
    elif variance > limits["much_more"] * bias:
        message += "mostly variance. First more data or augmentation, more regularisation, a smaller network."
    else:
        message += "bias and variance alike. First lower the error on train, then close the gap."
    yield Found("info", 0.7, message, {"bias": bias, "variance": variance, "hoped": hoped})


def stopped_too_early(story: Story, limits: Limits) -> Iterator[Found]:
    """FIT006: early stopping ended training while it was still getting somewhere."""
    story.need_finished()
    dev = story.curve("loss", "dev", least=2).finite()
    planned, patience = story.facts.epochs, story.facts.patience
    if not planned or not patience:
        raise LackingError("nothing is known of early stopping")
    done = int(dev.epochs[-1])
    if done >= planned:
        return
    train = story.curve("loss", "train", least=2).finite()
    back = min(len(train) - 1, max(2, patience))
    falling = (train.values[-1 - back] - train.last) / max(abs(float(train.values[-1 - back])), 1e-12) / back
    rise = dev.last / max(float(dev.values.min()), 1e-12) - 1
    if patience <= limits["patience"] and done < limits["of_planned"] * planned and falling > limits["falling"]:
        if rise > limits["rise"]:
            return  # dev did get worse
        message = (
            f"training stopped after epoch {done} of {planned}, {patience} epochs without a better dev; the loss on "
            f"train was still falling by {percent(float(falling))} an epoch, and dev's only {percent(rise)} above its "
            "best: that is noise, not the end."
        )
        numbers = {"epochs": float(done), "falling": float(falling), "rise": rise}
        yield Found("warning", 0.75, message, numbers, step=int(dev.steps[-1]), split="dev")


def overconfident(story: Story, limits: Limits) -> Iterator[Found]:
    """FIT007: dev's loss rises while its metric holds: answers stay right, but grow too sure."""
    metric = story.metric
    loss = story.curve("loss", "dev", least=int(limits["epochs"])).finite()
    curve = story.curve(metric, "dev", least=int(limits["epochs"])).finite()
    if len(loss) < 2 or len(curve) < 2:
        raise LackingError("dev's curves were hardly ever finite")
    rise = loss.last / max(float(loss.values.min()), 1e-12)
    lost = float(curve.values.max()) - float(np.median(curve.recent(3)))
    if rise > limits["rise"] and lost < max(limits["lost"], limits["errors"] * story.metric_error(curve.last)):
        message = (
            f"dev's loss has risen to {say(rise)} times its lowest (epoch {loss.epochs[int(loss.values.argmin())]}), "
            f"while {metric} holds at {say(curve.last)}: wrong answers are given with more and more certainty."
        )
        yield Found("info", 0.8, message, {"rise": rise, "lost": lost}, split="dev")


def wasted_epochs(story: Story, limits: Limits) -> Iterator[Found]:
    """FIT008: the best epoch was long ago."""
    story.need_finished()
    loss = story.curve("loss", "dev", least=int(limits["epochs"])).finite()
    if len(loss) < 2:
        raise LackingError("dev's loss was hardly ever finite")
    best = int(loss.values.argmin())
    share = (best + 1) / len(loss)
    if share < limits["share"]:
        message = (
            f"dev's loss was best in epoch {loss.epochs[best]} of {loss.epochs[-1]}: what came after helped nobody."
        )
        yield Found("info", 0.8, message, {"best_epoch": float(loss.epochs[best]), "share": share}, split="dev")


def jittery_dev(story: Story, limits: Limits) -> Iterator[Found]:
    """FIT009: the metric on dev jumps from epoch to epoch, by more than its size explains."""
    metric = story.metric
    curve = story.curve(metric, "dev", least=int(limits["epochs"])).finite()
    later = curve.values[len(curve) // 2 :]
    if len(later) < 4:
        raise LackingError("it takes more epochs")
    jump = float(np.abs(np.diff(later)).mean())
    noise = story.metric_error(float(np.median(later))) * 2 / math.sqrt(math.pi)
    if jump > limits["jump"] and jump > limits["noise"] * noise:
        message = (
            f"{metric} on dev jumps by {say(jump)} from epoch to epoch, where its size explains {say(noise)}: the last "
            "epoch's score is luck."
        )
        yield Found("info", surely(jump, limits["jump"], 0.1), message, {"jump": jump, "noise": noise}, split="dev")


RULES: dict[str, Rule] = {
    "FIT001": overfits,
    "FIT002": underfits,
    "FIT003": dev_better,
    "FIT004": no_better_than_chance,
    "FIT005": verdict,
    "FIT006": stopped_too_early,
    "FIT007": overconfident,
    "FIT008": wasted_epochs,
    "FIT009": jittery_dev,
}
