"""Batch norm in a chain: every member's own statistics."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from caviar.nn.member_norms import batch_moments, members_batch_norm
from caviar.population.chain_links import Laid, Room, Signal, Stored
from caviar.population.chain_rule import take_gradient


class Norm(NamedTuple):
    """A batch norm as the template has it; name: with a dot behind, where there is one."""

    name: str
    num_features: int
    eps: float
    momentum: float
    affine: bool


class BatchNorm:
    """torch.nn.BatchNorm1d: y = x̂ w + b with x̂ = (x - mean) / sqrt(variance + eps), over each member's own batch.

    With example weights s (shares of their sum) mean and variance are weighted, and the gradient is
    dx = w / sqrt(variance + eps) (dy - s (sum dy + x̂ sum dy x̂)), where s = 1 / batch without weights.
    """

    def __init__(self, norm: Norm) -> None:
        self._norm = norm
        self._keys = (f"{norm.name}weight", f"{norm.name}bias")

    @property
    def stored(self) -> Mapping[str, Stored]:
        keys = self._keys if self._norm.affine else ()
        return {key: Stored((self._norm.num_features, 1), lambda t, key=key: {key: t[:, :, 0]}) for key in keys}  # type: ignore[misc]

    def lay(self, room: Room, inputs: Signal | None, batch_size: int) -> Laid:
        assert inputs is not None
        state = _Laid(room, self._norm, inputs, batch_size)
        return Laid(Signal(state.outputs, state.outputs), state.forward, state.backward)

    def evaluate(self, room: Room, inputs: Tensor) -> Tensor:
        name = self._norm.name
        mean, variance = (room.buffers[f"{name}running_{kind}"].unsqueeze(2) for kind in ("mean", "var"))
        outputs = room.empty(self._norm.num_features, inputs.shape[2])
        torch.sub(inputs, mean, out=outputs).mul_((variance + self._norm.eps).rsqrt_())
        if self._norm.affine:
            weight, bias = (room.slots[key].weight for key in self._keys)
            outputs.mul_(weight).add_(bias)
        return outputs


class _Laid:
    """A batch norm at its place, with memory for what the way back needs."""

    def __init__(self, room: Room, norm: Norm, inputs: Signal, batch_size: int) -> None:
        self._room, self._norm, self._inputs = room, norm, inputs
        self.outputs = room.empty(norm.num_features, batch_size)
        self._standard = torch.empty_like(self.outputs)
        self._mean, self._variance, self._first, self._second = (room.empty(norm.num_features, 1) for _ in range(4))
        self._running = [room.buffers[f"{norm.name}running_{kind}"].unsqueeze(2) for kind in ("mean", "var")]
        self._count = room.buffers[f"{norm.name}num_batches_tracked"]
        self._slots = [room.slots[f"{norm.name}{kind}"] for kind in ("weight", "bias")] if norm.affine else []
        self._shares: Tensor | None = None

    def forward(self) -> None:
        if self._room.batch.weights is not None:
            return self._weighted(self._room.batch.weights)
        values, standard, size = self._inputs.value, self._standard, self.outputs.shape[2]
        self._shares = None
        torch.mean(values, 2, keepdim=True, out=self._mean)
        torch.sub(values, self._mean, out=standard)
        torch.mul(standard, standard, out=self.outputs)
        torch.mean(self.outputs, 2, keepdim=True, out=self._variance)
        self._running[0].lerp_(self._mean, self._norm.momentum)
        self._running[1].lerp_(self._variance * (size / (size - 1)), self._norm.momentum)
        self._count += 1
        self._scale = self._variance.add_(self._norm.eps).rsqrt_()
        standard.mul_(self._scale)
        self._transform()

    def _weighted(self, weights: Tensor) -> None:
        """As in the other executors, whose function also says how running statistics move."""
        room = self._room
        own = weights[room.start : room.start + room.num_members]
        values = self._inputs.value.transpose(1, 2)
        moments = batch_moments(values, own)
        mean, variance = (running[:, :, 0] for running in self._running)
        standard = members_batch_norm(
            values, mean, variance, momentum=self._norm.momentum, eps=self._norm.eps, example_weights=own
        )
        self._standard.copy_(standard.transpose(1, 2))
        total = own.sum(dim=1, keepdim=True)
        self._count += total[:, 0] > 0
        self._shares = (own / torch.where(total > 0, total, 1.0)).unsqueeze(1)
        self._scale = (moments.variance.unsqueeze(2) + self._norm.eps).rsqrt_()
        self._transform()

    def _transform(self) -> None:
        if self._slots:
            weight, bias = self._slots
            torch.mul(self._standard, weight.weight, out=self.outputs)
            self.outputs.add_(bias.weight)
        else:
            self.outputs.copy_(self._standard)

    def backward(self) -> None:
        errors, standard, before = self.outputs, self._standard, self._inputs.spare
        scale, scratch = self._scale, torch.mul(errors, standard)
        torch.sum(errors, 2, keepdim=True, out=self._first)
        torch.sum(scratch, 2, keepdim=True, out=self._second)
        if before is not None:
            if self._slots:
                scale = scale * self._slots[0].weight
            torch.mul(standard, self._second, out=scratch)
            scratch.add_(self._first)
            if self._shares is None:
                torch.add(errors, scratch, alpha=-1 / errors.shape[2], out=before)
            else:
                torch.addcmul(errors, scratch, self._shares, value=-1, out=before)
            before.mul_(scale)
        if self._slots:
            take_gradient(self._room.rule, self._slots[0], self._second)
            take_gradient(self._room.rule, self._slots[1], self._first)
