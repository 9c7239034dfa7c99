"""From settings to a network."""

import math

import torch
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.nn.convnet import ConvNet
from caviar.nn.initialise import BASES, adapt_to_data, initialise, output_layer
from caviar.nn.mlp import MLP
from caviar.nn.settings import ConvNetSettings, MLPSettings


def build_model(
    settings: MLPSettings | ConvNetSettings,
    input_shape: tuple[int, ...],
    outputs: int,
    generator: torch.Generator,
    cardinalities: tuple[int, ...] = (),
) -> nn.Module:
    """Build the network on the CPU in float32; `generator` decides its initial weights and nothing else is drawn from.

    input_shape: the shape of one example, (columns,) or (channels, height, width).
    outputs: classes, or 1 for a number.
    cardinalities: slots of the categorical columns, which are the last ones and hold slot numbers.
    Initial weights that look at data (data_dependent, lsuv) are finished by `adapt_model`.
    Raises InputError when the network cannot take such examples, ValueError when an "auto" is left in the settings.
    """
    model = lay_out_model(settings, input_shape, outputs, cardinalities)
    _allocate(model)
    initialise(
        model,
        BASES.get(settings.init, settings.init),
        generator=generator,
        activation=settings.activation,
        gain="auto" if settings.init in BASES else settings.init_gain,
        fan_mode=settings.init_fan_mode,
        distribution=settings.init_distribution,
    )
    return model


def adapt_model(settings: MLPSettings | ConvNetSettings, model: nn.Module, batch: Tensor) -> None:
    """Finish initial weights that look at data (data_dependent, lsuv) by a batch of inputs; nothing for the others."""
    adapt_to_data(model, settings.init, batch, gain=settings.init_gain, leave=output_layer(model))


def looks_at_data(settings: MLPSettings | ConvNetSettings) -> bool:
    """Say whether the initial weights need `adapt_model`."""
    return settings.init in BASES


def lay_out_model(
    settings: MLPSettings | ConvNetSettings,
    input_shape: tuple[int, ...],
    outputs: int,
    cardinalities: tuple[int, ...] = (),
) -> MLP | ConvNet:
    """Return the network of `build_model` on the meta device: names and shapes, but no memory and no weights yet."""
    if outputs < 1 or not input_shape or min(input_shape) < 1:
        raise InputError(
            f"a network from examples of shape {input_shape} to {outputs} outputs has nothing to learn from. "
            "Give at least one input column and one output."
        )
    with torch.device("meta"):
        if isinstance(settings, MLPSettings):
            return _build_mlp(settings, input_shape, outputs, cardinalities)
        return _build_convnet(settings, input_shape, outputs, cardinalities)


def _allocate(model: nn.Module) -> None:
    """Do what model.to_empty(device="cpu") does, which imports sympy (0.3 seconds) for a tensor on "meta"."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def _build_mlp(
    settings: MLPSettings, input_shape: tuple[int, ...], outputs: int, cardinalities: tuple[int, ...]
) -> MLP | ConvNet:
    if settings.widths == "auto" or settings.dropout == "auto":
        raise ValueError("model.widths and model.dropout must be resolved before the network is built")
    return MLP(
        math.prod(input_shape),
        settings.widths,
        outputs,
        activation=settings.activation,
        norm=settings.norm,
        dropout=settings.dropout,
        dropout_form=settings.dropout_form,
        maxout_pieces=settings.maxout_pieces,
        cardinalities=cardinalities,
    )


def _build_convnet(
    settings: ConvNetSettings, input_shape: tuple[int, ...], outputs: int, cardinalities: tuple[int, ...]
) -> MLP | ConvNet:
    if len(input_shape) != 3 or cardinalities:
        raise InputError(
            f"model.name = {settings.name!r} needs pictures (channels, height, width), but an example here has shape "
            f'{input_shape}. Use model.name = "mlp" for tables.'
        )
    channels, height, width = input_shape
    return ConvNet(
        (channels, height, width),
        settings.channels,
        settings.hidden,
        outputs,
        activation=settings.activation,
        norm=settings.norm,
        dropout=settings.dropout,
        dropout_form=settings.dropout_form,
        spatial_dropout=settings.spatial_dropout,
        maxout_pieces=settings.maxout_pieces,
    )
