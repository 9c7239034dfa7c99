"""Linear layers of a chain: the first one, which sees a batch that all members share, and those behind it."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from caviar.population.chain_links import Call, Laid, Room, Signal, Stored
from caviar.population.chain_products import is_dense, multiply

WIDE_OUTPUTS = 16
"""From so many outputs a member on, one product for all members rounds each as a product of its own would."""


class Affine(NamedTuple):
    """A linear layer as the template has it; name: with a dot behind, where there is one."""

    name: str
    num_inputs: int
    num_outputs: int
    bias: bool

    @property
    def width(self) -> int:
        """How many outputs are computed: at least 2.

        A product with a single row or column goes another way through the libraries, and rounds differently there
        when a member stands alone. A second output, of weight 0 and gradient 0, keeps it away from that.
        """
        return max(self.num_outputs, 2)


class StackedLinear:
    """A product for each member in one call; weights (members, inputs + 1, outputs), the bias as the last input's."""

    def __init__(self, affine: Affine) -> None:
        self._affine = affine
        self._key = f"{affine.name}weight"

    @property
    def stored(self) -> Mapping[str, Stored]:
        name, inputs, outputs, bias = self._affine

        def names(tensor: Tensor) -> dict[str, Tensor]:
            found = {f"{name}weight": tensor[:, :inputs, :outputs].transpose(1, 2)}
            return found | ({f"{name}bias": tensor[:, inputs, :outputs]} if bias else {})

        shape = inputs + bias, self._affine.width
        return {self._key: Stored(shape, names, lambda tensor: tensor[:, :inputs], is_matrix=True)}

    def lay(self, room: Room, inputs: Signal | None, batch_size: int) -> Laid:
        assert inputs is not None
        assert inputs.whole is not None
        slot, rule, before = room.slots[self._key], room.rule, inputs.spare
        values = inputs.whole if self._affine.bias else inputs.value
        outputs = room.empty(self._affine.width, batch_size)
        forward_weight, errors = slot.weight.transpose(1, 2), outputs.transpose(1, 2)
        backward_weight = slot.weight[:, : self._affine.num_inputs]

        def backward() -> None:
            if before is not None:
                multiply(backward_weight, outputs, before)
            rule.product(slot, values, errors)

        return Laid(Signal(outputs, outputs), lambda: multiply(forward_weight, values, outputs), backward)

    def evaluate(self, room: Room, inputs: Tensor) -> Tensor:
        weight, count = room.slots[self._key].weight.transpose(1, 2), self._affine.num_inputs
        outputs = room.empty(self._affine.width, inputs.shape[2])
        multiply(weight[:, :, :count], inputs.expand(room.num_members, -1, -1), outputs)
        return outputs.add_(weight[:, :, count:]) if self._affine.bias else outputs


def stored_rows(affine: Affine, *, is_matrix: bool) -> dict[str, Stored]:
    """Store weights as the template does, (members, outputs, inputs), and biases as (members, outputs, 1)."""
    key, bias_key, outputs = f"{affine.name}weight", f"{affine.name}bias", affine.num_outputs
    weight = Stored(
        (affine.width, affine.num_inputs), lambda t: {key: t[:, :outputs]}, lambda t: t, is_matrix=is_matrix
    )
    bias = Stored((affine.width, 1), lambda t: {bias_key: t[:, :outputs, 0]})
    return {key: weight, bias_key: bias} if affine.bias else {key: weight}


def bias_of(affine: Affine, room: Room) -> Tensor | None:
    """Return the biases that `stored_rows` keeps."""
    return room.slots[f"{affine.name}bias"].weight if affine.bias else None


def bias_backward(affine: Affine, room: Room, errors: Tensor) -> Call:
    """Return the call that takes the gradient by these biases."""
    if not affine.bias:
        return lambda: None
    slot, rule, gradient = room.slots[f"{affine.name}bias"], room.rule, errors.new_empty(*errors.shape[:2], 1)

    def backward() -> None:
        torch.sum(errors, 2, keepdim=True, out=gradient)
        rule.gradient(slot, gradient)

    return backward


class FirstLinear:
    """The layer that sees the batch, which all members share: one product for all of them, no gradient by its inputs.

    Where that cannot be done alike for any number of members, it is a product for each.
    """

    def __init__(self, affine: Affine) -> None:
        self._affine = affine
        self._key = f"{affine.name}weight"

    @property
    def stored(self) -> Mapping[str, Stored]:
        return stored_rows(self._affine, is_matrix=True)

    def lay(self, room: Room, inputs: Signal | None, batch_size: int) -> Laid:
        assert inputs is None
        outputs = room.empty(self._affine.width, batch_size)
        dense = is_dense(*outputs.shape[1:]) and is_dense(self._affine.width, self._affine.num_inputs)
        if dense and outputs.dtype == torch.float32 and self._affine.num_outputs >= WIDE_OUTPUTS:
            return self._wide(room, outputs)
        slot, rule, batch, members = room.slots[self._key], room.rule, room.batch, room.num_members
        bias, biases_backward = bias_of(self._affine, room), bias_backward(self._affine, room, outputs)

        def forward() -> None:
            multiply(slot.weight, batch.inputs.t().expand(members, -1, -1), outputs)
            if bias is not None:
                outputs.add_(bias)

        def backward() -> None:
            rule.product(slot, outputs, batch.inputs.expand(members, -1, -1))
            biases_backward()

        return Laid(Signal(outputs, outputs), forward, backward)

    def _wide(self, room: Room, outputs: Tensor) -> Laid:
        slot, rule, batch, bias = room.slots[self._key], room.rule, room.batch, bias_of(self._affine, room)
        weight, rows = slot.weight.flatten(0, 1), outputs.flatten(0, 1)
        column = None if bias is None else bias.flatten(0, 1)
        biases_backward = bias_backward(self._affine, room, outputs)

        def forward() -> None:
            if column is None:
                torch.mm(weight, batch.inputs.t(), out=rows)
            else:
                torch.addmm(column, weight, batch.inputs.t(), out=rows)

        def backward() -> None:
            rule.rows(slot, rows, batch.inputs)
            biases_backward()

        return Laid(Signal(outputs, outputs), forward, backward)

    def evaluate(self, room: Room, inputs: Tensor) -> Tensor:
        bias, outputs = bias_of(self._affine, room), room.empty(self._affine.width, inputs.shape[2])
        multiply(room.slots[self._key].weight, inputs.expand(room.num_members, -1, -1), outputs)
        return outputs if bias is None else outputs.add_(bias)
