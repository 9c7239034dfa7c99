"""Checks of training and evaluation mode, and that no example sees another."""

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from caviar.diagnose.checks_setup import Outcome, failed, passed, skipped
from caviar.diagnose.checks_subject import Subject, first_output
from caviar.nn.probe import first_tensor

EXAMPLES: Final = 8
SEEN: Final = 1e-4
"""Change of another example's outputs, relative to the outputs' size, from which it was seen; rounding makes 1e-6."""
AVERAGED: Final = 32
FEWEST: Final = 8
DRAWS: Final = 100
GATHERING: Final = 50
AGREE: Final = 0.15
"""How far training and evaluation mode of one layer may stay apart, relative to the size of its outputs."""
AFFINE_DROPOUTS: Final = (nn.AlphaDropout, nn.FeatureAlphaDropout)
HARDLY: Final = 0.002
"""Momentum of a running average below which it takes a thousand steps and more to arrive."""
LAST_BATCH: Final = 0.5
"""Momentum of a running average from which it follows the last batches only."""


def check_leak(subject: Subject) -> Outcome:
    """Change one example and look whether the outputs of another one change, in evaluation mode."""
    if len(subject.batch) < 3:
        return skipped("there are fewer than three examples.")
    model = subject.setup.fresh()
    inputs = subject.batch.inputs[:EXAMPLES].clone()
    before = first_output(model, inputs.clone())
    if len(before) != len(inputs):
        return skipped("the outputs are not one for each example.")
    size = float(before.float().abs().amax().clamp_min(1e-12))
    worst, seen_by = 0.0, (0, 0)
    for changed in {0, len(inputs) // 2, len(inputs) - 1}:
        other = inputs.clone()
        other[changed] = _another(subject, inputs, changed)
        moved = (first_output(subject.setup.fresh(), other) - before).abs().float().reshape(len(inputs), -1).amax(1)
        moved[changed] = 0.0
        if float(moved.max()) / size > worst:
            worst, seen_by = float(moved.max()) / size, (changed, int(moved.argmax()))
    numbers = {"relative_change": worst, "changed": seen_by[0], "moved": seen_by[1]}
    if worst > SEEN:
        return failed(
            f"changing example {seen_by[0]} of a batch moves the outputs of example {seen_by[1]} by {worst:.1%}, in "
            "evaluation mode.",
            "Look for a view or transpose that mixes the batch with another axis, a softmax or attention over axis 0 "
            "(batch_first), and batch norm without running averages.",
            **numbers,
        )
    return passed("changing one example leaves the outputs of the others.", **numbers)


def _another(subject: Subject, inputs: Tensor, changed: int) -> Tensor:
    """Return an example unlike the one at `changed`."""
    candidates = subject.setup.train.inputs[-100:].unbind(0)
    unlike = (each for each in reversed(candidates) if not torch.equal(each, inputs[changed]))
    return next(unlike, inputs[changed] + 1)


def check_evaluation(subject: Subject) -> Outcome:
    """Look whether evaluation mode is free of chance, and changes nothing in the model."""
    model = subject.setup.fresh()
    inputs = subject.batch.inputs[:EXAMPLES]
    buffers = {name: each.clone() for name, each in model.named_buffers()}
    outputs = [first_output(model, inputs.clone()) for _ in range(2)]
    training = [name or "the model" for name, module in model.named_modules() if module.training]
    changed = [name for name, each in model.named_buffers() if not _equal(each, buffers.get(name))]
    apart = float((outputs[0] - outputs[1]).abs().float().max())
    numbers = {"difference": apart, "changed_buffers": changed, "still_training": training}
    remedy = (
        "Pass training=self.training to functional.dropout (or use nn.Dropout), and leave train() and eval() as they "
        "are in nn.Module."
    )
    if training or changed:
        words = f"{training[0]} stays in training mode" if training else f"{changed[0]} changes"
        return failed(f"in evaluation mode {words}.", remedy, **numbers)
    if apart > SEEN * max(float(outputs[0].abs().float().max()), 1e-12):
        return failed("the same inputs give other outputs each time, in evaluation mode.", remedy, **numbers)
    return passed("outputs are the same each time, and no buffer changes.", **numbers)


def _equal(first: Tensor, second: Tensor | None) -> bool:
    return second is not None and first.shape == second.shape and torch.equal(first, second)


def check_agreement(subject: Subject) -> Outcome:
    """Look at every layer that differs between the modes: its training outputs must average to its evaluation ones."""
    model = subject.setup.fresh(training=True)
    inputs = subject.batch.inputs[:AVERAGED]
    if len(inputs) < FEWEST:
        return skipped(f"there are fewer than {FEWEST} examples.")
    found = {name: _apart(layer, given) for name, (layer, given) in _arriving(model, inputs).items()}
    apart = {name: distance for name, distance in found.items() if distance is not None}
    worst = max(apart, key=lambda name: apart[name], default="")
    if worst and apart[worst] > AGREE:
        return failed(
            f"{worst} gives outputs in training mode that are on average {apart[worst]:.0%} away from those in "
            "evaluation mode.",
            "Scale what dropout keeps by 1 / (1 - rate) while training, and let evaluation use the averages that "
            "training has gathered.",
            apart=apart,
        )
    return passed(f"{len(apart)} layers differ between the modes, and agree on average.", apart=apart)


def check_averages(subject: Subject) -> Outcome:
    """Look whether the running averages of batch norms gather more than the last batches."""
    norms = {name: each for name, each in subject.setup.model.named_modules() if isinstance(each, _BatchNorm)}
    momenta = {name: each.momentum for name, each in norms.items() if each.track_running_stats}
    if not momenta:
        return skipped("the model has no batch norm with running averages.")
    wrong = [
        name for name, momentum in momenta.items() if momentum is not None and not HARDLY <= momentum <= LAST_BATCH
    ]
    if wrong:
        return failed(
            f"the running averages of {wrong[0]} hardly move, or follow the last batches only (momentum "
            f"{momenta[wrong[0]]:g}).",
            "Set momentum to 0.1: in PyTorch it is the share of the new batch, elsewhere often that of the old ones.",
            momentum=momenta,
        )
    return passed(f"{len(momenta)} running averages gather slowly.", momentum=momenta)


def _arriving(model: nn.Module, inputs: Tensor) -> dict[str, tuple[nn.Module, Tensor]]:
    """Return the layers without layers or matrices inside, and the one tensor that arrives at each in one pass."""
    found: dict[str, tuple[nn.Module, Tensor]] = {}

    def hook(name: str) -> Any:
        def enter(module: nn.Module, arguments: Any) -> None:
            if len(arguments) == 1 and isinstance(arguments[0], Tensor) and name not in found:
                found[name] = (module, arguments[0].detach().clone())

        return enter

    handles = [
        module.register_forward_pre_hook(hook(name))
        for name, module in model.named_modules()
        if next(module.children(), None) is None and all(each.dim() < 2 for each in module.parameters())
    ]
    with torch.no_grad():
        model(inputs.clone())
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def _apart(layer: nn.Module, inputs: Tensor) -> float | None:
    """Return how far training outputs are from evaluation ones on average; None where the modes are one.

    Of a layer that draws at random: 1 minus the slope of the mean outputs against the evaluation ones. Of one that
    gathers averages: the mean distance, once it has gathered them over this batch.
    """
    if isinstance(layer, AFFINE_DROPOUTS):  # keeps mean and variance of a normal signal, not every value
        return None
    if isinstance(layer, _BatchNorm):
        layer.momentum = 0.5  # gathers sooner; whether its own is sensible has been looked at
    first, second, quiet = (_run(layer.train(mode), inputs) for mode in (True, True, False))
    if first is None or second is None or quiet is None:
        return None
    if torch.equal(first, second):
        if torch.equal(first, quiet):
            return None
        for _ in range(GATHERING):
            _run(layer.train(), inputs)
        quiet = _run(layer.eval(), inputs)
        assert quiet is not None
        return float((first - quiet).abs().mean() / quiet.abs().mean().clamp_min(1e-12))
    total = torch.zeros_like(quiet)
    for _ in range(DRAWS):
        outputs = _run(layer.train(), inputs)
        assert outputs is not None
        total += outputs / DRAWS
    return float((1 - (total * quiet).sum() / quiet.square().sum().clamp_min(1e-12)).abs())


def _run(layer: nn.Module, inputs: Tensor) -> Tensor | None:
    found = first_tensor(layer(inputs.clone()))
    return found.double() if found is not None and found.is_floating_point() else None
