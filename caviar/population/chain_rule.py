"""How a chain's weights move: gradients are taken where products write them."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from caviar.optim.lists import Number, add, is_zero, scale_tensors
from caviar.population.chain_products import add_product


class Slot(NamedTuple):
    """A stored tensor of a group of members, (members, ...), and its momentum, if there is one, shaped alike.

    decayed, decayed_momentum: the views of both that weight decay reaches, or None.
    """

    weight: Tensor
    momentum: Tensor | None = None
    decayed: Tensor | None = None
    decayed_momentum: Tensor | None = None

    @property
    def target(self) -> Tensor:
        """Where gradients are added."""
        return self.weight if self.momentum is None else self.momentum


class Rule(Protocol):
    """Takes the gradients of a group's slots, one slot after another, and then moves the weights.

    error_scale: what the loss's gradient by the outputs shall be multiplied with: a number, or [members].
    """

    error_scale: Number

    def product(self, slot: Slot, left: Tensor, right: Tensor) -> None:
        """Take left @ right, a product for each member, as the gradient."""

    def rows(self, slot: Slot, left: Tensor, right: Tensor) -> None:
        """Take the product of two matrices as the gradient; its rows are all members' rows below each other."""

    def members(self, slot: Slot, gradients: Iterable[Tensor]) -> None:
        """Take one gradient after another, of the first member, the second and so on."""

    def gradient(self, slot: Slot, gradient: Tensor) -> None:
        """Take a gradient of all members."""

    def finish(self) -> None:
        """Move the weights once every slot has got its gradient."""


class SGD:
    """v = momentum v + g + decay w, w -= rate v; without momentum w -= rate (g + decay w).

    in_velocity: the form v = momentum v - rate (g + decay w), w += v.
    A gradient has no memory of its own: its product is added to v, or to w, at once, which spares the way there and
    back. flat_weight, flat_momentum: all slots in one stretch each; no momentum, no memory for it.
    """

    def __init__(
        self, slots: Sequence[Slot], flat_weight: Tensor, flat_momentum: Tensor | None, *, in_velocity: bool = False
    ) -> None:
        self.error_scale: Number = 1.0
        self._flat_weight, self._flat_momentum = flat_weight, flat_momentum
        self._weights = [slot.weight for slot in slots]
        self._momenta = [slot.target for slot in slots]
        self._in_velocity = in_velocity

    def set(self, learning_rate: Number, momentum: Number, weight_decay: Number) -> None:
        """Use these from the next step on."""
        rated = self._in_velocity or self._flat_momentum is None
        self.error_scale = -learning_rate if rated else 1.0
        self._momentum = momentum
        self._decay = 0.0 if is_zero(weight_decay) else weight_decay * self.error_scale
        self._step: Number = 1.0 if self._in_velocity else -learning_rate

    def product(self, slot: Slot, left: Tensor, right: Tensor) -> None:
        add_product(slot.target, left, right, self._kept(slot))

    def rows(self, slot: Slot, left: Tensor, right: Tensor) -> None:
        slot.target.flatten(0, 1).addmm_(left, right, beta=self._kept(slot))

    def members(self, slot: Slot, gradients: Iterable[Tensor]) -> None:
        kept = self._kept(slot)
        for target, gradient in zip(slot.target, gradients, strict=True):
            torch.add(gradient, target, alpha=kept, out=target)

    def gradient(self, slot: Slot, gradient: Tensor) -> None:
        torch.add(gradient, slot.target, alpha=self._kept(slot), out=slot.target)

    def finish(self) -> None:
        if self._flat_momentum is None:
            return
        if isinstance(self._step, Tensor):
            add(self._weights, self._momenta, self._step)
        else:
            self._flat_weight.add_(self._flat_momentum, alpha=self._step)

    def _kept(self, slot: Slot) -> float:
        """Let weight decay, and return the factor of the target where the gradient is added to it."""
        decays = not is_zero(self._decay)
        if slot.momentum is None:
            if decays and slot.decayed is not None:
                scale_tensors([slot.decayed], 1.0 + self._decay)
            return 1.0
        momentum, decay, kept = self._momentum, self._decay, 1.0
        if isinstance(momentum, Tensor):
            scale_tensors([slot.momentum], momentum)
        elif momentum == 0:
            slot.momentum.zero_()
        else:
            decay, kept = decay / momentum, momentum
        if decays and slot.decayed is not None and slot.decayed_momentum is not None:
            add([slot.decayed_momentum], [slot.decayed], decay)
        return kept
