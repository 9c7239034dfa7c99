"""What a bundle says of itself: the JSON beside its tensors."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from pydantic import TypeAdapter, ValidationError

from caviar.core.columns import Column, Task
from caviar.core.errors import InputError
from caviar.core.files import json_text
from caviar.core.formats import BUNDLE, check_version

MANIFEST_FILE = "bundle.json"
PREPROCESS_FILE = "preprocess.safetensors"
NETWORK_FILE = "network.safetensors"

READING = {
    "table": ("delimiter", "encoding", "memory_budget"),
    "pictures": ("picture_size", "picture_mode", "max_pixels"),
    "arrays": ("array_shape",),
}
"""What `Manifest.reading` holds, by kind."""


@dataclass(frozen=True)
class Manifest:
    """Everything of a bundle but its tensors.

    kind: what it predicts from. input_shape: of one example as the network sees it. outputs: of the network.
    model: the [model] section. preprocess, scaler: what `caviar.preprocess.rebuild` takes (scaler: {} for classes).
    reading: how raw input is read (picture size and mode, delimiter, encoding). recipe, metrics: of the run.
    """

    kind: Literal["table", "pictures", "arrays"]
    task: Task
    classes: tuple[str, ...]
    columns: tuple[Column, ...]
    target: str
    input_shape: tuple[int, ...]
    outputs: int
    model: dict[str, Any]
    preprocess: dict[str, Any]
    scaler: dict[str, Any]
    reading: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    majority: int = 0
    train_mean: float = 0.0


def manifest_to_json(manifest: Manifest, files: dict[str, str]) -> dict[str, Any]:
    """Return the JSON form with the digests of the other files and one over the whole."""
    value = {"format": "caviar bundle", "version": BUNDLE, **asdict(manifest), "files": files}
    value = json.loads(json.dumps(value, allow_nan=False))
    return {**value, "digest": _digest(value)}


def manifest_from_json(path: Path) -> tuple[Manifest, dict[str, str]]:
    """Read bundle.json and verify it; InputErrors say what is wrong. Also returns the files' digests."""
    try:
        text = path.read_bytes().decode("utf-8")
        value = json.loads(text, parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise InputError(f"{path.parent}: not a bundle (it has no {MANIFEST_FILE}).") from None
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path}: damaged, it cannot be read as JSON ({error}).") from error
    if not isinstance(value, dict) or value.get("format") != "caviar bundle":
        raise InputError(f"{path}: not the description of a caviar bundle.")
    check_version("bundle", value.get("version"), BUNDLE, path)
    # The text is compared as well: not every change of it changes a value.
    if text != json_text(value) or value.get("digest") != _digest({k: v for k, v in value.items() if k != "digest"}):
        raise InputError(f"{path}: damaged or edited: its content does not match its digest.")
    try:
        fields = {name: value[name] for name in Manifest.__dataclass_fields__}
        manifest = TypeAdapter(Manifest).validate_python(fields)
        files = TypeAdapter(dict[str, str]).validate_python(value["files"])
    except KeyError as error:
        raise InputError(f"{path}: incomplete: it lacks {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))} is not valid: {first['msg']}.") from error
    _check_consistent(manifest, path)
    return manifest, files


def _check_consistent(manifest: Manifest, path: Path) -> None:
    classification = manifest.task == "classification"
    columns = [asdict(column) for column in manifest.columns]
    wrong = {
        "columns": columns != (manifest.preprocess.get("columns") if manifest.kind == "table" else []),
        "classes": (len(manifest.classes) == manifest.outputs) != classification,
        "outputs": manifest.outputs < 1 or (manifest.outputs > 1 and not classification),
        "majority": classification and not 0 <= manifest.majority < len(manifest.classes),
        "scaler": bool(manifest.scaler) == classification,
        "reading": set(manifest.reading) != set(READING[manifest.kind]),
        "preprocess": manifest.preprocess.get("kind") != manifest.kind,
    }
    if names := [name for name, is_wrong in wrong.items() if is_wrong]:
        raise InputError(f"{path}: its {' and '.join(names)} do not fit a {manifest.task} bundle of {manifest.kind}.")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _digest(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
