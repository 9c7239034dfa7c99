"""Linear layers of a chain: the first one, which sees a batch that all members share, and those behind it."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from caviar.population.chain_links import Call, Laid, Room, Signal, Stored
from caviar.population.chain_products import ALIGNMENT, is_dense, multiply
from caviar.population.chain_rule import take_gradient, take_product, take_rows

WIDE_OUTPUTS = 16
"""From so many outputs a member on, one product for all members rounds each as a product of its own would."""


FEW_OUTPUTS = 16
"""With fewer outputs, the product that has them as its rows is up to twice as fast as the one that has them as columns.
"""


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
    """A product for each member in one call; the bias is the weight of a further input, which is always 1.

    Behind it follow so many inputs, always 0, as it takes for members to lie without gaps. Weights are stored as
    (members, inputs, outputs), whose gradient is the faster product, unless there are few outputs.
    """

    def __init__(self, affine: Affine) -> None:
        self._affine = affine
        self._key = f"{affine.name}weight"
        self._few = affine.num_outputs < FEW_OUTPUTS
        self._inputs = affine.num_inputs
        if affine.bias:
            more = range(affine.num_inputs + 1, affine.num_inputs + 1 + ALIGNMENT)
            self._inputs = next(inputs for inputs in more if is_dense(inputs, affine.width))

    @property
    def stored(self) -> Mapping[str, Stored]:
        name, inputs, outputs, bias = self._affine

        def names(tensor: Tensor) -> dict[str, Tensor]:
            matrix = self._matrix(tensor)
            found = {f"{name}weight": matrix[:, :outputs, :inputs]}
            return found | ({f"{name}bias": matrix[:, :outputs, inputs]} if bias else {})

        axis, more = 2 if self._few else 1, self._inputs - inputs
        shape = (self._affine.width, self._inputs) if self._few else (self._inputs, self._affine.width)
        rest = (lambda tensor: tensor.narrow(axis, inputs, more)) if more else None
        return {self._key: Stored(shape, names, lambda t: t.narrow(axis, 0, inputs), rest, is_matrix=True)}

    def _matrix(self, tensor: Tensor) -> Tensor:
        """Return a stored tensor as (members, outputs, inputs)."""
        return tensor if self._few else tensor.transpose(1, 2)

    def lay(self, room: Room, inputs: Signal | None, batch_size: int) -> Laid:
        assert inputs is not None
        assert inputs.whole is not None
        slot, rule, before = room.slots[self._key], room.rule, inputs.spare
        values = inputs.whole[:, : self._inputs] if self._affine.bias else inputs.value
        outputs = room.empty(self._affine.width, batch_size)
        weight = self._matrix(slot.weight)
        transposed = weight[:, :, : self._affine.num_inputs].transpose(1, 2)
        left, right = (outputs, values) if self._few else (values, outputs)
        right = right.transpose(1, 2)

        def backward() -> None:
            if before is not None:
                multiply(transposed, outputs, before)
            take_product(rule, slot, left, right)

        return Laid(Signal(outputs, outputs), lambda: multiply(weight, values, outputs), backward)

    def evaluate(self, room: Room, inputs: Tensor) -> Tensor:
        weight, count = self._matrix(room.slots[self._key].weight), self._affine.num_inputs
        outputs = room.empty(self._affine.width, inputs.shape[2])
        multiply(weight[:, :, :count], inputs.expand(room.num_members, -1, -1), outputs)
        return outputs.add_(weight[:, :, count : count + 1]) if self._affine.bias else outputs


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
        take_gradient(rule, slot, gradient)

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
            take_product(rule, slot, outputs, batch.inputs.expand(members, -1, -1))
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
            take_rows(rule, slot, rows, batch.inputs)
            biases_backward()

        return Laid(Signal(outputs, outputs), forward, backward)

    def evaluate(self, room: Room, inputs: Tensor) -> Tensor:
        bias, outputs = bias_of(self._affine, room), room.empty(self._affine.width, inputs.shape[2])
        multiply(room.slots[self._key].weight, inputs.expand(room.num_members, -1, -1), outputs)
        return outputs if bias is None else outputs.add_(bias)
