"""A state as one file: written whole or not at all, verified before use, safetensors only.

A checkpoint is one safetensors file. Its metadata holds JSON (`caviar`) and the BLAKE2b digest (`digest`) of that JSON
and of every tensor's name, type, shape and bytes: a cut, flipped or foreign file is known before any of it is used.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from caviar.core.errors import DamagedError, InputError
from caviar.core.files import sync_folder
from caviar.core.formats import CHECKPOINT, check_version


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and everything else as JSON values."""

    tensors: dict[str, Tensor]
    data: dict[str, Any]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write one checkpoint: temporary file, fsync, rename, fsync of the folder."""
    tensors = separate(checkpoint.tensors)
    text = json.dumps({"version": CHECKPOINT, **checkpoint.data}, allow_nan=False)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    try:
        save_file(tensors, temporary, {"caviar": text, "digest": content_digest(text, tensors)})
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, SafetensorError):  # how safetensors reports a full disk
            raise OSError(f"{path}: {error}") from error
        raise
    sync_folder(path.parent)


def separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring tensors to the CPU, contiguous; those that share memory (tied weights) are copied, as the format asks."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage().data_ptr()
        separate[name] = plain.clone() if storage in seen else plain
        seen.add(storage)
    return separate


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        DamagedError: says what is wrong with a damaged or foreign file.
        InputError: it is missing, or from a newer caviar.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such checkpoint.") from None
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DamagedError(
            f"{path}: damaged or not a checkpoint ({_sentence(error)}). Only safetensors files are read, never pickles."
        ) from error
    text = metadata.get("caviar", "")
    if not text or metadata.get("digest") != content_digest(text, tensors):
        raise DamagedError(f"{path}: damaged: its content does not match its digest.")
    try:
        data = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedError(f"{path}: damaged: its description is not JSON ({error}).") from error
    check_version("checkpoint", data.get("version"), CHECKPOINT, path)
    return Checkpoint(tensors, data)


def _sentence(error: Exception) -> str:
    """What a library says, without the full stop that would meet ours."""
    return str(error).strip().rstrip(".")


def content_digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the digest of a checkpoint's JSON and tensors, in the order of their names."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
