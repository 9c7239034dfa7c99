"""The small layers that our networks are laid out with, chosen by the words of the settings."""

from torch import nn

from caviar.core.errors import unknown_name
from caviar.nn.dropout import DropConnectLinear, Dropout

GROUPS = 8
PICTURE_NORMS = ("none", "batch", "layer", "instance", "group")
DROPOUT_FORMS = ("inverted", "classic", "alpha", "dropconnect")
CANCELLING = ("batch", "instance")
"""Norms that subtract each channel's own mean: a bias in front of them has no effect and is left out."""


def build_picture_norm(name: str, channels: int) -> nn.Module:
    """Return a norm for (batch, channels, height, width), with one learned scale and shift for each channel.

    batch: over examples and pixels (Ioffe and Szegedy, 2015). layer: over channels and pixels (Ba et al., 2016).
    instance: over pixels (Ulyanov et al., 2016). group: over pixels and the channels of a group (Wu and He, 2018);
    `num_groups` says how many. All of torch.nn.
    """
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    if name in ("layer", "group"):
        return nn.GroupNorm(1 if name == "layer" else num_groups(channels), channels)
    raise unknown_name("norm for pictures", name, PICTURE_NORMS)


def num_groups(channels: int) -> int:
    """Return the groups of a group norm: the largest divisor of `channels` up to 8 that leaves 2 channels a group."""
    return next(groups for groups in range(min(GROUPS, max(1, channels // 2)), 0, -1) if channels % groups == 0)


def build_dropout(form: str, rate: float) -> nn.Module | None:
    """Return the dropout layer for units, or None: at rate 0, and for dropconnect, which lives in the linear layer.

    alpha (Klambauer et al., 2017) keeps mean and variance of SELU's outputs: it sets units to SELU's lower limit.
    """
    if form not in DROPOUT_FORMS:
        raise unknown_name("form of dropout", form, DROPOUT_FORMS)
    if rate == 0 or form == "dropconnect":
        return None
    if form == "classic":
        return Dropout(rate, form="classic")
    return nn.AlphaDropout(rate) if form == "alpha" else nn.Dropout(rate)


def build_linear(num_inputs: int, num_outputs: int, form: str, rate: float, *, bias: bool = True) -> nn.Linear:
    """Return a linear layer, one that drops its weights where `form` is dropconnect."""
    if form == "dropconnect" and rate > 0:
        return DropConnectLinear(num_inputs, num_outputs, rate, bias=bias)
    return nn.Linear(num_inputs, num_outputs, bias=bias)
