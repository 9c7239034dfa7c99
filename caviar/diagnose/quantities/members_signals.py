"""What goes through the stacked form of some members in one pass: the counterpart of `Signals`, members in front."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from caviar.diagnose.quantities.layout import Layout
from caviar.diagnose.quantities.outputs import emit_form, emit_spread, form_of, spread_of
from caviar.diagnose.quantities.pending import Emit
from caviar.diagnose.quantities.signals import (
    emit_signal,
    free_label,
    kind_of,
    lag_of,
    looked_at,
    looks_needed,
    measure,
)
from caviar.diagnose.quantities.updates import NoiseScale
from caviar.population.layers import Signal

Measured = tuple[Tensor, Emit]
"""Numbers (members, n), and what names those of one member."""


@dataclass
class Memory:
    """What looks remember of one trial: for how many of them its units have been silent, and averages of noise."""

    silent: dict[str, Tensor] = field(default_factory=dict)
    noise: NoiseScale = field(default_factory=NoiseScale)


class MembersSignals:
    """Is told of every layer by a `Context`, and keeps what the signals of all members show.

    memories: of the members. num_looks: how many there have been, this one included.
    """

    def __init__(self, layout: Layout, memories: Sequence[Memory], num_looks: int) -> None:
        self._layout, self._memories, self._num_looks = layout, memories, num_looks
        self._found: dict[str, tuple[Tensor, Any]] = {}
        self._norms: dict[str, _BatchNorm] = {}

    def listen(self, module: nn.Module, name: str, inputs: Signal, outputs: Signal) -> None:
        """Look at a layer of which one looks at what comes out, or goes in."""
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            self._norms[name] = module
        if module in self._layout.activations:
            self._look(module, name, outputs, entering=False)
        elif module in self._layout.entering:
            self._look(module, name, inputs, entering=True)

    @torch.no_grad()
    def _look(self, module: nn.Module, name: str, signal: Signal, *, entering: bool) -> None:
        values = signal.tensor.detach()
        if not signal.stacked:
            values = values.expand(len(self._memories), *values.shape)
        if not values.is_floating_point() or values.dim() < 3 or not values.numel():
            return
        values = values[:, : looked_at(values.shape[1:])]
        kind, label = kind_of(module, entering=entering), free_label(name or "(model)", self._found)
        measured, units = torch.vmap(partial(measure, kind=kind))(values)
        if kind == "rectified":
            measured[:, 2] = self._count_dead(label, units, values.shape[1])
        self._found[label] = (measured, (kind, values[0].numel(), units[0].numel()))

    def _count_dead(self, label: str, units: Tensor, batch_size: int) -> Tensor:
        rows = zip(self._memories, torch.zeros_like(units), strict=True)
        before = [memory.silent.get(label, row) for memory, row in rows]
        looks = torch.stack(before) if all(len(row) == units.shape[1] for row in before) else torch.zeros_like(units)
        looks.add_(1).mul_(units == 0)
        for memory, row in zip(self._memories, looks, strict=True):
            memory.silent[label] = row
        return torch.count_nonzero(looks >= looks_needed(self._num_looks, batch_size), dim=1)

    @torch.no_grad()
    def collect(
        self, outputs: Tensor, before: Mapping[str, Tensor], after: Mapping[str, Tensor], *, early: bool
    ) -> Iterator[Measured]:
        """Yield what was heard, and what outputs (members, batch, ...) tell; buffers before and after the pass."""
        for label, (values, facts) in self._found.items():
            yield values, emit_signal(label, *facts)
        for name, norm in self._norms.items():
            keys = [f"{name}.{buffer}" if name else buffer for buffer in ("running_mean", "running_var")]
            lag = partial(lag_of, momentum=norm.momentum or torch.nan, eps=norm.eps)
            statistics = [tensors[key] for tensors in (before, after) for key in keys]
            yield torch.vmap(lag)(*statistics), emit_signal(name or "(model)", "norm", 0, 0)
        if outputs.is_floating_point() and outputs.numel() and outputs.dim() >= 2:
            values = outputs.float().flatten(2) if outputs.dim() > 2 else outputs.float().unsqueeze(2)
            yield torch.vmap(spread_of)(values), emit_spread(*values.shape[1:])
            if early and outputs.dim() == 3 and min(outputs.shape[1:]) >= 2:
                yield torch.vmap(form_of)(values), emit_form
