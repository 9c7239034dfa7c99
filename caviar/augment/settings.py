"""What a recipe says about augmentation: the section [augment]. Training batches of pictures only; default: none."""

from typing import Annotated, Literal

from pydantic import Field

from caviar.core.settings import NoneWord, Settings

Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(ge=0, lt=1)]
Zoom = Annotated[float, Field(ge=1, le=100)]


class AugmentSettings(Settings):
    """Random changes of each training picture, drawn anew in every epoch."""

    flip: Share = 0.0
    """share of pictures mirrored left to right; 0.5 is usual"""
    crop_padding: Annotated[int, Field(ge=0, le=4096)] = 0
    """pixels put around a picture before a window of its size is cut out at random; 4 is usual for 32 x 32"""
    fill: Literal["zero", "edge", "reflect"] = "zero"
    """what lies beyond a picture's border: black, its last pixel, or its mirror image"""
    scale_crop: NoneWord | tuple[Zoom, Zoom] = "none"
    """enlarge by a factor in this range, then cut out a window of the picture's size, such as [1.0, 1.5]"""
    translate: Part = 0.0
    """moved by up to this share of width and height"""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """turned by up to so many degrees either way"""
    stretch: Annotated[float, Field(ge=1, le=4)] = 1.0
    """width and height each times a factor between 1 / this and this"""
    shear: Annotated[float, Field(ge=0, lt=45)] = 0.0
    """slanted by up to so many degrees, horizontally and vertically"""
    lens: Annotated[float, Field(ge=0, le=0.3)] = 0.0
    """lens distortion: up to this much barrel or pincushion"""
    perspective: Annotated[float, Field(ge=0, le=0.4)] = 0.0
    """seen at a slant: tilted by up to this much"""
    geometry: Share = 1.0
    """share of pictures that scale_crop, translate, rotate, stretch, shear, lens and perspective touch"""
    brightness: Share = 0.0
    """times a factor from 1 - this to 1 + this"""
    contrast: Share = 0.0
    """distance from the mean grey times a factor from 1 - this to 1 + this"""
    saturation: Share = 0.0
    """distance from grey times a factor from 1 - this to 1 + this"""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """colours turned by up to this part of the colour circle"""
    erase: Share = 0.0
    """share of pictures that lose a random rectangle (2 to 33% of the area), filled with the picture's mean"""
    mixup: Annotated[float, Field(ge=0, le=100)] = 0.0
    """alpha of mixup: pictures and labels blended in pairs by a Beta(alpha, alpha) share; 0.2 is usual"""
    cutmix: Annotated[float, Field(ge=0, le=100)] = 0.0
    """alpha of CutMix: a rectangle from another picture, labels blended by area; 1.0 is usual"""


AUGMENTATIONS = {
    "flip": "mirror left to right",
    "crop_padding": "random crop with padding",
    "scale_crop": "random scale, then a random crop: the ResNet way",
    "translate": "move",
    "rotate": "turn",
    "stretch": "wider or narrower, taller or flatter",
    "shear": "slant",
    "lens": "lens distortion, barrel and pincushion",
    "perspective": "seen at a slant",
    "brightness": "brighter or darker",
    "contrast": "more or less contrast",
    "saturation": "more or less colour",
    "hue": "colours turned around the colour circle",
    "erase": "random erasing of a rectangle",
    "mixup": "blend pictures and labels in pairs",
    "cutmix": "paste a rectangle of another picture, blend labels by area",
}
"""The augmentations: setting of [augment] -> one line."""
