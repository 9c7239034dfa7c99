"""From checked raw data to examples that the loop can take batches from."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from caviar.augment.pipeline import Augment, build_augment, check_settings, is_none, mixes_labels
from caviar.core.errors import InputError
from caviar.core.examples import SPLITS, Examples, SplitName, Splits
from caviar.core.files import cache_folder
from caviar.core.tensors import tensor_over
from caviar.data.raw import RawData
from caviar.preprocess import TargetScaler, fit_arrays, fit_pictures, fit_table, fit_target
from caviar.recipe import Recipe
from caviar.train.evaluate import EVALUATION_BATCH

BLOCK_BYTES = 32 << 20
MEBIBYTE = 1 << 20
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Prepared:
    """Examples of each split, the preprocessing that made them, and how a batch of them reaches the network.

    input_shape: of one example as the network sees it. prepare: see `caviar.train.evaluate.Prepare`.
    mapped: whether inputs are streamed from a memory-mapped file. augment: what a training batch of stored inputs and
    targets goes through first, or None.
    """

    examples: dict[SplitName, Examples]
    preprocess: nn.Module
    scaler: TargetScaler | None
    prepare: Callable[[Tensor], Tensor]
    input_shape: tuple[int, ...]
    mapped: bool
    augment: Augment | None = None


def prepare(
    raw: RawData,
    splits: Splits,
    recipe: Recipe,
    device: torch.device,
    *,
    channels_last: bool,
    names: Sequence[SplitName] = SPLITS,
    copies: int = 1,
) -> Prepared:
    """Fit the preprocessing on the training rows, and put every split's inputs where batches are gathered from.

    What fits the memory budget is preprocessed once and kept on the device; a larger table is preprocessed once into a
    memory-mapped file; larger pictures and arrays, and pictures that are augmented, stay as they are stored and are
    preprocessed batch by batch.

    names: the splits whose examples are wanted. copies: how many times so much the memory budget must hold.
    """
    augment = _augment(raw, recipe)
    fitted = _fit(raw, splits, recipe)
    scaler, targets = _targets(raw, splits)
    shape = _output_shape(raw, fitted, splits)
    budget = recipe.data.memory_budget * MEBIBYTE // copies
    itemsize = 4 if fitted(_raw_block(raw, splits.train[:1], fitted)).is_floating_point() else 8
    size = len(raw) * int(np.prod(shape)) * itemsize
    fits = size <= budget
    if augment is not None:
        fits = int(np.prod(raw.inputs.shape)) <= budget
        streamed = _streamed(raw, splits, targets, fitted, scaler, shape, device, device if fits else CPU)
        return replace(streamed, mapped=not fits, augment=augment)
    if not fits and raw.kind != "table":
        return _streamed(raw, splits, targets, fitted, scaler, shape, device, CPU)
    layout = channels_last and raw.kind == "pictures"
    examples = {
        name: Examples(
            _stored(raw, splits.of(name), fitted, shape, layout, fits).to(device if fits else "cpu"),
            targets[splits.of(name)].to(device if fits else "cpu"),
        )
        for name in names
    }
    return Prepared(examples, fitted, scaler, _channels_first if layout else _as_it_is, shape, not fits)


def _augment(raw: RawData, recipe: Recipe) -> Augment | None:
    """Return what training batches of stored pictures (n, height, width, channels) go through, or None."""
    settings = recipe.augment
    if is_none(settings):
        return None
    if raw.kind != "pictures":
        raise InputError(f"[augment] changes pictures, and this data is of kind {raw.kind!r}. Leave the section out.")
    check_settings(settings, *raw.inputs.shape[1:])
    if mixes_labels(settings) and recipe.loss.name in ("hinge", "logistic"):
        raise InputError(
            "augment.mixup and augment.cutmix make labels partly one class and partly another, which loss.name "
            f"= {recipe.loss.name!r} cannot take. Use cross_entropy, or set both to 0."
        )
    change = build_augment(settings, len(raw.classes) if raw.task == "classification" else None)

    def batch(pixels: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        pictures, targets = change(pixels.permute(0, 3, 1, 2), targets, generator)
        return pictures.permute(0, 2, 3, 1), targets

    return batch


def _fit(raw: RawData, splits: Splits, recipe: Recipe) -> nn.Module:
    def blocks() -> Iterator[Any]:
        for rows in _row_blocks(raw, splits.train):
            yield _take(raw, rows)

    if raw.kind == "table":
        return fit_table(blocks, raw.columns, recipe.preprocess)
    if raw.kind == "pictures":
        return fit_pictures(blocks, recipe.preprocess)
    return fit_arrays(blocks, recipe.preprocess)


def _take(raw: RawData, rows: NDArray[Any]) -> Any:
    if raw.kind == "arrays":
        return raw.inputs[torch.from_numpy(rows.astype(np.int64))]
    return raw.inputs[rows]


def _raw_block(raw: RawData, rows: NDArray[Any], fitted: nn.Module) -> Tensor:
    """Return some rows in the form that the fitted preprocessing takes."""
    taken = _take(raw, rows)
    if raw.kind == "table":
        numbers: Tensor = fitted.encode(taken).numbers  # type: ignore[operator]
        return numbers
    return taken if isinstance(taken, Tensor) else tensor_over(np.ascontiguousarray(taken))


def raw_blocks(raw: RawData, rows: NDArray[Any], fitted: nn.Module) -> Iterator[Tensor]:
    """Yield rows in the form that the fitted preprocessing takes, an evaluation batch at a time."""
    for start in range(0, len(rows), EVALUATION_BATCH):
        yield _raw_block(raw, rows[start : start + EVALUATION_BATCH], fitted)


def _row_blocks(raw: RawData, rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    width = 8 * max(len(raw.columns), 1) if raw.kind == "table" else int(np.prod(raw.inputs.shape[1:])) * 8
    step = max(1, min(262_144, BLOCK_BYTES // max(width, 1)))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def _targets(raw: RawData, splits: Splits) -> tuple[TargetScaler | None, Tensor]:
    if raw.task == "classification":
        return None, tensor_over(np.ascontiguousarray(raw.targets.astype(np.int64, copy=False)))
    scaler = fit_target(raw.targets[splits.train])
    return scaler, scaler.scale(raw.targets)


def _output_shape(raw: RawData, fitted: nn.Module, splits: Splits) -> tuple[int, ...]:
    with torch.no_grad():
        return tuple(fitted(_raw_block(raw, splits.train[:1], fitted)).shape[1:])


@torch.no_grad()
def _stored(
    raw: RawData, rows: NDArray[Any], fitted: nn.Module, shape: tuple[int, ...], channels_last: bool, in_memory: bool
) -> Tensor:
    """Preprocess rows block by block into one tensor; with `channels_last` as (rows, height, width, channels)."""
    store: Tensor | None = None
    filled = 0
    for chosen in _row_blocks(raw, rows):
        block = fitted(_raw_block(raw, chosen, fitted))
        if channels_last:
            block = block.permute(0, 2, 3, 1)
        if store is None:
            size = (len(rows), *block.shape[1:])
            store = torch.empty(size, dtype=block.dtype) if in_memory else mapped_tensor(size, block.dtype)
        store[filled : filled + len(block)] = block
        filled += len(block)
    return store if store is not None else torch.empty((0, *shape))


def mapped_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor over a file in the cache folder that nobody else sees: it goes when the process ends."""
    folder = cache_folder() / "mapped"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder)
        try:
            size = int(np.prod(shape)) * dtype.itemsize
            os.posix_fallocate(descriptor, 0, max(size, 1))
            array = np.memmap(name, dtype=np.uint8, mode="r+", shape=(size,))
        finally:
            os.close(descriptor)
            Path(name).unlink()
    except OSError as error:
        raise InputError(
            f"{folder}: no room for the {int(np.prod(shape)) * dtype.itemsize / MEBIBYTE:.0f} MiB that do not fit in "
            f"memory ({error.strerror or error}). Free some space, set CAVIAR_CACHE to another folder, or raise "
            "data.memory_budget."
        ) from error
    return torch.from_numpy(array).view(dtype).view(shape)


def _streamed(
    raw: RawData,
    splits: Splits,
    targets: Tensor,
    fitted: nn.Module,
    scaler: TargetScaler | None,
    shape: tuple[int, ...],
    device: torch.device,
    home: torch.device,
) -> Prepared:
    """Leave the inputs as they are stored, on the device `home`, to be preprocessed batch by batch."""
    stored = (raw.inputs if isinstance(raw.inputs, Tensor) else tensor_over(raw.inputs)).to(home)
    targets = targets.to(home)
    on_device = fitted if device.type == "cpu" else fitted.to(device)
    rows = {name: torch.from_numpy(np.ascontiguousarray(splits.of(name))).to(home) for name in SPLITS}
    examples = {name: Examples(stored, targets, rows[name]) for name in SPLITS}

    def prepare_batch(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            prepared: Tensor = on_device(inputs)
        return prepared

    return Prepared(examples, fitted, scaler, prepare_batch, shape, True)


def _as_it_is(inputs: Tensor) -> Tensor:
    return inputs


def _channels_first(inputs: Tensor) -> Tensor:
    return inputs.permute(0, 3, 1, 2)
