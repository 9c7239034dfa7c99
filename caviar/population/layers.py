"""Layers on the members axis: for each kind of module, the same arithmetic for all members at once.

A signal is either shared, (batch, ...) and the same for all members, or stacked, (members, batch, ...).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrize import is_parametrized

from caviar.nn import Dropout, Maxout, dropout, members_batch_norm, members_group_norm
from caviar.population.modules import FEATURES_ONLY
from caviar.population.products import by_member, members_linear


class Signal(NamedTuple):
    """A tensor on its way through the network, and whether members stand in front."""

    tensor: Tensor
    stacked: bool


@dataclass
class Context:
    """What layers need besides their input: the members' weights and buffers by name, and the state of the run.

    listen: is told of every layer, its name, what went in and what came out. names: under which a tensor with several
    names is found.
    """

    tensors: dict[str, Tensor]
    draws: Sequence[torch.Generator]
    rates: Tensor | None = None
    training: bool = True
    weights: Tensor | None = None
    listen: Callable[[nn.Module, str, Signal, Signal], None] | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_members(self) -> int:
        return len(self.draws)

    def own(self, name: str, parameter: str) -> Tensor | None:
        """Return the stacked weight or buffer of the layer called `name`, or None where it has none."""
        full = f"{name}.{parameter}" if name else parameter
        return self.tensors.get(self.names.get(full, full))


class NotLoweredError(Exception):
    """A layer without a stacked form; says which, and why."""


Rule = Callable[[nn.Module, str, Signal, Context], Signal]

EXACT: Final = (nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardtanh, nn.Softshrink, nn.Hardshrink, nn.Threshold)
"""Elementwise functions that choose and multiply: the same wherever in memory an element lies."""
ROUNDED: Final = (
    nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Hardswish,
    nn.Hardsigmoid, nn.LogSigmoid, nn.Tanhshrink,
)  # fmt: skip
"""Elementwise functions whose last few elements, beyond whole vectors, are computed and rounded in another way."""
VECTOR = 64
"""Elements after which such a function begins anew with whole vectors (twice the longest vector, of float32)."""
PER_EXAMPLE: Final = (
    nn.Flatten, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.LPPool1d, nn.LPPool2d,
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d,
    nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle, nn.LocalResponseNorm,
)  # fmt: skip
"""Modules that treat every example by itself, whatever stands in the first axis."""


def apply_layer(module: nn.Module, name: str, signal: Signal, context: Context) -> Signal:
    """Return the output of one layer for all members."""
    rule = next((rule for kinds, rule in RULES if isinstance(module, kinds)), None)
    if rule is not None and type(module).forward in KNOWN_FORWARDS and not is_parametrized(module):
        return rule(module, name, signal, context)
    if not signal.stacked and not list(module.parameters()) and not list(module.buffers()):
        return Signal(module(signal.tensor), False)
    return _one_by_one(module, name, signal, context)


def stacked(signal: Signal, context: Context) -> Tensor:
    """Return the signal with members in front; a shared one is a view, repeated without being copied."""
    return signal.tensor if signal.stacked else signal.tensor.expand(context.num_members, *signal.tensor.shape)


def _linear(module: nn.Module, name: str, signal: Signal, context: Context) -> Signal:  # noqa: ARG001
    weight, bias = context.own(name, "weight"), context.own(name, "bias")
    assert weight is not None
    inputs = signal.tensor
    rows = inputs.flatten(1, -2) if signal.stacked else inputs.flatten(0, -2)
    outputs = members_linear(rows, weight, bias)
    return Signal(torch.unflatten(outputs, 1, inputs.shape[1:-1] if signal.stacked else inputs.shape[:-1]), True)


def _convolution(module: nn.Module, name: str, signal: Signal, context: Context) -> Signal:
    assert isinstance(module, _ConvNd)
    if module.transposed or module.padding_mode != "zeros" or isinstance(module, nn.Conv3d):
        return _one_by_one(module, name, signal, context)
    weight, bias = context.own(name, "weight"), context.own(name, "bias")
    assert weight is not None
    convolve: Any = functional.conv1d if isinstance(module, nn.Conv1d) else functional.conv2d
    options = (module.stride, module.padding, module.dilation)
    on_cpu = signal.tensor.device.type == "cpu"
    # Several threads divide the gradient of a wide convolution by its size, and so round by the number of members.
    wide = not signal.stacked and module.groups == 1 and not (on_cpu and torch.get_num_threads() > 1)
    if wide:
        outputs = convolve(signal.tensor, weight.flatten(0, 1), None, *options)
        outputs = torch.unflatten(outputs, 1, weight.shape[:2]).transpose(0, 1).contiguous()
    elif on_cpu:  # where grouped convolutions lose to one after another
        inputs = stacked(signal, context)
        outputs = torch.stack(
            [convolve(x, w, None, *options, module.groups) for x, w in zip(inputs, weight, strict=True)]
        )
    else:
        inputs = stacked(signal, context).transpose(0, 1).flatten(1, 2)
        groups = module.groups * context.num_members
        outputs = convolve(inputs, weight.flatten(0, 1), None, *options, groups)
        outputs = torch.unflatten(outputs, 1, weight.shape[:2]).transpose(0, 1)
    return Signal(outputs if bias is None else outputs + _over_channels(bias, outputs), True)


def _embedding(module: nn.Module, name: str, signal: Signal, context: Context) -> Signal:
    assert isinstance(module, nn.Embedding)
    weight = context.own(name, "weight")
    unusual = module.padding_idx is not None or module.max_norm is not None or module.scale_grad_by_freq
    if unusual or module.sparse or weight is None:
        raise NotLoweredError(
            f"the embedding {name!r} has a padding index, a longest norm, sparse gradients or ones scaled by frequency"
        )
    first = torch.arange(len(weight), device=weight.device) * weight.shape[1]
    places = stacked(signal, context) + first.view(-1, *[1] * (signal.tensor.dim() - signal.stacked))
    return Signal(functional.embedding(places, weight.flatten(0, 1)), True)


def _batch_norm(module: nn.Module, name: str, signal: Signal, context: Context) -> Signal:
    assert isinstance(module, _BatchNorm)
    if module.momentum is None:
        raise NotLoweredError(f"the batch norm {name!r} takes a cumulative average (momentum None)")
    tracked = context.own(name, "num_batches_tracked")
    if context.training and tracked is not None:
        tracked += 1 if context.weights is None else (context.weights.sum(dim=1) > 0).to(tracked)
    outputs = members_batch_norm(
        stacked(signal, context),
        context.own(name, "running_mean"),
        context.own(name, "running_var"),
        context.own(name, "weight"),
        context.own(name, "bias"),
        training=context.training or module.running_mean is None,
        momentum=module.momentum,
        eps=module.eps,
        example_weights=context.weights if context.training else None,
    )
    return Signal(outputs, True)


def _layer_norm(module: nn.Module, name: str, signal: Signal, context: Context) -> Signal:
    assert isinstance(module, nn.LayerNorm | nn.RMSNorm)
    shape = tuple(module.normalized_shape)
    if isinstance(module, nn.LayerNorm):
        outputs = functional.layer_norm(signal.tensor, shape, eps=module.eps)
    else:
        outputs = functional.rms_norm(signal.tensor, shape, eps=module.eps)
    weight, bias = context.own(name, "weight"), context.own(name, "bias")
    batch_axes = signal.tensor.dim() - signal.stacked - len(shape)
    if weight is not None:
        outputs = outputs * weight.view(len(weight), *[1] * batch_axes, *shape)
    if bias is not None:
        outputs = outputs + bias.view(len(bias), *[1] * batch_axes, *shape)
    return Signal(outputs, signal.stacked or weight is not None)


def _group_norm(module: nn.Module, name: str, signal: Signal, context: Context) -> Signal:
    if isinstance(module, _InstanceNorm):
        if module.track_running_stats:
            raise NotLoweredError(f"the instance norm {name!r} keeps running statistics")
        groups = signal.tensor.shape[1 + signal.stacked]
    else:
        assert isinstance(module, nn.GroupNorm)
        groups = module.num_groups
    weight, bias = context.own(name, "weight"), context.own(name, "bias")
    eps: Any = module.eps
    return Signal(members_group_norm(stacked(signal, context).contiguous(), groups, weight, bias, eps), True)


def _prelu(module: nn.Module, name: str, signal: Signal, context: Context) -> Signal:  # noqa: ARG001
    slope = context.own(name, "weight")
    assert slope is not None
    inputs = stacked(signal, context)
    slope = _over_channels(slope, inputs) if inputs.dim() > 2 else slope
    return Signal(torch.where(inputs >= 0, inputs, slope * inputs), True)


def _dropout(module: nn.Module, name: str, signal: Signal, context: Context) -> Signal:
    if isinstance(module, nn.AlphaDropout | nn.FeatureAlphaDropout):
        raise NotLoweredError(f"the alpha dropout {name!r} draws from torch's own stream")
    inputs = stacked(signal, context)
    own: Any = module.p if isinstance(module, _DropoutNd) else module.rate
    rates = context.rates
    if rates is None:
        rates = torch.full((context.num_members,), float(own), dtype=torch.float64)
    if isinstance(module, Dropout) and (module.form != "inverted" or module.spatial_axes):
        options: Any = {"form": module.form, "spatial_axes": module.spatial_axes, "generator": context.draws}
        return Signal(dropout(inputs, rates.to(inputs), training=context.training, **options), True)
    if not context.training:
        return signal
    features = isinstance(module, FEATURES_ONLY)
    shape = [*inputs.shape[:3], *[1] * (inputs.dim() - 3)] if features else list(inputs.shape)
    return Signal(inputs * _masks(shape, rates, inputs, context.draws), True)


def _masks(shape: list[int], rates: Tensor, like: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
    """Return mask / (1 - rate) for each member, drawn as torch's dropout would draw it for that member alone."""
    masks = like.new_empty(shape)
    for mask, rate, generator in zip(masks, rates.tolist(), draws, strict=True):
        if rate == 0:
            mask.fill_(1)
        else:
            mask.bernoulli_(1 - rate, generator=generator).div_(1 - rate)
    return masks


