"""The states of a run on disk: which are kept, and which one to go on from."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from caviar.core.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from caviar.core.errors import DamagedError

STEP_FILE = re.compile(r"step-(\d{12})\.safetensors")
BEST_FILE = "best.safetensors"
KEEP_LAST = 3


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
