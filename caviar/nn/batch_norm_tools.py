"""What can be done with the batch norms of a finished network: fold, recalibrate, drop biases that cancel."""

import copy
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from caviar.core.errors import InputError
from caviar.nn.graph import Layout, is_affine, layout_of
from caviar.nn.probe import untouched

EXACT = 1e-9
"""The largest difference, relative to the outputs' size, that folding may make when computed in float64."""


class FoldReport(NamedTuple):
    """What folding did.

    folded: (layer, norm) pairs. left: (norm, why it stays). largest_difference: of the outputs on the example, in the
    model's own number type, where rounding differs; exact_difference: the same computed in float64.
    """

    folded: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...]
    largest_difference: float
    exact_difference: float


def fold_batch_norm(model: nn.Module, example: Tensor) -> tuple[nn.Module, FoldReport]:
    """Return a copy in evaluation mode whose batch norms are folded into the layers before them, and a report.

    In evaluation a batch norm is y = (z - m) / sqrt(v + eps) * g + b with fixed numbers, so behind z = W x + c it is
    the layer W' = W g / sqrt(v + eps), c' = (c - m) g / sqrt(v + eps) + b. Linear layers and convolutions are folded;
    the norm becomes an Identity. The copy is proved equal on `example`, a batch of inputs, in float64.
    Raises InputError when the outputs differ (a forward that uses its layers in another order than they stand in).
    """
    folded, precise, precisely_folded = (copy.deepcopy(model).eval() for _ in range(3))
    layout = layout_of(folded)
    done, left = _fold_all(folded, layout)
    _fold_all(precisely_folded.double(), layout)
    difference, _ = _difference(model, folded, example)
    exact, size = _difference(precise.double(), precisely_folded, _as_double(example))
    if not exact <= EXACT * max(size, 1.0):
        why = "" if layout.traced else "; its forward cannot be traced, and the order inside its Sequentials misleads"
        raise InputError(
            f"{type(model).__name__} with its batch norms folded differs by {exact:.3g} on the example{why}. It was "
            "left as it was."
        )
    return folded, FoldReport(tuple(done), tuple(left), difference, exact)


