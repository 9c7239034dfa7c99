"""Brightness, contrast, saturation and hue: one affine map of the colours of each picture."""

import math

import torch
from torch import Tensor

from caviar.augment.pictures import check_number, check_pictures, draw, each, like, to_unit

LUMA = (0.299, 0.587, 0.114)
"""What red, green and blue count for in grey (ITU-R BT.601, as Pillow)."""
# RGB to YIQ: grey, then two directions of colour in which grey is 0.
_YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


def adjust_colour(
    pictures: Tensor,
    brightness: Tensor | None = None,
    contrast: Tensor | None = None,
    saturation: Tensor | None = None,
    hue: Tensor | None = None,
) -> Tensor:
    """Change the colours of each picture; parameters are (n,), None for no change.

    In this order, with grey(p) = 0.299 r + 0.587 g + 0.114 b and m the picture's mean grey:

        brightness b: b p,   contrast c: m + c (p - m),   saturation s: grey(p) + s (p - grey(p)),

    and hue h: the colour turned by h of a full circle about grey in YIQ, which keeps grey(p). All of it is one matrix
    and one offset a picture; what leaves [0, 1] is cut off at the end. Pictures with other than three channels have
    brightness and contrast only (grey is then the mean of the channels).
    """
    check_pictures(pictures)
    values = to_unit(pictures)
    count, channels = values.shape[:2]
    one = values.new_ones(count)
    bright, strong = (one if given is None else given.to(values) for given in (brightness, contrast))
    if contrast is not None:
        weights = values.new_tensor(LUMA if channels == 3 else [1 / channels] * channels)
        grey = (values.mean(dim=(2, 3)) * weights).sum(dim=1)
        offset = (1 - strong) * bright * grey
    else:
        offset = one * 0
    if channels == 3 and (saturation is not None or hue is not None):
        matrix = _matrix(values, saturation, hue) * (bright * strong).view(-1, 1, 1)
        values = torch.baddbmm(offset.view(-1, 1, 1), matrix, values.flatten(2)).view(values.shape)
    else:
        values = values * each(bright * strong) + each(offset)
    return like(values, pictures)


def _matrix(values: Tensor, saturation: Tensor | None, hue: Tensor | None) -> Tensor:
    """Return the (n, 3, 3) matrices of saturation and then hue."""
    count = len(values)
    found = torch.eye(3, dtype=values.dtype, device=values.device).expand(count, 3, 3)
    if saturation is not None:
        share = saturation.to(values).view(-1, 1, 1)
        grey = values.new_tensor([LUMA] * 3)
        found = share * found + (1 - share) * grey
    if hue is not None:
        angle = hue.to(values) * (2 * math.pi)
        turn = values.new_zeros(count, 3, 3)
        turn[:, 0, 0] = 1
        turn[:, 1, 1] = turn[:, 2, 2] = torch.cos(angle)
        turn[:, 2, 1] = torch.sin(angle)
        turn[:, 1, 2] = -turn[:, 2, 1]
        yiq = torch.tensor(_YIQ, dtype=torch.float64)
        there, back = yiq.to(values), torch.linalg.inv(yiq).to(values)
        found = back @ turn @ there @ found
    return found


def random_colour(
    pictures: Tensor,
    generator: torch.Generator,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> Tensor:
    """Change each picture's colours at random (colour jitter); see `adjust_colour`.

    brightness, contrast, saturation: factors come evenly from 1 - value to 1 + value (0 to 1). hue: turned by up to
    this part of the circle either way (0 to 0.5). When: light and cameras differ; not where colour is what is asked.
    """
    check_pictures(pictures)
    for name, limit in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
        check_number(name, limit, 0, 1)
    check_number("hue", hue, 0, 0.5)

    def around(centre: float, limit: float) -> Tensor | None:
        return draw(pictures, generator, centre - limit, centre + limit) if limit else None

    return adjust_colour(pictures, around(1, brightness), around(1, contrast), around(1, saturation), around(0, hue))
