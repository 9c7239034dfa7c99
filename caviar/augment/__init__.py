"""Augmentation of pictures: whole batches on the device, seeded, with parameters of their own for each picture.

Every function takes pictures (n, channels, height, width), uint8 from 0 to 255 or floating point from 0 to 1, and a
`torch.Generator`, and returns pictures of the same type:

    pictures = random_crop(pictures, generator, padding=4, flip_probability=0.5)
    pictures = random_colour(pictures, generator, brightness=0.2)

`augment` does all that a recipe's section [augment] asks for. The names below are imported when they are first used, so
that the settings do not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caviar.augment.boxes import random_erasing
    from caviar.augment.colour import adjust_colour, random_colour
    from caviar.augment.geometry import (
        Geometry,
        draw_geometry,
        random_lens,
        random_perspective,
        random_rotation,
        random_scale_crop,
        random_shear,
        random_stretch,
        random_translation,
        warp,
    )
    from caviar.augment.mixing import cutmix, mixup, soft_labels
    from caviar.augment.pipeline import augment, build_augment, check_settings, is_none, mix, mixes_labels
    from caviar.augment.settings import AUGMENTATIONS, AugmentSettings
    from caviar.augment.sheet import picture_sheet
    from caviar.augment.views import average_predictions, flip_views, ten_crop, zoomed_ten_crop
    from caviar.augment.windows import crop, flip, random_crop, random_flip

_HOMES = {
    "AUGMENTATIONS": "settings",
    "AugmentSettings": "settings",
    "Geometry": "geometry",
    "adjust_colour": "colour",
    "augment": "pipeline",
    "average_predictions": "views",
    "build_augment": "pipeline",
    "check_settings": "pipeline",
    "crop": "windows",
    "cutmix": "mixing",
    "draw_geometry": "geometry",
    "flip": "windows",
    "flip_views": "views",
    "is_none": "pipeline",
    "mix": "pipeline",
    "mixes_labels": "pipeline",
    "mixup": "mixing",
    "picture_sheet": "sheet",
    "random_colour": "colour",
    "random_crop": "windows",
    "random_erasing": "boxes",
    "random_flip": "windows",
    "random_lens": "geometry",
    "random_perspective": "geometry",
    "random_rotation": "geometry",
    "random_scale_crop": "geometry",
    "random_shear": "geometry",
    "random_stretch": "geometry",
    "random_translation": "geometry",
    "soft_labels": "mixing",
    "ten_crop": "views",
    "warp": "geometry",
    "zoomed_ten_crop": "views",
}

__all__ = [
    "AUGMENTATIONS",
    "AugmentSettings",
    "Geometry",
    "adjust_colour",
    "augment",
    "average_predictions",
    "build_augment",
    "check_settings",
    "crop",
    "cutmix",
    "draw_geometry",
    "flip",
    "flip_views",
    "is_none",
    "mix",
    "mixes_labels",
    "mixup",
    "picture_sheet",
    "random_colour",
    "random_crop",
    "random_erasing",
    "random_flip",
    "random_lens",
    "random_perspective",
    "random_rotation",
    "random_scale_crop",
    "random_shear",
    "random_stretch",
    "random_translation",
    "soft_labels",
    "ten_crop",
    "warp",
    "zoomed_ten_crop",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
