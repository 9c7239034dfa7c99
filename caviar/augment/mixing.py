"""Mixup and CutMix: pictures in pairs, and labels that are then partly one class and partly another.

Labels are soft: a float tensor whose rows mix linearly, (n, classes) for classes (`soft_labels` makes it of class
numbers) or (n,) for numbers. `torch.nn.functional.cross_entropy` takes soft labels as they are, and its value is the
mix of the losses for both labels.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from caviar.augment.boxes import box_mask
from caviar.augment.pictures import check_pictures, draw, each, like, to_unit
from caviar.core.errors import InputError


def soft_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Turn class numbers (n,) into float32 (n, num_classes) with a 1 at the class."""
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if low < 0 or high >= num_classes:
        raise InputError(
            f"labels go from {low} to {high}; with {num_classes} classes they must be from 0 to {num_classes - 1}."
        )
    return functional.one_hot(labels.to(torch.int64), num_classes).to(torch.float32)


def mixup(pictures: Tensor, labels: Tensor, generator: torch.Generator, alpha: float = 0.2) -> tuple[Tensor, Tensor]:
    """Blend each picture and its label with those of a partner from the batch (Zhang et al. 2018).

    x = share x_a + (1 - share) x_b and y likewise, with share ~ Beta(alpha, alpha) for each picture and partners from
    one random permutation of the batch. alpha: 0.1 to 0.4 is usual; greater mixes more. When: small data, noisy labels.

    Returns:
        pictures of their own type, and soft labels (n, ...).
    """
    check_pictures(pictures)
    partner, share = _pairs(pictures, labels, generator, alpha)
    values = to_unit(pictures)
    mixed = torch.lerp(values.index_select(0, partner), values, each(share).to(values.dtype))
    return like(mixed, pictures), _mixed(labels, partner, share)


def cutmix(pictures: Tensor, labels: Tensor, generator: torch.Generator, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    """Paste a rectangle of a partner into each picture, and mix labels by area (Yun et al. 2019).

    With share ~ Beta(alpha, alpha) the rectangle's sides are sqrt(1 - share) of the picture's, its centre lies
    anywhere, and what would stand out is cut off; labels are then mixed by the pixels that are really shown. alpha: 1
    is usual. When: classification from plenty of epochs; it works against memorising.

    Returns:
        pictures of their own type, and soft labels (n, ...).
    """
    check_pictures(pictures)
    partner, share = _pairs(pictures, labels, generator, alpha)
    height, width = pictures.shape[2:]
    side = torch.sqrt(1 - share)
    tall, wide = (side * height).round(), (side * width).round()
    top = (draw(pictures, generator, 0, 1) * height - tall / 2).round()
    left = (draw(pictures, generator, 0, 1) * width - wide / 2).round()
    inside = box_mask(top, left, tall, wide, (height, width))
    kept = 1 - inside.sum(dim=(1, 2, 3)) / (height * width)
    return torch.where(inside, pictures.index_select(0, partner), pictures), _mixed(labels, partner, kept)


def _pairs(pictures: Tensor, labels: Tensor, generator: torch.Generator, alpha: float) -> tuple[Tensor, Tensor]:
    if not labels.is_floating_point() or len(labels) != len(pictures):
        raise InputError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}; mixing needs one floating-point row for each "
            f"of {len(pictures)} pictures. Make them of class numbers by soft_labels(labels, num_classes)."
        )
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not (math.isfinite(alpha) and alpha > 0):
        raise InputError(f"alpha is {alpha!r}; it must be a number greater than 0.")
    device = generator.device
    partner = torch.randperm(len(pictures), generator=generator, device=device)
    seed = int(torch.randint(2**62, (), generator=generator, device=device))  # torch's Beta takes no generator
    share = torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, len(pictures)).astype(np.float32))
    return partner.to(pictures.device), share.to(pictures.device)


def _mixed(labels: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    weight = share.to(labels.dtype).view(-1, *[1] * (labels.dim() - 1))
    return weight * labels + (1 - weight) * labels.index_select(0, partner)
