"""An optimiser's state as named tensors and JSON, for files without pickle, exact in both directions."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

from caviar.core.errors import InputError

# How torch computes a step belongs to the machine; what it computes belongs to the run.
MACHINE_OPTIONS: Final = frozenset({"params", "fused", "foreach", "capturable", "differentiable"})

PER_MEMBER: Final = "one for each member"
"""Stands in the options for a hyperparameter that is stored as a tensor."""


def optimizer_tensors(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of `optimizer` as contiguous CPU tensors by flat names, and the rest of it as JSON.

    "state/3/exp_avg" belongs to the fourth parameter, counted through all groups; "group/0/lr" and "group/0/betas/1"
    are hyperparameters of the first group with one value a member. A tensor may share memory with the optimiser: write
    it, or clone it, before the next step. The JSON holds the rule, each group's options and the parameters' shapes, and
    the names of the tensors.
    """
    packed = optimizer.state_dict()
    tensors = {name: value.detach().cpu().contiguous() for name, value in _option_tensors(optimizer).items()}
    kinds: dict[str, Any] = {}
    for index, values in packed["state"].items():
        for key, value in values.items():
            name = f"state/{index}/{key}"
            if isinstance(value, Tensor) and not _has_history(optimizer):
                tensors[name] = value.detach().cpu().contiguous()
            elif value is not None:
                kinds[name] = _take_apart(name, value, tensors)
    data = {**_structure(optimizer), "groups": _options(optimizer), "tensors": sorted(tensors)}
    return tensors, {**data, "kinds": kinds} if kinds else data


def load_optimizer_tensors(optimizer: Optimizer, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
    """Put back what `optimizer_tensors` returned, into an optimiser built alike over the same parameters.

    The tensors are copied. One of its parameter's shape takes the parameter's memory layout and device: files hold
    contiguous tensors, while fused kernels read parameter and state side by side as they lie in memory.
    Raises InputError when rule, groups, shapes or names do not match; the optimiser is then as it was.
    """
    _check_structure(optimizer, data)
    _check_names(data, tensors)
    packed = optimizer.state_dict()
    parameters = _parameters(optimizer)
    state: dict[int, dict[str, Any]] = {}
    options = _option_tensors(optimizer)
    kinds = data.get("kinds", {}) if _has_history(optimizer) else {}
    for name, kind in kinds.items():
        index, key = _parse(name, len(parameters))
        state.setdefault(index, {})[key] = _put_together(name, kind, tensors)
    for name, tensor in tensors.items():
        if any(name == whole or name.startswith(f"{whole}/") for whole in kinds):
            continue
        if name in options:
            _check_shape(name, tensor, options[name])
            continue
        index, key = _parse(name, len(parameters))
        state.setdefault(index, {})[key] = _like_parameter(name, tensor, parameters[index])
    groups = [
        {**group, **_with_tensors(_with_tuples(stored), index, tensors, options)}
        for index, (group, stored) in enumerate(zip(packed["param_groups"], data["groups"], strict=True))
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _has_history(optimizer: Optimizer) -> bool:
    """Whether the state is not one tensor for each parameter: L-BFGS keeps lists of past steps, and numbers."""
    return isinstance(optimizer, torch.optim.LBFGS)


def _take_apart(name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """Put the tensors and numbers in `value` into `tensors` and return what is needed to put it together again."""
    if isinstance(value, list):
        return [_take_apart(f"{name}/{place}", entry, tensors) for place, entry in enumerate(value)]
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous()
        return "tensor"
    if isinstance(value, int | float) and not isinstance(value, bool):
        tensors[name] = torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)
        return type(value).__name__
    if value is None:
        return "none"
    raise TypeError(f"{name!r} is a {type(value).__name__}, which cannot be stored")


def _put_together(name: str, kind: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(kind, list):
        return [_put_together(f"{name}/{place}", entry, tensors) for place, entry in enumerate(kind)]
    if kind == "none":
        return None
    if name not in tensors or kind not in ("tensor", "int", "float"):
        raise InputError(f"the stored optimiser state lacks {name!r}.")
    return tensors[name].clone() if kind == "tensor" else tensors[name].item()


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _structure(optimizer: Optimizer) -> dict[str, Any]:
    shapes = [[list(parameter.shape) for parameter in group["params"]] for group in optimizer.param_groups]
    return {"rule": getattr(optimizer, "rule_name", type(optimizer).__name__), "shapes": shapes}


def _options(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [
        {
            key: list(map(_plain, value)) if isinstance(value, tuple) else _plain(value)
            for key, value in group.items()
            if key not in MACHINE_OPTIONS
        }
        for group in optimizer.param_groups
    ]


def _plain(value: Any) -> Any:
    return PER_MEMBER if isinstance(value, Tensor) else value


def _option_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the hyperparameters that are tensors, by name."""
    found: dict[str, Tensor] = {}
    for index, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            if isinstance(value, Tensor):
                found[f"group/{index}/{key}"] = value
            elif isinstance(value, tuple):
                entries = {f"group/{index}/{key}/{place}": entry for place, entry in enumerate(value)}
                found |= {name: entry for name, entry in entries.items() if isinstance(entry, Tensor)}
    return found


def _with_tensors(
    options: Mapping[str, Any], index: int, tensors: Mapping[str, Tensor], here: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Put stored tensors where the options say that there is one for each member."""

    def filled(name: str, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(filled(f"{name}/{place}", entry) for place, entry in enumerate(value))
        return tensors[name].to(here[name].device, copy=True) if name in here else value

    return {key: filled(f"group/{index}/{key}", value) for key, value in options.items()}


def _with_tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}


def _check_structure(optimizer: Optimizer, data: Mapping[str, Any]) -> None:
    here = _structure(optimizer)
    if data.get("rule") != here["rule"]:
        raise InputError(
            f"the stored optimiser state is of {data.get('rule')!r}, but this run uses {here['rule']!r}. "
            "Go on with the recipe that the state was written with."
        )
    if data.get("shapes") != here["shapes"]:
        raise InputError(
            "the stored optimiser state belongs to other parameters: "
            f"{_first_difference(data.get('shapes'), here['shapes'])}. "
            "Go on with the model and recipe that the state was written with."
        )
    if _kinds(data.get("groups")) != _kinds(_options(optimizer)):
        raise InputError(
            f"the stored optimiser state does not hold the options of {here['rule']} that this version of torch has. "
            "Go on with the versions that the state was written with."
        )


def _kinds(groups: Any) -> list[dict[str, str]] | None:
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        return None
    return [{key: _kind(value) for key, value in group.items()} for group in groups]


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_kind, value))}]"
    return "number" if type(value) in (int, float) else type(value).__name__


