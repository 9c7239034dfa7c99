"""caviar: train neural networks well.

run = caviar.train("adult_train.csv", target="income")
bundle = caviar.load(run.path)
bundle.predict(rows)
"""

import importlib
from typing import TYPE_CHECKING, Any

# The room caviar.train and the function caviar.train share a name. A package's name is bound in its parent when it is
# first imported, and never again: so it is imported here, once, and the name then given to the function.
importlib.import_module("caviar.train")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from caviar.bundle import Bundle, Predictions
    from caviar.bundle import load_bundle as load
    from caviar.core.errors import CaviarError, InputError, Interrupted, RunError
    from caviar.core.findings import Finding
    from caviar.diagnose.checks_setup import CheckReport
    from caviar.diagnose.watch import watch
    from caviar.population import Population
    from caviar.recipe import Recipe
    from caviar.workflow.check import check
    from caviar.workflow.evaluate import evaluate
    from caviar.workflow.find_lr import find_lr
    from caviar.workflow.learning_rates import LearningRates
    from caviar.workflow.proof import Proof
    from caviar.workflow.prove import prove
    from caviar.workflow.run import Run
    from caviar.workflow.train import train

_HOMES = {
    "Bundle": ("caviar.bundle", "Bundle"),
    "CaviarError": ("caviar.core.errors", "CaviarError"),
    "CheckReport": ("caviar.diagnose.checks_setup", "CheckReport"),
    "Finding": ("caviar.core.findings", "Finding"),
    "InputError": ("caviar.core.errors", "InputError"),
    "Interrupted": ("caviar.core.errors", "Interrupted"),
    "LearningRates": ("caviar.workflow.learning_rates", "LearningRates"),
    "Population": ("caviar.population", "Population"),
    "Predictions": ("caviar.bundle", "Predictions"),
    "Proof": ("caviar.workflow.proof", "Proof"),
    "Recipe": ("caviar.recipe", "Recipe"),
    "Run": ("caviar.workflow.run", "Run"),
    "RunError": ("caviar.core.errors", "RunError"),
    "check": ("caviar.workflow.check", "check"),
    "evaluate": ("caviar.workflow.evaluate", "evaluate"),
    "find_lr": ("caviar.workflow.find_lr", "find_lr"),
    "load": ("caviar.bundle", "load_bundle"),
    "prove": ("caviar.workflow.prove", "prove"),
    "train": ("caviar.workflow.train", "train"),
    "watch": ("caviar.diagnose.watch", "watch"),
}

__all__ = [
    "Bundle",
    "CaviarError",
    "CheckReport",
    "Finding",
    "InputError",
    "Interrupted",
    "LearningRates",
    "Population",
    "Predictions",
    "Proof",
    "Recipe",
    "Run",
    "RunError",
    "__version__",
    "check",
    "evaluate",
    "find_lr",
    "load",
    "prove",
    "train",
    "watch",
]


globals().pop("train", None)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import caviar` costs next to nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'caviar' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
