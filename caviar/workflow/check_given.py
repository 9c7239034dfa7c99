"""A set-up to check from a module, data and a loss of the user's own; nothing of theirs is changed."""

import copy
import inspect
import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.core.examples import Splits
from caviar.core.seeds import generator_for
from caviar.data.raw import RawData
from caviar.data.row_keys import row_keys
from caviar.data.splits import count_overlaps
from caviar.diagnose.checks_setup import Batch, Held, Setup
from caviar.nn.probe import probe
from caviar.optim import Optimizer as RuleOptimizer
from caviar.workflow.check_sample import DEV_ROWS, TRAIN_ROWS, sample_of

IGNORED: Final = -100
"""The class number that torch's losses pass over."""

Loss = Callable[[Any, Tensor], Tensor]
Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


def given_setup(
    model: nn.Module,
    data: Any,
    loss: Loss,
    *,
    dev: Any,
    optimizer: torch.optim.Optimizer | None,
    penalty: Callable[[nn.Module], Tensor] | None,
    augment: Augment | None,
    batch_size: int | None,
    seed: int,
) -> Setup:
    """Return private copies of the model and the loss, and samples of the data on the model's device.

    Raises InputError when the model cannot be copied or cannot take the data, or the loss is no single number.
    """
    own = copied(_unwrapped(model), "model")
    own_loss = copied(loss, "loss") if isinstance(loss, nn.Module) else loss
    device = next((each.device for each in own.parameters()), torch.device("cpu"))
    train, rows = sample_of(data, "data", TRAIN_ROWS, seed, device)
    held_out = None if dev is None else sample_of(dev, "dev", DEV_ROWS, seed, device)[0]
    check_runs(own, own_loss, train)
    size, single = _batches(data, batch_size, rows)
    generator = generator_for(seed, "check augmentation")
    return Setup(
        own,
        own_loss,
        train,
        held_out,
        optimizer=None if optimizer is None else rebuilder(optimizer, model),
        held=None if optimizer is None else held_by(optimizer, model),
        penalty=penalty,
        augmented=None if augment is None else Batch(*augment(train.inputs.clone(), train.targets.clone(), generator)),
        batch_size=size,
        single=single,
        repeats=None if held_out is None else _repeats(train, held_out),
        seed=seed,
    )


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside torch.compile's or a data-parallel wrapper."""
    inner = getattr(model, "_orig_mod", model)
    if type(inner).__name__ in ("DataParallel", "DistributedDataParallel"):
        inner = inner.module
    assert isinstance(inner, nn.Module)
    return inner


def copied(module: Any, name: str) -> Any:
    """Return a copy of something of the user's, or say in words why there is none."""
    try:
        return copy.deepcopy(module)
    except Exception as error:
        raise InputError(
            f"{name}={type(module).__name__}: it cannot be copied ({type(error).__name__}: {error}), and checks work "
            "on copies. Keep only parameters, buffers and plain values in it."
        ) from error


def check_runs(model: nn.Module, loss: Loss, train: Batch) -> None:
    """Try one batch, in training mode as in the long run; say in words what does not work."""
    part = Batch(train.inputs[:8].clone(), train.targets[:8])
    outputs, _ = probe(model, part.inputs, training=True)
    _check_class_numbers(outputs, train.targets)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of shapes that broadcast, say: the checks look for that
            found = loss(outputs, part.targets)
    except Exception as error:
        words = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        raise InputError(
            f"the loss refuses outputs {_shape(outputs)} and targets {_shape(part.targets)}: {words}. It is called as "
            "loss(model(inputs), targets)."
        ) from error
    if not isinstance(found, Tensor) or found.numel() != 1:
        raise InputError(f"the loss gave {_shape(found)}, and must give one number. Take its mean.")


def _check_class_numbers(outputs: Any, targets: Tensor) -> None:
    if not isinstance(outputs, Tensor) or targets.is_floating_point() or outputs.dim() != targets.dim() + 1:
        return
    numbers, classes = targets[targets != IGNORED], outputs.shape[1]
    if classes < 2 or numbers.numel() == 0:
        return
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"targets hold class numbers from {low} to {high}, but the model has {classes} outputs, for 0 to "
            f"{classes - 1}. Number the classes from 0, or give the last layer more outputs."
        )


def _shape(value: Any) -> str:
    return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"({type(value).__name__})"


def _batches(data: Any, batch_size: int | None, rows: int | None) -> tuple[int | None, bool]:
    """Return the batch size of the long run, as given or from a loader, and whether a batch of one will come."""
    size = batch_size or getattr(data, "batch_size", None)
    if not isinstance(size, int):
        return None, False
    drops = bool(getattr(data, "drop_last", False))
    return size, size == 1 or (rows is not None and not drops and rows % size == 1)


def held_by(optimizer: torch.optim.Optimizer, model: nn.Module) -> Held:
    """Return which of the model's trainable parameters an optimiser lacks, and what else it holds."""
    inside = {id(each) for group in optimizer.param_groups for each in group["params"]}
    own = {id(each) for each in model.parameters()}
    absent = [
        name for name, each in _unwrapped(model).named_parameters() if each.requires_grad and id(each) not in inside
    ]
    return Held(tuple(absent), len(inside - own))


def rebuilder(optimizer: torch.optim.Optimizer, model: nn.Module) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Return a function that builds the same optimiser, without what it has gathered, on a copy of the model."""
    names = {id(each): name for name, each in _unwrapped(model).named_parameters()}
    groups = [
        {**group, "params": [names[id(each)] for each in group["params"] if id(each) in names]}
        for group in optimizer.param_groups
    ]

    def build(other: nn.Module) -> torch.optim.Optimizer:
        own = dict(other.named_parameters())
        filled = [{**group, "params": [own[name] for name in group["params"]]} for group in groups]
        filled = [group for group in filled if group["params"]]
        if isinstance(optimizer, RuleOptimizer):
            return RuleOptimizer(filled, optimizer.rule, members=optimizer.members)
        taken = inspect.signature(type(optimizer).__init__).parameters
        return type(optimizer)(filled, **{key: value for key, value in optimizer.defaults.items() if key in taken})

    return build


def _repeats(train: Batch, dev: Batch) -> dict[str, tuple[int, int]]:
    """Count the rows of the dev sample that stand in the train sample too, inputs and target alike."""
    inputs = torch.cat([train.inputs, dev.inputs.to(train.inputs.dtype)]).cpu().contiguous()
    targets = torch.cat([train.targets, dev.targets.to(train.targets.dtype)]).cpu().reshape(len(inputs), -1)[:, 0]
    raw = RawData("arrays", inputs, targets.numpy(), "regression", {"train": len(inputs)}, "")
    keys = row_keys(raw)
    rows = np.arange(len(inputs))
    return count_repeats(keys, Splits(rows[: len(train)], rows[len(train) :], rows[:0]))


def count_repeats(keys: Any, splits: Splits) -> dict[str, tuple[int, int]]:
    """Return for dev and test how many rows stand in train too, of how many; for train, how many have a twin there."""
    counts = {name: (count, len(splits.of(name))) for name, count in count_overlaps(keys, splits).items()}
    _, twins = np.unique(keys[splits.train], return_counts=True)
    found: dict[str, tuple[int, int]] = {"train": (int(twins[twins > 1].sum()), len(splits.train))}
    return found | {name: pair for name, pair in counts.items() if pair[1]}
