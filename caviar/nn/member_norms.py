"""Norms for stacked members: every member has its own statistics, scale and shift; examples may be weighted.

Shapes: inputs (members, batch, features) or (members, batch, channels, height, width); scale, shift and running
statistics (members, features). Layer, instance and group norm never look across examples, so example weights do not
concern them.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from caviar.core.errors import InputError
from caviar.core.members import cast_over_members, check_range


class BatchMoments(NamedTuple):
    """What a batch norm normalises by: mean and (biased) variance, and the number of values that they rest on.

    mean, variance: (members, features). num_values: (members,), pixels counted; with weights the examples are taken
    to be (sum w)^2 / sum w^2.
    """

    mean: Tensor
    variance: Tensor
    num_values: Tensor


def batch_moments(inputs: Tensor, example_weights: Tensor | None = None) -> BatchMoments:
    """Return mean and variance of each member's features over the batch (and the pixels).

    example_weights: (members, batch) or (batch,), at least 0. Mean = sum(w x) / sum(w), variance = sum(w (x - mean)^2)
    / sum(w): an example of weight 0 has no influence. A member whose weights are all 0 gets mean 0 and variance 0.
    """
    axes = (1, *range(3, inputs.dim()))
    pixels = math.prod(inputs.shape[3:])
    if example_weights is None:
        variance, mean = torch.var_mean(inputs, dim=axes, correction=0)
        count = torch.full((len(inputs),), float(inputs.shape[1] * pixels), dtype=mean.dtype, device=inputs.device)
        return BatchMoments(mean, variance, count)
    weights = _weights_like(example_weights, inputs)
    total = weights.sum(dim=1)
    share = weights / torch.where(total > 0, total, 1.0).unsqueeze(1) / pixels
    wide = share.view(*share.shape, *[1] * (inputs.dim() - 2))
    # 0 * infinity is no number: what has weight 0 must not matter, whatever it is
    kept = torch.where(wide > 0, inputs, 0.0)
    mean = (wide * kept).sum(dim=axes)
    variance = (wide * (kept - _over_features(mean, inputs)).square()).sum(dim=axes)
    squares = weights.square().sum(dim=1)
    count = total.square() / torch.where(squares > 0, squares, 1.0) * pixels
    return BatchMoments(mean, variance, count)


def members_batch_norm(
    inputs: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    training: bool = True,
    momentum: float | Tensor = 0.1,
    eps: float | Tensor = 1e-5,
    example_weights: Tensor | None = None,
) -> Tensor:
    """Batch normalisation of stacked members (Ioffe and Szegedy, 2015): (x - mean) / sqrt(var + eps) * weight + bias.

    Training normalises by the batch and moves the running statistics in place, running += momentum (batch - running),
    with the unbiased variance as torch does; evaluation, and a member whose example weights are all 0, uses the
    running ones (and moves none). momentum, eps: a number or [members]. Without running statistics the batch's serve in
    both modes.
    """
    if inputs.dim() < 3:
        raise InputError(
            f"inputs of shape {tuple(inputs.shape)} have no members axis. Give (members, batch, features, ...)."
        )
    if not training and running_mean is not None and running_var is not None:
        return _normalise(inputs, running_mean, running_var, weight, bias, eps)
    if example_weights is None and inputs.shape[1] * math.prod(inputs.shape[3:]) < 2:
        raise InputError(
            f"inputs of shape {tuple(inputs.shape)} hold {inputs.shape[1]} examples, and a batch is normalised by its "
            "spread. Give at least 2."
        )
    moments = batch_moments(inputs, example_weights)
    mean, variance = moments.mean, moments.variance
    if running_mean is not None and running_var is not None:
        present = (moments.num_values > 0).unsqueeze(1)
        if training:
            _move(running_mean, running_var, moments, momentum)
        if example_weights is not None:
            mean = torch.where(present, mean, running_mean.to(mean))
            variance = torch.where(present, variance, running_var.to(variance))
    return _normalise(inputs, mean, variance, weight, bias, eps)


def members_layer_norm(
    inputs: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Layer norm, (x - mean) / sqrt(var + eps) * weight + bias over the features of every example (Ba et al., 2016).

    inputs (members, batch, features); weight and bias (members, features).
    """
    return _affine(functional.layer_norm(inputs, inputs.shape[-1:], eps=eps), weight, bias)


