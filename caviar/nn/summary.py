"""What a network is made of: its layers, their output shapes and parameter counts."""

from typing import NamedTuple

import torch
from torch import nn

from caviar.nn.probe import LayerCall, probe


class LayerSummary(NamedTuple):
    """One layer: its name in the model, its class, the shape of its output, and its own parameters.

    output_shape leaves the batch axis out; it is None for a layer that holds parameters but is never called itself.
    parameters: how many numbers it holds, trainable or not. A parameter shared by layers counts at the first of them.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...] | None
    parameters: int


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers the model's parameters hold, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def summarise(model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[LayerSummary]:
    """List the layers in the order they run on a batch of two examples of zeros, each of shape `input_shape`.

    A layer is a module without modules inside it, or one that holds parameters of its own; one that runs more than
    once is listed at its first run. The counts add up to `count_parameters(model)`. The model is left as it was.
    Raises InputError, naming the layer and the shapes, when the forward pass fails.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    _, calls = probe(model, torch.zeros(2, *input_shape, dtype=dtype, device=device))
    counted: set[int] = set()
    return [
        LayerSummary(
            name=call.name or "(model)",
            kind=type(call.module).__name__,
            output_shape=None if call.output_shape is None else call.output_shape[1:],
            parameters=_count_own(call.module, counted),
        )
        for call in _first_calls(model, calls)
    ]


def _first_calls(model: nn.Module, calls: list[LayerCall]) -> list[LayerCall]:
    silent = [LayerCall(name, module, None) for name, module in model.named_modules()]
    first: dict[nn.Module, LayerCall] = {}
    for call in [*calls, *silent]:
        is_leaf = next(call.module.children(), None) is None
        called = call.output_shape is not None
        holds = next(call.module.parameters(recurse=False), None) is not None
        if call.module not in first and (holds or (is_leaf and called)):
            first[call.module] = call
    return list(first.values())


def _count_own(module: nn.Module, counted: set[int]) -> int:
    own = {id(parameter): parameter.numel() for parameter in module.parameters(recurse=False)}
    total = sum(count for key, count in own.items() if key not in counted)
    counted.update(own)
    return total
