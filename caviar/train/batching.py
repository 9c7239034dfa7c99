"""Cutting an epoch into batches, and fetching them."""

import torch
from torch import Tensor

from caviar.core.errors import InputError
from caviar.core.examples import Examples
from caviar.core.seeds import epoch_order


def batch_bounds(num_rows: int, batch_size: int, *, merge_single: bool) -> list[tuple[int, int]]:
    """Return (start, end) of each batch of an epoch; the last one may be smaller.

    With `merge_single` a last batch of one example joins the batch before it: batch norm cannot train on one example.
    """
    if batch_size > num_rows:
        raise InputError(
            f"training.batch_size is {batch_size}, but there are only {num_rows} training examples; "
            f"choose a batch size from 1 to {num_rows}."
        )
    if merge_single and batch_size == 1:
        raise InputError(
            "training.batch_size is 1 and the model has batch norm, which cannot normalise a batch of one example; "
            "choose a batch size of at least 2, or model.norm = none."
        )
    bounds = [(start, min(start + batch_size, num_rows)) for start in range(0, num_rows, batch_size)]
    if merge_single and len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] == 1:
        bounds[-2:] = [(bounds[-2][0], num_rows)]
    return bounds


def epoch_rows(train: Examples, seed: int, epoch: int) -> Tensor:
    """Return the stored rows in an epoch's order, on the device that holds the inputs."""
    order = epoch_order(seed, epoch, len(train))
    if train.rows is not None:
        order = train.rows.cpu().index_select(0, order)
    return order.to(train.inputs.device)


def gather(train: Examples, device: torch.device, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return stored inputs and targets of some rows, on the device that computes."""
    inputs = train.inputs.index_select(0, rows)
    targets = train.targets.index_select(0, rows)
    if inputs.device == device:
        return inputs, targets
    return inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
