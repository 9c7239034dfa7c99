"""Members of a chain that a step takes together: their memory, and their steps laid out for batch sizes."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from caviar.optim.bucket import ALIGNMENT
from caviar.optim.lists import Number
from caviar.population.chain_links import Batch, Call, Link, Room, Signal, Stored
from caviar.population.chain_loss import Loss
from caviar.population.chain_products import members_stride, members_view
from caviar.population.chain_rule import SGD, Slot
from caviar.population.cohort import Cohort

PLANS = 2
"""Batch sizes that a group stays prepared for: the usual one, and that of an epoch's last batch."""


class Common(NamedTuple):
    """What all groups of a chain share. has_momentum, in_velocity: of the rule, see `SGD`."""

    links: Sequence[Link]
    loss: Loss
    batch: Batch
    has_momentum: bool
    in_velocity: bool


class Group:
    """Some members of a chain. start: the first of them in the cohort."""

    def __init__(self, cohort: Cohort, start: int, common: Common) -> None:
        self.start, self.num_members = start, len(cohort)
        self._links, self._loss, self._in_velocity = common.links, common.loss, common.in_velocity
        self._stored = {key: stored for link in common.links for key, stored in link.stored.items()}
        self._like = next(tensor for tensor in cohort.weights.values() if tensor.is_floating_point())
        weights = _memory(self._like, len(cohort), self._stored)
        momenta = _memory(self._like, len(cohort), self._stored) if common.has_momentum else None
        self._slots = {
            key: _slot(stored, weights.parts[key], None if momenta is None else momenta.parts[key])
            for key, stored in self._stored.items()
        }
        parameters = self._views("weight")
        self._buffers = {n: t.detach().clone() for n, t in cohort.weights.items() if n not in parameters}
        with torch.no_grad():
            for name, view in parameters.items():
                view.copy_(cohort.weights[name])
        flat_momentum = None if momenta is None else momenta.flat
        slots = list(self._slots.values())
        self._rule = SGD(slots, weights.flat, flat_momentum, in_velocity=common.in_velocity)
        self._room = Room(
            start, len(cohort), self._slots, self._buffers, cohort.draws, self._rule, common.batch, self._like
        )
        self._plans: dict[int, list[Call]] = {}

    def set_numbers(self, learning_rate: Number, momentum: Number, weight_decay: Number) -> None:
        """Use these from the next step on: numbers, or [members] of the whole cohort."""
        numbers = [
            number[self.start : self.start + self.num_members].to(self._like) if isinstance(number, Tensor) else number
            for number in (learning_rate, momentum, weight_decay)
        ]
        self._rule.set(*numbers)

    def step(self, batch_size: int) -> None:
        """Train on the batch that all groups share."""
        plan = self._plans.get(batch_size)
        if plan is None:
            plan = self._prepare(batch_size)
        for call in plan:
            call()

    def _prepare(self, batch_size: int) -> list[Call]:
        if len(self._plans) == PLANS:
            del self._plans[min(self._plans)]
        forward, backward = [], []
        signal: Signal | None = None
        for link in self._links:
            laid = link.lay(self._room, signal, batch_size)
            forward.append(laid.forward)
            backward.append(laid.backward)
            signal = laid.signal
        assert signal is not None
        plan = [*forward, self._loss.lay(self._room, signal), *reversed(backward), self._rule.finish]
        self._plans[batch_size] = plan
        return plan

    def evaluate(self, signal: Tensor) -> Tensor:
        """Return the outputs (members, outputs, batch) of inputs (1, features, batch) in evaluation mode."""
        for link in self._links:
            signal = link.evaluate(self._room, signal)
        return signal

    def views(self) -> dict[str, Tensor]:
        """Return views of all that is remembered, by the names that an executor's state has."""
        found = {f"model/{name}": tensor for name, tensor in (self._views("weight") | self._buffers).items()}
        if any(slot.momentum is not None for slot in self._slots.values()):
            momenta = self._views("momentum")
            kind = "velocity" if self._in_velocity else "momentum_buffer"
            found |= {f"optimizer/{name}/{kind}": tensor for name, tensor in momenta.items()}
        return found

    def _views(self, kind: str) -> dict[str, Tensor]:
        return {
            name: view
            for key, stored in self._stored.items()
            for name, view in stored.names(getattr(self._slots[key], kind)).items()
        }

    def forget(self) -> None:
        """Give back the memory of the steps laid out; the next step lays itself out anew."""
        self._plans = {}


def _slot(stored: Stored, weight: Tensor, momentum: Tensor | None) -> Slot:
    if stored.decays is None:
        return Slot(weight, momentum)
    return Slot(weight, momentum, stored.decays(weight), None if momentum is None else stored.decays(momentum))


class _Memory(NamedTuple):
    flat: Tensor
    parts: dict[str, Tensor]


def _memory(like: Tensor, num_members: int, stored: Mapping[str, Stored]) -> _Memory:
    """Return zeros for all stored tensors in one stretch of memory, so that one kernel can go over them."""
    sizes = [members_stride(each.shape) if each.is_matrix else math.prod(each.shape) for each in stored.values()]
    starts = [0, *itertools.accumulate(-(-size * num_members // ALIGNMENT) * ALIGNMENT for size in sizes)]
    flat = like.new_zeros(starts[-1])
    parts = {
        key: members_view(flat[start : start + size * num_members], num_members, each.shape)
        for (key, each), start, size in zip(stored.items(), starts, sizes, strict=False)
    }
    return _Memory(flat, parts)
