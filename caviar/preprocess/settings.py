"""What a recipe says about preprocessing: the section [preprocess]. Everything is fitted on the training split only."""

from typing import Annotated, Literal

from pydantic import Field

from caviar.core.settings import Settings


class PreprocessSettings(Settings):
    """How raw input becomes what the network sees."""

    numeric: Literal["auto", "zscore", "none"] = "auto"
    """zscore (x - mean) / std, none, or auto: zscore, but none for arrays given with a model of your own"""
    missing: Literal["median_and_flag", "median", "error"] = "median_and_flag"
    """empty numeric fields: training median plus a 0/1 missing column, median alone, or an error"""
    categorical: Literal["onehot", "embedding"] = "onehot"
    """one 0/1 column a category, or a learned vector a category; unseen and rare ones share a slot"""
    max_categories: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """the most frequent categories of a column that get a slot of their own"""
    pictures: Literal["channel_zscore", "channel_mean", "none"] = "channel_zscore"
    """per channel: (x - mean) / std, x - mean, or pixels divided by 255 only"""
