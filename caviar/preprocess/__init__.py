"""Modules with a streaming fit on the training rows, from raw input to what a network sees.

The names below are imported when they are first used, so that the settings do not wait for torch and Polars.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caviar.preprocess.arrays import ArrayPreprocess, fit_arrays
    from caviar.preprocess.fit import fit_table
    from caviar.preprocess.moments import Moments
    from caviar.preprocess.numbers import Encoded
    from caviar.preprocess.pictures import PicturePreprocess, fit_pictures
    from caviar.preprocess.stored import rebuild
    from caviar.preprocess.table import TablePreprocess
    from caviar.preprocess.target import TargetScaler, fit_target

_HOMES = {
    "ArrayPreprocess": "arrays",
    "Encoded": "numbers",
    "Moments": "moments",
    "PicturePreprocess": "pictures",
    "TablePreprocess": "table",
    "TargetScaler": "target",
    "fit_arrays": "arrays",
    "fit_pictures": "pictures",
    "fit_table": "fit",
    "fit_target": "target",
    "rebuild": "stored",
}

__all__ = [
    "ArrayPreprocess",
    "Encoded",
    "Moments",
    "PicturePreprocess",
    "TablePreprocess",
    "TargetScaler",
    "fit_arrays",
    "fit_pictures",
    "fit_table",
    "fit_target",
    "rebuild",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
