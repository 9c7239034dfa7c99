"""How a chain's weights move: gradients are taken where products write them."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from caviar.optim.lists import Number, add, is_zero, scale_tensors
from caviar.population.chain_products import add_product


class Slot(NamedTuple):
    """A stored tensor of a group of members, (members, ...), and where products add its gradient, shaped alike.

    target: a momentum, a gradient, or the weight itself. decayed, decayed_target: the views of both that weight decay
    reaches, or None.
    """

    weight: Tensor
    target: Tensor
    decayed: Tensor | None = None
    decayed_target: Tensor | None = None


class Rule(Protocol):
    """Moves the weights of a group's slots after their gradients have been taken, one slot after another.

    error_scale: what the loss's gradient by the outputs shall be multiplied with: a number, or [members].
    """

    error_scale: Number

    def set(self, learning_rate: Number | None, momentum: Number | None, present: Tensor | None) -> None:
        """Use these from the next step on; None leaves what is in use.

        present: which members learn from the next batch, bool [members]; None for all.
        """

    def kept(self, slot: Slot) -> float:
        """Return the factor that a slot's target is kept with when its gradient is added. Called once in a step."""

    def finish(self) -> None:
        """Move the weights."""

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return what is remembered of the slots: kind -> key of the slot -> a tensor as it is stored, or [members]."""

    def load(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take over what `state` has returned."""


def take_product(rule: Rule, slot: Slot, left: Tensor, right: Tensor) -> None:
    """Take left @ right, a product for each member, as the gradient."""
    add_product(slot.target, left, right, rule.kept(slot))


def take_rows(rule: Rule, slot: Slot, left: Tensor, right: Tensor) -> None:
    """Take the product of two matrices as the gradient; its rows are all members' rows below each other."""
    slot.target.flatten(0, 1).addmm_(left, right, beta=rule.kept(slot))


def take_members(rule: Rule, slot: Slot, gradients: Iterable[Tensor]) -> None:
    """Take one gradient after another, of the first member, the second and so on."""
    kept = rule.kept(slot)
    for target, gradient in zip(slot.target, gradients, strict=True):
        _add(target, gradient, kept)


def take_gradient(rule: Rule, slot: Slot, gradient: Tensor) -> None:
    """Take a gradient of all members."""
    _add(slot.target, gradient, rule.kept(slot))


def _add(target: Tensor, gradient: Tensor, kept: float) -> None:
    if kept == 0:
        target.copy_(gradient)
    else:
        torch.add(gradient, target, alpha=kept, out=target)


class SGD:
    """v = momentum v + g + decay w, w -= rate v; without momentum w -= rate (g + decay w).

    in_velocity: the form v = momentum v - rate (g + decay w), w += v.
    A gradient has no memory of its own: its product is added to v, or to w, at once, which spares the way there and
    back. flat_weight, flat_target: all slots in one stretch each; flat_target None where there is no v.
    """

    def __init__(
        self, slots: Mapping[str, Slot], flat_weight: Tensor, flat_target: Tensor | None, *, in_velocity: bool
    ) -> None:
        self.error_scale: Number = 1.0
        self._slots, self._flat_weight, self._flat_target = slots, flat_weight, flat_target
        self._weights = [slot.weight for slot in slots.values()]
        self._targets = [slot.target for slot in slots.values()]
        self._in_velocity = in_velocity

    def start(self, learning_rate: Number, momentum: Number, weight_decay: Number) -> None:
        """Set all hyperparameters before the first step: numbers, or [members]."""
        self._all = (self._own(learning_rate), self._own(momentum), self._own(weight_decay))
        self.set(None, None, None)

    def _own(self, number: Number) -> Number:
        return number.to(self._flat_weight) if isinstance(number, Tensor) else number

    def set(self, learning_rate: Number | None, momentum: Number | None, present: Tensor | None) -> None:
        """For members that are not present use what leaves everything as it is."""
        rate, share, decay = self._all
        rate = rate if learning_rate is None else self._own(learning_rate)
        share = share if momentum is None else self._own(momentum)
        self._all = (rate, share, decay)
        if present is not None:
            one = present.to(self._flat_weight)
            rate, decay, share = rate * one, decay * one, share * one + (1 - one)
        rated = self._in_velocity or self._flat_target is None
        self.error_scale = -rate if rated else 1.0
        self._momentum, self._step = share, 1.0 if self._in_velocity else -rate
        self._decay = decay * self.error_scale

    def kept(self, slot: Slot) -> float:
        """Let weight decay, and return the share of momentum that is left to multiply with."""
        decays = slot.decayed is not None and not is_zero(self._decay)
        if self._flat_target is None:
            if decays and slot.decayed is not None:
                scale_tensors([slot.decayed], 1.0 + self._decay)
            return 1.0
        momentum, decay, kept = self._momentum, self._decay, 1.0
        if isinstance(momentum, Tensor):
            scale_tensors([slot.target], momentum)
        elif momentum != 0:
            decay, kept = decay / momentum, momentum
        elif decays:
            slot.target.zero_()
        else:
            kept = 0.0
        if decays and slot.decayed is not None and slot.decayed_target is not None:
            add([slot.decayed_target], [slot.decayed], decay)
        return kept

    def finish(self) -> None:
        if self._flat_target is None:
            return
        if isinstance(self._step, Tensor):
            add(self._weights, self._targets, self._step)
        else:
            self._flat_weight.add_(self._flat_target, alpha=self._step)

    def state(self) -> dict[str, dict[str, Tensor]]:
        if self._flat_target is None:
            return {}
        kind = "velocity" if self._in_velocity else "momentum_buffer"
        return {kind: {key: slot.target for key, slot in self._slots.items()}}

    def load(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        for stored in state.values():
            for key, tensor in stored.items():
                self._slots[key].target.copy_(tensor)
