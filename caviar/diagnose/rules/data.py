"""DATA: the examples, their labels and how they are prepared."""

from collections.abc import Iterator

import numpy as np

from caviar.diagnose.rules.found import Found, Limits, Rule, percent, say, surely
from caviar.diagnose.story import LackingError, Story, level


def unrelated_labels(story: Story, limits: Limits) -> Iterator[Found]:
    """DATA001: dev stays at chance although the network learns, or moves far: labels do not belong to inputs."""
    metric, chance = story.metric, story.chance
    dev = story.curve(metric, "dev").finite()
    losses = story.need_steps(int(limits["steps"]))
    if not len(dev):
        raise LackingError("the metric on dev was never a number")
    best = float(dev.values.max())
    error = story.metric_error(max(chance, 0.05) if metric == "accuracy" else 0.0)
    margin = max(limits["margin"], limits["errors"] * error)
    if best > chance + margin:
        return
    numbers = {"dev": best, "chance": chance, "margin": margin}
    if story.has(metric, "train"):
        train = story.curve(metric, "train").largest
        numbers["train"] = train
        if train > best + max(limits["memorised"], limits["errors"] * error):
            message = (
                f"train reaches {metric} {say(train)}, but dev stays at {say(best)}, no better than chance "
                f"({say(chance)}): what is learned of train holds for nothing else. Do labels belong to their inputs?"
            )
            yield Found("error", 0.93, message, numbers, split="dev")
            return
    moved = story.movement()
    start, end = level(losses.values, 0.05, end=False), level(losses.values, 0.1, end=True)
    numbers |= {"movement": moved, "loss": end}
    steady = np.std(losses.recent(100)) < limits["steady"] * end and end < limits["above"] * story.baseline
    varies = not story.has("output_spread", "train") or story.curve("output_spread", "train").last > limits["spread"]
    if moved > limits["moved"] and steady and varies and end > (1 - limits["learned"]) * story.baseline:
        message = (
            f"the loss stays at {say(end)}, that of answers which ignore the inputs ({say(story.baseline)}), and dev "
            f"at chance ({say(best)}), although the weights have moved: nothing in the inputs tells the labels."
        )
        yield Found("warning", 0.6 if start > 0 else 0.5, message, numbers, split="dev")


def unscaled_inputs(story: Story, limits: Limits) -> Iterator[Found]:
    """DATA002: inputs are far from mean 0 and standard deviation 1, or their features far from each other."""
    mean, std = story.curve("input_mean", "train").finite(), story.curve("input_std", "train").finite()
    if not len(mean) or not len(std):
        raise LackingError("inputs were never finite")
    centre, scale = abs(mean.median()), std.median()
    numbers = {"mean": centre, "std": scale}
    worst = max(centre, scale) / limits["large"]
    if worst > 1:
        message = f"inputs have mean {say(mean.median())} and standard deviation {say(scale)}; 0 and 1 is what suits."
        yield Found("warning", surely(worst, 1, 10), message, numbers, split="train")
    elif 0 < scale < limits["small"] and centre < limits["small"]:
        message = f"inputs hardly vary: their standard deviation is {say(scale)}; 1 is what suits."
        yield Found("warning", surely(limits["small"] / scale, 1, 10), message, numbers, split="train")
    elif story.has("input_scale_excess", "train"):
        excess = story.curve("input_scale_excess", "train").finite()
        if len(excess) and excess.median() > limits["excess"]:
            message = (
                f"one feature varies {say(excess.median())} times as much as the typical one: it drowns the others."
            )
            yield Found("warning", 0.7, message, numbers | {"excess": excess.median()}, split="train")


def positive_inputs(story: Story, limits: Limits) -> Iterator[Found]:
    """DATA003: all inputs have the same sign."""
    low, high = story.curve("input_min", "train").finite(), story.curve("input_max", "train").finite()
    if not len(low) or not len(high) or low.values.min() == high.values.max():
        raise LackingError("inputs were never finite, or never varied")
    mean, std = (
        story.curve("input_mean", "train").finite().median(),
        story.curve("input_std", "train").finite().median(),
    )
    if (low.values.min() >= 0 or high.values.max() <= 0) and abs(mean) > limits["offset"] * std:
        message = (
            f"all inputs lie between {say(low.values.min())} and {say(high.values.max())}, on one side of 0: the "
            "gradients of a unit's first weights all have one sign, and its steps zigzag."
        )
        yield Found("info", 0.95, message, {"mean": mean, "std": std}, split="train")


