"""Layers of a chain without weights: activations, dropout, and the batch itself as a signal."""

from collections.abc import Mapping

import torch
from torch import Tensor

from caviar.core.members import over_members
from caviar.optim.lists import Number
from caviar.population.chain_functions import Function
from caviar.population.chain_links import Laid, Room, Signal, Stored
from caviar.population.chain_products import members_empty

NOTHING: Mapping[str, Stored] = {}


class Start:
    """Every member's own copy of the batch, for a chain that does not begin with a linear layer."""

    stored = NOTHING

    def __init__(self, num_features: int) -> None:
        self._num_features = num_features

    def lay(self, room: Room, _: Signal | None, batch_size: int) -> Laid:
        batch, whole = room.batch, room.whole(self._num_features, batch_size)
        value = whole[:, : self._num_features]
        return Laid(Signal(value, None, whole), lambda: value.copy_(batch.inputs.t()), lambda: None)

    def evaluate(self, _: Room, inputs: Tensor) -> Tensor:
        return inputs


class Activation:
    """An elementwise function; without one, a copy that makes room for the feature of ones."""

    stored = NOTHING

    def __init__(self, function: Function | None) -> None:
        self._function = function

    def lay(self, room: Room, inputs: Signal | None, batch_size: int) -> Laid:
        assert inputs is not None
        values, function, before = inputs.value, self._function, inputs.spare
        whole = room.whole(values.shape[1], batch_size)
        outputs = whole[:, : values.shape[1]]
        if function is None:
            return Laid(Signal(outputs, before, whole), lambda: outputs.copy_(values), lambda: None)
        if before is None:
            return Laid(Signal(outputs, None, whole), lambda: function.forward(values, outputs), lambda: None)
        errors = before if function.by_outputs else room.empty(values.shape[1], batch_size)
        known = outputs if function.by_outputs else values

        def backward() -> None:
            function.backward(errors, known, before if function.exact else outputs)
            if not function.exact:
                before.copy_(outputs)

        return Laid(Signal(outputs, errors, whole), lambda: function.forward(values, outputs), backward)

    def evaluate(self, _: Room, inputs: Tensor) -> Tensor:
        if self._function is None:
            return inputs
        outputs = members_empty(inputs, len(inputs), inputs.shape[1] + 1, inputs.shape[2])[:, :-1]
        self._function.forward(inputs, outputs)
        return outputs


class Dropout:
    """torch.nn.Dropout with a rate for each member: masks are drawn from its generator as if it trained alone."""

    stored = NOTHING

    def __init__(self, rate: Number) -> None:
        self._rate = rate

    def lay(self, room: Room, inputs: Signal | None, batch_size: int) -> Laid:
        assert inputs is not None
        values, before, features = inputs.value, inputs.spare, inputs.value.shape[1]
        whole, mask = room.whole(features, batch_size), room.empty(features, batch_size)
        outputs, drawn = whole[:, :features], room.empty(batch_size, features).fill_(1)
        rates = _member_numbers(self._rate, room)
        keep = drawn.new_tensor([1 - rate if rate < 1 else 1 for rate in rates])
        scale = over_members(1.0 / keep, drawn)

        def forward() -> None:
            present, size = room.batch.present, room.batch.size
            for member, (rate, generator) in enumerate(zip(rates, room.draws, strict=True)):
                if present is None or present[room.start + member]:
                    _draw(drawn[member, :size], rate, generator)
            torch.mul(drawn.transpose(1, 2), scale, out=mask)
            torch.mul(values, mask, out=outputs)

        def backward() -> None:
            if before is not None:
                before.mul_(mask)

        return Laid(Signal(outputs, before, whole), forward, backward)

    def evaluate(self, _: Room, inputs: Tensor) -> Tensor:
        return inputs


def _draw(mask: Tensor, rate: float, generator: torch.Generator) -> None:
    if rate == 0 or rate == 1:  # where torch draws nothing
        mask.fill_(1 - rate)
    else:
        mask.bernoulli_(1 - rate, generator=generator)


def _member_numbers(number: Number, room: Room) -> list[float]:
    if isinstance(number, Tensor):
        return [float(each) for each in number[room.start : room.start + room.num_members]]
    return [float(number)] * room.num_members
