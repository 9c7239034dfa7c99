"""How many inputs feed a unit, and how many units an input feeds: the numbers that initialisers divide by."""

import math
from typing import Final, Literal, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from caviar.core.errors import InputError, unknown_name

FanMode = Literal["fan_in", "fan_out", "fan_avg"]
FAN_MODES: Final = ("fan_in", "fan_out", "fan_avg")


class Fans(NamedTuple):
    """Fan in and fan out of a weight."""

    fan_in: int
    fan_out: int


def fan_in_and_fan_out(weight: Tensor | nn.Module, *, members: bool = False) -> Fans:
    """Return the fans of a weight (fan_out, fan_in, *window), or of a layer's weight.

    Linear: its two sizes. Convolution: the channels that one output sees (in / groups) times the window, and the
    channels that one input reaches (out / groups) times the window; a transposed one keeps its weight the other way
    round. A tensor knows no groups: give the layer. members: leave out the leading members axis.
    Raises InputError for a weight with fewer than two axes, or a layer without a weight.
    """
    if isinstance(weight, nn.Module):
        return _fans_of_layer(weight)
    shape = tuple(weight.shape[1:] if members else weight.shape)
    if len(shape) < 2:
        raise InputError(
            f"a weight of shape {tuple(weight.shape)} has no fan in and fan out; it needs two axes or more"
            f"{' after the members axis' if members else ''}: (fan_out, fan_in, ...)."
        )
    window = math.prod(shape[2:])
    return Fans(shape[1] * window, shape[0] * window)


def _fans_of_layer(layer: nn.Module) -> Fans:
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        raise InputError(f"{type(layer).__name__} has no weight to initialise. Give a linear layer or a convolution.")
    if isinstance(layer, _ConvNd):
        window = math.prod(layer.kernel_size)
        return Fans(layer.in_channels // layer.groups * window, layer.out_channels // layer.groups * window)
    return fan_in_and_fan_out(weight)


def fan_of(fans: Fans, mode: str) -> float:
    """Return the fan that an initialiser divides by: fan_in, fan_out, or the mean of both."""
    if mode not in FAN_MODES:
        raise unknown_name("fan mode", mode, FAN_MODES)
    return {"fan_in": fans.fan_in, "fan_out": fans.fan_out, "fan_avg": sum(fans) / 2}[mode]


def unit_axis(layer: nn.Module) -> int:
    """Return the axis of the layer's weight that counts its outputs: 0, or 1 for a transposed convolution."""
    return 1 if isinstance(layer, _ConvTransposeNd) else 0