def members_group_norm(
    inputs: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Group norm of inputs (members, batch, channels, ...), each example by itself (Wu and He, 2018).

    (x - mean) / sqrt(var + eps) * weight + bias, with mean and variance over the pixels and channels of a group; groups
    divide the channels, weight and bias are (members, channels). One group is layer norm over channels and pixels, as
    many groups as channels instance norm (Ulyanov et al., 2016).
    """
    if groups < 1 or inputs.shape[2] % groups != 0:
        raise InputError(f"groups must divide the {inputs.shape[2]} channels, but {groups} arrived.")
    return _affine(functional.group_norm(inputs.flatten(0, 1), groups, eps=eps).view(inputs.shape), weight, bias)


class MembersBatchNorm(nn.Module):
    """Batch norm of stacked members: names and meaning of its state are `torch.nn.BatchNorm1d`'s, members in front.

    Stacking the state dicts of single batch norms gives this one's. momentum, eps: a number or [members].
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_members: int,
        num_features: int,
        *,
        eps: float | Tensor = 1e-5,
        momentum: float | Tensor = 0.1,
        affine: bool = True,
    ) -> None:
        super().__init__()
        check_range("num_members", num_members, least=1)
        check_range("num_features", num_features, least=1)
        check_range("eps", eps, above=0)
        check_range("momentum", momentum, least=0, most=1)
        shape = (num_members, num_features)
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(shape)) if affine else None
        self.bias = nn.Parameter(torch.zeros(shape)) if affine else None
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))
        self.register_buffer("num_batches_tracked", torch.zeros(num_members, dtype=torch.int64))

    def forward(self, inputs: Tensor, example_weights: Tensor | None = None) -> Tensor:
        """Return the normalised inputs, (members, batch, features, ...)."""
        if inputs.shape[:1] + inputs.shape[2:3] != self.running_mean.shape:
            raise InputError(
                f"inputs of shape {tuple(inputs.shape)} do not fit a batch norm of {len(self.running_mean)} members "
                f"and {self.running_mean.shape[1]} features. Give (members, batch, features, ...)."
            )
        if self.training:
            if example_weights is None:
                self.num_batches_tracked += 1
            else:
                self.num_batches_tracked += _weights_like(example_weights, inputs).sum(dim=1) > 0
        return members_batch_norm(
            inputs,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
            example_weights=example_weights,
        )


def weighted_batch_norm(norm: nn.Module, inputs: Tensor, example_weights: Tensor) -> Tensor:
    """Call one of torch's batch norms with a weight for each example (batch,), in its own mode, moving its statistics.

    Of use for folds: rows of weight 0 have no influence. See `members_batch_norm` for the formulas.
    """
    if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        raise InputError(f"a batch norm was expected, but a {type(norm).__name__} arrived.")
    first = [None if t is None else t.unsqueeze(0) for t in (norm.running_mean, norm.running_var)]
    affine = [None if t is None else t.unsqueeze(0) for t in (norm.weight, norm.bias)]
    training = norm.training or norm.running_mean is None
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked += (example_weights.sum() > 0).to(norm.num_batches_tracked)
    momentum = norm.momentum
    if momentum is None:
        seen = norm.num_batches_tracked
        momentum = 1.0 / max(int(seen) if seen is not None else 1, 1)
    outputs = members_batch_norm(
        inputs.unsqueeze(0),
        *first,
        *affine,
        training=training,
        momentum=momentum,
        eps=norm.eps,
        example_weights=example_weights.unsqueeze(0),
    )
    return outputs.squeeze(0)


@torch.no_grad()
def _move(running_mean: Tensor, running_var: Tensor, moments: BatchMoments, momentum: float | Tensor) -> None:
    """Move the running statistics of every member that has examples, towards the batch's mean and unbiased variance."""
    count = moments.num_values.unsqueeze(1)
    unbiased = moments.variance * torch.where(count > 1, count / (count - 1).clamp_min(1e-30), 1.0)
    speed = (count > 0).to(running_mean.dtype) * cast_over_members(momentum, running_mean)
    running_mean.add_(speed * (moments.mean - running_mean))
    running_var.add_(speed * (unbiased - running_var))


def _normalise(
    inputs: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float | Tensor
) -> Tensor:
    scale = torch.rsqrt(variance + cast_over_members(eps, variance))
    if weight is not None:
        scale = scale * weight
    outputs = (inputs - _over_features(mean, inputs)) * _over_features(scale, inputs)
    return outputs if bias is None else outputs + _over_features(bias, inputs)


def _affine(outputs: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        outputs = outputs * _over_features(weight, outputs)
    return outputs if bias is None else outputs + _over_features(bias, outputs)


def _over_features(value: Tensor, like: Tensor) -> Tensor:
    """(members, features) so that it broadcasts against (members, batch, features, ...)."""
    return value.view(value.shape[0], 1, value.shape[1], *[1] * (like.dim() - 3))


def _weights_like(example_weights: Tensor, inputs: Tensor) -> Tensor:
    if example_weights.shape not in (inputs.shape[:2], inputs.shape[1:2]):
        raise InputError(
            f"example weights of shape {tuple(example_weights.shape)} do not fit inputs of shape {tuple(inputs.shape)}."
            " Give one for each example: (batch,) or (members, batch)."
        )
    return example_weights.to(inputs.dtype).expand(inputs.shape[:2])
