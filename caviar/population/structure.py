"""Whether modules are alike in all but the values of their weights, so that they can be stacked."""

from collections.abc import Hashable, Mapping
from typing import Any

from torch import Tensor, nn

PLAIN = frozenset(nn.Module().__dict__)
"""What every module has: parameters, buffers, children and hooks, which are looked at by themselves."""


def structure(module: nn.Module) -> Hashable:
    """Return a key that is equal for modules with the same graph, parameter names and shapes.

    That is: the same classes under the same names, with equal attributes, and weights that are shared alike. Where an
    attribute can only be told by which object it is (a tensor that is no buffer, a function made anew), modules count
    as different: rather two populations than one that mixes them up.
    """
    seen: dict[int, str] = {}
    children = module.named_modules(remove_duplicate=False)
    weights = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return (
        tuple((name, seen.setdefault(id(child), name), type(child), _attributes(child)) for name, child in children),
        tuple((name, seen.setdefault(id(tensor), name), _form(tensor)) for name, tensor in weights),
    )


def _attributes(module: nn.Module) -> Hashable:
    own = {name: value for name, value in vars(module).items() if name not in PLAIN}
    hooks = [value for name, value in vars(module).items() if name.endswith("_hooks") and value]
    return _key(own), tuple(id(each) for each in hooks)


def _form(tensor: Tensor) -> Hashable:
    return tuple(tensor.shape), tensor.dtype, tensor.requires_grad


def _key(value: Any) -> Hashable:
    if isinstance(value, Mapping):
        return tuple((name, _key(entry)) for name, entry in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(map(_key, value))
    try:
        hash(value)
    except TypeError:
        return id(value)
    return id(value) if isinstance(value, Tensor) else (type(value), value)  # tensors are compared entry by entry