def shifted_dev(story: Story, limits: Limits) -> Iterator[Found]:
    """DATA004: dev's inputs are distributed otherwise than those of train."""
    shift = story.curve("input_shift", "dev").last
    sigma = story.curve("input_shift_sigma", "dev").last
    mean = story.curve("input_shift_mean", "dev").last
    scale = story.curve("input_scale_shift", "dev").last
    numbers = {"largest": shift, "standard_errors": sigma, "root_mean_square": mean, "log_scale": scale}
    grades = {
        "one": shift / limits["one"] if sigma > limits["standard_errors"] else 0.0,
        "all": mean / limits["all"],
        "scale": scale / limits["scale"],
    }
    worst = max(grades, key=lambda name: grades[name])
    if grades[worst] <= 1:
        return
    what = {
        "one": f"one feature's mean differs by {say(shift)} standard deviations",
        "all": f"means differ by {say(mean)} standard deviations over all features",
        "scale": f"standard deviations differ by a factor of {say(float(np.exp(scale)))}",
    }[worst]
    message = f"inputs of dev do not look like those of train: {what}. Scores on dev speak of other data."
    yield Found("warning", surely(grades[worst], 1, 3), message, numbers, split="dev")


def shifted_classes(story: Story, limits: Limits) -> Iterator[Found]:
    """DATA005: classes have other shares in dev than in train."""
    facts = story.facts
    if not facts.train_shares or len(facts.dev_shares) != len(facts.train_shares) or not facts.num_dev:
        raise LackingError("the classes' shares in train and dev are not known")
    train, dev = np.array(facts.train_shares), np.array(facts.dev_shares)
    distance = float(np.abs(train - dev).sum() / 2)
    noise = 0.5 * float(np.sqrt(train * (1 - train) * (1 / facts.num_dev + 1 / max(facts.num_train, 1))).sum())
    if distance > limits["distance"] + limits["noise"] * noise:
        worst = int(np.abs(train - dev).argmax())
        message = (
            f"class {_class(story, worst)} makes up {percent(train[worst])} of train and {percent(dev[worst])} of dev; "
            f"{percent(distance)} of dev would have to change class for the shares to agree."
        )
        yield Found("warning", surely(distance, limits["distance"], 0.5), message, {"distance": distance}, split="dev")


def _class(story: Story, number: int) -> str:
    names = story.facts.class_names
    return repr(names[number]) if number < len(names) else f"number {number}"


def never_predicted(story: Story, limits: Limits) -> Iterator[Found]:
    """DATA006: a class is never predicted."""
    curve = story.curve("classes_never_predicted", "dev", least=int(limits["epochs"]))
    if curve.recent(int(limits["epochs"])).min() < 1 or not story.has("first_never_predicted", "dev"):
        return
    share = story.curve("never_predicted_share", "dev").last
    rows = share * story.facts.num_dev if story.facts.num_dev else float("inf")
    if rows < limits["examples"]:
        return
    number = int(story.curve("first_never_predicted", "dev").last)
    message = f"class {_class(story, number)} is never predicted, though {percent(share)} of dev are of it."
    yield Found("warning", 0.8, message, {"class": float(number), "share": share, "classes": curve.last}, split="dev")


def one_answer(story: Story, limits: Limits) -> Iterator[Found]:
    """DATA007: nearly everything is predicted to be of the largest class, which is far larger than others."""
    share = story.curve("most_predicted_share", "dev", least=int(limits["epochs"]))
    largest = story.curve("largest_class_share", "dev").last
    balanced = story.curve("balanced_accuracy", "dev").last
    if share.recent(int(limits["epochs"])).min() < limits["predicted"] or largest < limits["largest"]:
        return
    classes = story.classes
    message = (
        f"{percent(share.last)} of dev are predicted to be of one class; {percent(largest)} are. Accuracy looks well, "
        f"but the mean recall over classes is {percent(balanced)}, and guessing gives {percent(1 / classes)}."
    )
    yield Found(
        "warning", 0.75, message, {"predicted": share.last, "largest": largest, "recall": balanced}, split="dev"
    )


def memorised_noise(story: Story, limits: Limits) -> Iterator[Found]:
    """DATA008: dev's metric peaked early and fell while train went on to perfection: wrong labels were learned."""
    metric = story.metric
    dev, train = story.curve(metric, "dev", least=int(limits["epochs"])).finite(), story.curve(metric, "train", least=2)
    if len(dev) < 2:
        raise LackingError("the metric on dev was hardly ever a number")
    smooth = np.convolve(dev.values, np.ones(3) / 3, mode="valid") if len(dev) >= 5 else dev.values
    peak, end = float(smooth.max()), float(smooth[-1])
    error = story.metric_error(peak)
    fall = peak - end
    learned = train.last - float(np.interp(dev.steps[int(smooth.argmax())], train.steps, train.values))
    early = smooth.argmax() < limits["early"] * len(smooth)
    if early and fall > max(limits["fall"], limits["errors"] * error) and learned > limits["learned"] * fall:
        message = (
            f"{metric} on dev peaked at {say(peak)} (epoch {dev.epochs[int(smooth.argmax())]}) and fell to {say(end)}, "
            f"while train rose to {say(train.last)}: what was learned since is wrong elsewhere, as noisy labels are."
        )
        numbers = {"peak": peak, "end": end, "train": train.last}
        yield Found("warning", surely(fall, limits["fall"], 0.15), message, numbers, split="dev")


