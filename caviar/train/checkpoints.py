"""States of a run on disk: written whole or not at all, verified before use, safetensors only.

A checkpoint is one safetensors file. Its metadata holds JSON (`caviar`) and the BLAKE2b digest (`digest`) of that JSON
and of every tensor's name, type, shape and bytes: a cut, flipped or foreign file is known before any of it is used.
"""

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from caviar.core.errors import DamagedError, InputError
from caviar.core.files import sync_folder
from caviar.core.formats import CHECKPOINT, check_version

STEP_FILE = re.compile(r"step-(\d{12})\.safetensors")
BEST_FILE = "best.safetensors"
KEEP_LAST = 3


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


def is_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether every floating-point tensor, all on the CPU, is finite throughout.

    Through NumPy, because this runs beside training: a torch operation shared between threads gives its caller a
    team of OpenMP threads of its own, and with more of those than cores every team waits slowly (training took twice
    as long).
    """
    return all(_all_finite(t.detach()) for t in tensors.values() if t.is_floating_point())


def _all_finite(tensor: Tensor) -> bool:
    if tensor.dtype == torch.bfloat16:  # NumPy has none: its exponent bits are all ones where it is not finite
        bits = tensor.view(torch.int16).numpy()
        return bool(((bits & 0x7F80) != 0x7F80).all())
    return bool(np.isfinite(tensor.numpy()).all())


class Checkpoints:
    """The checkpoints of one run: `step-N.safetensors` and `best.safetensors` in one folder.

    Kept are the initial state, the last three, the newest good one, and those marked to be kept (log-spaced epochs).
    `notes` are written into every checkpoint: what it belongs to.
    """

    def __init__(self, folder: Path, notes: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.notes = dict(notes or {})
        self._best_step: int | None = None

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:012d}.safetensors"

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, ascending."""
        if not self.folder.is_dir():
            return []
        return sorted(int(m.group(1)) for p in self.folder.iterdir() if (m := STEP_FILE.fullmatch(p.name)))

    def save(self, step: int, checkpoint: Checkpoint) -> None:
        """Write the state of `step`, then remove those that need not be kept."""
        facts = {"step": step, "good": is_finite(checkpoint.tensors)}
        write_checkpoint(self.path(step), Checkpoint(checkpoint.tensors, self.notes | checkpoint.data | facts))
        self._prune()

    def save_best(self, checkpoint: Checkpoint) -> None:
        """Write the weights of the best epoch so far, unless they are what this object wrote last."""
        if checkpoint.data["step"] != self._best_step:
            write_checkpoint(self.folder / BEST_FILE, Checkpoint(checkpoint.tensors, self.notes | checkpoint.data))
            self._best_step = checkpoint.data["step"]

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest good checkpoint, and a sentence for each newer one that is damaged or not finite.

        Where all are undamaged but none is good (a buffer of the model may be infinite on purpose), the newest is
        returned. None: there is no checkpoint, or every one is damaged.
        """
        problems: list[str] = []
        fallback: Checkpoint | None = None
        for step in reversed(self.steps()):
            try:
                found = read_checkpoint(self.path(step))
            except DamagedError as error:
                problems.append(str(error))
                continue
            if found.data.get("good"):
                return found, problems
            problems.append(f"{self.path(step)}: holds values that are not finite.")
            fallback = fallback or found
        return fallback, problems

    def _prune(self) -> None:
        self._remove_leftovers()
        steps = self.steps()
        wanted = {0, *steps[-KEEP_LAST:]}
        flags = {step: self._flags(step) for step in steps if step not in wanted}
        newest_good = next((s for s in reversed(steps) if (flags.get(s) or self._flags(s))["good"]), None)
        for step, flag in flags.items():
            if not flag["keep"] and step != newest_good:
                self.path(step).unlink(missing_ok=True)

    def _flags(self, step: int) -> dict[str, bool]:
        """Read only the header; a file that cannot be read is neither kept nor good."""
        try:
            with safe_open(self.path(step), framework="pt") as file:
                data = json.loads((file.metadata() or {})["caviar"])
            return {"good": bool(data.get("good")), "keep": bool(data.get("keep"))}
        except (SafetensorError, OSError, ValueError, KeyError):
            return {"good": False, "keep": False}

    def _remove_leftovers(self) -> None:
        for left in self.folder.glob(".*"):  # safetensors writes through a hidden file of its own
            left.unlink(missing_ok=True)
