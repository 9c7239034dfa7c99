"""What a run hands over: save, load, predict, evaluate."""

from caviar.bundle.bundle import Bundle, load_bundle
from caviar.bundle.manifest import Manifest
from caviar.bundle.predict import Predictions

__all__ = ["Bundle", "Manifest", "Predictions", "load_bundle"]