def _elementwise(module: nn.Module, name: str, signal: Signal, context: Context) -> Signal:  # noqa: ARG001
    return Signal(module(signal.tensor), signal.stacked)


def _rounded(module: nn.Module, name: str, signal: Signal, context: Context) -> Signal:  # noqa: ARG001
    if not signal.stacked or signal.tensor.device.type != "cpu" or signal.tensor[0].numel() % VECTOR == 0:
        return Signal(module(signal.tensor), signal.stacked)
    return Signal(by_member(module, signal.tensor), True)


def _per_example(module: nn.Module, name: str, signal: Signal, context: Context) -> Signal:  # noqa: ARG001
    if not signal.stacked:
        return Signal(module(signal.tensor), False)
    outputs = module(signal.tensor.flatten(0, 1))
    return Signal(torch.unflatten(outputs, 0, signal.tensor.shape[:2]), True)


def _one_by_one(module: nn.Module, name: str, signal: Signal, context: Context) -> Signal:
    """Any other layer, member by member."""
    own = weights_of(module, name, context)
    if not own and not signal.stacked:
        return Signal(module(signal.tensor), False)

    def call(inputs: Tensor, *weights: Tensor) -> Tensor:
        outputs = torch.func.functional_call(module, dict(zip(own, weights, strict=True)), (inputs,))
        if not isinstance(outputs, Tensor):
            raise NotLoweredError(f"the layer {name!r} ({type(module).__name__}) returns more than one tensor")
        return outputs

    return Signal(by_member(call, stacked(signal, context), *own.values()), True)


