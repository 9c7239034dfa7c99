"""Rectangles: random erasing of one, and where CutMix pastes one."""

import math
from typing import Literal

import torch
from torch import Tensor

from caviar.augment.pictures import check_number, check_pictures, check_range, chosen, draw, each, like, to_unit
from caviar.core.errors import unknown_name


def box_mask(top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (n, 1, height, width) bool: inside the box of each picture; parts beyond the picture do not count."""
    rows = torch.arange(size[0], device=top.device).view(1, -1, 1)
    columns = torch.arange(size[1], device=top.device).view(1, 1, -1)
    top, left, height, width = (value.view(-1, 1, 1) for value in (top, left, height, width))
    inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    return inside.unsqueeze(1)


def random_erasing(
    pictures: Tensor,
    generator: torch.Generator,
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.33),
    ratio: float = 3.3,
    fill: Literal["mean", "zero"] = "mean",
) -> Tensor:
    """Erase a random rectangle of each picture with the given probability (Zhong et al. 2020; Cutout, DeVries 2017).

    Args:
        pictures: (n, channels, height, width).
        generator: where the draws come from.
        probability: of a picture to lose a rectangle.
        area: its share of the picture, from and to (0 to 1).
        ratio: height to width lies between 1 / ratio and ratio, evenly in the logarithm (1 to 100). Sides are rounded
            to whole pixels and cut to the picture's.
        fill: "mean" (of each channel over the picture) or "zero".

    When: objects are often hidden in part; a mild regulariser for pictures of any kind.
    """
    check_pictures(pictures)
    check_number("probability", probability, 0, 1)
    check_range("area", area, 0, 1)
    check_number("ratio", ratio, 1, 100)
    if fill not in ("mean", "zero"):
        raise unknown_name("fill", str(fill), ("mean", "zero"))
    height, width = pictures.shape[2:]
    which = chosen(pictures, generator, probability)
    pixels = draw(pictures, generator, *area) * (height * width)
    aspect = torch.exp(draw(pictures, generator, -math.log(ratio), math.log(ratio)))
    tall = torch.sqrt(pixels * aspect).round().clamp(1, height)
    wide = torch.sqrt(pixels / aspect).round().clamp(1, width)
    top = (draw(pictures, generator, 0, 1) * (height - tall + 1)).floor().minimum(height - tall)
    left = (draw(pictures, generator, 0, 1) * (width - wide + 1)).floor().minimum(width - wide)
    inside = box_mask(top, left, tall, wide, (height, width)) & each(which)
    if fill == "zero":
        return pictures.masked_fill(inside, 0)
    mean = like(to_unit(pictures).mean(dim=(2, 3), keepdim=True), pictures)
    return torch.where(inside, mean, pictures)
