"""What goes through a network in one step: inputs, activations, norms' statistics and outputs, taken by hooks."""

import math
import time
from collections.abc import Container, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from caviar.core.observer import Moment
from caviar.diagnose.quantities.inputs import read_inputs, read_scales
from caviar.diagnose.quantities.layout import BOUNDED, RECTIFIERS, Layout
from caviar.diagnose.quantities.outputs import read_form, read_outputs
from caviar.diagnose.quantities.pending import Emit, Key, Pending, spread
from caviar.nn.probe import first_tensor

MOST_VALUES = 1 << 20
"""Of a larger activation only the first examples of the batch are looked at."""

ENOUGH_EXAMPLES, MOST_LOOKS = 256, 8
"""A unit of a rectifier is called dead when it was 0 for so many examples, over at most so many looks."""

TANH_FLAT, SIGMOID_FLAT = 0.995, 0.01
"""Where the slope of tanh falls below 0.01, and that of the sigmoid to the same."""


class Signals:
    """Hooks on a network for one step. `attach`, let one step pass, `collect`, `detach`.

    Forward passes without gradients are not looked at; of several with gradients the last one counts. The hooks read
    and never change anything, and draw no random numbers. A module that runs more than once is named "name", "name:2".
    silent, num_looks: what earlier looks have counted.
    """

    def __init__(
        self, model: nn.Module, layout: Layout, silent: dict[str, Tensor] | None = None, num_looks: int = 0
    ) -> None:
        self._model, self._layout = model, layout
        self._handles: list[RemovableHandle] = []
        self._found: dict[str, tuple[Tensor, Any]] = {}
        self._before: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._silent: dict[str, Tensor] = {} if silent is None else silent
        self._num_looks = num_looks
        self._inputs: Tensor | None = None
        self.outputs: Tensor | None = None
        self.batch_size = 0
        self.began = 0.0

    def attach(self, *, inside: bool) -> None:
        """Hook the network; without `inside` only to see when its forward pass begins, and on how many examples."""
        self._handles = [self._model.register_forward_pre_hook(self._enter)]
        self.began = 0.0
        self.batch_size = 0
        self._clear()
        if not inside:
            return
        self._num_looks += 1
        self._handles.append(self._model.register_forward_hook(self._leave))
        self._handles += [m.register_forward_hook(self._activation) for m in self._layout.activations]
        self._handles += [m.register_forward_pre_hook(self._entering) for m in self._layout.entering]
        for norm in self._layout.norms:
            self._handles.append(norm.register_forward_pre_hook(self._norm_before))
            self._handles.append(norm.register_forward_hook(self._norm_after))

    def detach(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._clear()

    def _clear(self) -> None:
        self._found, self._before = {}, {}
        self._inputs = self.outputs = None

    def _enter(self, module: nn.Module, arguments: Any) -> None:  # noqa: ARG002
        if not torch.is_grad_enabled():
            return
        self.began = self.began or time.perf_counter()
        self._clear()
        self._inputs = first_tensor(arguments)
        if self._inputs is not None and self._inputs.dim():
            self.batch_size = len(self._inputs)

    def _leave(self, module: nn.Module, arguments: Any, outputs: Any) -> None:  # noqa: ARG002
        if torch.is_grad_enabled():
            self.outputs = first_tensor(outputs)

    def _activation(self, module: nn.Module, arguments: Any, outputs: Any) -> None:  # noqa: ARG002
        if torch.is_grad_enabled():
            self._look(module, first_tensor(outputs))

    def _entering(self, module: nn.Module, arguments: Any) -> None:
        if torch.is_grad_enabled():
            self._look(module, first_tensor(arguments))

    @torch.no_grad()
    def _look(self, module: nn.Module, values: Tensor | None) -> None:
        if values is None or not values.is_floating_point() or values.dim() < 2 or not values.numel():
            return
        values = values.detach()
        values = values[: looked_at(values.shape)]
        kind = kind_of(module, entering=module in self._layout.entering)
        label = free_label(self._layout.names[module], self._found)
        measured, units = measure(values, kind)
        if kind == "rectified":
            measured[2] = self._count_dead(label, units, len(values))
        self._found[label] = (measured, (kind, values.numel(), units.numel()))

    def _count_dead(self, label: str, units: Tensor, batch_size: int) -> Tensor:
        """Count units that were silent over the last looks: a batch may just lack what a rare unit answers to."""
        silent = units == 0
        looks = self._silent.get(label)
        if looks is None or len(looks) != len(silent):
            looks = self._silent[label] = torch.zeros_like(units)
        looks.add_(1).mul_(silent)
        return torch.count_nonzero(looks >= looks_needed(self._num_looks, batch_size))

    def _norm_before(self, module: nn.Module, arguments: Any) -> None:  # noqa: ARG002
        if not (isinstance(module, _BatchNorm) and module.training and torch.is_grad_enabled()):
            return
        if module.running_mean is not None and module.running_var is not None:
            self._before[module] = (module.running_mean.clone(), module.running_var.clone())

    @torch.no_grad()
    def _norm_after(self, module: nn.Module, arguments: Any, outputs: Any) -> None:  # noqa: ARG002
        if module in self._before and isinstance(module, _BatchNorm):
            label = self._layout.names[module]
            self._found[label] = (_against_batch(module, *self._before.pop(module)), ("norm", 0, 0))

    def collect(self, moment: Moment, pending: Pending, *, early: bool) -> None:
        """Hand over what the step has shown; `early`: with what hardly changes later."""
        with torch.no_grad():
            if self._inputs is not None and early:
                read_inputs(self._inputs.detach(), moment, pending)
                read_scales(self._inputs.detach(), moment, pending)
            if self.outputs is not None:
                read_outputs(self.outputs.detach(), moment, pending)
                if early:
                    read_form(self.outputs.detach(), moment, pending)
        for label, (values, facts) in self._found.items():
            pending.add(moment, values, emit_signal(label, *facts))


def emit_signal(layer: str, kind: str, num_values: int, num_units: int) -> Emit:
    """Return what names the three numbers of `measure` (or the two of a norm's lag) of a layer."""

    def activation(values: list[float]) -> Iterable[tuple[Key, float]]:
        mean, norm, share = values
        yield Key("activation_mean", layer), mean
        yield Key("activation_std", layer), spread(mean, norm, num_values)
        if kind == "rectified":
            yield Key("dead", layer), share / num_units
        if kind in ("tanh", "sigmoid"):
            yield Key("saturated", layer), share / num_values

    def norm(values: list[float]) -> Iterable[tuple[Key, float]]:
        yield Key("norm_mean_lag", layer), values[0]
        yield Key("norm_variance_lag", layer), values[1]

    return norm if kind == "norm" else activation


def kind_of(module: nn.Module, *, entering: bool) -> str:
    """Return what an activation's values are to be measured as; `entering`: those that enter a layer."""
    if entering or isinstance(module, RECTIFIERS):
        return "rectified"
    if isinstance(module, BOUNDED):
        return "tanh" if isinstance(module, nn.Tanh | nn.Hardtanh) else "sigmoid"
    return "other"


def free_label(name: str, taken: Container[str]) -> str:
    """Return the name of a module's next run: "name", "name:2", ..."""
    count, label = 1, name
    while label in taken:
        count += 1
        label = f"{name}:{count}"
    return label


def looked_at(shape: Sequence[int]) -> int:
    """Return how many examples of an activation of that shape (batch, ...) are looked at."""
    return max(2, MOST_VALUES // max(1, math.prod(shape[1:])))


def looks_needed(num_looks: int, batch_size: int) -> int:
    """Return how many looks in a row a unit must be silent in, to be called dead."""
    return min(num_looks, MOST_LOOKS, -(-ENOUGH_EXAMPLES // max(batch_size, 1)))


def measure(values: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Return mean, root of the sum of squares and number of saturated values; and the mean of each unit."""
    values = values.float()
    others = tuple(i for i in range(values.dim()) if i != (1 if values.dim() >= 4 else values.dim() - 1))
    units = values.mean(dim=others)  # of a rectifier's outputs, 0 exactly where all are 0; far cheaper than a maximum
    if kind == "tanh":
        count = torch.count_nonzero(values.abs() > TANH_FLAT)
    elif kind == "sigmoid":
        count = torch.count_nonzero(values * (1 - values) < SIGMOID_FLAT)
    else:
        count = torch.zeros((), device=values.device)
    return torch.stack([units.mean(), torch.linalg.vector_norm(values), count]), units


def _against_batch(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> Tensor:
    """Return how far the batch's statistics were from the running ones, from how these have moved.

    running_new = (1 - m) running + m batch. Mean: mean over channels of |batch - running| / running std. Variance:
    mean over channels of |log(batch / running)|, from 0; a factor of 2 is 0.69.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    if norm.momentum is None:
        assert norm.num_batches_tracked is not None
        momentum = norm.num_batches_tracked.clamp_min(1).reciprocal().float()
    elif norm.momentum == 0.0:
        return torch.full((2,), math.nan, device=mean.device)
    else:
        momentum = torch.full((), norm.momentum, device=mean.device)
    return lag_of(mean, variance, norm.running_mean, norm.running_var, momentum, norm.eps)


def lag_of(
    mean: Tensor, variance: Tensor, new_mean: Tensor, new_variance: Tensor, momentum: Tensor | float, eps: float
) -> Tensor:
    """Return both numbers of `_against_batch` from running statistics before and after a batch."""
    shift = ((new_mean - mean).abs() / (momentum * (variance + eps).sqrt())).mean()
    batch = (variance + (new_variance - variance) / momentum).clamp_min(0) + eps
    ratio = (batch / (variance + eps)).log().abs().mean()
    return torch.stack([shift, ratio])
