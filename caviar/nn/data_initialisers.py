"""Initialisers that look at a batch of data: each layer is scaled by what really arrives at it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from caviar.core.errors import InputError
from caviar.core.members import check_range
from caviar.nn.fans import unit_axis
from caviar.nn.probe import untouched

Adapt = Callable[[nn.Module, Tensor], Tensor]
"""Changes a layer's parameters by its output and returns the output that it would give now."""


def data_dependent(model: nn.Module, batch: Tensor, *, gain: float = 1.0, leave: nn.Module | None = None) -> None:
    """Make every unit's outputs over the batch have mean 0 and standard deviation `gain` (Krähenbühl et al., 2015).

    The paper's within-layer normalisation: for each linear layer and convolution, in the order in which they run,
    w <- gain w / std, b <- gain (b - mean) / std, with mean and std of each unit (channel) over examples and pixels. A
    layer without a bias is scaled only. A unit with the same output for every example keeps its weights.

    batch: at least two inputs of the network. leave: a layer that keeps its weights (the output layer).
    """
    _adapt(model, batch, gain, leave, _normalise_units(gain))


def lsuv(model: nn.Module, batch: Tensor, *, gain: float = 1.0, leave: nn.Module | None = None) -> None:
    """Make every layer's outputs over the batch have variance gain^2: layer-sequential unit variance.

    (Mishkin and Matas, 2015.) The layers stand with orthonormal weights (`orthogonal`); each, in the order in which
    they run, is divided by the standard deviation of all its outputs. The layers are linear and their biases 0, so one
    division does what the paper repeats until it is near enough.
    """
    _adapt(model, batch, gain, leave, _scale_layer(gain))


def _normalise_units(gain: float) -> Adapt:
    def adapt(layer: nn.Module, output: Tensor) -> Tensor:
        axis = 1 if isinstance(layer, _ConvNd) else output.dim() - 1
        flat = output.movedim(axis, 0).flatten(1).double()
        std, mean = torch.std_mean(flat, dim=1, correction=0)
        alive = std > 1e-12 * mean.abs().clamp_min(1e-30)
        factor = torch.where(alive, gain / std, 1.0)
        bias = getattr(layer, "bias", None)
        shift = torch.where(alive, mean, 0.0) if isinstance(bias, Tensor) else torch.zeros_like(mean)
        _scale_weight(layer, factor)
        if isinstance(bias, Tensor):
            bias.copy_((bias - shift) * factor)
        shape = [-1 if place == axis else 1 for place in range(output.dim())]
        return ((output - shift.view(shape)) * factor.view(shape)).to(output.dtype)

    return adapt


def _scale_layer(gain: float) -> Adapt:
    def adapt(layer: nn.Module, output: Tensor) -> Tensor:
        std = float(output.double().std(correction=0))
        if std == 0:
            return output
        factor = torch.full((1,), gain / std, dtype=torch.float64, device=output.device)
        _scale_weight(layer, factor)
        bias = getattr(layer, "bias", None)
        if isinstance(bias, Tensor):
            bias.mul_(gain / std)
        return output * (gain / std)

    return adapt


def _scale_weight(layer: nn.Module, factor: Tensor) -> None:
    """Multiply the weights of each unit by its factor."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if unit_axis(layer) == 0:
        weight.mul_(factor.view(-1, *[1] * (weight.dim() - 1)))
        return
    groups = int(layer.groups) if isinstance(layer, _ConvNd) else 1
    units = factor.expand(weight.shape[1] * groups).view(groups, 1, weight.shape[1], *[1] * (weight.dim() - 2))
    weight.view(groups, -1, *weight.shape[1:]).mul_(units)


def _adapt(model: nn.Module, batch: Tensor, gain: float, leave: nn.Module | None, adapt: Adapt) -> None:
    """Run the batch once; each layer adapts at its first call, and what follows sees its new output."""
    check_range("gain", gain, above=0)
    if len(batch) < 2:
        raise InputError(f"a batch of {len(batch)} inputs has no spread to initialise by. Give at least 2.")
    done: set[nn.Module] = set()
    names = {module: name for name, module in model.named_modules()}

    def hook(layer: nn.Module, inputs: object, output: Tensor) -> Tensor | None:  # noqa: ARG001
        if layer in done:
            return None
        done.add(layer)
        if not bool(torch.isfinite(output).all()):
            raise InputError(
                f"layer {names[layer]!r} gives outputs on the batch that are not finite, so its weights cannot be "
                "scaled by them. Give a batch of finite inputs."
            )
        return adapt(layer, output)

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | _ConvNd) and layer is not leave]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        with untouched(model, training=False):
            for module in model.modules():
                if isinstance(module, _NormBase):  # normalise by this batch, as training will
                    module.training = True
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
