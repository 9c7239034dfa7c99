"""What hardly changes while a network trains: which layers learn, in which mode they are, what the optimiser holds."""

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from caviar.diagnose.quantities.fresh import looks_fresh
from caviar.diagnose.quantities.layout import Layout
from caviar.diagnose.quantities.pending import Emit, Key
from caviar.diagnose.quantities.updates import initial_gain, is_transposed, transposed_spread, unit_spread, weight_bound

MOST_FROZEN = 8
"""Frozen layers that are looked at closely, once: each takes some milliseconds."""


def modes(layout: Layout, model: nn.Module) -> dict[Key, float]:
    """Return the share of layers that behave as in evaluation; {} where no layer minds the mode."""
    moody = layout.moody
    if not moody:
        return {}
    found = {Key("evaluation_mode"): sum(not module.training for module in moody) / len(moody)}
    norms = [module for module in moody if isinstance(module, _BatchNorm)]
    if norms:
        found[Key("frozen_norms")] = sum(not norm.training for norm in norms) / len(norms)
    return found | {Key("model_training"): float(model.training)}


def learning(layout: Layout, reached: Collection[int], held: Container[int]) -> dict[Key, float]:
    """Return, of each layer, whether it is frozen, gets no gradient, or is unknown to the optimiser.

    reached, held: positions of the parameters that have a gradient, and of those that the optimiser holds.
    """
    found: dict[Key, float] = {}
    sizes = {"frozen": 0, "no_gradient": 0, "not_held": 0}
    layer_of = {i: layer.name for layer in layout.layers for i in layer.parameters}
    for i, parameter in enumerate(layout.parameters):
        states = {
            "frozen": not parameter.requires_grad,
            "no_gradient": parameter.requires_grad and i not in reached,
            "not_held": parameter.requires_grad and i not in held,
        }
        for name, holds in states.items():
            sizes[name] += parameter.numel() * holds
            if holds and i in layer_of:
                found[Key(name, layer_of[i])] = 1.0
    total = sum(p.numel() for p in layout.parameters) or 1
    return found | {Key(name): size / total for name, size in sizes.items()}


Measure = Callable[[Tensor], Tensor]
"""From a weight to a number."""


def initial(layout: Layout, *, first: bool) -> tuple[Tensor, Emit] | None:
    """Return how much the units of each layer differ; at the first step, how large its weights are; bounds of frozen
    layers, and at the first step whether the first of them look freshly drawn."""
    wanted = of_weights(layout, first=first)
    if not wanted:
        return None
    layers = {layer.name: layer.weight for layer in layout.layers}
    return torch.stack([measure(layers[key.layer].detach()) for key, measure in wanted.items()]), emit_as(list(wanted))


def of_weights(layout: Layout, *, first: bool) -> Mapping[Key, Measure]:
    """Return what `initial` measures of which layer's weight."""
    found: dict[Key, Measure] = {}
    looked_at = 0
    for layer in layout.layers:
        if len(layer.weight) > 1:
            found[Key("unit_spread", layer.name, "")] = transposed_spread if is_transposed(layer) else unit_spread
        if first:
            found[Key("initial_gain", layer.name, "")] = initial_gain
        if not layer.weight.requires_grad:
            found[Key("weight_bound", layer.name, "")] = weight_bound
        if first and not layer.weight.requires_grad and looked_at < MOST_FROZEN:
            looked_at += 1
            found[Key("looks_fresh", layer.name, "")] = _freshness
    return found


def _freshness(weight: Tensor) -> Tensor:
    return torch.tensor(float(looks_fresh(weight)), device=weight.device)


def emit_as(keys: Sequence[Key]) -> Emit:
    """Return what names numbers one by one."""

    def emit(read: list[float]) -> Iterable[tuple[Key, float]]:
        return zip(keys, read, strict=True)

    return emit
