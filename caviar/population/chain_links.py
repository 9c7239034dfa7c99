"""What the links of a chain have in common: signals, stored weights, and the room that a group of members works in.

A chain trains members without autograd: every step is a list of torch calls on memory that exists already. Signals are
(members, features, batch), so that what is summed over the batch, or over classes, lies inside one member.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from caviar.population.chain_products import ALIGNMENT, members_empty
from caviar.population.chain_rule import Rule, Slot

Call = Callable[[], object]
"""One piece of a step. It takes no arguments: all that it works on is known when it is laid out."""


class Signal(NamedTuple):
    """What one link hands to the next.

    value: (members, features, batch). spare: memory of that shape, made by `Room.empty`, where the loss's gradient by
    this signal shall be written; it may be value's own, if nobody needs the value by then; None where nobody asks for
    the gradient. whole: value and further features behind, one that is always 1 and some that are always 0; None where
    there is no room for them.
    """

    value: Tensor
    spare: Tensor | None
    whole: Tensor | None = None


class Laid(NamedTuple):
    """A link laid out for one batch size: its output, and the calls that make a step of it."""

    signal: Signal
    forward: Call
    backward: Call


class Stored(NamedTuple):
    """How a link keeps its weights.

    shape: of one member's. names: from a stored tensor (members, *shape) to views of it by the template's parameter
    names, shaped as there. decays, rest: to the views that weight decay reaches and does not reach, or None.
    is_matrix: used in `multiply` and `add_product`, so that every member's must be aligned; others lie without gaps.
    """

    shape: tuple[int, ...]
    names: Callable[[Tensor], dict[str, Tensor]]
    decays: Callable[[Tensor], Tensor] | None = None
    rest: Callable[[Tensor], Tensor] | None = None
    is_matrix: bool = False


@dataclass
class Batch:
    """The batch under way, set anew in every step, common to all groups of members.

    inputs: (batch, features). weights: (members, batch), or None where all count alike. present: whether each member
    has any weight, or None where all have. size: examples, without what was added to a batch of one. losses: where the
    members' losses go.
    """

    inputs: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    weights: Tensor | None = None
    present: Sequence[bool] | None = None
    size: int = 0
    losses: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True)
class Room:
    """What a group of members gives its links to work with. start: the group's first member.

    buffers: running statistics by the template's names, (members, ...). draws: their generators.
    """

    start: int
    num_members: int
    slots: Mapping[str, Slot]
    buffers: Mapping[str, Tensor]
    draws: Sequence[torch.Generator]
    rule: Rule
    batch: Batch
    like: Tensor

    def empty(self, features: int, batch_size: int) -> Tensor:
        """Return memory for a signal."""
        return members_empty(self.like, self.num_members, features, batch_size)

    def whole(self, features: int, batch_size: int) -> Tensor:
        """Return memory for a signal with more features behind: one that is 1, and some that are 0.

        The gap that they leave between members also makes elementwise kernels treat all members alike. They round what
        is left behind the last whole vector in another way, and without a gap that depends on what lies before.
        """
        whole = members_empty(self.like, self.num_members, features + ALIGNMENT, batch_size)
        whole[:, features] = 1
        return whole


class Link(Protocol):
    """A layer of the chain."""

    @property
    def stored(self) -> Mapping[str, Stored]:
        """How its weights are kept, under keys that no other link has."""

    def lay(self, room: Room, inputs: Signal | None, batch_size: int, /) -> Laid:
        """Lay out a training step. inputs: None for the batch itself, whose gradient nobody asks for."""

    def evaluate(self, room: Room, inputs: Tensor, /) -> Tensor:
        """Return the outputs in evaluation mode; inputs (members, features, batch), or (1, ...) common to all."""