def constant_features(story: Story, limits: Limits) -> Iterator[Found]:
    """DATA009: many features never vary."""
    share = story.curve("input_constant", "train").values.min()
    if share > limits["share"]:
        message = f"{percent(float(share))} of the input features are the same in every example of a batch."
        yield Found("info", 0.7, message, {"share": float(share)}, split="train")


def wrapped_pictures(story: Story, limits: Limits) -> Iterator[Found]:
    """DATA010: neighbouring pixels jump across the whole range, as when bytes have overflown."""
    share = story.curve("input_jumps", "train").median()
    if share > limits["share"]:
        message = (
            f"{percent(share)} of neighbouring pixels differ by most of the range: pictures so smooth otherwise do "
            "not, unless a byte went past 255 and began again at 0."
        )
        yield Found("warning", surely(share, limits["share"], 4 * limits["share"]), message, {"share": share})


def outlying_batches(story: Story, limits: Limits) -> Iterator[Found]:
    """DATA011: now and then a batch has a loss far above all others, and nothing follows from it."""
    losses = story.need_steps(int(limits["steps"]))
    later = losses.values[len(losses) // 3 :]
    usual = float(np.median(later))
    high = np.flatnonzero(later > limits["times"] * max(usual, limits["least"]))
    recovered = [i for i in high if i + 3 < len(later) and np.median(later[i + 1 : i + 4]) < limits["back"] * usual]
    if len(recovered) >= limits["count"] and len(high) < limits["share"] * len(later):
        worst = int(later.argmax())
        message = (
            f"{len(recovered)} batches have a loss over {say(limits['times'])} times the usual {say(usual)} "
            f"(the worst {say(later[worst])}): a few examples are far from all others."
        )
        step = int(losses.steps[len(losses) // 3 + worst])
        yield Found("info", 0.7, message, {"usual": usual, "worst": float(later[worst])}, step=step, split="train")


def unscaled_targets(story: Story, limits: Limits) -> Iterator[Found]:
    """DATA012: targets of a regression are far larger than what a fresh network says."""
    if story.facts.task != "regression" and not story.has("r2", "dev"):
        raise LackingError("it judges regressions")
    if story.facts.loss not in ("", "mean_squared_error"):
        raise LackingError("it judges squared errors")
    first = story.initial_loss
    size = first**0.5
    if size > limits["size"]:
        message = (
            f"the first squared error is {say(first)}, so targets are of the size {say(size)} or lie that far from 0, "
            "while a fresh network says numbers of about 1: most of training goes into getting there."
        )
        yield Found("warning", surely(size, limits["size"], 10 * limits["size"]), message, {"size": size})


def small_dev(story: Story, limits: Limits) -> Iterator[Found]:
    """DATA013: dev is too small to tell settings apart."""
    dev = story.curve(story.metric, "dev").finite()
    error = story.metric_error(dev.last if len(dev) else 0.5)
    if error > limits["error"]:
        message = (
            f"dev has {story.facts.num_dev} examples, so its {story.metric} is known to about {say(2 * error)}: "
            "smaller differences between settings are noise."
        )
        yield Found("info", 0.95, message, {"standard_error": error}, split="dev")


def hard_augmentation(story: Story, limits: Limits) -> Iterator[Found]:
    """DATA014: training batches are far harder than the same examples as they are: augmentation goes too far."""
    facts = story.facts
    if facts.mixes_labels or facts.label_smoothing or facts.class_weighted or facts.dropout > limits["dropout"]:
        raise LackingError("dropout or soft labels make training batches harder as well")
    if not facts.augmented and facts.own_network:
        raise LackingError("nothing is augmented")
    clean = story.curve("evaluated_loss", "train").finite()
    if not len(clean):
        raise LackingError("the training sample's loss was never a number")
    losses = story.need_steps(int(limits["steps"]))
    train = level(losses.values, 0.1, end=True, least=10)
    times = limits["times"] + limits["per_dropout"] * facts.dropout
    if train > times * max(clean.last, 1e-6) and train > limits["share"] * story.baseline:
        message = (
            f"the loss of training batches is {say(train)}, of the same examples as they are {say(clean.last)}: what "
            "is done to them changes more than it should, perhaps what their label says."
        )
        numbers = {"batches": train, "clean": clean.last}
        yield Found("warning", surely(train / max(clean.last, 1e-6), times, 5), message, numbers, split="train")


RULES: dict[str, Rule] = {
    "DATA001": unrelated_labels,
    "DATA002": unscaled_inputs,
    "DATA003": positive_inputs,
    "DATA004": shifted_dev,
    "DATA005": shifted_classes,
    "DATA006": never_predicted,
    "DATA007": one_answer,
    "DATA008": memorised_noise,
    "DATA009": constant_features,
    "DATA010": wrapped_pictures,
    "DATA011": outlying_batches,
    "DATA012": unscaled_targets,
    "DATA013": small_dev,
    "DATA014": hard_augmentation,
}
