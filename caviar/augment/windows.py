"""Flips and crops: whole pixels moved, in one gather of rows and one of columns, without a loop over pictures."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from caviar.augment.pictures import check_number, check_pictures, chosen, each
from caviar.core.errors import InputError, unknown_name

Fill = Literal["zero", "edge", "reflect"]
FILLS = ("zero", "edge", "reflect")


def flip(pictures: Tensor, which: Tensor) -> Tensor:
    """Mirror the pictures for which `which` (n,) bool is true, left to right."""
    check_pictures(pictures)
    return torch.where(each(which), pictures.flip(3), pictures)


def random_flip(pictures: Tensor, generator: torch.Generator, probability: float = 0.5) -> Tensor:
    """Mirror each picture left to right with the given probability (0 to 1).

    When: left and right mean nothing (animals, scenes); never for text or digits.
    """
    check_number("probability", probability, 0, 1)
    check_pictures(pictures)
    return flip(pictures, chosen(pictures, generator, probability))


def crop(
    pictures: Tensor,
    top: Tensor,
    left: Tensor,
    size: tuple[int, int],
    *,
    padding: int = 0,
    fill: Fill = "zero",
    mirror: Tensor | None = None,
) -> Tensor:
    """Cut a window of `size` (height, width) out of each picture, padded on every side.

    Args:
        pictures: (n, channels, height, width).
        top, left: (n,) whole numbers: the window's corner in the padded picture.
        size: height and width of the window, at most that of the padded picture.
        padding: pixels added on every side.
        fill: what is added: "zero", "edge" (the last pixel) or "reflect" (the mirror image without the last pixel).
        mirror: (n,) bool, windows to mirror left to right on the way, at no cost.
    """
    check_pictures(pictures)
    _check_window(pictures, size, padding, fill)
    lines, group = _lines(pictures)
    parts = pictures.shape[1] // group
    top, left = (place.to(pictures.device, torch.int64).repeat_interleave(parts) for place in (top, left))
    mirror = None if mirror is None else mirror.repeat_interleave(parts)
    if fill == "zero" and padding:
        lines = functional.pad(lines, (padding * group, padding * group, padding, padding))
    rows, columns = _places(top, size[0], None), _places(left, size[1], mirror)
    if fill != "zero" and padding:
        rows, columns = (
            _inside(places - padding, length, fill)
            for places, length in ((rows, pictures.shape[2]), (columns, pictures.shape[3]))
        )
    return _put_back(_gather(lines, rows, columns, group), pictures, size)


def random_crop(
    pictures: Tensor, generator: torch.Generator, size: tuple[int, int] | None = None, *, padding: int = 0,
    fill: Fill = "zero", flip_probability: float = 0.0,
) -> Tensor:  # fmt: skip
    """Cut a window out of each picture at a random place, each as likely; see `crop`.

    `size` is the pictures' own when None. With `flip_probability` windows are mirrored in the same go. When: nearly
    always; padding 4 for 32 x 32 pictures (He et al. 2016, section 4.2).
    """
    check_number("flip_probability", flip_probability, 0, 1)
    check_pictures(pictures)
    height, width = size = size if size is not None else (pictures.shape[2], pictures.shape[3])
    _check_window(pictures, size, padding, fill)
    room = (pictures.shape[2] + 2 * padding - height + 1, pictures.shape[3] + 2 * padding - width + 1)
    shape, device = (len(pictures),), generator.device
    top, left = (torch.randint(0, most, shape, generator=generator, device=device) for most in room)
    mirror = chosen(pictures, generator, flip_probability) if flip_probability else None
    return crop(pictures, top, left, size, padding=padding, fill=fill, mirror=mirror)


def _check_window(pictures: Tensor, size: tuple[int, int], padding: int, fill: str) -> None:
    if fill not in FILLS:
        raise unknown_name("fill", str(fill), FILLS)
    if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
        raise InputError(f"padding is {padding!r}; it must be a whole number of pixels from 0.")
    height, width = pictures.shape[2:]
    if fill == "reflect" and padding >= min(height, width):
        raise InputError(
            f"padding is {padding}, but pictures of {height} x {width} can be mirrored by at most "
            f'{min(height, width) - 1} pixels. Use less, or fill "edge".'
        )
    if not (1 <= size[0] <= height + 2 * padding and 1 <= size[1] <= width + 2 * padding):
        raise InputError(
            f"size is {tuple(size)}, but padded pictures are {height + 2 * padding} x {width + 2 * padding}; a window "
            "must fit into them."
        )


def _lines(pictures: Tensor) -> tuple[Tensor, int]:
    """View pictures as (m, height, width * group): group numbers side by side make a pixel; channels last or first."""
    count, channels, height, width = pictures.shape
    last = pictures.permute(0, 2, 3, 1)
    if last.is_contiguous():
        return last.reshape(count, height, width * channels), channels
    return pictures.reshape(count * channels, height, width), 1


def _put_back(lines: Tensor, pictures: Tensor, size: tuple[int, int]) -> Tensor:
    count, channels = pictures.shape[:2]
    if pictures.permute(0, 2, 3, 1).is_contiguous():
        return lines.view(count, *size, channels).permute(0, 3, 1, 2)
    return lines.view(count, channels, *size)


def _places(start: Tensor, length: int, mirror: Tensor | None) -> Tensor:
    """Row or column numbers (m, length) of windows that begin at `start`, mirrored where asked."""
    steps = torch.arange(length, device=start.device)
    if mirror is None:
        return start[:, None] + steps
    return start[:, None] + torch.where(mirror[:, None], length - 1 - steps, steps)


def _inside(places: Tensor, length: int, fill: Fill) -> Tensor:
    """Bring places beyond 0 to length - 1 back inside."""
    if fill == "edge":
        return places.clamp(0, length - 1)
    return length - 1 - (length - 1 - places.abs()).abs()


def _gather(lines: Tensor, rows: Tensor, columns: Tensor, group: int) -> Tensor:
    """Return lines (m, rows, columns * group); whole rows are copied first, then columns picked."""
    count, height, width = lines.shape
    first = torch.arange(count, device=lines.device)[:, None] * height
    kept = lines.reshape(count * height, width).index_select(0, (first + rows).flatten())
    places = (columns[:, :, None] * group + torch.arange(group, device=lines.device)).flatten(1)
    return kept.view(count, rows.shape[1], width).gather(2, places[:, None, :].expand(-1, rows.shape[1], -1))
