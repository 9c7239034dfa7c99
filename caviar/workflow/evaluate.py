"""Evaluate a stored bundle on data with known targets."""

from pathlib import Path
from typing import Any

from torch import nn

from caviar.bundle import load_bundle


def evaluate(bundle: str | Path, data: Any, target: Any = None, *, model: nn.Module | None = None) -> dict[str, Any]:
    """Return the report of a bundle (or a run's folder) on data that holds its targets.

    Args:
        bundle: the folder of a bundle or of a finished run.
        data: a table with the target column, a folder of pictures with a folder for each class, or arrays.
        target: another name for the target column, or the targets of arrays.
        model: the module, for a bundle whose network is your own.
    """
    return load_bundle(bundle, model).evaluate(data, target)
