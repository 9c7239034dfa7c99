"""What a recipe says about preprocessing: the section [preprocess]. Everything is fitted on the training split only."""

from typing import Annotated, Literal

from pydantic import Field

from caviar.core.settings import Settings


class PreprocessSettings(Settings):
    """How raw input becomes what the network sees."""

    numeric: Literal["auto", "center", "minmax", "zscore", "robust", "none"] = "auto"
    """center x - mean, minmax, zscore, robust, none, or auto: zscore, but none for arrays with a model of your own"""
    minmax_range: tuple[float, float] = (0.0, 1.0)
    """where minmax brings the least and the greatest training value, such as [-1.0, 1.0]"""
    decorrelate: Literal["none", "pca", "gram_schmidt", "whiten_pca", "whiten_zca"] = "none"
    """after scaling, numbers of tables and whole arrays: uncorrelated, or whitened (covariance 1)"""
    components: Literal["all"] | Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] = "all"
    """principal directions kept: a number, a share of the variance, or all that vary (not for gram_schmidt)"""
    eps: Annotated[float, Field(ge=0)] = 1e-5
    """whitening divides by the root of variance + eps, so that noise is not blown up"""
    missing: Literal["median_and_flag", "median", "error"] = "median_and_flag"
    """empty numeric fields: training median plus a 0/1 missing column, median alone, or an error"""
    categorical: Literal["onehot", "embedding"] = "onehot"
    """one 0/1 column a category, or a learned vector a category; unseen and rare ones share a slot"""
    max_categories: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """the most frequent categories of a column that get a slot of their own"""
    pictures: Literal["channel_zscore", "channel_mean", "mean_image", "none"] = "channel_zscore"
    """by channel (x - mean) / std or x - mean, by pixel x - mean, or pixels divided by 255 only"""


SCALINGS = {
    "center": "x - mean",
    "minmax": "the training range brought to [0, 1] or any other",
    "zscore": "(x - mean) / standard deviation",
    "robust": "(x - median) / interquartile range: outliers do not count",
}
"""The scalings of numbers: name -> one line. caviar.preprocess.fit_NAME fits each of them alone."""

DECORRELATIONS = {
    "pca": "principal directions, all or those with most of the variance",
    "gram_schmidt": "each column less its projections on those before it",
    "whiten_pca": "principal directions, each brought to variance 1",
    "whiten_zca": "the whitening that changes columns least",
}
"""The decorrelations: name -> one line. caviar.preprocess.fit_NAME fits each of them alone."""

PICTURE_SCALINGS = {
    "channel_zscore": "(x - mean) / standard deviation of each channel",
    "channel_mean": "x - mean of each channel",
    "mean_image": "x - mean of each pixel: the mean image",
}
"""The scalings of pictures: name -> one line."""

MISSING_VALUES = {
    "median_and_flag": "the training median, and a 0/1 column that says where it stands in for nothing",
    "median": "the training median alone",
    "error": "a missing value is an error",
}
"""What is done about empty numeric fields: name -> one line."""

CATEGORIES = {
    "onehot": "a 0/1 column for each category",
    "embedding": "a learned vector for each category",
}
"""What becomes of categorical columns: name -> one line."""
