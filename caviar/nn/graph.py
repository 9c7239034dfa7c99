"""Which layer feeds which: through torch.fx where the forward can be traced, else by the order inside Sequentials."""

import operator
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from caviar.core.errors import InputError

if TYPE_CHECKING:
    from torch import fx

ADDITIONS: Final = (operator.add, operator.iadd, torch.add, "add", "add_")


class Follows(NamedTuple):
    """A layer whose output goes to `second` and nowhere else; both run once."""

    first: str
    second: str


class Layout(NamedTuple):
    """What is known of the order of layers. traced: by torch.fx; otherwise only neighbours in Sequentials count."""

    traced: bool
    follows: tuple[Follows, ...]


def layout_of(model: nn.Module) -> Layout:
    """Find every pair of layers of which the second takes the first one's output alone."""
    graph = trace(model)
    if graph is None:
        return Layout(False, tuple(_neighbours(model)))
    calls = [node for node in graph.nodes if node.op == "call_module"]
    targets = [str(node.target) for node in calls]
    modules = {name: id(module) for name, module in model.named_modules(remove_duplicate=False)}
    runs = [modules[target] for target in targets]
    once = {target for target, module in zip(targets, runs, strict=True) if runs.count(module) == 1}
    pairs = []
    for node in calls:
        before = node.all_input_nodes
        if len(before) == 1 and before[0].op == "call_module" and len(before[0].users) == 1:
            first, second = str(before[0].target), str(node.target)
            if first in once and second in once:
                pairs.append(Follows(first, second))
    return Layout(True, tuple(pairs))


def trace(model: nn.Module) -> "fx.Graph | None":
    """Return the graph of the model's forward, or None where its control flow cannot be traced.

    Modules without modules inside them stay whole, whatever their forward looks like. A forward that takes no gradients
    of some part (torch.no_grad) or computes it in another precision (torch.autocast) is not traced: graphs lose that.
    """
    from torch import fx  # brings sympy, which training can do without

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return super().is_leaf_module(m, module_qualified_name) or next(m.children(), None) is None

        def create_node(self, *args: Any, **kwargs: Any) -> Any:
            if _modes() != modes:
                raise InputError("the forward switches gradients or precision")
            return super().create_node(*args, **kwargs)

        def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if threading.get_ident() != tracing:  # for as long as it traces, fx catches the calls of all threads
                return forward(*args, **kwargs)
            return super().call_module(m, forward, args, kwargs)

    tracing, modes = threading.get_ident(), _modes()
    try:
        return Tracer().trace(model)
    except Exception:  # whatever user code does with a symbolic value
        return None


def _modes() -> tuple[bool, ...]:
    """What a context manager may switch, unseen by a graph."""
    kinds = ("cpu", "cuda")
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *map(torch.is_autocast_enabled, kinds)


def _neighbours(model: nn.Module) -> Iterator[Follows]:
    modules = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Sequential)]
    for name, module in modules:
        prefix = f"{name}." if name else ""
        inside = [f"{prefix}{child}" for child, _ in module.named_children()]
        yield from map(Follows, inside, inside[1:])


def residual_ends(model: nn.Module) -> list[str]:
    """Return the last layer with a weight of every residual branch: of two added signals, the one worked on more.

    Raises InputError when the model's forward cannot be traced.
    """
    graph = trace(model)
    if graph is None:
        raise InputError(
            f"the forward of {type(model).__name__} has control flow that torch.fx cannot trace, so its residual "
            "branches are not known. Name the last layer of each: ends=[...]."
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    found: list[str] = []
    for node in graph.nodes:
        if node.target in ADDITIONS and len(node.all_input_nodes) == 2:
            first, second = (_weighted_before(side, modules) for side in node.all_input_nodes)
            mine, others = (first, second) if len(first) >= len(second) else (second, first)
            branch = [name for name in mine if name not in others]
            if branch and branch[-1] not in found:
                found.append(branch[-1])
    return found


def _weighted_before(node: "fx.Node", modules: dict[str, nn.Module]) -> list[str]:
    """Return the layers with a weight that `node` rests on, itself included, in the order of the graph."""
    seen: set[Any] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting += current.all_input_nodes
    ordered = [each for each in node.graph.nodes if each in seen and each.op == "call_module"]
    return [str(each.target) for each in ordered if getattr(modules[str(each.target)], "weight", None) is not None]


def zero_residual_ends(model: nn.Module, ends: list[str] | None = None) -> list[str]:
    """Set weight and bias at the end of every residual branch to 0, and return the names of those layers.

    Every block then starts as the identity, and a deep net as a shallow one (Goyal et al., 2017, for the last batch
    norm of a block; Zhang, Dauphin and Ma, 2019). ends: their names where the forward cannot be traced.
    Raises InputError when there is no residual branch, or a named layer has no weight.
    """
    names = residual_ends(model) if ends is None else ends
    if not names:
        raise InputError(f"{type(model).__name__} adds no two signals, so it has no residual branch to start at 0.")
    modules = dict(model.named_modules())
    for name in names:
        layer = modules.get(name)
        if not isinstance(getattr(layer, "weight", None), torch.Tensor):
            raise InputError(f"{type(model).__name__} has no layer {name!r} with a weight to start at 0.")
    with torch.no_grad():
        for name in names:
            for parameter in modules[name].parameters(recurse=False):
                parameter.zero_()
    return list(names)


def is_affine(module: nn.Module) -> bool:
    """Say whether a layer is linear in its inputs, with a weight and perhaps a bias: linear or a convolution."""
    return isinstance(module, nn.Linear | _ConvNd)
