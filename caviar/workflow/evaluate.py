"""Evaluate a stored bundle on data with known targets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from caviar.bundle import Bundle, load_bundle
from caviar.bundle.forward import prediction_settings
from caviar.core.errors import InputError
from caviar.recipe import from_dict, merge, parse_assignment, validate


def evaluate(bundle: str | Path, data: Any, target: Any = None, *, model: nn.Module | None = None) -> dict[str, Any]:
    """Return the report of a bundle (or a run's folder) on data that holds its targets.

    Args:
        bundle: the folder of a bundle or of a finished run.
        data: a table with the target column, a folder of pictures with a folder for each class, or arrays.
        target: another name for the target column, or the targets of arrays.
        model: the module, for a bundle whose network is your own.
    """
    return load_bundle(bundle, model).evaluate(data, target)


def open_bundle(folder: str | Path, assignments: Sequence[str] = ()) -> Bundle:
    """Load a bundle and change how it predicts by assignments such as "prediction.views=flip".

    Raises:
        InputError: as `load_bundle`; or an assignment is of another section, or not valid.
    """
    bundle = load_bundle(folder)
    if not assignments:
        return bundle
    stored = from_dict({"prediction": prediction_settings(bundle).model_dump()}, str(folder))
    changed = merge(stored, *map(parse_assignment, assignments))
    if others := [name for name in changed.values if name != "prediction"]:
        raise InputError(
            f"--set {others[0]}...: a trained model keeps what it was trained with; only settings of [prediction] can "
            "be changed here, such as prediction.views=flip."
        )
    return bundle.with_prediction(**validate(changed).prediction.model_dump())