def weights_of(module: nn.Module, name: str, context: Context) -> dict[str, Tensor]:
    """Return the members' weights of a layer that goes member by member.

    Raises NotLoweredError: it has buffers, may draw from torch's own stream, or is recurrent.
    """
    kind = type(module).__name__
    if any(True for _ in module.buffers()):
        raise NotLoweredError(f"the layer {name!r} ({kind}) has buffers and no stacked form")
    if any(isinstance(part, nn.RNNBase) for part in module.modules()):
        raise NotLoweredError(f"the layer {name!r} ({kind}) keeps a list of its weights, which others cannot replace")
    found = {key: context.own(name, key) for key, _ in module.named_parameters()}
    own = {key: tensor for key, tensor in found.items() if tensor is not None}
    if own and context.training and _may_draw(module):
        raise NotLoweredError(f"the layer {name!r} ({kind}) may draw from torch's own stream")
    return own


def _may_draw(module: nn.Module) -> bool:
    rates = [getattr(part, name, 0) for part in module.modules() for name in ("dropout", "p")]
    return any(isinstance(rate, float | int) and rate > 0 for rate in rates)


def _over_channels(value: Tensor, like: Tensor) -> Tensor:
    """(members, channels) so that it broadcasts against (members, batch, channels, ...)."""
    return value.view(value.shape[0], 1, value.shape[1], *[1] * (like.dim() - 3))


RULES: Final[tuple[tuple[Any, Rule], ...]] = (
    (nn.Linear, _linear),
    ((nn.Conv1d, nn.Conv2d), _convolution),
    (nn.Embedding, _embedding),
    ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    ((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    ((nn.GroupNorm, _InstanceNorm), _group_norm),
    (nn.PReLU, _prelu),
    ((_DropoutNd, Dropout), _dropout),
    (EXACT, _elementwise),
    (ROUNDED, _rounded),
    (PER_EXAMPLE, _per_example),
    (Maxout, _per_example),
)

KNOWN_FORWARDS: Final = {
    nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward, nn.Embedding.forward, _BatchNorm.forward,
    nn.LayerNorm.forward, nn.RMSNorm.forward, nn.GroupNorm.forward, _InstanceNorm.forward, nn.PReLU.forward,
    nn.Dropout.forward, nn.Dropout1d.forward, nn.Dropout2d.forward, nn.Dropout3d.forward, nn.AlphaDropout.forward,
    nn.FeatureAlphaDropout.forward, Dropout.forward, Maxout.forward,
    *(kind.forward for kind in (*EXACT, *ROUNDED, *PER_EXAMPLE)),
}  # fmt: skip
"""A module of the user's own that inherits from one of torch's may do something else in its forward."""
