"""What a recipe says about how predictions are made: the section [prediction]. It goes into the bundle."""

from typing import Annotated, Literal

from pydantic import Field

from caviar.core.settings import NoneWord, Settings


class PredictionSettings(Settings):
    """What is averaged for one prediction, on the test split and from the bundle; on dev nothing is, to save time."""

    views: Literal["none", "flip", "ten_crop"] = "none"
    """test-time augmentation of pictures: probabilities averaged over a picture and its mirror image, or ten crops"""
    zoom: Annotated[float, Field(gt=1, le=4)] = 1.125
    """for ten_crop: how much pictures are enlarged before windows of their own size are cut out"""
    monte_carlo: NoneWord | Annotated[int, Field(ge=2, le=10_000)] = "none"
    """passes with dropout on, averaged (Gal and Ghahramani, 2016); they give a deviation too; 50 is usual"""


VIEWS = {
    "none": "the picture alone",
    "flip": "the picture and its mirror image",
    "ten_crop": "corners and centre of the enlarged picture, and their mirror images (Krizhevsky et al., 2012)",
}
"""The sets of views of a picture at prediction: name -> one line."""
