"""Moving, turning, stretching, shearing, lens distortion, perspective, scale and crop: all in one resampling.

A picture's points are counted in pixels from its centre, x to the right and y down, with R half its diagonal. For each
point u of the result the point of the picture that is shown there is

    v = (u + offset) / zoom - shift,   w = v / (1 + tilt . v / R),   s = A^-1 w,   source = s (1 + lens |s|^2 / R^2),

with A = rotation x shear x stretch; the picture is read there by bilinear interpolation (`grid_sample`). Parts that are
not asked for are not computed.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from caviar.augment.pictures import check_number, check_pictures, check_range, draw, like, to_unit
from caviar.augment.windows import FILLS, Fill
from caviar.core.errors import InputError, unknown_name

PADDING_MODES = {"zero": "zeros", "edge": "border", "reflect": "reflection"}


class Geometry(NamedTuple):
    """What happens to each picture: one number a picture, (n,) each, or None for nothing.

    shift_x, shift_y: pixels to the right and down. angle: degrees, counter-clockwise. stretch_x, stretch_y: factors of
    width and height. shear_x, shear_y: degrees. lens: above 0 barrel, below 0 pincushion, more than -1/3. tilt_x,
    tilt_y: perspective; above 0 the right (lower) part is nearer, |tilt_x| + |tilt_y| below 1. zoom: enlargement, with
    the window's centre at (offset_x, offset_y) pixels of the enlarged picture.
    """

    shift_x: Tensor | None = None
    shift_y: Tensor | None = None
    angle: Tensor | None = None
    stretch_x: Tensor | None = None
    stretch_y: Tensor | None = None
    shear_x: Tensor | None = None
    shear_y: Tensor | None = None
    lens: Tensor | None = None
    tilt_x: Tensor | None = None
    tilt_y: Tensor | None = None
    zoom: Tensor | None = None
    offset_x: Tensor | None = None
    offset_y: Tensor | None = None


def warp(pictures: Tensor, geometry: Geometry, *, size: tuple[int, int] | None = None, fill: Fill = "zero") -> Tensor:
    """Return the pictures (n, channels, height, width) changed as `geometry` says, of `size` (None: their own).

    Identity parameters give the picture back (bytes exactly, floats within 1e-5). Shrinking below half size aliases.
    """
    check_pictures(pictures)
    if fill not in FILLS:
        raise unknown_name("fill", str(fill), FILLS)
    height, width = pictures.shape[2:]
    values = to_unit(pictures)
    if not len(pictures):
        return pictures.new_empty((0, pictures.shape[1], *(size or (height, width))))
    grid = _grid(geometry, len(pictures), size or (height, width), (height, width), values)
    mode = PADDING_MODES[fill]
    found = functional.grid_sample(values, grid, mode="bilinear", padding_mode=mode, align_corners=False)
    return like(found, pictures)


def _grid(geometry: Geometry, count: int, size: tuple[int, int], of: tuple[int, int], values: Tensor) -> Tensor:
    """Return the points that a result of `size` shows of pictures `of` a size, (n, *size, 2), borders at -1 and 1.

    Up to the lens, x and y are quotients of functions that are linear in the result's row and column; each is a sum of
    one number a row and one a column.
    """
    part = Geometry(*(None if value is None else value.to(values).view(count) for value in geometry))
    zero, one = values.new_zeros(count), values.new_ones(count)
    radius = math.hypot(*of) / 2
    scale = one if part.zoom is None else 1 / part.zoom
    start = [
        _or(offset, zero) * scale - _or(shift, zero)
        for offset, shift in ((part.offset_x, part.shift_x), (part.offset_y, part.shift_y))
    ]
    steps = [torch.arange(n, dtype=values.dtype, device=values.device) - (n - 1) / 2 for n in size]

    def plane(by_x: Tensor, by_y: Tensor, constant: Tensor | int = 0) -> Tensor:
        """by_x v_x + by_y v_y + constant at every place of the result."""
        fixed = (by_x * start[0] + by_y * start[1] + constant).view(-1, 1, 1)
        along_rows = (by_y * scale).view(-1, 1, 1) * steps[0].view(1, -1, 1) + fixed
        return along_rows + (by_x * scale).view(-1, 1, 1) * steps[1]

    unit = 2 / of[1], 2 / of[0]
    straight = part.lens is None
    x, y = (plane(*(by * unit[axis] if straight else by for by in row)) for axis, row in enumerate(_inverse(part, one)))
    if part.tilt_x is not None or part.tilt_y is not None:
        depth = plane(_or(part.tilt_x, zero) / radius, _or(part.tilt_y, zero) / radius, 1)
        x, y = x / depth, y / depth
    if part.lens is not None:
        grown = 1 + (part.lens / radius**2).view(-1, 1, 1) * (x * x + y * y)
        x, y = x * grown * unit[0], y * grown * unit[1]
    return torch.stack([x, y], dim=3)


def _or(given: Tensor | None, default: Tensor) -> Tensor:
    return default if given is None else given


def _inverse(part: Geometry, one: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the rows of A^-1 = stretch^-1 x shear^-1 x rotation^-1, each entry (n,)."""
    angle = torch.deg2rad(_or(part.angle, 0 * one))
    cos, sin = torch.cos(angle), torch.sin(angle)
    slant_x, slant_y = (torch.tan(torch.deg2rad(_or(shear, 0 * one))) for shear in (part.shear_x, part.shear_y))
    area = 1 - slant_x * slant_y
    first, second = 1 / (area * _or(part.stretch_x, one)), 1 / (area * _or(part.stretch_y, one))
    return (
        ((cos - slant_x * sin) * first, (-sin - slant_x * cos) * first),
        ((sin - slant_y * cos) * second, (cos + slant_y * sin) * second),
    )


