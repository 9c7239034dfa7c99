"""Checks that train for a moment: a tiny sample by heart, zeroed inputs, shuffled labels, augmented examples."""

import dataclasses
from typing import Any, Final

import torch
from torch import Tensor, nn

from caviar.core.seeds import generator_for
from caviar.diagnose.checks_brief import Clock, adam, chunks, learn, losses_on
from caviar.diagnose.checks_loss import check_missing
from caviar.diagnose.checks_outputs import accuracy, constant_loss, value
from caviar.diagnose.checks_setup import Batch, Outcome, failed, passed, skipped
from caviar.diagnose.checks_subject import Subject

BATCH: Final = 32
LOOKS: Final = (15, 30, 60, 120, 180, 240)
"""Steps after which dev is evaluated."""
SHUFFLES: Final = 3
SHUFFLED_STEPS: Final = 60
LEAST_GAIN: Final = 0.01
"""Real inputs must lower the loss on dev by this share of what knowing nothing comes to."""
CLEAR_GAIN: Final = 0.1
"""A gain that ends the attempt."""
CHANCE_GAIN: Final = 0.03
"""Shuffled labels must not lower it by this share."""
ERRORS: Final = 3.0
LOST: Final = 0.6
"""Share of what was learned that augmentation may take away."""
FEW: Final = 24
SLOWER: Final = (1.0, 0.1)
"""Rates that real inputs are tried with, beside the one that a tiny sample was learned with."""


def check_tiny(subject: Subject) -> Outcome:
    """Let fresh copies learn a tiny sample by heart."""
    if subject.outputs is None:
        return skipped("the outputs are no single tensor.")
    tiny = subject.tiny
    numbers = {**tiny._asdict(), "share": tiny.share}
    words = f"loss {tiny.loss:.2g} on {tiny.examples} examples (knowing nothing: {tiny.constant:.2g})"
    if tiny.accuracy is not None:
        words += f", accuracy {tiny.accuracy:.2f}"
    if tiny.by_heart:
        return passed(f"{words} after {tiny.steps} steps.", **numbers)
    if tiny.out_of_time:
        return skipped(f"there was no time to learn {tiny.examples} examples; {words} so far.", **numbers)
    return failed(
        f"{tiny.examples} examples cannot be learned by heart: {words}.",
        "Something between inputs and loss stops learning: look at the other checks that fail, at the last activation, "
        "at detached or frozen layers, and at how the loss pairs outputs with targets.",
        **numbers,
    )


def check_inputs(subject: Subject) -> Outcome:
    """Let a fresh copy learn for a moment: real inputs must do better on dev than zeroed ones could."""
    train, dev = subject.parts
    if subject.outputs is None or len(dev) < FEW:
        return skipped(f"there are fewer than {FEW} examples for dev, or the outputs are no single tensor.")
    nothing = _constant_losses(subject, train, dev)
    usual = float(nothing.mean())
    clock = Clock(subject.setup.seconds)
    best, best_error, steps = usual, 0.0, 0
    out_of_time = False
    for slower in SLOWER:
        model = subject.setup.fresh(training=True)

        def look(step: int, model: nn.Module = model) -> bool:
            nonlocal best, best_error, steps
            if step not in LOOKS:
                return False
            losses = losses_on(model, subject.setup, dev)
            if float(losses.mean()) < best:
                best, steps = float(losses.mean()), step
                best_error = float((nothing - losses).std() / len(losses) ** 0.5)
            return usual - best > max(CLEAR_GAIN * abs(usual), 2 * ERRORS * best_error)

        brief = learn(
            model,
            subject.setup,
            train,
            adam(model, slower * subject.tiny.rate),
            steps=LOOKS[-1],
            batch_size=min(BATCH, len(train)),
            clock=clock,
            look=look,
        )
        out_of_time = brief.out_of_time
        if out_of_time or usual - best > max(LEAST_GAIN * abs(usual), ERRORS * best_error):
            break
    numbers = {"dev_loss": best, "zeroed": usual, "error": best_error, "steps": steps, "dev_examples": len(dev)}
    if usual - best > max(LEAST_GAIN * abs(usual), ERRORS * best_error):
        return passed(f"dev loss {best:.3g} after {steps} steps; zeroed inputs could reach {usual:.3g}.", **numbers)
    if out_of_time:
        return skipped("there was no time to learn anything.", **numbers)
    if usual - best > max(CLEAR_GAIN * abs(usual), best_error):
        return skipped(
            f"dev loss {best:.3g} after {steps} steps is below the {usual:.3g} of zeroed inputs, but {len(dev)} "
            "examples are too few to be sure.",
            **numbers,
        )
    return failed(
        f"real inputs do no better than zeroed ones on dev: loss {best:.3g} against {usual:.3g}.",
        "Look whether inputs and targets still belong together row by row (shuffled or sorted apart?), whether dev is "
        "prepared as train is, and whether the inputs hold what the target depends on.",
        **numbers,
    )


