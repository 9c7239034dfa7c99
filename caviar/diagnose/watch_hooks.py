"""What `caviar.watch` puts on a model and an optimiser, and takes away again."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from caviar.core.observer import Moment
from caviar.diagnose.quantities.inputs import RunningMoments, shift_between
from caviar.diagnose.quantities.pending import Key
from caviar.diagnose.quantities.watcher import Watcher
from caviar.nn.probe import first_tensor

COMPARED_ROWS = 1024
"""Training examples, the first ones, that inputs of evaluations are compared with."""


BROADCAST_ROWS = 1024
"""Batches of more examples are not compared pair by pair."""
CLOSE = 1e-4


def is_broadcast(outputs: Tensor, targets: Tensor, loss: float) -> bool:
    """Whether a loss is that of every output against every target, and not that of each against its own.

    Shapes alone do not tell: a loss may well bring (batch, 1) and (batch,) to one shape. Squared, absolute and Huber's
    errors are tried; of another loss nothing is said.
    """
    if len(outputs) > BROADCAST_ROWS:
        return False
    z, t = outputs.detach().double(), targets.detach().double()
    zeros = torch.zeros(())
    for error in (functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss):
        own, all_pairs = (error(each, zeros.to(each).expand_as(each)).item() for each in (z - t, z[:, None] - t))
        if abs(loss - own) <= CLOSE * max(abs(own), CLOSE):
            return False
        if abs(loss - all_pairs) <= CLOSE * max(abs(all_pairs), CLOSE):
            return True
    return False


class Hooks:
    """One hook in front of the network's forward pass, one in front of the optimiser's step.

    They see what a watcher on caviar's own loop is told: when gradients are there, how many examples are evaluated,
    and what their inputs look like.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, watcher: Watcher) -> None:
        self._optimizer, self._watcher = optimizer, watcher
        self._inputs: Tensor | None = None
        self._train, self._evaluation = RunningMoments(), RunningMoments()
        self._rows = 0
        self._stepped = self._stepped_before = False
        self._leftover: RemovableHandle | None = None
        self._left: Tensor | None = None
        self._counts: Tensor | None = None
        self._task = ""
        self._handle = model.register_forward_pre_hook(self._forward)
        self._release = _before_steps(optimizer, self._before_step)

    def remove(self) -> None:
        """Take everything away."""
        self._handle.remove()
        self._release()
        self._drop_leftover()
        self._inputs = None

    def facts(self) -> dict[str, Any]:
        """Return what was learned of the data: batch size, task, classes."""
        found: dict[str, Any] = {"batch_size": self._watcher.batch_size, "task": self._task}
        if self._counts is not None:
            counts = self._counts.tolist()
            total = sum(counts)
            found |= {"num_classes": len(counts), "train_shares": tuple(count / total for count in counts)}
        return found

    def look_at_inputs(self, moment: Moment, batch: Any) -> None:
        """The loss is not a number: say whether the inputs (or targets) of the batch were."""
        tensors = [self._inputs] if batch is None else [first_tensor(part) for part in batch]
        floats = [tensor for tensor in tensors if tensor is not None and tensor.is_floating_point()]
        if floats:
            bad = sum(float((~torch.isfinite(tensor)).float().mean()) for tensor in floats)
            self._watcher.pending.add_numbers(moment, {Key("input_nonfinite"): bad})

    def begin_look(self) -> None:
        """The step to come is looked at: see whether its gradients begin at zero."""
        self._drop_leftover()
        self._stepped_before, self._stepped = self._stepped, False
        if not self._watcher.is_second:
            return
        held = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
        parameters = [p for p in self._watcher.layout.parameters if p.grad is not None and id(p) in held]
        if not parameters:
            self._left = torch.zeros(())  # they are gone already
            return
        smallest = min(parameters, key=lambda p: p.numel())
        see = partial(self._see_leftover, smallest)
        self._leftover = smallest.register_hook(see)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _see_leftover(self, parameter: Tensor, gradient: Tensor) -> None:
        if self._left is None:
            old = parameter.grad
            norm = torch.linalg.vector_norm
            self._left = torch.zeros(()) if old is None else (norm(old) / norm(gradient).clamp_min(1e-30)).float()

    def finish_look(self, moment: Moment, batch: Any, loss: float | Tensor) -> None:
        """Hand over what a look has seen besides the watcher's own."""
        pending = self._watcher.pending
        pending.add_numbers(moment, {Key("optimizer_stepped"): float(self._stepped)})
        if self._left is not None and self._stepped_before:
            pending.add(moment, self._left, lambda read: [(Key("leftover_gradient"), read[0])])
        if batch is not None and isinstance(batch, tuple | list) and len(batch) == 2:
            self._see_targets(moment, first_tensor(batch[1]), loss)
        self._drop_leftover()

    @torch.no_grad()
    def _see_targets(self, moment: Moment, targets: Tensor | None, loss: float | Tensor) -> None:
        outputs = self._watcher.outputs
        if targets is None or outputs is None or not targets.dim():
            return
        if targets.is_floating_point():
            same_rows = outputs.dim() == 2 and outputs.shape[1] == 1 and len(outputs) == len(targets)
            if targets.shape != (len(targets), outputs.shape[-1]):
                apart = same_rows and targets.dim() == 1 and len(targets) > 1
                found = apart and is_broadcast(outputs[:, 0], targets, float(loss))
                self._watcher.pending.add_numbers(moment, {Key("target_broadcast"): float(found)})
            self._task = self._task or ("regression" if outputs.shape[-1] == 1 or outputs.dim() == 1 else "")
        elif outputs.dim() == 2 and targets.dim() == 1 and outputs.shape[1] > 1:
            self._task = "classification"
            counts = torch.bincount(targets.detach().cpu().long().clamp(0), minlength=outputs.shape[1])
            self._counts = counts if self._counts is None or len(counts) != len(self._counts) else self._counts + counts

    def finish_evaluation(self, moment: Moment, split: str) -> int:
        """Return how many examples went through without gradients; compare their inputs, once, with train's."""
        rows, self._rows = self._rows, 0
        train, other = self._train.result(), self._evaluation.result()
        if split != "train" and train is not None and other is not None:
            found = shift_between(train, other)
            self._watcher.pending.add_numbers(moment, {Key(n, split="dev"): value for n, value in found.items()})
            self._evaluation.done = True
        if split == "train":
            self._evaluation = RunningMoments(done=self._evaluation.done)
        return rows

    def _forward(self, module: nn.Module, arguments: Any) -> None:  # noqa: ARG002
        inputs = first_tensor(arguments)
        if torch.is_grad_enabled():
            self._inputs = inputs
            if not self._train.done and inputs is not None:
                self._train.add(inputs)
                self._train.done = self._train.rows >= COMPARED_ROWS
            return
        if inputs is not None and inputs.dim():
            self._rows += len(inputs)
            if not self._evaluation.done:
                self._evaluation.add(inputs)

    def _before_step(self) -> None:
        self._stepped = True
        if self._watcher.looking:
            self._watcher.on_gradients()

    def _drop_leftover(self) -> None:
        if self._leftover is not None:
            self._leftover.remove()
        self._leftover = self._left = None


def _before_steps(optimizer: torch.optim.Optimizer, call: Callable[[], None]) -> Callable[[], None]:
    """Have `call` called before each step of an optimiser; return what undoes it."""
    if getattr(type(optimizer), "calls_hooks", True):
        handle = optimizer.register_step_pre_hook(lambda *_: call())
        return handle.remove
    step = optimizer.step

    def watched(*arguments: Any, **named: Any) -> Any:
        call()
        return step(*arguments, **named)

    optimizer.step = watched  # type: ignore[method-assign]

    def undo() -> None:
        if optimizer.__dict__.get("step") is watched:
            del optimizer.__dict__["step"]

    return undo