# --- drawn at random


def draw_geometry(
    pictures: Tensor,
    generator: torch.Generator,
    *,
    translate: float = 0.0,
    rotate: float = 0.0,
    stretch: float = 1.0,
    shear: float = 0.0,
    lens: float = 0.0,
    perspective: float = 0.0,
    zoom: tuple[float, float] | None = None,
) -> Geometry:
    """Draw what happens to each picture, evenly within the limits (stretch and zoom evenly in the logarithm).

    translate: share of width and height (0 to 1). rotate: degrees (0 to 180). stretch: largest factor (1 to 4).
    shear: degrees (0 to below 45). lens: 0 to 0.3. perspective: 0 to 0.4. zoom: lowest and highest, at least 1; then a
    window of the picture's size lies anywhere within the enlarged picture.
    """
    check_pictures(pictures)
    _check_limits(translate, rotate, stretch, shear, lens, perspective)
    height, width = pictures.shape[2:]

    def within(limit: float) -> Tensor | None:
        return draw(pictures, generator, -limit, limit) if limit else None

    def factor() -> Tensor | None:
        return torch.exp(draw(pictures, generator, -math.log(stretch), math.log(stretch))) if stretch > 1 else None

    found = Geometry(
        within(translate * width), within(translate * height), within(rotate), factor(), factor(), within(shear),
        within(shear), within(lens), within(perspective), within(perspective),
    )  # fmt: skip
    if zoom is None:
        return found
    check_range("zoom", zoom, 1, 100)
    return _zoomed(found, pictures, generator, zoom, (height, width))


def _zoomed(
    geometry: Geometry, pictures: Tensor, generator: torch.Generator, zoom: tuple[float, float], size: tuple[int, int]
) -> Geometry:
    """Add an enlargement, and the place of a window of `size` anywhere within the enlarged picture."""
    factor = torch.exp(draw(pictures, generator, math.log(zoom[0]), math.log(zoom[1])))
    height, width = pictures.shape[2:]
    room_x, room_y = ((factor * a - b).clamp(min=0) / 2 for a, b in ((width, size[1]), (height, size[0])))
    x, y = (draw(pictures, generator, -1, 1) * room for room in (room_x, room_y))
    return geometry._replace(zoom=factor, offset_x=x, offset_y=y)


