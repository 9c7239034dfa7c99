"""Parameters that are updated together, and their state."""

import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from caviar.optim.lists import Number, Slot

ALIGNMENT = 16
"""Parts begin at multiples of so many elements, so that kernels and matrix products meet them aligned."""


class Bucket:
    """Parameters of one type and device that have got their gradients together so far, and their state.

    slots: tensors shaped as the parameters, by name. numbers: what the whole bucket shares (a number or [members]).
    step: updates so far, the present one included: a number, or [members] where some began
    later. members: length of the parameters' leading axis, or None.
    """

    def __init__(self, params: Sequence[Tensor], members: int | None = None) -> None:
        self.params = list(params)
        self.members = members
        self.step: Number = 0
        self.slots: dict[str, Slot] = {}
        self.numbers: dict[str, Number] = {}
        self._scratch: dict[str, Slot] = {}
        self._temporary: Tensor | None = None

    def add_slot(self, name: str, values: Iterable[Tensor] | None = None) -> Slot:
        """Make room for state called `name`, zero or a copy of `values`."""
        slot = self.slots[name] = make_slot(self.params)
        if values is not None:
            torch._foreach_copy_(slot.parts, list(values))
        return slot

    def scratch(self, name: str) -> Slot:
        """Return memory to compute in, kept from step to step; its content lasts until somebody asks for it again."""
        if name not in self._scratch:
            self._scratch[name] = make_slot(self.params)
        return self._scratch[name]

    def free_scratch(self, used: Iterable[object]) -> Slot:
        """Return scratch memory that is none of the lists in `used`."""
        taken = {id(tensors) for tensors in used}
        candidates = (self.scratch(f"direction {index}") for index in itertools.count())
        return next(slot for slot in candidates if id(slot.parts) not in taken)

    @property
    def temporary(self) -> Tensor:
        """Memory for the largest parameter, for a single operation."""
        if self._temporary is None:
            self._temporary = self.params[0].new_empty(max(parameter.numel() for parameter in self.params))
        return self._temporary


def make_slot(params: Sequence[Tensor]) -> Slot:
    """Return zeros for all parameters in one stretch of memory."""
    starts = [0]
    for parameter in params:
        starts.append(starts[-1] + -(-parameter.numel() // ALIGNMENT) * ALIGNMENT)
    flat = torch.zeros(starts[-1], dtype=params[0].dtype, device=params[0].device)
    return Slot(flat, [_part(flat, start, parameter) for start, parameter in zip(starts, params, strict=False)])


def _part(flat: Tensor, start: int, parameter: Tensor) -> Tensor:
    piece = flat[start : start + parameter.numel()]
    strides = torch.empty_like(parameter, device="meta").stride()
    if parameter.stride() == strides:  # without gaps or overlaps: the same layout makes elementwise kernels fastest
        return piece.as_strided(parameter.shape, strides, piece.storage_offset())
    return piece.view(parameter.shape)
