"""A picture sheet: what each augmentation does, drawn a few times on given pictures."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from caviar.augment.boxes import random_erasing
from caviar.augment.colour import random_colour
from caviar.augment.geometry import draw_geometry, warp
from caviar.augment.mixing import cutmix, mixup
from caviar.augment.pictures import check_pictures, like
from caviar.augment.pipeline import build_augment
from caviar.augment.settings import AUGMENTATIONS, AugmentSettings
from caviar.augment.views import ten_crop
from caviar.augment.windows import random_crop, random_flip
from caviar.core.errors import InputError

Row = Callable[[Tensor, torch.Generator], Tensor]

LABEL_WIDTH = 190
GAP = 6
LEAST_SIDE = 96


def _warp(**limits: Any) -> Row:
    return lambda pictures, generator: warp(pictures, draw_geometry(pictures, generator, **limits))


def _colour(**limits: float) -> Row:
    return lambda pictures, generator: random_colour(pictures, generator, **limits)


def _labels(pictures: Tensor) -> Tensor:
    return torch.zeros(len(pictures), device=pictures.device)


def _ten(pictures: Tensor, _: torch.Generator) -> Tensor:
    height, width = pictures.shape[2:]
    size = (max(1, height * 7 // 8), max(1, width * 7 // 8))
    views = torch.cat(ten_crop(pictures[:1], size))[: len(pictures)]
    frame = pictures.new_zeros((len(views), pictures.shape[1], height, width))
    frame[:, :, : size[0], : size[1]] = views
    return frame


ROWS: dict[str, Row] = {
    "as they are": lambda pictures, _: pictures,
    "flip": lambda pictures, generator: random_flip(pictures, generator),
    "crop_padding (1/8)": lambda pictures, generator: random_crop(
        pictures, generator, padding=max(1, min(pictures.shape[2:]) // 8)
    ),
    "scale_crop 1 to 2": _warp(zoom=(1, 2)),
    "translate 0.2": _warp(translate=0.2),
    "rotate 30": _warp(rotate=30),
    "stretch 1.5": _warp(stretch=1.5),
    "shear 25": _warp(shear=25),
    "lens 0.3": _warp(lens=0.3),
    "perspective 0.4": _warp(perspective=0.4),
    "brightness 0.5": _colour(brightness=0.5),
    "contrast 0.7": _colour(contrast=0.7),
    "saturation 0.9": _colour(saturation=0.9),
    "hue 0.3": _colour(hue=0.3),
    "erase 1": lambda pictures, generator: random_erasing(pictures, generator, 1.0),
    "mixup 1": lambda pictures, generator: mixup(pictures, _labels(pictures), generator, 1.0)[0],
    "cutmix 1": lambda pictures, generator: cutmix(pictures, _labels(pictures), generator, 1.0)[0],
    "ten crops (test time)": _ten,
}
"""The rows of a sheet: label -> function of pictures and a generator."""


def rows_for(settings: AugmentSettings) -> dict[str, Row]:
    """Return the rows that show what `settings` do: the pictures, each augmentation alone, all of them together.

    Where nothing is asked for: the rows for everything there is (`ROWS`).
    """
    plain = AugmentSettings(fill=settings.fill)
    active = [name for name in AUGMENTATIONS if getattr(settings, name) != getattr(plain, name)]
    if not active:
        return ROWS
    alone = {_label(settings, name): plain.model_copy(update={name: getattr(settings, name)}) for name in active}
    together = {"all together": settings} if len(active) > 1 else {}
    return {"as they are": ROWS["as they are"]} | {label: _row(kept) for label, kept in (alone | together).items()}


def _label(settings: AugmentSettings, name: str) -> str:
    value = getattr(settings, name)
    return f"{name} {' to '.join(f'{each:g}' for each in value) if isinstance(value, tuple) else f'{value:g}'}"


def _row(settings: AugmentSettings) -> Row:
    batch = build_augment(settings)
    return lambda pictures, generator: batch(pictures, _labels(pictures), generator)[0]


def picture_sheet(
    pictures: Tensor,
    path: str | Path,
    *,
    columns: int = 10,
    seed: int = 0,
    rows: Mapping[str, Row] = ROWS,
) -> Path:
    """Write a sheet with a row for each augmentation, labelled, and return its path.

    Args:
        pictures: (n, channels, height, width), uint8 or floating from 0 to 1, one or three channels. The first
            `columns` are shown, from the first again where there are fewer.
        path: where the picture file goes; its ending says the format (.png).
        columns: pictures in a row.
        seed: the draws follow it.
        rows: label -> function of pictures and a generator; every augmentation there is, or see `rows_for`.

    Raises:
        InputError: there are no pictures, they have other channels, or the file cannot be written.
    """
    check_pictures(pictures)
    if not len(pictures) or pictures.shape[1] not in (1, 3) or columns < 1:
        raise InputError(
            f"a sheet of {columns} columns from pictures of shape {tuple(pictures.shape)} cannot be made: at least one "
            "column and one picture of one or three channels are needed."
        )
    shown = pictures[torch.arange(columns) % len(pictures)]
    drawn = {label: row(shown, torch.Generator().manual_seed(seed)) for label, row in rows.items()}
    sheet = _sheet(drawn, columns, tuple(shown.shape[2:]))
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: the sheet cannot be written ({error}).") from error
    return Path(path)


def _sheet(rows: dict[str, Tensor], columns: int, size: tuple[int, ...]) -> Image.Image:
    factor = max(1, -(-LEAST_SIDE // max(size)))
    height, width = size[0] * factor + GAP, size[1] * factor + GAP
    sheet = Image.new("RGB", (LABEL_WIDTH + columns * width, len(rows) * height + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (label, pictures) in enumerate(rows.items()):
        top = GAP + number * height
        pen.text((GAP, top + height // 2 - 10), label, fill="black", font_size=16)
        for column, pixels in enumerate(_pixels(pictures)):
            tile = Image.fromarray(pixels).resize((width - GAP, height - GAP), Image.Resampling.NEAREST)
            sheet.paste(tile, (LABEL_WIDTH + column * width, top))
    return sheet


def _pixels(pictures: Tensor) -> NDArray[np.uint8]:
    values = pictures.detach().float().cpu()
    values = values / 255 if pictures.dtype == torch.uint8 else values
    found: NDArray[np.uint8] = like(values, torch.empty(0, dtype=torch.uint8)).permute(0, 2, 3, 1).numpy()
    return np.repeat(found, 3, axis=3) if found.shape[3] == 1 else found