def _check_limits(
    translate: float, rotate: float, stretch: float, shear: float, lens: float, perspective: float
) -> None:
    check_number("translate", translate, 0, 1)
    check_number("rotate", rotate, 0, 180)
    check_number("stretch", stretch, 1, 4)
    check_number("shear", shear, 0, 44.9)
    check_number("lens", lens, 0, 0.3)
    check_number("perspective", perspective, 0, 0.4)


def random_translation(pictures: Tensor, generator: torch.Generator, share: float = 0.1, fill: Fill = "zero") -> Tensor:
    """Move each picture by up to `share` of its width and height (0 to 1). When: the object's place means nothing."""
    check_number("share", share, 0, 1)
    return warp(pictures, draw_geometry(pictures, generator, translate=share), fill=fill)


def random_rotation(pictures: Tensor, generator: torch.Generator, degrees: float = 15, fill: Fill = "zero") -> Tensor:
    """Turn each picture about its centre by up to `degrees` either way (0 to 180).

    When: cameras are held askew (10 to 20); 180, any angle, where there is no above, as in microscopy and from the air.
    """
    check_number("degrees", degrees, 0, 180)
    return warp(pictures, draw_geometry(pictures, generator, rotate=degrees), fill=fill)


def random_stretch(pictures: Tensor, generator: torch.Generator, factor: float = 1.2, fill: Fill = "zero") -> Tensor:
    """Multiply width and height of what is shown, each by a factor from 1 / factor to factor (1 to 4).

    When: things come in many proportions, or were photographed at an angle.
    """
    check_number("factor", factor, 1, 4)
    return warp(pictures, draw_geometry(pictures, generator, stretch=factor), fill=fill)


def random_shear(pictures: Tensor, generator: torch.Generator, degrees: float = 10, fill: Fill = "zero") -> Tensor:
    """Slant each picture by up to `degrees` (0 to 44.9) either way, horizontally and vertically.

    When: handwriting, above all.
    """
    check_number("degrees", degrees, 0, 44.9)
    return warp(pictures, draw_geometry(pictures, generator, shear=degrees), fill=fill)


def random_lens(pictures: Tensor, generator: torch.Generator, strength: float = 0.2, fill: Fill = "zero") -> Tensor:
    """Distort each picture as a lens does, between barrel (k = strength) and pincushion (k = -strength).

    A point of the result at distance r from the centre (1 at the corners) shows the picture at r (1 + k r^2), the first
    term of Brown's model (1966). strength: 0 to 0.3. When: pictures come from several cameras, or wide-angle ones.
    """
    check_number("strength", strength, 0, 0.3)
    return warp(pictures, draw_geometry(pictures, generator, lens=strength), fill=fill)


def random_perspective(pictures: Tensor, generator: torch.Generator, tilt: float = 0.3, fill: Fill = "zero") -> Tensor:
    """Show each picture as a plane tilted towards the viewer: u maps to u / (1 + tilt . u), with 1 at the corners.

    tilt: 0 to 0.4. When: flat things seen from many sides: signs, pages, fronts of houses.
    """
    check_number("tilt", tilt, 0, 0.4)
    return warp(pictures, draw_geometry(pictures, generator, perspective=tilt), fill=fill)


def random_scale_crop(
    pictures: Tensor, generator: torch.Generator, short_side: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Scale each picture to a short side drawn from a range, then cut out a window at a random place.

    The ResNet way (He et al. 2016, after Simonyan and Zisserman 2015): short_side (256, 480), size (224, 224). The
    aspect stays. Every window must fit: short_side is at least the longer side of `size`. When: photographs in which
    the object's size differs; the usual augmentation for large ones.
    """
    check_pictures(pictures)
    check_range("short_side", short_side, max(size), 1 << 20)
    if min(size) < 1:
        raise InputError(f"size is {tuple(size)}; height and width must be at least 1.")
    shorter = min(pictures.shape[2:])
    zoom = (short_side[0] / shorter, short_side[1] / shorter)
    return warp(pictures, _zoomed(Geometry(), pictures, generator, zoom, size), size=size, fill="edge")
