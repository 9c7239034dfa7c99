"""Gradients, weights and what a step makes of them, by layer."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from caviar.core.observer import Moment
from caviar.diagnose.quantities.layout import Layout, WeightLayer
from caviar.diagnose.quantities.pending import Emit, Key, Pending

NOISE_DECAY = 0.8
"""Of the averages that the gradient noise scale is the ratio of, from one pair of steps to the next."""


@dataclass
class NoiseScale:
    """The simple noise scale tr(S) / |G|^2 (McCandlish et al., 2018): the batch size where noise equals signal.

    From gradients g1, g2 of successive batches of B examples: E[g1 g2] = |G|^2, E[|g|^2] = |G|^2 + tr(S) / B. Both
    are averaged over pairs before they are divided. None where the signal does not stand out.
    """

    noise: float = 0.0
    signal: float = 0.0
    count: int = 0

    def add(self, dot: float, first: float, second: float, batch_size: int) -> float | None:
        """Take in a pair (its scalar product and norms) and return the noise scale, in examples."""
        if not math.isfinite(dot + first + second):
            return None
        self.count += 1
        self.signal = NOISE_DECAY * self.signal + (1 - NOISE_DECAY) * dot
        self.noise = NOISE_DECAY * self.noise + (1 - NOISE_DECAY) * ((first**2 + second**2) / 2 - dot)
        return batch_size * max(self.noise, 0.0) / self.signal if self.signal > 0 else None


def emit_pair(noise: NoiseScale, batch_size: int) -> Emit:
    """Return what names the scalar product of two successive gradients and both norms."""

    def emit(read: list[float]) -> Iterable[tuple[Key, float]]:
        dot, one, other = read
        yield Key("gradient_cosine"), dot / (one * other) if one * other else 0.0
        scale = noise.add(dot, one, other, batch_size) if batch_size else None
        if scale is not None:
            yield Key("noise_scale"), scale

    return emit


@dataclass
class Updates:
    """Looks at one step: `before` when its gradients are there, `after` when the weights have moved.

    All of it stays on the device; a weight without a gradient, or with a sparse one, counts as without. Memory: one
    copy of the weights, and one of the gradient from a look to the step after it.
    """

    layout: Layout
    noise: NoiseScale = field(default_factory=NoiseScale)
    _old: list[Tensor] = field(default_factory=list)
    _names: list[int] = field(default_factory=list)
    _gradient: Tensor | None = None
    _norms: list[Tensor] = field(default_factory=list)
    _pair: Tensor | None = None

    @torch.no_grad()
    def before(self) -> None:
        """Remember weights and gradients."""
        params = self.layout.parameters
        found = _present(params)
        self._norms = _norms(list(found.values()))
        self._names, self._gradient = list(found), _flat(found)
        if len(self._old) != len(params):
            self._old = [torch.empty_like(p) for p in params]
        if params:
            torch._foreach_copy_(self._old, params)

    @torch.no_grad()
    def after(self, moment: Moment, pending: Pending, *, moved: bool) -> None:
        """Hand over norms of gradients, weights and updates; without `moved` (no step was taken) only the first two."""
        params = self.layout.parameters
        if not params:
            return
        weights = _norms(params)
        if moved:
            torch._foreach_sub_(self._old, params)
        values = [*self._norms, *weights, *(_norms(self._old) if moved else [])]
        pending.add(moment, torch.stack(values), emit_norms(self.layout, self._names))

    @torch.no_grad()
    def compare(self) -> None:
        """Compare the remembered gradient with the present one, of the step after it, and forget it."""
        found = _present(self.layout.parameters)
        first, second = self._gradient, _flat(found)
        self._gradient = self._pair = None
        if first is not None and second is not None and list(found) == self._names:
            norm = torch.linalg.vector_norm
            self._pair = torch.stack([torch.dot(first, second), norm(first), norm(second)])

    def hand_pair(self, moment: Moment, pending: Pending, batch_size: int) -> None:
        """Hand over what `compare` found, if it did."""
        if self._pair is None:
            return

        pending.add(moment, self._pair, emit_pair(self.noise, batch_size))
        self._pair = None

    def forget(self) -> None:
        """Let go of everything that was remembered."""
        self._old, self._names, self._norms, self._gradient, self._pair = [], [], [], None, None


def emit_norms(layout: Layout, names: Sequence[int]) -> Emit:
    """Return what names norms: of the gradients of parameters `names`, of all weights, and of their steps if any."""
    count, layers = len(layout.parameters), layout.layers

    def emit(read: list[float]) -> Iterable[tuple[Key, float]]:
        gradients = dict(zip(names, read, strict=False))
        sizes, steps = read[len(names) : len(names) + count], read[len(names) + count :]
        yield Key("gradient_norm"), _joined(gradients.values())
        yield Key("weight_norm", split=""), _joined(sizes)
        if steps:
            yield Key("update_ratio"), _ratio(_joined(steps), _joined(sizes))
        for layer in layers:
            here = layer.parameters
            size = _joined(sizes[i] for i in here)
            yield Key("weight_norm", layer.name, ""), size
            if any(i in gradients for i in here):
                yield Key("gradient_norm", layer.name), _joined(gradients[i] for i in here if i in gradients)
            if steps:
                yield Key("update_ratio", layer.name), _ratio(_joined(steps[i] for i in here), size)

    return emit


def _present(params: Sequence[Tensor]) -> dict[int, Tensor]:
    return {i: p.grad for i, p in enumerate(params) if p.grad is not None and p.grad.layout == torch.strided}


def _flat(gradients: dict[int, Tensor]) -> Tensor | None:
    """Return gradients as one vector, a copy; None where there are none."""
    return torch.cat([gradient.reshape(-1).float() for gradient in gradients.values()]) if gradients else None


def _norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    return list(torch._foreach_norm(list(tensors), 2, dtype=torch.float32)) if tensors else []


def _joined(norms: Iterable[float]) -> float:
    """Return the norm of several tensors together."""
    return math.sqrt(sum(value * value for value in norms))


def _ratio(step: float, size: float) -> float:
    return step / size if size else (math.inf if step else 0.0)


def is_transposed(layer: WeightLayer) -> bool:
    """Whether the units of a layer lie in the second axis of its weight."""
    return isinstance(layer.module, nn.modules.conv._ConvTransposeNd)


def transposed_spread(weight: Tensor) -> Tensor:
    """Return `unit_spread` of a weight whose units lie in its second axis."""
    return unit_spread(weight.transpose(0, 1))


@torch.no_grad()
def unit_spread(weight: Tensor) -> Tensor:
    """Return how much the units of a layer differ: |w - mean unit| / |w|, 0 where all are the same (zeros too)."""
    units = weight.float().flatten(1)
    size = torch.linalg.vector_norm(units)
    found: Tensor = torch.linalg.vector_norm(units - units.mean(0)) / size.clamp_min(1e-30)
    return found


@torch.no_grad()
def initial_gain(weight: Tensor) -> Tensor:
    """Return the standard deviation of a layer's weights times the root of its fan in: 1.41 (He), 1 (LeCun)."""
    weight = weight.float()
    fan_in = max(1, weight.numel() // len(weight))
    found: Tensor = torch.linalg.vector_norm(weight) * (fan_in / weight.numel()) ** 0.5
    return found


@torch.no_grad()
def weight_bound(weight: Tensor) -> Tensor:
    """Return the largest weight in size times the root of the fan in: just below 1 for torch's fresh layers."""
    weight = weight.float()
    found: Tensor = weight.abs().max() * max(1, weight.numel() // len(weight)) ** 0.5
    return found