def _first_difference(stored: Any, here: list[list[list[int]]]) -> str:
    groups = stored if isinstance(stored, list) else []
    there = [shape for group in groups if isinstance(group, list) for shape in group]
    flat = [shape for group in here for shape in group]
    if len(there) != len(flat):
        return f"{len(there)} of them, while this model has {len(flat)}"
    for index, (was, now) in enumerate(zip(there, flat, strict=True)):
        if was != now:
            return f"parameter {index} had shape {was}, here it has {now}"
    return "the same ones, but grouped differently"


def _check_names(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    listed = data.get("tensors")
    expected = {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else set()
    if missing := sorted(expected - set(tensors)):
        raise InputError(f"the stored optimiser state lacks {missing[0]!r} ({len(missing)} missing in all).")
    if extra := sorted(set(tensors) - expected):
        raise InputError(
            f"the stored optimiser state holds {extra[0]!r}, which is not in its list ({len(extra)} in all)."
        )


def _parse(name: str, num_parameters: int) -> tuple[int, str]:
    parts = name.split("/")
    if len(parts) != 3 or parts[0] != "state" or not parts[1].isdecimal() or int(parts[1]) >= num_parameters:
        raise InputError(
            f"the stored optimiser state holds {name!r}; expected state/<0 to {num_parameters - 1}>/<name>."
        )
    return int(parts[1]), parts[2]


def _like_parameter(name: str, tensor: Tensor, parameter: Tensor) -> Tensor:
    if tensor.shape == parameter.shape and tensor.dim() > 0:
        copy = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False, memory_format=torch.preserve_format)
        return copy.copy_(tensor)
    per_member = parameter.dim() > 0 and tensor.dim() == 1 and len(tensor) == len(parameter)
    if tensor.dim() > 0 and not per_member:
        raise InputError(
            f"{name!r} of the stored optimiser state has shape {tuple(tensor.shape)}, "
            f"its parameter {tuple(parameter.shape)}."
        )
    return tensor.clone()


def _check_shape(name: str, tensor: Tensor, here: Tensor) -> None:
    if tensor.shape != here.shape or tensor.dtype != here.dtype:
        raise InputError(
            f"{name!r} of the stored optimiser state has shape {tuple(tensor.shape)} and type {tensor.dtype}, "
            f"here it has {tuple(here.shape)} and {here.dtype}. Go on with as many members as were stored."
        )
