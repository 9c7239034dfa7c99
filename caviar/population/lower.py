"""From a module to its stacked form: the same graph of operations, each on the members axis."""

import operator
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from caviar.nn.graph import trace
from caviar.population.layers import Context, NotLoweredError, Signal, apply_layer, stacked, weights_of
from caviar.population.modules import has_hooks, tensors_of
from caviar.population.products import apart, by_member
from caviar.population.views import Shared, Views, stack_of

if TYPE_CHECKING:
    from torch import fx

ELEMENTWISE: Final = frozenset({
    operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, torch.add, torch.sub, torch.mul,
    torch.div, torch.relu, torch.square, torch.abs, functional.relu, functional.leaky_relu,
})  # fmt: skip
"""Functions that members in front do not change, as long as what they combine has equal shapes."""


class Lowered:
    """The stacked form of a module. Made by `lower`.

    names: of its parameters and buffers, one for each tensor (a tied weight has one).
    """

    def __init__(self, graph: "fx.Graph", template: nn.Module) -> None:
        self._graph = graph
        self._modules = dict(template.named_modules(remove_duplicate=False))
        self.names = canonical_names(template)
        self._tied = any(name != first for name, first in self.names.items())

    def __call__(self, inputs: Shared, context: Context) -> Tensor:
        """Return the outputs (members, batch, ...) of a batch."""
        if self._tied:
            context = replace(context, tensors={name: context.tensors[first] for name, first in self.names.items()})
        values: dict[Any, Any] = {}
        context.names = self.names
        batch = Signal(stack_of(inputs), isinstance(inputs, Views))
        for node in self._graph.nodes:
            if node.op == "output":
                result = values[node.args[0]]
                assert isinstance(result, Signal)
                return stacked(result, context)
            values[node] = self._evaluate(node, values, batch, context)
        raise NotLoweredError("the forward returns nothing")

    def _evaluate(self, node: "fx.Node", values: dict[Any, Any], batch: Signal, context: Context) -> Any:
        if node.op == "placeholder":
            return batch
        if node.op == "get_attr":
            return Signal(context.tensors[self.names[str(node.target)]], True)
        if node.op == "call_module":
            name = str(node.target)
            module, name = self._modules[name], self._own_name(name)
            if not _is_simple(node):
                return _call_layer(module, name, _filled(node.args, values), _filled(node.kwargs, values), context)
            outputs = apply_layer(module, name, values[node.args[0]], context)
            if context.listen is not None:
                context.listen(module, name, values[node.args[0]], outputs)
            return outputs
        arguments = _filled(node.args, values)
        options = _filled(node.kwargs, values)
        if node.op == "call_method":
            return _call(_Method(str(node.target)), arguments, options)
        return _call(node.target, arguments, options)

    def _own_name(self, name: str) -> str:
        """A module that stands in several places has its weights under the name of the first."""
        module = self._modules[name]
        return str(next(first for first, other in self._modules.items() if other is module))


def lower(template: nn.Module) -> "Lowered | str":
    """Return the stacked form of a module, or in words why there is none."""
    kind = type(template).__name__
    for name, module in template.named_modules():
        if has_hooks(module):
            return f"{name or kind} has hooks"
    graph = trace(template)
    if graph is None:
        return f"the forward of {kind} has control flow that cannot be traced"
    places = [node for node in graph.nodes if node.op == "placeholder"]
    outputs = next(node for node in graph.nodes if node.op == "output")
    if len(places) != 1 or not hasattr(outputs.args[0], "op"):
        return f"the forward of {kind} does not take one tensor and return one"
    return Lowered(graph, template)


