"""One forward pass that leaves no trace in the model and says which layer failed."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from caviar.core.errors import InputError


class LayerCall(NamedTuple):
    """One call of one layer: the layer's name in the model ("" for the model itself) and its first output's shape."""

    name: str
    module: nn.Module
    output_shape: tuple[int, ...] | None


def first_tensor(value: Any) -> Tensor | None:
    """Return the first tensor in a tensor, tuple, list or dict, however nested."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return next((found for part in value if (found := first_tensor(part)) is not None), None)
    return None


def probe(model: nn.Module, batch: Tensor, *, training: bool = False) -> tuple[Any, list[LayerCall]]:
    """Run `batch` through the model and return its output and the layers called, in the order they finished.

    Gradients are off; modes, buffers and random streams are as before afterwards, and no hook stays behind.
    A forward that fails becomes an InputError naming the innermost layer that failed and the shape that it was given.
    """
    if any(is_lazy(tensor) for tensor in [*model.parameters(), *model.buffers()]):
        raise InputError(
            f"{type(model).__name__} has lazy layers whose sizes are not known yet. Run one batch through it first."
        )
    with untouched(model, training), _watched(model) as (inside, calls):
        try:
            return model(batch), calls
        except Exception as error:
            raise InputError(_failure(model, batch, inside, error)) from error


def _failure(model: nn.Module, batch: Tensor, inside: list[tuple[str, nn.Module, Any]], error: Exception) -> str:
    words = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(". ")
    message = f"{type(model).__name__} cannot take a batch of shape {tuple(batch.shape)}: "
    name, layer, arguments = inside[-1] if inside else ("", model, ())
    if layer is model:
        return f"{message}its forward raised {words}. Check the shape of one example and the model's first layer."
    given = first_tensor(arguments)
    shape = "" if given is None else f", given {tuple(given.shape)},"
    return f"{message}layer {name!r} ({type(layer).__name__}){shape} raised {words}. Make the sizes meet at this layer."


@contextlib.contextmanager
def untouched(model: nn.Module, training: bool) -> Iterator[None]:
    """Put modes, buffers and torch's random streams back after the block, in which gradients are off."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(owner, name, buffer, buffer.detach().clone()) for owner, name, buffer in _buffers(model)]
    cuda = sorted({tensor.device.index for tensor in model.parameters() if tensor.device.type == "cuda"})
    try:
        model.train(training)
        with torch.random.fork_rng(devices=cuda), torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for owner, name, buffer, value in buffers:
                buffer.copy_(value)
                setattr(owner, name, buffer)


def _buffers(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            yield module, name, buffer


@contextlib.contextmanager
def _watched(model: nn.Module) -> Iterator[tuple[list[tuple[str, nn.Module, Any]], list[LayerCall]]]:
    names = {module: name for name, module in model.named_modules()}
    inside: list[tuple[str, nn.Module, Any]] = []
    calls: list[LayerCall] = []

    def enter(module: nn.Module, arguments: Any) -> None:
        inside.append((names[module], module, arguments))

    def leave(module: nn.Module, arguments: Any, output: Any) -> None:  # noqa: ARG001
        inside.pop()
        found = first_tensor(output)
        calls.append(LayerCall(names[module], module, None if found is None else tuple(found.shape)))

    handles = [module.register_forward_pre_hook(enter) for module in names]
    handles += [module.register_forward_hook(leave) for module in names]
    try:
        yield inside, calls
    finally:
        for handle in handles:
            handle.remove()