def _fold_all(model: nn.Module, layout: Layout) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Fold every norm that can be; return what was folded, and what was left and why."""
    before = {pair.second: pair.first for pair in layout.follows}
    done, left = [], []
    for name, norm in list(model.named_modules()):
        if isinstance(norm, _BatchNorm):
            why = _fold(model, before.get(name), name, norm)
            if why:
                left.append((name, why))
            else:
                done.append((before[name], name))
    return done, left


def _fold(model: nn.Module, first: str | None, second: str, norm: _BatchNorm) -> str:
    """Fold norm `second` into layer `first` of `model`; return why not, or "" when it was done."""
    layer = model.get_submodule(first) if first is not None else None
    if layer is None or not is_affine(layer):
        return "no linear layer or convolution alone feeds it"
    if norm.running_mean is None or norm.running_var is None:
        return "it keeps no running averages"
    weight, bias = layer.weight, getattr(layer, "bias", None)
    assert isinstance(weight, nn.Parameter)
    if sum(parameter is weight for module in model.modules() for parameter in module.parameters(recurse=False)) > 1:
        return f"other layers share the weight of {first}"
    bias = bias if isinstance(bias, nn.Parameter) else None
    numbers = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    if isinstance(layer, nn.Linear):
        fused = fuse_linear_bn_weights(weight, bias, *numbers)
    elif isinstance(layer, _ConvTransposeNd) and layer.groups > 1:
        return "it follows a transposed convolution with groups"
    else:
        fused = fuse_conv_bn_weights(weight, bias, *numbers, transpose=isinstance(layer, _ConvTransposeNd))
    layer.weight, layer.bias = fused
    parent, _, own = second.rpartition(".")
    setattr(model.get_submodule(parent), own, nn.Identity())
    return ""


def _difference(first: nn.Module, second: nn.Module, example: Tensor) -> tuple[float, float]:
    outputs = []
    for model in (first, second):
        with untouched(model, training=False):
            outputs.append(model(example))
    one, other = outputs
    return float((one - other).abs().max()), float(one.abs().max())


def _as_double(example: Tensor) -> Tensor:
    return example.double() if example.is_floating_point() else example


@torch.no_grad()
def drop_cancelled_biases(model: nn.Module) -> list[str]:
    """Take the bias out of every layer in front of a batch or instance norm, in place, and return those layers' names.

    The norm subtracts each channel's mean, so the bias changes nothing but costs memory, time and optimiser state; its
    true gradient is 0. The running mean is moved along, so outputs stay what they were in both modes.
    """
    layout = layout_of(model)
    dropped = []
    for first, second in layout.follows:
        layer, norm = model.get_submodule(first), model.get_submodule(second)
        if not isinstance(norm, _BatchNorm | _InstanceNorm) or not is_affine(layer):
            continue
        bias = getattr(layer, "bias", None)
        if isinstance(bias, nn.Parameter):
            if norm.running_mean is not None:
                norm.running_mean.sub_(bias)
            layer.register_parameter("bias", None)
            dropped.append(first)
    return dropped


def keeps_statistics(model: nn.Module) -> bool:
    """Say whether the model has a batch norm with running averages, which `recalibrate` could compute anew."""
    return any(isinstance(module, _BatchNorm) and module.running_mean is not None for module in model.modules())


class _Moments:
    """Count, mean and sum of squared deviations of each channel, merged batch by batch (Chan et al., 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | None = None
        self.squares: Tensor | None = None

    def add(self, inputs: Tensor) -> None:
        """Take in the inputs of one batch, channels on axis 1."""
        flat = inputs.detach().movedim(1, 0).flatten(1).double()
        count, mean = flat.shape[1], flat.mean(1)
        squares = (flat - mean.unsqueeze(1)).square().sum(1)
        if self.mean is None or self.squares is None:
            self.count, self.mean, self.squares = count, mean, squares
            return
        total, change = self.count + count, mean - self.mean
        self.mean = self.mean + change * (count / total)
        self.squares = self.squares + squares + change.square() * (self.count * count / total)
        self.count = total


def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Compute the running mean and variance of every batch norm anew over a pass of data; return the examples seen.

    Batches go through with batch norms in training mode and everything else (dropout) in evaluation mode. Each norm's
    mean and (unbiased) variance are those of all that arrived at it: counts, means and squares are merged exactly, in
    float64, so batches may differ in size. A first layer's statistics do not depend on how the data are cut; a later
    one's do a little, as what arrives there was normalised batch by batch. For averaged weights (SWA), whose
    statistics nobody has seen yet, after a change of data, or where running averages have lagged behind.

    batches: inputs of the network, each of at least two examples. Weights and modes are left as they were.
    Raises InputError when there is no batch, or no batch norm with running averages.
    """
    norms = {
        module: _Moments()
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
    if not norms:
        raise InputError(f"{type(model).__name__} has no batch norm with running averages to recalibrate.")

    def watch(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if isinstance(norm, _BatchNorm):
            norms[norm].add(arguments[0])

    handles = [norm.register_forward_pre_hook(watch) for norm in norms]
    seen = 0
    try:
        with untouched(model, training=False):
            for norm in norms:
                norm.training = True
            for batch in batches:
                _run(model, batch)
                seen += len(batch)
    finally:
        for handle in handles:
            handle.remove()
    if seen == 0:
        raise InputError("no batch arrived to recalibrate with. Give batches of the network's inputs.")
    for norm, moments in norms.items():
        _store(norm, moments)
    return seen


def _run(model: nn.Module, batch: Tensor) -> None:
    try:
        model(batch)
    except ValueError as error:  # torch's batch norm, given one value a channel
        raise InputError(
            f"a batch of shape {tuple(batch.shape)} cannot be normalised ({error}). Give batches of two or more."
        ) from error


@torch.no_grad()
def _store(norm: _NormBase, moments: _Moments) -> None:
    if moments.mean is None or moments.squares is None:  # a norm that this forward does not use
        return
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(moments.mean)
    norm.running_var.copy_(moments.squares / max(moments.count - 1, 1))
