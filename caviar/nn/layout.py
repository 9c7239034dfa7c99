"""Small questions about a network's layers, and the memory layout that suits its convolutions."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from caviar.core.errors import InputError
from caviar.nn.probe import probe


def has_batch_norm(model: nn.Module) -> bool:
    """Say whether the model normalises over the batch, so that a training batch of one example cannot work."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def has_convolutions(model: nn.Module) -> bool:
    """Say whether the model convolves, over one, two or three axes."""
    return any(isinstance(module, _ConvNd) for module in model.modules())


def use_channels_last(model: nn.Module, example: Tensor) -> bool:
    """Lay two-dimensional convolutions out channels last where that works, and say whether it was done.

    The values stay as they are; convolutions, norms and pools run faster with the channels of a pixel side by side.
    A model whose forward rests on the usual layout (`view` after a convolution is the common case) is left in it:
    both its modes are tried on `example`, a batch of at least two pictures. Parameters keep their identity.
    """
    if example.dim() != 4 or not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return False
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        for training in (False, True):
            probe(model, example.contiguous(memory_format=torch.channels_last), training=training)
    except InputError:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return False
    return True
