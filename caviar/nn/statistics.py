"""How signals go through a network: statistics of every layer's outputs on one batch."""

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.nn.activations import Maxout
from caviar.nn.probe import first_tensor, probe

FLAT: Final = 0.01
"""An activation is saturated where its slope is smaller than this in size: hardly any gradient passes."""

ELEMENTWISE: Final = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Softplus,
    nn.Softsign,
    nn.Sigmoid,
    nn.LogSigmoid,
    nn.Tanh,
    nn.Hardtanh,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Tanhshrink,
    nn.Threshold,
)


class ActivationStatistics(NamedTuple):
    """One layer's outputs over a batch.

    mean, std: over all outputs. dead: share of units (channels, last axis for rows) that give the same for every
    example: 0 behind a dead relu; no gradient tells them apart. saturated: share of values at which the slope of the
    activation is below 0.01 in size; None for a layer that is no activation.
    """

    name: str
    kind: str
    mean: float
    std: float
    dead: float
    saturated: float | None


@torch.no_grad()
def activation_statistics(model: nn.Module, batch: Tensor, *, training: bool = False) -> list[ActivationStatistics]:
    """Run a batch and return statistics of each layer, in the order in which they run (at their first run).

    A layer is a module without modules inside it. training: in which mode (dropout, batch norm). The model is left as
    it was: weights, buffers, modes, random streams; no hook stays behind.
    Raises InputError when the batch is empty, or the model cannot take it (the layer is named).
    """
    if not len(batch):
        raise InputError("the batch is empty, so its outputs have no statistics. Give at least one example.")
    found: dict[nn.Module, ActivationStatistics] = {}
    names = {module: name or "(model)" for name, module in model.named_modules()}
    leaves = [module for module in names if next(module.children(), None) is None]
    given: dict[nn.Module, Tensor] = {}

    def enter(module: nn.Module, arguments: Any) -> None:
        before = first_tensor(arguments)
        if before is not None and module not in found:
            given[module] = before.clone() if getattr(module, "inplace", False) else before

    def leave(module: nn.Module, arguments: Any, output: Any) -> None:  # noqa: ARG001
        after, before = first_tensor(output), given.pop(module, None)
        if after is not None and after.is_floating_point() and module not in found:
            found[module] = _statistics(names[module], module, before, after)

    handles = [module.register_forward_pre_hook(enter) for module in leaves]
    handles += [module.register_forward_hook(leave) for module in leaves]
    try:
        probe(model, batch, training=training)
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())


def _statistics(name: str, module: nn.Module, before: Tensor | None, after: Tensor) -> ActivationStatistics:
    values = after.detach().float()
    std, mean = torch.std_mean(values, correction=0)
    saturated = None
    if isinstance(module, ELEMENTWISE) and before is not None:
        saturated = float((_slope(module, before).abs() < FLAT).float().mean())
    elif isinstance(module, Maxout):
        saturated = 0.0
    return ActivationStatistics(name, type(module).__name__, float(mean), float(std), _dead_share(values), saturated)


def _slope(module: nn.Module, inputs: Tensor) -> Tensor:
    with torch.enable_grad():
        z = inputs.detach().float().requires_grad_()
        outputs = module.forward(z.clone())  # forward itself: hooks would measure again; a clone may be overwritten
        (slope,) = torch.autograd.grad(outputs.sum(), z)
    return slope


def _dead_share(values: Tensor) -> float:
    """Share of units with one value for all examples (and pixels); 0 for a single example, which shows nothing."""
    if values.dim() < 2 or len(values) < 2:
        return 0.0
    units = values.movedim(1 if values.dim() >= 4 else -1, 0).flatten(1)
    return float((units.amax(1) == units.amin(1)).float().mean())