def _constant_losses(subject: Subject, train: Batch, dev: Batch) -> Tensor:
    """Return the loss, on each chunk of dev, of the best output for train that does not look at the inputs."""
    assert subject.outputs is not None
    shape = subject.outputs.shape[1:]
    like = subject.outputs[:1].expand(len(train), *shape)
    _, output = constant_loss(subject.setup.loss, subject.kind, like, train.targets)
    found = [value(subject.setup.loss, output.expand(len(part), *shape), part.targets) for part in chunks(dev)]
    return torch.tensor(found, dtype=torch.float64)


def check_labels(subject: Subject) -> Outcome:
    """Shuffle the training labels: what is learned then must not do better than chance on dev."""
    train, dev = subject.parts
    if train.targets.numel() != len(train):
        return skipped("the targets are not one for each example.")
    if subject.outputs is None or len(dev) < FEW:
        return skipped(f"there are fewer than {FEW} examples for dev, or the outputs are no single tensor.")
    if subject.kind in ("log_probabilities", "probabilities") and check_missing(subject).status == "fail":
        return skipped("the outputs are not what the loss takes, so that chance cannot be told.")
    nothing = _constant_losses(subject, dev, dev)  # of dev's own class shares
    usual = float(nothing.mean())
    clock = Clock(subject.setup.seconds)
    gains, rights = [], list[float]()
    for shuffle in range(SHUFFLES):
        generator = generator_for(subject.setup.seed, "shuffled labels", shuffle)
        order = torch.randperm(len(train), generator=generator).to(train.targets.device)
        setup = dataclasses.replace(subject.setup, seed=shuffle)
        model = _forgetful(setup.fresh(training=True), generator)
        mixed = Batch(train.inputs, train.targets[order])
        rate = adam(model, subject.tiny.rate)
        size = min(BATCH, len(train))
        brief = learn(model, setup, mixed, rate, steps=SHUFFLED_STEPS, batch_size=size, clock=clock)
        if brief.out_of_time:
            break
        gains.append(nothing - losses_on(model, subject.setup, dev))
        rights.append(_right(model, subject, dev))
    numbers: dict[str, Any] = {"zeroed": usual, "shuffles": len(gains)}
    if not gains:
        return skipped("there was no time to learn anything.", **numbers)
    gain, error = float(torch.stack(gains).mean()), float(torch.cat(gains).std() / torch.cat(gains).numel() ** 0.5)
    numbers |= {"dev_loss": usual - gain, "error": error, "accuracy": rights}
    if gain > max(CHANCE_GAIN * abs(usual), ERRORS * error):
        return failed(
            f"trained on shuffled labels, the network still does better than chance on dev: loss {usual - gain:.3g} "
            f"against {usual:.3g}.",
            "The answers leak: look for targets among the inputs or inside model and loss, and for dev examples that "
            "training has seen.",
            **numbers,
        )
    return passed(f"dev loss {usual - gain:.3g}; chance comes to {usual:.3g}.", **numbers)


@torch.no_grad()
def _forgetful(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Shuffle the entries inside every weight: their sizes stay, what they have learned goes."""
    for parameter in model.parameters():
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.reset_running_stats()
    return model


def _right(model: nn.Module, subject: Subject, batch: Batch) -> float:
    model.eval()
    with torch.no_grad():
        shares = [accuracy(subject.kind, model(part.inputs.clone()), part.targets) for part in chunks(batch)]
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else float("nan")


def check_augment(subject: Subject) -> Outcome:
    """Teach a fresh copy the plain examples: it must still know most of them once they are augmented."""
    setup, (train, _) = subject.setup, subject.parts
    if setup.augmented is None:
        return skipped("nothing is augmented.")
    if subject.outputs is None:
        return skipped("the outputs are no single tensor.")
    model = setup.fresh(training=True)
    clock = Clock(setup.seconds)
    optimizer = adam(model, subject.tiny.rate)
    size = min(BATCH, len(train))
    brief = learn(model, setup, train, optimizer, steps=LOOKS[-1], batch_size=size, clock=clock)
    usual = float(_constant_losses(subject, train, train).mean())
    plain, augmented = (float(losses_on(model, setup, part).mean()) for part in (setup.train, setup.augmented))
    learned = usual - plain
    lost = (augmented - plain) / learned if learned > 0 else 0.0
    numbers = {"plain": plain, "augmented": augmented, "zeroed": usual, "lost": lost}
    if learned < CLEAR_GAIN * abs(usual):
        return skipped("too little was learned in a moment to tell.", **numbers)
    if lost > LOST and brief.out_of_time:  # what has hardly been learned is lost easily
        return skipped("there was no time to learn enough.", **numbers)
    if lost > LOST:
        return failed(
            f"augmented examples look like others: of what a network learns of the plain ones {lost:.0%} is lost on "
            "them.",
            "Look at some augmented examples with their labels (flips and rotations turn one digit into another), and "
            "weaken or leave out what changes the answer.",
            **numbers,
        )
    return passed(f"{max(lost, 0):.0%} of what a network learns of the plain examples is lost.", **numbers)
