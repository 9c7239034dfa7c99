"""Plain modules of single members: made from a template, with random draws and batch statistics of their own."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from caviar.core.errors import InputError
from caviar.nn import Dropout, weighted_batch_norm
from caviar.nn.dropout import DropConnectLinear

FEATURES_ONLY = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class Weights:
    """What batch norms look at for the weights of the examples of the batch under way."""

    def __init__(self) -> None:
        self.now: Tensor | None = None


def copy_template(template: nn.Module) -> nn.Module:
    """Copy a module without the gradients that its parameters may have."""
    gradients = {parameter: parameter.grad for parameter in template.parameters() if parameter.is_leaf}
    for parameter in gradients:
        parameter.grad = None
    # What a hook computes from parameters (older weight norms, pruning) cannot be copied as it is, but computed anew.
    computed = [v for m in template.modules() for v in vars(m).values() if isinstance(v, Tensor) and not v.is_leaf]
    known: dict[int, Tensor] = {id(tensor): tensor.detach().clone() for tensor in computed}
    known |= {id(p): nn.Parameter(p.detach().clone()) for p in template.parameters() if not p.is_leaf}
    try:
        return copy.deepcopy(template, known)
    finally:
        for parameter, gradient in gradients.items():
            parameter.grad = gradient


def make_member(template: nn.Module, weights: Mapping[str, Tensor], member: int) -> nn.Module:
    """Return a module of its own with the weights and buffers of one member, in the template's memory layout."""
    module = copy_template(template)
    load_tensors(module, {name: weights[name][member] for name in tensors_of(module)})
    return module


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by every name they have, also the buffers that a state dict leaves out."""
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))


@torch.no_grad()
def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy parameters and buffers into a module that has all of them; a tied one by its first name."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        tensor.copy_(tensors[name])


def stack_weights(modules: list[nn.Module]) -> dict[str, Tensor]:
    """Return parameters and buffers of modules of one architecture by name, each (members, ...)."""
    all_of_them = [tensors_of(module) for module in modules]
    return {name: torch.stack([own[name].detach() for own in all_of_them]) for name in all_of_them[0]}


def has_hooks(module: nn.Module) -> bool:
    """Whether anything of the user's own happens on a layer's way forward or back."""
    hooks = (
        module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks,
    )  # fmt: skip
    return any(hooks)


def own_draws(module: nn.Module, generator: torch.Generator | None, rate: float | None = None) -> None:
    """Let the dropout of a module draw from `generator`, as it would from torch's global one seeded alike.

    generator: None leaves the draws where they are. rate: takes the place of every dropout layer's own. Torch's dropout
    draws only on the CPU as this does.
    """
    for layer in module.modules():
        if isinstance(layer, _DropoutNd) and not isinstance(layer, nn.AlphaDropout | nn.FeatureAlphaDropout):
            if rate is not None:
                layer.p = rate
            if generator is not None:
                layer.forward = partial(_drop, layer, generator, isinstance(layer, FEATURES_ONLY))
        elif isinstance(layer, Dropout):
            layer.rate = layer.rate if rate is None else rate
            if generator is None:
                layer.generator = None
            elif layer.form == "inverted" and layer.spatial_axes == 0:
                layer.forward = partial(_drop, layer, generator, False)  # type: ignore[method-assign]
            else:
                layer.generator = generator
        elif isinstance(layer, DropConnectLinear):
            layer.rate = layer.rate if rate is None else rate


def _drop(layer: nn.Module, generator: torch.Generator, features_only: bool, inputs: Tensor) -> Tensor:
    rate = layer.p if isinstance(layer, _DropoutNd) else layer.rate
    assert isinstance(rate, float | int)
    if not layer.training or rate == 0:
        return inputs
    shape = [*inputs.shape[:2], *[1] * (inputs.dim() - 2)] if features_only else None
    noise = torch.empty_like(inputs) if shape is None else inputs.new_empty(shape)
    return inputs * noise.bernoulli_(1 - rate, generator=generator).div_(1 - rate)


def weigh_batch_norms(module: nn.Module, weights: Weights) -> None:
    """Let the batch norms of a module take their statistics with the weights of the examples, where there are some."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.forward = partial(_norm, layer, layer.forward, weights)  # type: ignore[method-assign]


def _norm(layer: nn.Module, plain: Callable[[Tensor], Tensor], weights: Weights, inputs: Tensor) -> Tensor:
    if weights.now is None or not layer.training:
        return plain(inputs)
    return weighted_batch_norm(layer, inputs, weights.now)


class Manners(NamedTuple):
    """What a training pass of a module does beside its own work.

    draws_globally: from torch's global generators, own dropout apart. Members that do must not run on concurrent
    threads: five seeded runs of dropout on two threads gave five results. changes_inputs: the batch that all members
    share.
    """

    draws_globally: bool
    changes_inputs: bool


def manners(template: nn.Module, example: Tensor) -> Manners:
    """Try a module on a copy of a batch."""
    trial = copy_template(template)
    own_draws(trial, torch.Generator())
    trial.train()
    before = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        seen = example.clone()
        outputs = trial(seen)
        if not isinstance(outputs, Tensor):
            raise InputError(
                f"the forward of {type(template).__name__} returns a {type(outputs).__name__}; a population trains "
                "modules that return one tensor (batch, ...). Wrap it in one that returns the outputs the loss takes."
            )
        return Manners(not torch.equal(before, torch.get_rng_state()), not torch.equal(seen, example))
