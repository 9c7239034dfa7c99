"""Batches that members see in different ways: the same examples, prepared for each fold by its own preprocessing."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Views:
    """One batch as different members see it.

    parts: the different ways, each (batch, ...), all of one shape. of: for each member the number of its part.
    """

    parts: tuple[Tensor, ...]
    of: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    @property
    def device(self) -> torch.device:
        """Where the batch lies."""
        return self.parts[0].device

    def member(self, number: int) -> Tensor:
        """Return the batch (batch, ...) as one member sees it."""
        return self.parts[self.of[number]]

    def slice(self, start: int, end: int) -> "Views":
        """Return the batch for the members from `start` to before `end`."""
        return Views(self.parts, self.of[start:end])

    def stacked(self) -> Tensor:
        """Return the batch as all members see it, (members, batch, ...)."""
        return torch.stack([self.parts[part] for part in self.of])

    def map(self, change: Callable[[Tensor], Tensor]) -> "Views":
        """Return the batch with every part changed."""
        return Views(tuple(change(part) for part in self.parts), self.of)


Shared = Tensor | Views
"""A batch (batch, ...) that all members share, or one that they see in different ways."""


def member_of(batch: Shared, number: int) -> Tensor:
    """Return the batch as one member sees it."""
    return batch.member(number) if isinstance(batch, Views) else batch


def slice_of(batch: Shared, start: int, end: int) -> Shared:
    """Return the batch for the members from `start` to before `end`."""
    return batch.slice(start, end) if isinstance(batch, Views) else batch


def stack_of(batch: Shared) -> Tensor:
    """Return a shared batch as it is, or what members see in different ways as (members, batch, ...)."""
    return batch.stacked() if isinstance(batch, Views) else batch
