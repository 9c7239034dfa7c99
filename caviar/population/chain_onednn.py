"""Linear layers of a chain whose products oneDNN does; for float32."""

import platform
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from caviar.population.chain_linear import Affine, bias_backward, bias_of, stored_rows
from caviar.population.chain_links import Call, Laid, Room, Signal, Stored
from caviar.population.chain_rule import take_gradient, take_members

LANES = 16
"""Numbers of float32 in a vector register of AVX-512, which products fill along their last axis."""


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN's products use wider vectors than torch.mm's: MKL uses AVX-512 on Intel's processors only.

    A fact about processor and build, not a measurement, so that a run can be repeated on the same machine.
    """
    if not has_onednn() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return has_mkl and "GenuineIntel" not in _processor()


def has_onednn() -> bool:
    """Whether this build of torch has the product that `onednn_product` calls."""
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _processor() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()


def onednn_product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return left @ right.T + bias; matrices of float32, bias (columns,).

    Of use where the library behind torch.mm leaves the widest vectors of a processor idle: on a core of an AMD one with
    AVX-512, MKL multiplies 784 x 512 x 128 at 95 GFLOP/s and oneDNN at 200. It rounds alike wherever a matrix begins.
    """
    result: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return result


class FirstLarge:
    """The layer that sees the batch, which all members share: one wide product, no gradient by its inputs."""

    def __init__(self, affine: Affine) -> None:
        self._affine = affine
        self._key = f"{affine.name}weight"

    @property
    def stored(self) -> Mapping[str, Stored]:
        return stored_rows(self._affine, is_matrix=False)

    def lay(self, room: Room, inputs: Signal | None, batch_size: int) -> Laid:
        assert inputs is None
        slot, rule, batch = room.slots[self._key], room.rule, room.batch
        outputs = room.empty(self._affine.width, batch_size)
        biases_backward = bias_backward(self._affine, room, outputs)

        def backward() -> None:
            gradient = onednn_product(outputs.reshape(-1, batch_size), batch.inputs.t())
            take_gradient(rule, slot, gradient.view_as(slot.weight))
            biases_backward()

        return Laid(Signal(outputs, outputs), self._forward(room, outputs), backward)

    def _forward(self, room: Room, outputs: Tensor) -> Call:
        """Return the call that writes the outputs; the product's last axis shall fill vectors."""
        weight, batch, bias = room.slots[self._key].weight.flatten(0, 1), room.batch, bias_of(self._affine, room)
        members, width, batch_size = outputs.shape
        if batch_size % LANES:
            row = None if bias is None else bias.flatten()
            if outputs.is_contiguous():
                rows = outputs.view(-1, batch_size)
                return lambda: rows.copy_(onednn_product(batch.inputs, weight, row).t())
            columns = outputs.permute(2, 0, 1)
            return lambda: columns.copy_(onednn_product(batch.inputs, weight, row).view(-1, members, width))
        if bias is None:
            return lambda: outputs.copy_(onednn_product(weight, batch.inputs).view_as(outputs))
        return lambda: torch.add(onednn_product(weight, batch.inputs).view_as(outputs), bias, out=outputs)

    def evaluate(self, room: Room, inputs: Tensor) -> Tensor:
        slot, bias = room.slots[self._key], bias_of(self._affine, room)
        outputs = room.empty(self._affine.width, inputs.shape[2])
        if len(inputs) == 1:
            outputs.copy_(onednn_product(slot.weight.flatten(0, 1), inputs[0].t()).view_as(outputs))
        else:
            for weight, own, out in zip(slot.weight, inputs, outputs, strict=True):
                out.copy_(onednn_product(weight, own.t()))
        return outputs if bias is None else outputs.add_(bias)


class LargeLinear:
    """A layer behind another one, so large that a product for each member pays."""

    def __init__(self, affine: Affine) -> None:
        self._affine = affine
        self._key = f"{affine.name}weight"

    @property
    def stored(self) -> Mapping[str, Stored]:
        return stored_rows(self._affine, is_matrix=False)

    def lay(self, room: Room, inputs: Signal | None, batch_size: int) -> Laid:
        assert inputs is not None
        slot, rule, before = room.slots[self._key], room.rule, inputs.spare
        outputs = room.empty(self._affine.width, batch_size)
        biases_backward = bias_backward(self._affine, room, outputs)
        weights, errors, values = slot.weight.unbind(), outputs.unbind(), inputs.value.unbind()
        transposed = outputs.new_empty(batch_size, self._affine.width)

        def gradients() -> Iterator[Tensor]:
            return (onednn_product(error, value) for error, value in zip(errors, values, strict=True))

        def backward() -> None:
            if before is not None:
                for weight, error, out in zip(weights, errors, before, strict=True):
                    transposed.copy_(error.t())
                    out.copy_(onednn_product(transposed, weight.t()).t())
            take_members(rule, slot, gradients())
            biases_backward()

        return Laid(Signal(outputs, outputs), lambda: self._multiply(room, inputs.value, outputs), backward)

    def evaluate(self, room: Room, inputs: Tensor) -> Tensor:
        outputs = room.empty(self._affine.width, inputs.shape[2])
        self._multiply(room, inputs.expand(room.num_members, -1, -1), outputs)
        return outputs

    def _multiply(self, room: Room, values: Tensor, outputs: Tensor) -> None:
        weights, biases = room.slots[self._key].weight, bias_of(self._affine, room)
        for member, (weight, value, out) in enumerate(zip(weights, values, outputs, strict=True)):
            product = onednn_product(weight, value.t())
            if biases is None:
                out.copy_(product)
            else:
                torch.add(product, biases[member], out=out)
