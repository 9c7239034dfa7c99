"""Matrix products on the members axis in which no member feels how many others there are, or where it stands.

BLAS libraries choose kernels by shape and by where in memory a matrix begins, and kernels round differently. Most
shapes are not affected. Whether one is, is tried once for each shape, with random numbers; the few that are go
member by member, each on a copy that begins aligned.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

TRIED = 17
"""Members of a trial: one more than there are ways for float32 to lie within a cache line of 64 bytes."""
LARGEST_TRIAL = 1 << 26
"""Elements of a trial's weights; wider layers are tried with fewer members, but at least three."""


def members_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return inputs @ weight^T + bias for every member.

    inputs: (batch, fan_in), the same for all members, or (members, batch, fan_in). weight: (members, fan_out, fan_in).
    bias: (members, fan_out). outputs: (members, batch, fan_out), contiguous.
    """
    shared = inputs.dim() == 2
    if inputs.device.type != "cpu" or inputs.dtype not in (torch.float32, torch.float64):
        return _at_once(inputs, weight, bias)
    rows, fan_in = inputs.shape[-2:]
    if _is_independent(shared, rows, fan_in, weight.shape[1], inputs.dtype, torch.get_num_threads()):
        return _at_once(inputs, weight, bias)
    outputs: Tensor = _OneByOne.apply(inputs, weight)  # type: ignore[no-untyped-call]
    return outputs if bias is None else outputs + bias.unsqueeze(1)


def _at_once(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if inputs.dim() == 3:
        turned = weight.transpose(1, 2)
        return torch.bmm(inputs, turned) if bias is None else torch.baddbmm(bias.unsqueeze(1), inputs, turned)
    # One wide product for all members, which are its rows, so that in memory they stand one behind the other.
    wide = torch.mm(weight.flatten(0, 1), inputs.t())
    outputs = torch.unflatten(wide, 0, weight.shape[:2]).transpose(1, 2).contiguous()
    return outputs if bias is None else outputs + bias.unsqueeze(1)


@lru_cache(maxsize=1024)
def _is_independent(shared: bool, rows: int, fan_in: int, fan_out: int, dtype: torch.dtype, threads: int) -> bool:  # noqa: ARG001
    """Whether products of this shape give every member what it gets alone, forward and backward."""
    members = max(3, min(TRIED, LARGEST_TRIAL // (fan_in * fan_out)))
    generator = torch.Generator().manual_seed(0)
    shape = (rows, fan_in) if shared else (members, rows, fan_in)
    inputs = torch.randn(shape, generator=generator, dtype=dtype)
    weight = torch.randn(members, fan_out, fan_in, generator=generator, dtype=dtype)
    upstream = torch.randn(members, rows, fan_out, generator=generator, dtype=dtype)
    whole = _results(inputs, weight, upstream)
    for start, end in ((0, 1), *((member, member + 1) for member in range(1, members)), (1, 3)):
        own = inputs if shared else inputs[start:end].clone()
        alone = _results(own, weight[start:end].clone(), upstream[start:end].clone())
        if not all(torch.equal(w[start:end], a) for w, a in zip(whole, alone, strict=True)):
            return False
    return True


def _results(inputs: Tensor, weight: Tensor, upstream: Tensor) -> list[Tensor]:
    """Return outputs and gradients of the products."""
    with torch.enable_grad():
        leaves = [weight.requires_grad_()] if inputs.dim() == 2 else [weight.requires_grad_(), inputs.requires_grad_()]
        outputs = _at_once(inputs, weight, None)
        gradients = torch.autograd.grad(outputs, leaves, upstream)
    return [outputs.detach(), *gradients]


class _OneByOne(torch.autograd.Function):
    """The products member by member, every factor copied to where memory is aligned."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, inputs: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        own = [inputs] * len(weight) if inputs.dim() == 2 else [part.clone() for part in inputs]
        return torch.stack([functional.linear(x, w.clone()) for x, w in zip(own, weight, strict=True)])

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor | None, Tensor]:
        inputs, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        own = [inputs] * len(weight) if inputs.dim() == 2 else [part.clone() for part in inputs]
        gradients = [part.clone() for part in upstream]
        to_weight = torch.stack([g.t() @ x for g, x in zip(gradients, own, strict=True)])
        if not ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            return None, to_weight
        to_inputs = torch.stack([g @ w.clone() for g, w in zip(gradients, weight, strict=True)])
        return (to_inputs.sum(dim=0) if inputs.dim() == 2 else to_inputs), to_weight


def by_member(call: Callable[..., Tensor], *arguments: Tensor | None) -> Tensor:
    """Return call(first of each argument), call(second of each), ... stacked: any function, for every member alone.

    arguments: (members, ...), or None. Each call sees memory, forward and backward, that lies as a member's own would.
    """
    given = [argument for argument in arguments if argument is not None]
    members = [[part.clone() for part in argument] for argument in given]
    outputs = [call(*parts) for parts in zip(*members, strict=True)]
    return torch.stack([apart(output) for output in outputs])


def apart(signal: Tensor) -> Tensor:
    """Return a signal whose gradient will be a tensor of its own."""
    passed: Tensor = _Apart.apply(signal)  # type: ignore[no-untyped-call]
    return passed


class _Apart(torch.autograd.Function):
    """Passes a signal on, and its gradient as a tensor of its own."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, signal: Tensor) -> Tensor:  # noqa: ARG004
        return signal.view_as(signal)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> Tensor:  # noqa: ARG004
        return upstream.clone()
