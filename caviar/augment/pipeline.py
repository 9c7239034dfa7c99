"""All augmentations of a recipe's section [augment], one after the other, on a batch."""

from collections.abc import Callable

import torch
from torch import Tensor

from caviar.augment.boxes import random_erasing
from caviar.augment.colour import random_colour
from caviar.augment.geometry import Geometry, draw_geometry, warp
from caviar.augment.mixing import cutmix, mixup, soft_labels
from caviar.augment.pictures import check_pictures, check_range, chosen, like, to_unit
from caviar.augment.settings import AugmentSettings
from caviar.augment.windows import random_crop, random_flip
from caviar.core.errors import InputError

Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""(pictures, labels, generator) -> (pictures, labels)."""


def is_none(settings: AugmentSettings) -> bool:
    """Whether nothing is asked for; `fill` and `geometry` do nothing by themselves."""
    empty = AugmentSettings(fill=settings.fill, geometry=settings.geometry)
    return settings == empty


def mixes_labels(settings: AugmentSettings) -> bool:
    """Whether labels become soft: mixup or CutMix is on."""
    return settings.mixup > 0 or settings.cutmix > 0


def check_settings(settings: AugmentSettings, height: int, width: int, channels: int = 3) -> None:
    """Raise an InputError for settings that do not fit pictures of this size, or that would do nothing to them."""
    if channels != 3 and (settings.saturation or settings.hue):
        raise InputError(
            "augment.saturation and augment.hue change colours, which need three channels, but the pictures have "
            f"{channels}. Set both to 0."
        )
    if settings.scale_crop != "none":
        check_range("augment.scale_crop", settings.scale_crop, 1, 100)
    if settings.fill == "reflect" and settings.crop_padding >= min(height, width):
        raise InputError(
            f"augment.crop_padding is {settings.crop_padding}, but pictures of {height} x {width} can be mirrored by "
            f'at most {min(height, width) - 1} pixels. Use less, or augment.fill = "edge".'
        )


def augment(pictures: Tensor, generator: torch.Generator, settings: AugmentSettings) -> Tensor:
    """Return the pictures (n, channels, height, width), uint8 or floating, changed at random as `settings` say.

    In this order: flip and crop; scale, translation, rotation, stretch, shear, lens, perspective in one resampling;
    colours; erasing. The draws depend on the generator's state and the settings only, and on each picture's place in
    the batch; what happens to one picture does not depend on the others' pixels.
    """
    check_pictures(pictures)
    if settings.crop_padding:
        pictures = random_crop(
            pictures, generator, padding=settings.crop_padding, fill=settings.fill, flip_probability=settings.flip
        )
    elif settings.flip:
        pictures = random_flip(pictures, generator, settings.flip)
    warps, colours = _warps(settings), _colours(settings)
    values = to_unit(pictures) if warps or colours else pictures
    if warps:
        values = _warped(values, generator, settings)
    if colours:
        values = random_colour(
            values,
            generator,
            brightness=settings.brightness,
            contrast=settings.contrast,
            saturation=settings.saturation,
            hue=settings.hue,
        )
    pictures = like(values, pictures) if warps or colours else values
    return random_erasing(pictures, generator, settings.erase) if settings.erase else pictures


def _warps(settings: AugmentSettings) -> bool:
    moves = settings.translate or settings.rotate or settings.shear or settings.lens or settings.perspective
    return bool(settings.geometry and (moves or settings.stretch > 1 or settings.scale_crop != "none"))


def _colours(settings: AugmentSettings) -> bool:
    return bool(settings.brightness or settings.contrast or settings.saturation or settings.hue)


def _warped(values: Tensor, generator: torch.Generator, settings: AugmentSettings) -> Tensor:
    """Resample the pictures that `settings.geometry` touches."""
    which = chosen(values, generator, settings.geometry)
    geometry = draw_geometry(
        values,
        generator,
        translate=settings.translate,
        rotate=settings.rotate,
        stretch=settings.stretch,
        shear=settings.shear,
        lens=settings.lens,
        perspective=settings.perspective,
        zoom=None if settings.scale_crop == "none" else settings.scale_crop,
    )
    if settings.geometry == 1:
        return warp(values, geometry, fill=settings.fill)
    rows = which.nonzero().flatten()
    some = Geometry(*(None if value is None else value.index_select(0, rows) for value in geometry))
    return values.index_copy(0, rows, warp(values.index_select(0, rows), some, fill=settings.fill))


def mix(
    pictures: Tensor, labels: Tensor, generator: torch.Generator, settings: AugmentSettings
) -> tuple[Tensor, Tensor]:
    """Apply mixup or CutMix to the batch; when both are on, each batch has one of them, by a fair coin."""
    coin = float(torch.rand((), generator=generator, device=generator.device))
    if settings.cutmix and (not settings.mixup or coin < 0.5):
        return cutmix(pictures, labels, generator, settings.cutmix)
    return mixup(pictures, labels, generator, settings.mixup) if settings.mixup else (pictures, labels)


def build_augment(settings: AugmentSettings, num_classes: int | None = None) -> Augment:
    """Return the function that augments a batch: pictures (n, channels, height, width), class numbers or values (n,).

    With mixup or CutMix the labels that come back are soft: (n, num_classes) for classes, or mixed values (n,) where
    `num_classes` is None.
    """

    def batch(pictures: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        pictures = augment(pictures, generator, settings)
        if not mixes_labels(settings):
            return pictures, labels
        soft = labels if num_classes is None else soft_labels(labels, num_classes)
        return mix(pictures, soft, generator, settings)

    return batch
