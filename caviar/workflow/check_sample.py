"""A sample of the examples that a user's own loop would train on, whatever they come in; nothing is changed."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from caviar.core.errors import InputError
from caviar.core.seeds import generator_for
from caviar.diagnose.checks_setup import Batch

TRAIN_ROWS: Final = 2048
DEV_ROWS: Final = 512
SAMPLE_BYTES: Final = 64 << 20
FEWEST: Final = 2


def sample_of(data: Any, name: str, most: int, seed: int, device: torch.device) -> tuple[Batch, int | None]:
    """Return some examples, drawn at random where the data allows it, and how many there are (None: not known)."""
    with _streams_as_before(data):
        if isinstance(data, tuple | list) and len(data) == 2 and all(map(_is_array, data)):
            inputs, targets = (_tensor(each) for each in data)
            if len(inputs) != len(targets):
                raise InputError(f"{name} has {len(inputs)} inputs but {len(targets)} targets. Give one for each.")
            total = len(inputs)
            rows: int | None = total
            chosen = _rows(total, min(most, fitting(inputs[:1])), seed)
            inputs, targets = inputs[chosen], targets[chosen]
        elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, tuple | list):
            rows = len(data)
            inputs, targets = _from_items(data, name, most, seed)
        elif isinstance(data, Iterable):
            inputs, targets = _from_batches(data, name, most)
            rows = _length_of(data)
        else:
            raise InputError(
                f"{name} is a {type(data).__name__}. Give a pair (inputs, targets), a data set, or batches of pairs."
            )
    if len(inputs) < FEWEST:
        raise InputError(f"{name} has {len(inputs)} examples, and checks need {FEWEST} at least.")
    return Batch(inputs.to(device), targets.to(device)), rows


@contextlib.contextmanager
def _streams_as_before(data: Any) -> Iterator[None]:
    """Put the generators that a loader and its samplers hold back as they were before the block."""
    holders = [data, getattr(data, "sampler", None), getattr(getattr(data, "batch_sampler", None), "sampler", None)]
    held = [each for each in (getattr(holder, "generator", None) for holder in holders) if each is not None]
    states = [generator.get_state() for generator in held if isinstance(generator, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in zip(held, states, strict=False):
            generator.set_state(state)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _tensor(value: Any) -> Tensor:
    """Return an array or tensor as a tensor; float64 arrays, NumPy's usual type, become float32, torch's."""
    if isinstance(value, Tensor):
        return value.detach()
    found = torch.as_tensor(np.ascontiguousarray(value))
    return found.float() if found.dtype == torch.float64 else found


def fitting(example: Tensor) -> int:
    """Return how many examples of this size make a sample: 64 MiB of them, and 64 at least."""
    return max(64, SAMPLE_BYTES // max(1, example.numel() * example.element_size()))


def _rows(total: int, most: int, seed: int) -> Tensor:
    return torch.randperm(total, generator=generator_for(seed, "check sample"))[:most]


def _from_items(data: Any, name: str, most: int, seed: int) -> tuple[Tensor, Tensor]:
    from torch.utils.data import default_collate

    items, limit = [], most
    for row in _rows(len(data), most, seed).tolist():
        item = data[row]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise InputError(f"{name}: item {row} is a {type(item).__name__}; every item must be a pair (x, y).")
        items.append(tuple(item))
        if len(items) == 1:
            limit = min(most, fitting(torch.as_tensor(item[0])))
        if len(items) == limit:
            break
    try:
        inputs, targets = default_collate(items) if items else (torch.empty(0), torch.empty(0))
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"{name}: its items cannot be made one batch ({error}). Give a DataLoader with a collate_fn of its own."
        ) from error
    return _pair(inputs, targets, name)


def _from_batches(data: Iterable[Any], name: str, most: int) -> tuple[Tensor, Tensor]:
    inputs, targets, count = list[Tensor](), list[Tensor](), 0
    for batch in data:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise InputError(
                f"{name}: a batch is a {type(batch).__name__}; every one must be a pair (inputs, targets)."
            )
        x, y = _pair(batch[0], batch[1], name)
        inputs.append(x)
        targets.append(y)
        count += len(x)
        if count >= min(most, fitting(x[:1])):
            break
    if not inputs:
        raise InputError(f"{name} gives no batch. Give at least one.")
    try:
        return torch.cat(inputs)[:most], torch.cat(targets)[:most]
    except RuntimeError as error:
        raise InputError(f"{name}: its batches differ in shape or type ({error}). Bring all to one.") from error


def _pair(inputs: Any, targets: Any, name: str) -> tuple[Tensor, Tensor]:
    if not _is_array(inputs) or not _is_array(targets):
        kinds = f"{type(inputs).__name__} and {type(targets).__name__}"
        raise InputError(
            f"{name}: inputs and targets are {kinds}; checks need one tensor of each. Wrap a model of several inputs "
            "in one that takes them side by side."
        )
    return _tensor(inputs), _tensor(targets)


def _length_of(data: Any) -> int | None:
    try:
        return len(data.dataset)
    except (AttributeError, TypeError):
        return None
