"""Members of a chain that a step takes together: their memory, and their steps laid out for batch sizes."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from caviar.optim.bucket import ALIGNMENT
from caviar.optim.lists import Number
from caviar.optim.settings import SGDSettings
from caviar.population.average import average_of, state_of
from caviar.population.chain_links import Batch, Call, Link, Room, Signal, Stored
from caviar.population.chain_loss import Loss
from caviar.population.chain_optimizer import Optimized
from caviar.population.chain_products import members_stride, members_view
from caviar.population.chain_rule import SGD, Rule, Slot
from caviar.population.cohort import Cohort

PLANS = 2
"""Batch sizes that a group stays prepared for: the usual one, and that of an epoch's last batch."""


class Common(NamedTuple):
    """What all groups of a chain share."""

    links: Sequence[Link]
    loss: Loss
    batch: Batch


class Group:
    """Some members of a chain. start: the first of them in the cohort."""

    def __init__(self, cohort: Cohort, start: int, common: Common) -> None:
        self.start, self.num_members = start, len(cohort)
        self._links, self._loss = common.links, common.loss
        self._stored = {key: stored for link in common.links for key, stored in link.stored.items()}
        like = next(tensor for tensor in cohort.weights.values() if tensor.is_floating_point()).new_empty(0)
        weights = _memory(like, len(cohort), self._stored)
        targets = _memory(like, len(cohort), self._stored) if has_targets(cohort) else weights
        self._slots = {
            key: Slot(weights.parts[key], targets.parts[key], *_decayed(stored, weights.parts[key], targets.parts[key]))
            for key, stored in self._stored.items()
        }
        self._parameters = self._named(weights.parts)
        self._buffers = {n: t.detach().clone() for n, t in cohort.weights.items() if n not in self._parameters}
        with torch.no_grad():
            for name, view in self._parameters.items():
                view.copy_(cohort.weights[name])
        self._rule = self._build_rule(cohort, weights.flat, None if targets is weights else targets.flat)
        self._room = Room(start, len(cohort), self._slots, self._buffers, cohort.draws, self._rule, common.batch, like)
        self._plans: dict[int, list[Call]] = {}
        self._average = average_of(cohort, lambda: self._parameters | self._buffers)

    def _build_rule(self, cohort: Cohort, flat_weight: Tensor, flat_target: Tensor | None) -> Rule:
        settings = cohort.optimizer
        if not isinstance(settings, SGDSettings) or needs_gradients(cohort):
            return Optimized(cohort, self._stored, self._slots)
        rule = SGD(self._slots, flat_weight, flat_target, in_velocity=settings.rate_in_velocity)
        names = ("learning_rate", "momentum", "weight_decay")
        rule.start(*(cohort.value(name, getattr(settings, name)) for name in names))
        return rule

    def set(self, learning_rate: Number | None, momentum: Number | None, present: Tensor | None) -> None:
        """Use these from the next step on: numbers, or [members] of the whole cohort; see `Rule.set`."""
        own = slice(self.start, self.start + self.num_members)
        rate, share = (number[own] if isinstance(number, Tensor) else number for number in (learning_rate, momentum))
        self._rule.set(rate, share, None if present is None else present[own])

    def step(self, batch_size: int) -> None:
        """Train on the batch that all groups share."""
        plan = self._plans.get(batch_size)
        if plan is None:
            plan = self._prepare(batch_size)
        for call in plan:
            call()

    def average(self, share: float) -> None:
        """Let the weights have this share of their running average."""
        if self._average is not None:
            self._average.take(share)

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

    def live(self) -> dict[str, Tensor]:
        """Return weights and buffers by the template's names; not copies."""
        return self._parameters | self._buffers

    def state(self) -> dict[str, Tensor]:
        """Return all that is remembered, by the names that an executor's state has; not copies."""
        found = {f"model/{name}": tensor for name, tensor in self.live().items()}
        for kind, tensors in self._rule.state().items():
            found |= {f"optimizer/{name}/{kind}": tensor for name, tensor in self._named(tensors).items()}
        return found | state_of(self._average)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` has returned."""
        for name, tensor in (self._parameters | self._buffers).items():
            tensor.copy_(state[f"model/{name}"])
        owners = {name: key for key, slot in self._slots.items() for name in self._stored[key].names(slot.weight)}
        kinds: dict[str, dict[str, Tensor]] = {}
        for path, tensor in state.items():
            if not path.startswith("optimizer/"):
                continue
            name, kind = path.removeprefix("optimizer/").rsplit("/", 1)
            key = owners[name]
            if tensor.dim() == 1:
                kinds.setdefault(kind, {})[key] = tensor
            else:
                whole = kinds.setdefault(kind, {}).setdefault(key, torch.zeros_like(self._slots[key].weight))
                self._stored[key].names(whole)[name].copy_(tensor)
        self._rule.load(kinds)
        if self._average is not None:
            self._average.load(state)

    def _named(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return views of stored tensors by the template's names; what is [members] stands under all names."""
        named: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            stored = self._stored[key]
            if tensor.dim() == 1:
                named |= dict.fromkeys(stored.names(self._slots[key].weight), tensor)
            else:
                named |= stored.names(tensor)
        return named

    def forget(self) -> None:
        """Give back the memory of the steps laid out; the next step lays itself out anew."""
        self._plans = {}


def needs_gradients(cohort: Cohort) -> bool:
    """Whether something must be done with gradients before they move the weights."""
    settings, penalties = cohort.optimizer, cohort.regularization
    if not isinstance(settings, SGDSettings) or settings.nesterov or cohort.clip_norm is not None:
        return True
    if penalties.l1 or penalties.l2 or penalties.max_norm != "none":
        return True
    return not {"l1", "l2", "max_norm", "clip_norm"}.isdisjoint(cohort.values)


def has_targets(cohort: Cohort) -> bool:
    """Whether gradients, or momenta that they are added to, have memory beside the weights."""
    if needs_gradients(cohort) or not isinstance(cohort.optimizer, SGDSettings):
        return True
    return "momentum" in cohort.values or cohort.optimizer.momentum > 0


def _decayed(stored: Stored, weight: Tensor, target: Tensor) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if stored.decays is None else (stored.decays(weight), stored.decays(target))


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
