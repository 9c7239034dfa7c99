"""Saving a run while it trains."""

import signal
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import torch
from torch import Tensor

from caviar.core.checkpoint import Checkpoint
from caviar.core.observer import SaveObserver
from caviar.train.checkpoints import Checkpoints


class Saver:
    """Writes checkpoints in a thread of its own, so that training need not wait for the disk. Use as a context manager.

    One is written at a time: a save waits for the one before. What goes wrong in the thread is raised by the next
    save, or at the end of the `with` block, which waits for the last one. Without `checkpoints` nothing is saved.
    """

    def __init__(self, checkpoints: Checkpoints | None, observers: Sequence[SaveObserver]) -> None:
        self._checkpoints, self._observers = checkpoints, observers
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="caviar-saver", initializer=_leave_signals_to_others)
        self._writing: Future[None] | None = None
        self._best_step = -1
        self._saved = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since the last save, or since the beginning."""
        return time.monotonic() - self._saved

    def save(self, step: int, checkpoint: Checkpoint) -> None:
        """Have the state of `step` written; its tensors are copied before this returns."""
        if self._checkpoints is None:
            return
        self.wait()
        for observer in self._observers:
            observer.on_save(step)
        copied = {name: _copy(tensor) for name, tensor in checkpoint.tensors.items()}
        self._writing = self._thread.submit(self._write, self._checkpoints, step, Checkpoint(copied, checkpoint.data))
        self._saved = time.monotonic()

    def wait(self) -> None:
        """Wait until everything is written; raise what went wrong."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, checkpoints: Checkpoints, step: int, checkpoint: Checkpoint) -> None:
        best = checkpoint.data["best"]
        if best["epoch"] and best["step"] != self._best_step:
            weights = {n.removeprefix("best/"): t for n, t in checkpoint.tensors.items() if n.startswith("best/")}
            checkpoints.save_best(Checkpoint(weights, {"epoch": best["epoch"], "step": best["step"]}))
            self._best_step = best["step"]
        checkpoints.save(step, checkpoint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()


def _copy(tensor: Tensor) -> Tensor:
    """Copy to the CPU, and at once in the order that a file has: what is left to do in the thread is no work for torch.

    (See `caviar.train.checkpoints.is_finite` on why no torch operation should run there.)
    """
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _leave_signals_to_others() -> None:
    """A signal that this thread took would reach the main thread, where Python handles it, some steps later."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
