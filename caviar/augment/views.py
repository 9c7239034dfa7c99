"""Test-time augmentation: several views of each picture, and the average of what is predicted for them."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional

from caviar.augment.pictures import check_number, check_pictures, like, to_unit
from caviar.core.errors import InputError


def flip_views(pictures: Tensor) -> list[Tensor]:
    """Return the pictures and their mirror images."""
    check_pictures(pictures)
    return [pictures, pictures.flip(3)]


def ten_crop(pictures: Tensor, size: tuple[int, int]) -> list[Tensor]:
    """Return ten views (n, channels, *size): four corners, the centre, and their mirror images (Krizhevsky 2012)."""
    check_pictures(pictures)
    height, width = pictures.shape[2:]
    tall, wide = size
    if not (1 <= tall <= height and 1 <= wide <= width):
        raise InputError(f"size is {tuple(size)}, but the pictures are {height} x {width}; a view must fit into them.")
    down, right = height - tall, width - wide
    corners = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
    views = [pictures[:, :, top : top + tall, left : left + wide] for top, left in corners]
    return views + [view.flip(3) for view in views]


def zoomed_ten_crop(pictures: Tensor, zoom: float = 1.125) -> list[Tensor]:
    """Return ten views of the pictures' own size, cut out of pictures enlarged by `zoom`: see `ten_crop`.

    zoom: greater than 1, at most 4; bilinear. When: for networks that take one size only and were trained on random
    crops, as by `scale_crop`. Raises InputError when zoom is out of range, or adds no pixel.
    """
    check_pictures(pictures)
    check_number("zoom", zoom, 1, 4)
    height, width = pictures.shape[2:]
    size = (round(height * zoom), round(width * zoom))
    if size == (height, width):
        raise InputError(f"zoom is {zoom}, which leaves pictures of {height} x {width} as they are. Use a larger one.")
    enlarged = functional.interpolate(to_unit(pictures), size=size, mode="bilinear", align_corners=False)
    return ten_crop(like(enlarged, pictures), (height, width))


def average_predictions(predict: Callable[[Tensor], Tensor], views: Iterable[Tensor]) -> Tensor:
    """Return the mean of `predict(view)` over the views: probabilities (n, classes), or values.

    For classes `predict` should return probabilities (softmax): a mean of those is what is usual. Without gradients.
    """
    with torch.no_grad():
        found = [predict(view) for view in views]
    if not found:
        raise InputError("there are no views to average over.")
    return torch.stack(found).mean(dim=0)