def canonical_names(template: nn.Module) -> dict[str, str]:
    """Return for every name in the state dict the first one that the same tensor has."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in tensors_of(template).items()}


def _is_simple(node: "fx.Node") -> bool:
    """Whether a layer takes one signal and returns one, as far as the graph shows."""
    single = len(node.args) == 1 and not node.kwargs and hasattr(node.args[0], "op")
    return single and not any(user.target is operator.getitem for user in node.users)


def _call_layer(module: nn.Module, name: str, arguments: Any, options: Any, context: Context) -> Any:
    """Call a layer of any inputs and outputs, attention for one, for every member."""
    weights = {key: Signal(tensor, True) for key, tensor in weights_of(module, name, context).items()}

    def call(tensors: dict[str, Tensor], *inputs: Any, **named: Any) -> Any:
        return torch.func.functional_call(module, tensors, inputs, named)

    return _call(call, (weights, *arguments), options)


class _Method:
    """A tensor's method as a function."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, first: Any, *rest: Any, **options: Any) -> Any:
        return getattr(first, self.name)(*rest, **options)


def _filled(argument: Any, values: Mapping[Any, Any]) -> Any:
    """Put values in the place of nodes, inside tuples, lists, dicts and slices as well."""
    from torch import fx

    return fx.node.map_arg(argument, lambda node: values[node])


def _call(function: Any, arguments: Any, options: Any) -> Any:
    """Call a function of any arguments; where a stacked signal is among them, for every member."""
    flat, rebuild = torch.utils._pytree.tree_flatten((arguments, options), is_leaf=lambda x: isinstance(x, Signal))
    signals = [leaf for leaf in flat if isinstance(leaf, Signal)]
    plain = [leaf.tensor if isinstance(leaf, Signal) else leaf for leaf in flat]

    def call(*leaves: Any) -> Any:
        filled = iter(leaves)
        own, named = torch.utils._pytree.tree_unflatten(
            [next(filled) if isinstance(leaf, Signal) else leaf for leaf in flat], rebuild
        )
        return function(*own, **named)

    tensors = [leaf for leaf, whole in zip(plain, flat, strict=True) if isinstance(whole, Signal)]
    if not any(signal.stacked for signal in signals):
        return _wrapped(call(*tensors), stacked_now=False)
    if function in ELEMENTWISE and all(s.stacked and s.tensor.shape == signals[0].tensor.shape for s in signals):
        return _wrapped(call(*tensors), stacked_now=True)
    return _by_member(call, tensors, [signal.stacked for signal in signals])


def _by_member(call: Any, tensors: list[Tensor], axes: list[bool]) -> Any:
    """Call for every member; what comes back and is no tensor (a size, a shape) is common to all."""
    members = next(len(tensor) for tensor, stack in zip(tensors, axes, strict=True) if stack)
    parts = [tensor.unbind(0) if stack else [tensor] * members for tensor, stack in zip(tensors, axes, strict=True)]
    first = call(*(part[0] for part in parts))
    if not _has_tensor(first):
        return first
    if isinstance(first, Tensor):
        stacks = [tensor for tensor, stack in zip(tensors, axes, strict=True) if stack]
        common = [tensor for tensor, stack in zip(tensors, axes, strict=True) if not stack]

        def one(*own: Tensor) -> Tensor:
            mine, shared = iter(own), iter(common)
            outputs: Tensor = call(*(next(mine) if stack else next(shared) for stack in axes))
            return outputs

        return Signal(by_member(one, *stacks), True)
    own = [[part[member].clone() for part in parts] for member in range(members)]
    results = [tree_map_only(Tensor, apart, call(*tensors)) for tensors in own]
    flat = [torch.utils._pytree.tree_leaves(result) for result in results]
    rebuild = torch.utils._pytree.tree_structure(first)
    leaves = [
        Signal(torch.stack([other[place] for other in flat]), True) if isinstance(leaf, Tensor) else leaf
        for place, leaf in enumerate(flat[0])
    ]
    return torch.utils._pytree.tree_unflatten(leaves, rebuild)


def _has_tensor(result: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in torch.utils._pytree.tree_leaves(result))


def _wrapped(result: Any, *, stacked_now: bool) -> Any:
    if isinstance(result, Tensor):
        return Signal(result, stacked_now)
    if isinstance(result, tuple | list) and _has_tensor(result):
        return type(result)(_wrapped(entry, stacked_now=stacked_now) for entry in result)
    return result
