"""Time and memory, as the host sees them."""

import contextlib
import os
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from caviar.diagnose.quantities.pending import Key

LEAST_SECONDS = 1.0


@dataclass
class Clock:
    """Steps between two looks, and how long they took (evaluations in between included)."""

    step: int
    began: float = field(default_factory=time.perf_counter)

    def read(self, step: int, batch_size: int, device: torch.device) -> dict[Key, float]:
        """Return examples a second and memory, when at least a second has gone by; {} before that."""
        now = time.perf_counter()
        if now - self.began < LEAST_SECONDS or not batch_size:
            return {}
        rate = (step - self.step) * batch_size / (now - self.began)
        self.step, self.began = step, now
        return {Key("examples_per_second"): rate, Key("memory", split=""): float(memory_in_use(device))}


def memory_in_use(device: torch.device) -> int:
    """Return bytes: of tensors on a CUDA device, else of this process."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the largest so far: all that other systems tell
    return largest if sys.platform == "darwin" else largest * 1024
