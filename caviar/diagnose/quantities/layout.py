"""The parts of a network that one watches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from caviar.nn.statistics import ELEMENTWISE

RECTIFIERS = (nn.ReLU, nn.ReLU6)
"""Activations that are 0 on one side: a unit that is always there gets no gradient."""
BOUNDED = (nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardsigmoid)
"""Activations that go flat on both sides."""


@dataclass(frozen=True)
class WeightLayer:
    """A layer with a weight of two or more axes. parameters: positions in the list of all parameters."""

    name: str
    module: nn.Module
    weight: nn.Parameter
    parameters: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """What there is to watch, in the order in which the network defines it.

    parameters: all of them, each once. activations: modules whose outputs are looked at; where the network has none
    (it calls functions), inputs of weight layers behind the first one (`entering`). norms: batch norms with running
    statistics. moody: modules that behave otherwise in training mode.
    """

    names: dict[nn.Module, str]
    parameters: list[Tensor]
    layers: list[WeightLayer]
    activations: list[nn.Module]
    entering: list[nn.Module]
    norms: list[_BatchNorm]
    moody: list[nn.Module]

    @classmethod
    def of(cls, model: nn.Module, *, everything: bool = False) -> "Layout":
        """Take a network apart; `everything`: the layers with weights count among its activations."""
        parameters: list[Tensor] = [p for p in model.parameters() if p.is_floating_point()]
        position = {id(p): i for i, p in enumerate(parameters)}
        names = {module: name or "(model)" for name, module in model.named_modules()}
        layers = list(_weight_layers(names, position))
        activations: list[nn.Module] = [m for m in names if isinstance(m, ELEMENTWISE)]
        norms = [m for m in names if isinstance(m, _BatchNorm) and m.running_mean is not None]
        return cls(
            names,
            parameters,
            layers,
            [*activations, *(layer.module for layer in layers)] if everything else activations,
            [] if activations else [layer.module for layer in layers[1:]],
            norms,
            [*norms, *(m for m in names if dropout_rate(m) > 0)],
        )


def dropout_rate(module: nn.Module) -> float:
    """Return the share that a dropout layer drops; 0 for any other module."""
    if "drop" not in type(module).__name__.lower():
        return 0.0
    rate: Any = getattr(module, "p", getattr(module, "rate", 0.0))
    return float(rate) if isinstance(rate, int | float) else 0.0


def _weight_layers(names: dict[nn.Module, str], position: dict[int, int]) -> Iterator[WeightLayer]:
    taken: set[int] = set()
    for module, name in names.items():
        own = [p for p in module.parameters(recurse=False) if id(p) in position and id(p) not in taken]
        taken |= {id(p) for p in own}
        weights = [p for p in own if p.dim() >= 2]
        if weights:
            yield WeightLayer(name, module, weights[0], tuple(position[id(p)] for p in weights))
