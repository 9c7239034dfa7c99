"""Checks of the optimiser's settings: what it holds, its momentum, its weight decay."""

from typing import Final

from caviar.diagnose.checks_gradients import some
from caviar.diagnose.checks_setup import Outcome, failed, passed, skipped
from caviar.diagnose.checks_subject import Subject
from caviar.diagnose.pages import limits_of

SHRINKS: Final = 5e-3
"""Share of every weight that decay may take in each step: at this, half of it in 140 steps."""
USUAL: Final = {True: 0.01, False: 1.0}
"""Decay up to which the rate is to blame where it takes much: added to the gradient (True), or apart from it."""
SCALED: Final = ("adam", "rmsprop", "adagrad", "nadam", "radam", "adadelta", "adamax")
"""Rules that divide what decay adds to the gradient by the gradient's own size: how it pulls cannot be told before."""


def check_held(subject: Subject) -> Outcome:
    """Look whether the optimiser holds the model's parameters, all of them and no others."""
    held = subject.setup.held
    if held is None:
        return skipped("no optimizer was given.")
    numbers = {"absent": list(held.absent), "foreign": held.foreign}
    if held.absent or held.foreign:
        words = [f"lacks {some(held.absent)}"] if held.absent else []
        words += [f"holds {held.foreign} tensors that are not the model's"] if held.foreign else []
        return failed(
            f"the optimizer {' and '.join(words)}.",
            "Build the optimizer after the model has its last layers, device and type: "
            "torch.optim.AdamW(model.parameters(), ...).",
            **numbers,
        )
    return passed("the optimizer holds every trainable parameter of the model, and no others.", **numbers)


def check_momentum(subject: Subject) -> Outcome:
    """Look whether momentum carries steps on for too long."""
    if subject.setup.optimizer is None:
        return skipped("no optimizer was given.")
    groups = subject.setup.optimizer(subject.setup.fresh()).param_groups
    momenta = [group.get("momentum", group.get("betas", (None,))[0]) for group in groups]
    numbers = [momentum for momentum in momenta if isinstance(momentum, float | int)]
    if not numbers:
        return skipped("the optimizer has no momentum.")
    worst, limit = max(numbers), limits_of("LR010")["momentum"]
    if worst >= limit:
        return failed(
            f"momentum {worst:g} carries a step on for {1 / max(1 - worst, 1e-9):,.0f} steps.",
            "Set momentum to 0.9, or 0.95 to 0.99 with a rate that is as many times lower.",
            momentum=worst,
        )
    return passed(f"momentum {worst:g}.", momentum=worst)


def check_decay(subject: Subject) -> Outcome:
    """Look whether weight decay takes more than training can give."""
    if subject.setup.optimizer is None:
        return skipped("no optimizer was given.")
    optimizer = subject.setup.optimizer(subject.setup.fresh())
    name = str(getattr(optimizer, "rule_name", type(optimizer).__name__)).lower()
    shares = []
    for group in optimizer.param_groups:
        decay, rate, momentum = (float(group.get(key) or 0.0) for key in ("weight_decay", "lr", "momentum"))
        if name in SCALED and not group.get("decoupled_weight_decay"):
            continue
        coupled = name == "sgd"
        if decay > USUAL[coupled]:
            shares.append(rate * decay / max(1.0 - momentum, 1e-9) if coupled else rate * decay)
    if not shares:
        return skipped("weight decay is in its usual range or none, or the rule scales it.")
    worst = max(shares)
    if worst > SHRINKS:
        return failed(
            f"weight decay takes {worst:.1%} of every weight in each step.",
            f"Divide it by {worst / SHRINKS * 10:.0g}; 0.01 to 0.1 is usual for AdamW, 1e-4 to 5e-4 for SGD.",
            share=worst,
        )
    return passed(f"it takes {worst:.1g} of every weight in each step.", share=worst)
