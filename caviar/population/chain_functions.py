"""Elementwise functions of a chain, with their derivatives, on memory that exists already."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

aten = torch.ops.aten

Forward = Callable[[Tensor, Tensor], object]
Backward = Callable[[Tensor, Tensor, Tensor], object]


class Function(NamedTuple):
    """An activation.

    forward: (inputs, where to). backward: (errors, inputs or outputs, where to). by_outputs: backward wants the
    outputs. exact: backward rounds every element alike; other kernels round what is left behind the last whole vector
    in another way, which must not depend on how many members there are.
    """

    forward: Forward
    backward: Backward
    by_outputs: bool
    exact: bool


def function_of(module: nn.Module) -> Function | None:
    """Return the function of an activation module, or None where this file has none for it."""
    kind = type(module)
    return FUNCTIONS[kind](module) if kind in FUNCTIONS else None


def _relu(_: nn.Module) -> Function:
    def backward(errors: Tensor, outputs: Tensor, out: Tensor) -> None:
        aten.threshold_backward.grad_input(errors, outputs, 0, grad_input=out)

    return Function(lambda inputs, out: torch.clamp_min(inputs, 0, out=out), backward, True, True)


def _leaky_relu(module: nn.LeakyReLU) -> Function | None:
    slope = module.negative_slope
    if slope <= 0:
        return None
    return Function(
        lambda inputs, out: aten.leaky_relu.out(inputs, slope, out=out),
        lambda errors, outputs, out: aten.leaky_relu_backward.grad_input(errors, outputs, slope, True, grad_input=out),
        True,
        True,
    )


def _tanh(_: nn.Tanh) -> Function:
    return Function(
        lambda inputs, out: torch.tanh(inputs, out=out),
        lambda errors, outputs, out: aten.tanh_backward.grad_input(errors, outputs, grad_input=out),
        True,
        True,
    )


def _sigmoid(_: nn.Sigmoid) -> Function:
    return Function(
        lambda inputs, out: torch.sigmoid(inputs, out=out),
        lambda errors, outputs, out: aten.sigmoid_backward.grad_input(errors, outputs, grad_input=out),
        True,
        True,
    )


def _elu(alpha: float, scale: float) -> Function:
    return Function(
        lambda inputs, out: aten.elu.out(inputs, alpha, scale, 1.0, out=out),
        lambda errors, inputs, out: aten.elu_backward.grad_input(
            errors, alpha, scale, 1.0, False, inputs, grad_input=out
        ),
        False,
        False,
    )


def _gelu(module: nn.GELU) -> Function:
    approximate = module.approximate
    if approximate != "none":
        return Function(
            lambda inputs, out: aten.gelu.out(inputs, approximate=approximate, out=out),
            lambda errors, inputs, out: aten.gelu_backward.grad_input(
                errors, inputs, approximate=approximate, grad_input=out
            ),
            False,
            False,
        )

    # In float32 contiguous memory goes to a kernel of oneDNN, which rounds otherwise, and fills a strided `out` as if
    # it were contiguous (torch 2.13). So all memory is made contiguous; in float64 there is only one kernel.
    def forward(inputs: Tensor, out: Tensor) -> None:
        if inputs.dtype == torch.float32:
            out.copy_(aten.gelu(inputs.contiguous()))
        else:
            aten.gelu.out(inputs, out=out)

    def backward(errors: Tensor, inputs: Tensor, out: Tensor) -> None:
        if inputs.dtype == torch.float32:
            out.copy_(aten.gelu_backward(errors.contiguous(), inputs.contiguous()))
        else:
            aten.gelu_backward.grad_input(errors, inputs, grad_input=out)

    return Function(forward, backward, False, False)


def _silu(_: nn.SiLU) -> Function:
    return Function(
        lambda inputs, out: aten.silu.out(inputs, out=out),
        lambda errors, inputs, out: aten.silu_backward.grad_input(errors, inputs, grad_input=out),
        False,
        False,
    )


def _softplus(module: nn.Softplus) -> Function:
    beta, threshold = module.beta, module.threshold
    return Function(
        lambda inputs, out: aten.softplus.out(inputs, beta, threshold, out=out),
        lambda errors, inputs, out: aten.softplus_backward.grad_input(errors, inputs, beta, threshold, grad_input=out),
        False,
        False,
    )


def _hardtanh(module: nn.Hardtanh) -> Function:
    low, high = module.min_val, module.max_val
    return Function(
        lambda inputs, out: aten.hardtanh.out(inputs, low, high, out=out),
        lambda errors, inputs, out: aten.hardtanh_backward.grad_input(errors, inputs, low, high, grad_input=out),
        False,
        True,
    )


SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805

FUNCTIONS: dict[type[nn.Module], Callable[..., Function | None]] = {
    nn.ReLU: _relu,
    nn.LeakyReLU: _leaky_relu,
    nn.Tanh: _tanh,
    nn.Sigmoid: _sigmoid,
    nn.ELU: lambda module: _elu(module.alpha, 1.0),
    nn.SELU: lambda _: _elu(SELU_ALPHA, SELU_SCALE),
    nn.GELU: _gelu,
    nn.SiLU: _silu,
    nn.Softplus: _softplus,
    nn.Hardtanh: _hardtanh,
    nn.ReLU6: _hardtanh,
}
