"""Checks of the initial weights: the ten-layer test of the lectures on the user's own net."""

from typing import Any, Final

import torch
from torch import Tensor, nn

from caviar.diagnose.checks_setup import Outcome, failed, passed, skipped
from caviar.diagnose.checks_subject import Subject
from caviar.nn.probe import first_tensor
from caviar.nn.statistics import ELEMENTWISE

DEAD: Final = 0.6
"""Share of a layer's units that give the same for every example from which the layer is dead."""
SATURATED: Final = 0.5
"""Share of the outputs of sigmoid, tanh and their like that may lie where the slope is below 0.01."""
FADED: Final = 1e-4
"""How much of the inputs' spread over the examples must arrive at the last layers."""
SWOLLEN: Final = 1e3
EXAMPLES: Final = 16
SATURATING: Final = ("Sigmoid", "Tanh", "Hardtanh", "Hardsigmoid", "Softsign", "LogSigmoid")
NORMS: Final = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def check_dead(subject: Subject) -> Outcome:
    """Look for activations most of whose units say the same of every example."""
    if len(subject.batch) < EXAMPLES:
        return skipped(f"there are fewer than {EXAMPLES} examples.")
    shares = {each.name: each.dead for each in subject.statistics if each.saturated is not None}
    if not shares:
        return skipped("the model has no activation layers.")
    worst = max(shares, key=lambda name: shares[name])
    if shares[worst] > DEAD:
        return failed(
            f"{shares[worst]:.0%} of the units of {worst} give the same for every example.",
            "Start biases at 0 and weights by He's rule, scale the inputs, or use an activation that lets gradients "
            "through on both sides (leaky relu, elu).",
            dead=shares,
        )
    return passed(f"at most {shares[worst]:.0%} of a layer's units ({worst}).", dead=shares)


def check_saturated(subject: Subject) -> Outcome:
    """Look for sigmoids and tanhs that start where they are flat."""
    shares = {
        each.name: each.saturated
        for each in subject.statistics
        if each.saturated is not None and each.kind in SATURATING
    }
    if not shares:
        return skipped("the model has no sigmoid or tanh layers.")
    worst = max(shares, key=lambda name: shares[name])
    if shares[worst] > SATURATED:
        return failed(
            f"{shares[worst]:.0%} of the outputs of {worst} lie where its slope is below 0.01.",
            "Draw the weights smaller (Xavier), scale the inputs, or normalise in front of the activation.",
            saturated=shares,
        )
    return passed(f"at most {shares[worst]:.0%} of a layer's outputs ({worst}).", saturated=shares)


def check_signal(subject: Subject) -> Outcome:
    """Follow the spread over the examples from the inputs to the last layers."""
    if len(subject.batch) < EXAMPLES:
        return skipped(f"there are fewer than {EXAMPLES} examples.")
    spreads = _spreads(subject)
    if len(spreads) < 2:
        return skipped("the model has no activation layers, or its inputs are no numbers.")
    names = list(spreads)
    inputs, rest = spreads[names[0]], {name: spreads[name] for name in names[1:]}
    if inputs == 0:
        return skipped("all examples are the same.")
    ratios = {name: spread / inputs for name, spread in rest.items()}
    last = list(ratios)[-1]
    numbers = {"share_of_inputs": ratios}
    if ratios[last] < FADED:
        return failed(
            f"of the inputs' spread over the examples {ratios[last]:.1e} is left at {last}: the network tells them "
            "hardly apart.",
            "Draw the weights larger (He for relu, Xavier for tanh), or use batch or layer norm, or residual "
            "connections.",
            **numbers,
        )
    largest = max(ratios, key=lambda name: ratios[name])
    if ratios[largest] > SWOLLEN:
        return failed(
            f"the inputs' spread over the examples has grown {ratios[largest]:.1e} times at {largest}.",
            "Draw the weights smaller (He for relu, Xavier for tanh), or use batch or layer norm.",
            **numbers,
        )
    return passed(f"{ratios[last]:.2g} of the inputs' spread arrives at {last}.", **numbers)


def _spreads(subject: Subject) -> dict[str, float]:
    """Return the standard deviation over the examples, root mean squared over units: of inputs, activations, outputs.

    The outputs are left out where the last layer's weights are 0, which is a fine way to begin.
    """
    model = subject.setup.fresh(training=subject.trains, dropout=False)
    found: dict[str, float] = {}
    inputs = subject.batch.inputs
    if not inputs.is_floating_point():
        return {}

    def hook(name: str) -> Any:
        def leave(module: nn.Module, arguments: Any, output: Any) -> None:  # noqa: ARG001
            values = first_tensor(output)
            if values is not None and len(values) == len(inputs) and name not in found:
                found[name] = _spread(values)

        return leave

    for name, module in model.named_modules():
        if isinstance(module, ELEMENTWISE):
            module.register_forward_hook(hook(name))
    with torch.no_grad():
        outputs = first_tensor(model(inputs.clone()))
    if outputs is not None and len(outputs) == len(inputs) and (spread := _spread(outputs)) > 0:
        found["the outputs"] = spread
    return {"the inputs": _spread(inputs), **found}


def _spread(values: Tensor) -> float:
    return float(values.detach().double().var(0, correction=0).mean().sqrt())


def check_symmetry(subject: Subject) -> Outcome:
    """Look for layers all of whose units begin alike and get the same gradient: they stay one unit for ever."""
    model, gradients = subject.setup.model, subject.gradients
    owners = {
        (f"{name}." if name else "") + own: module
        for name, module in model.named_modules()
        for own, _ in module.named_parameters(recurse=False)
    }
    alike, weights = [], 0
    for name, parameter in model.named_parameters():
        gradient = gradients.get(name)
        if gradient is None or parameter.dim() < 2 or len(parameter) < 2 or isinstance(owners[name], NORMS):
            continue
        weights += 1
        if _rows_alike(parameter.detach()) and _rows_alike(gradient):
            alike.append(name)
    if weights == 0:
        return skipped("the model has no weights with two units or more that receive a gradient.")
    if alike:
        return failed(
            f"all units of {alike[0]} begin alike and get the same gradient, so they stay alike.",
            "Draw the weights at random (caviar.nn.initialise); zeros and constants are for biases.",
            alike=alike,
        )
    return passed(f"the units of {weights} weights differ, or get different gradients.", alike=[])


def _rows_alike(values: Tensor) -> bool:
    rows = values.flatten(1)
    return bool(((rows - rows[:1]).abs() <= 1e-6 * rows.abs().max().clamp_min(1e-30)).all())
