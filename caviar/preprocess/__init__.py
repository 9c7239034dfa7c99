"""Modules with a streaming fit on the training rows, from raw input to what a network sees.

For a plain PyTorch program: `fit_center`, `fit_minmax`, `fit_zscore`, `fit_robust`, `fit_pca`, `fit_whiten_pca`,
`fit_whiten_zca` and `fit_gram_schmidt` take training examples in any form (array, tensor, batches, DataLoader) and
return a fitted module with `forward` and `inverse`:

    whiten = fit_whiten_zca(training_pictures, eps=0.1)
    inputs = whiten(batch)

The names below are imported when they are first used, so that the settings do not wait for torch and Polars.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caviar.preprocess.arrays import ArrayPreprocess, fit_arrays
    from caviar.preprocess.covariance import Covariance
    from caviar.preprocess.decorrelation import Decorrelation, fit_gram_schmidt, fit_pca, fit_whiten_pca, fit_whiten_zca
    from caviar.preprocess.fit import fit_table
    from caviar.preprocess.moments import Moments
    from caviar.preprocess.numbers import Encoded
    from caviar.preprocess.pictures import PicturePreprocess, fit_pictures
    from caviar.preprocess.scaling import Scaling, fit_center, fit_minmax, fit_robust, fit_zscore
    from caviar.preprocess.stored import rebuild
    from caviar.preprocess.table import TablePreprocess
    from caviar.preprocess.target import TargetScaler, fit_target

_HOMES = {
    "ArrayPreprocess": "arrays",
    "Covariance": "covariance",
    "Decorrelation": "decorrelation",
    "Encoded": "numbers",
    "Moments": "moments",
    "PicturePreprocess": "pictures",
    "Scaling": "scaling",
    "TablePreprocess": "table",
    "TargetScaler": "target",
    "fit_arrays": "arrays",
    "fit_center": "scaling",
    "fit_gram_schmidt": "decorrelation",
    "fit_minmax": "scaling",
    "fit_pca": "decorrelation",
    "fit_pictures": "pictures",
    "fit_robust": "scaling",
    "fit_table": "fit",
    "fit_target": "target",
    "fit_whiten_pca": "decorrelation",
    "fit_whiten_zca": "decorrelation",
    "fit_zscore": "scaling",
    "rebuild": "stored",
}

__all__ = [
    "ArrayPreprocess",
    "Covariance",
    "Decorrelation",
    "Encoded",
    "Moments",
    "PicturePreprocess",
    "Scaling",
    "TablePreprocess",
    "TargetScaler",
    "fit_arrays",
    "fit_center",
    "fit_gram_schmidt",
    "fit_minmax",
    "fit_pca",
    "fit_pictures",
    "fit_robust",
    "fit_table",
    "fit_target",
    "fit_whiten_pca",
    "fit_whiten_zca",
    "fit_zscore",
    "rebuild",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
