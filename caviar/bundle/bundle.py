"""A bundle: fitted preprocessing and network in one folder, from raw input to predictions, without running code."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from caviar.bundle.manifest import (
    MANIFEST_FILE,
    NETWORK_FILE,
    PREPROCESS_FILE,
    Manifest,
    manifest_from_json,
    manifest_to_json,
)
from caviar.core.checkpoint import separate
from caviar.core.errors import InputError, nearest
from caviar.core.files import atomic_folder, digest_file, write_atomic, write_json
from caviar.nn.build import build_model, lay_out_model
from caviar.nn.settings import ConvNetSettings, MLPSettings
from caviar.preprocess import TargetScaler, rebuild
from caviar.train.state import check_weights, load_weights

if TYPE_CHECKING:
    from caviar.bundle.predict import Predictions


@dataclass(frozen=True)
class Bundle:
    """What a run hands over. Predicts from raw input; make one with `load_bundle` or take a run's."""

    manifest: Manifest
    preprocess: nn.Module
    network: nn.Module
    scaler: TargetScaler | None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.manifest.classes

    @property
    def metrics(self) -> dict[str, Any]:
        """The run's evaluation on its test split."""
        return self.manifest.metrics

    def predict(self, rows: Any) -> "Predictions":
        """Predict from raw input; see `caviar.bundle.predict.predict`."""
        from caviar.bundle.predict import predict

        return predict(self, rows)

    def evaluate(self, rows: Any, target: Any = None) -> dict[str, Any]:
        """Compare predictions with known targets; see `caviar.bundle.predict.evaluate_bundle`."""
        from caviar.bundle.predict import evaluate_bundle

        return evaluate_bundle(self, rows, target)

    def with_prediction(self, **changes: Any) -> "Bundle":
        """Return this bundle with other settings of [prediction], such as views="flip"; what is stored stays as it is.

        Raises:
            InputError: there is no such setting, or it does not suit the data or the network.
        """
        from caviar.bundle.forward import check_prediction, prediction_settings

        recipe = {**self.manifest.recipe, "prediction": prediction_settings(self).model_dump() | changes}
        changed = replace(self, manifest=replace(self.manifest, recipe=recipe))
        check_prediction(prediction_settings(changed), self.manifest.kind, self.network)
        return changed

    def save(self, folder: str | Path) -> Path:
        """Write the bundle to `folder`, all of it or nothing, replacing an older one there."""
        path = Path(folder)
        with atomic_folder(path) as building:
            prep = dict(self.preprocess.state_dict())
            _write_tensors(building / PREPROCESS_FILE, prep)
            _write_tensors(building / NETWORK_FILE, self.network.state_dict())
            files = {name: digest_file(building / name) for name in (PREPROCESS_FILE, NETWORK_FILE)}
            write_json(building / MANIFEST_FILE, manifest_to_json(self.manifest, files))
        return path


def load_bundle(folder: str | Path, model: nn.Module | None = None) -> Bundle:
    """Load a bundle. Nothing in it is ever executed.

    Args:
        folder: the bundle's folder, or a run's folder that holds one.
        model: the module for the weights, needed when the run trained a module of your own (its weights are replaced).

    Raises:
        InputError: not a bundle, damaged, from a newer caviar, or a module is needed or does not fit.
    """
    path = _bundle_path(Path(folder))
    manifest, files = manifest_from_json(path / MANIFEST_FILE)
    preprocess = rebuild(manifest.preprocess, _read_tensors(path / PREPROCESS_FILE, files))
    scaler = TargetScaler.rebuild(manifest.scaler) if manifest.scaler else None
    weights = _read_tensors(path / NETWORK_FILE, files)
    network = model if model is not None else _build_network(manifest, preprocess, weights, path)
    load_weights(network, weights, str(path / NETWORK_FILE))
    network.eval()
    return Bundle(manifest, preprocess, network, scaler)


def _bundle_path(path: Path) -> Path:
    if not (path / MANIFEST_FILE).exists() and (path / "bundle" / MANIFEST_FILE).exists():
        return path / "bundle"
    if not path.exists():
        raise InputError(f"{path}: there is no such bundle.{_near(path)} A finished run has one in runs/NAME/bundle.")
    if not path.is_dir():
        raise InputError(f"{path}: a file, not the folder of a bundle. Give the folder: runs/NAME/bundle.")
    if (path / "run.json").exists():
        raise InputError(f"{path}: this run has no bundle yet. Finish it: caviar train --resume {path}")
    return path


def _near(path: Path) -> str:
    """Offer the path whose first missing part is replaced by the nearest name that is there."""
    missing = path
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    near = (
        nearest(missing.name, [child.name for child in missing.parent.iterdir()]) if missing.parent.is_dir() else None
    )
    if near is None:
        return ""
    return f" Did you mean {missing.parent / near / path.relative_to(missing)}?"


def _build_network(manifest: Manifest, preprocess: nn.Module, weights: dict[str, Tensor], path: Path) -> nn.Module:
    """Build the network that the manifest describes, once it is known that the weights are its own."""
    name = str(manifest.model.get("name"))
    if name not in ("mlp", "convnet"):
        what = manifest.model.get("class_name", name)
        raise InputError(
            f"{path}: its network is {what}, which caviar cannot build from data alone. "
            f'Give the module: caviar.load("{path}", model=...).'
        )
    try:
        settings = TypeAdapter(MLPSettings | ConvNetSettings).validate_python(manifest.model)
    except ValidationError as error:
        raise InputError(
            f"{path / MANIFEST_FILE}: its model section is not valid: {error.errors()[0]['msg']}."
        ) from error
    if isinstance(settings, MLPSettings) and "auto" in (settings.widths, settings.dropout):
        raise InputError(f"{path / MANIFEST_FILE}: its model section still says auto.")
    cardinalities = tuple(getattr(preprocess, "cardinalities", ()))
    layout = lay_out_model(settings, manifest.input_shape, manifest.outputs, cardinalities)
    check_weights(layout, weights, str(path / NETWORK_FILE))
    return build_model(settings, manifest.input_shape, manifest.outputs, torch.Generator(), cardinalities)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    write_atomic(path, save(separate(tensors)))


def _read_tensors(path: Path, digests: Mapping[str, str]) -> dict[str, Tensor]:
    try:
        if digest_file(path) != digests.get(path.name):
            raise InputError(f"{path}: damaged: its content does not match its digest in {MANIFEST_FILE}.")
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: missing from the bundle.") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged or not a safetensors file ({error}). Pickles are never read.") from error
