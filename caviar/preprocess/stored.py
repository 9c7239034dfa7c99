"""Fitted preprocessing from stored data: JSON and tensors in, a module out, never any code."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.preprocess.arrays import ArrayPreprocess, ArrayState
from caviar.preprocess.decorrelation import Decorrelation, DecorrelationState
from caviar.preprocess.pictures import PicturePreprocess, PictureState
from caviar.preprocess.scaling import Scaling, ScalingState
from caviar.preprocess.table import TablePreprocess, TableState

AnyState = TableState | PictureState | ArrayState | ScalingState | DecorrelationState
_STATE: TypeAdapter[AnyState] = TypeAdapter(Annotated[AnyState, Field(discriminator="kind")])


def rebuild(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return the module whose `config()` and `state_dict()` these are; its output is the same to the last bit.

    Raises:
        InputError: the config is malformed, or the tensors are not those that it needs (name, shape, type, finite).
    """
    try:
        # Read as JSON: lists may be tuples. RuntimeError is torch's answer to a size beyond all memory.
        module = _build(_STATE.validate_json(json.dumps(dict(config), allow_nan=False)))
    except (ValidationError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        raise InputError(f"the stored preprocessing is malformed: {_first_message(error)}.") from error
    _fill(module, tensors)
    return module


def _build(state: AnyState) -> nn.Module:
    match state:
        case TableState():
            return TablePreprocess(state)
        case PictureState():
            return PicturePreprocess(state)
        case ArrayState():
            return ArrayPreprocess(state)
        case ScalingState():
            return Scaling(state)
        case DecorrelationState():
            return Decorrelation(state)


def _first_message(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'config'}: {first['msg']}"
    return str(error).partition("\n")[0]


def _fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    wanted = module.state_dict()
    if set(wanted) != set(tensors):
        raise InputError(
            f"the stored preprocessing holds the tensors {sorted(tensors)}, but its config needs {sorted(wanted)}."
        )
    for name, buffer in wanted.items():
        given = tensors[name]
        if given.shape != buffer.shape or given.dtype != buffer.dtype:
            raise InputError(
                f"the stored preprocessing's tensor {name!r} is {tuple(given.shape)} {given.dtype}, "
                f"but its config needs {tuple(buffer.shape)} {buffer.dtype}."
            )
        if not torch.isfinite(given).all():
            raise InputError(f"the stored preprocessing's tensor {name!r} holds NaN or infinity: it is damaged.")
        buffer.copy_(given)
