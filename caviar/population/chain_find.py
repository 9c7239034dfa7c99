"""From a module to a chain: which layers follow one another, found by tracing the forward."""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from caviar.nn.dropout import Dropout as OwnDropout
from caviar.nn.graph import trace
from caviar.optim.lists import Number
from caviar.population.chain_functions import function_of
from caviar.population.chain_layers import Activation, Dropout, Start
from caviar.population.chain_linear import Affine, FirstLinear, StackedLinear
from caviar.population.chain_links import Link
from caviar.population.chain_norm import BatchNorm, Norm
from caviar.population.chain_onednn import FirstLarge, LargeLinear
from caviar.population.modules import has_hooks

if TYPE_CHECKING:
    from torch import fx

LARGE: Final = 8e6
LARGE_FIRST: Final = 2e5
"""From so many operations of a member on, oneDNN pays: in a call for each member, and in one for all."""

CALLS: Final[dict[Any, type[nn.Module]]] = {
    torch.relu: nn.ReLU, functional.relu: nn.ReLU, "relu": nn.ReLU,
    torch.tanh: nn.Tanh, functional.tanh: nn.Tanh, "tanh": nn.Tanh,
    torch.sigmoid: nn.Sigmoid, functional.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid,
    functional.gelu: nn.GELU, functional.silu: nn.SiLU, functional.elu: nn.ELU, functional.selu: nn.SELU,
    functional.leaky_relu: nn.LeakyReLU, functional.softplus: nn.Softplus, functional.relu6: nn.ReLU6,
}  # fmt: skip
"""Functions and methods that a forward may call, with their defaults, in the place of a layer."""

FLATTEN: Final = (torch.flatten, "flatten")


class NoChainError(Exception):
    """A module is no chain; says why."""


def find_links(template: nn.Module, example: Tensor, dropout: Number | None, *, onednn: bool) -> tuple[list[Link], int]:
    """Return the links of a module that is a chain of known layers, in order, and how many outputs it has.

    Raises NoChainError where the module is none.

    example: a batch of inputs. dropout: takes the place of every layer's own rate. onednn: multiply by oneDNN.
    """
    layers = list(_without_flattening(template, example.dim() == 2))
    if not layers or type(layers[-1][1]) is not nn.Linear:
        raise NoChainError("its last layer is not linear")
    links: list[Link] = []
    num_outputs = 0
    for position, (name, layer) in enumerate(layers):
        before = layers[position - 1][1] if position else None
        if before is None and type(layer) is not nn.Linear:
            links.append(Start(example[0].numel()))
        if type(layer) is not nn.Linear:
            links.append(_link(name, layer, dropout))
            continue
        if isinstance(before, nn.Linear | nn.BatchNorm1d):
            links.append(Activation(None))
        if layer.in_features < 2:  # products with one row or column round as sums, and differently for one member
            raise NoChainError(f"{name} has a single input")
        affine = Affine(f"{name}.", layer.in_features, layer.out_features, layer.bias is not None)
        links.append(_linear(affine, len(example), first=before is None, onednn=onednn))
        num_outputs = layer.out_features
    return links, num_outputs


def _linear(affine: Affine, batch_size: int, *, first: bool, onednn: bool) -> Link:
    operations = 2 * affine.num_inputs * affine.num_outputs * batch_size
    if first:
        return FirstLarge(affine) if onednn and operations >= LARGE_FIRST else FirstLinear(affine)
    if onednn and operations >= LARGE:
        return LargeLinear(affine)
    return StackedLinear(affine)


def _link(name: str, layer: nn.Module, dropout: Number | None) -> Link:
    if type(layer) is nn.Dropout:
        return Dropout(layer.p if dropout is None else dropout)
    if type(layer) is OwnDropout and layer.form == "inverted" and layer.spatial_axes == 0:
        return Dropout(layer.rate if dropout is None else dropout)
    if type(layer) is nn.BatchNorm1d:
        if layer.momentum is None or layer.running_mean is None:
            raise NoChainError(f"{name} keeps other statistics than a moving mean and variance")
        return BatchNorm(Norm(f"{name}.", layer.num_features, layer.eps, layer.momentum, layer.weight is not None))
    function = function_of(layer)
    if function is None:
        raise NoChainError(f"{name or 'a function in its forward'} ({type(layer).__name__}) has no place in a chain")
    return Activation(function)


def _without_flattening(template: nn.Module, flat: bool) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers but identities and flattening; nothing but flattening may see more axes than two."""
    for name, layer in _layers(template):
        if type(layer) is nn.Flatten:
            if (layer.start_dim, layer.end_dim) != (1, -1):
                raise NoChainError(f"{name or 'its forward'} flattens other axes than all behind the batch")
            flat = True
        elif type(layer) is not nn.Identity and (type(layer) is not nn.Sequential or len(layer)):
            if not flat:
                raise NoChainError(f"{name or 'a function'} sees inputs of more than two axes")
            yield name, layer


def _layers(template: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, layer) in the order of the forward; a function is a layer without a name."""
    if has_hooks(template):
        raise NoChainError(f"{type(template).__name__} has hooks")
    graph = trace(template)
    if graph is None:
        raise NoChainError(f"the forward of {type(template).__name__} has control flow that cannot be traced")
    modules = dict(template.named_modules(remove_duplicate=False))
    seen: set[int] = set()
    for node in _line(graph):
        if node.op != "call_module":
            yield "", _called(node)
            continue
        layer = modules[str(node.target)]
        if id(layer) in seen and any(True for _ in layer.parameters()):
            raise NoChainError(f"{node.target} is used twice")
        if has_hooks(layer):
            raise NoChainError(f"{node.target} has hooks")
        seen.add(id(layer))
        yield str(node.target), layer


def _line(graph: "fx.Graph") -> "Iterator[fx.Node]":
    """Yield the nodes between input and output, each of which must take the one before and nothing else."""
    nodes = list(graph.nodes)
    if sum(node.op == "placeholder" for node in nodes) != 1 or nodes[0].op != "placeholder":
        raise NoChainError("its forward does not take exactly one tensor")
    for before, node in itertools.pairwise(nodes):
        if node.all_input_nodes != [before]:
            raise NoChainError("its forward is not a chain: something is used twice, or not at all")
        if node.op == "output":
            if node.args[0] is not before:
                raise NoChainError("its forward does not return one tensor")
            return
        yield node


def _called(node: "fx.Node") -> nn.Module:
    """Return the layer that does what a call of a function or a method does."""
    if node.target in FLATTEN:
        named = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | dict(node.kwargs)
        return nn.Flatten(int(str(named.get("start_dim", 0))), int(str(named.get("end_dim", -1))))
    kind = CALLS.get(node.target)
    defaults = len(node.args) == 1 and all(_is_default(key, value) for key, value in node.kwargs.items())
    if kind is None or not defaults:
        raise NoChainError(f"its forward calls {getattr(node.target, '__name__', node.target)}")
    return kind()


def _is_default(key: str, value: Any) -> bool:
    """Whether a keyword says what the layer does anyway, as tracing torch's functions writes out."""
    known = {"inplace": (False, True), "approximate": ("none",), "alpha": (1.0,), "negative_slope": (0.01,)}
    return value in {**known, "beta": (1,), "threshold": (20,)}.get(key, ())
