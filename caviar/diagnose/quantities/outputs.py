"""What a network says: how its outputs vary, and whether they are probabilities already."""

from collections.abc import Iterable

import torch
from torch import Tensor

from caviar.core.observer import Moment
from caviar.diagnose.quantities.pending import Key, Pending, spread

SUM_ERROR = 1e-3
"""How far a sum of probabilities may be from 1."""

PROBABILITIES, ACROSS_BATCH, LOG_PROBABILITIES, LOG_ACROSS_BATCH = 1.0, 2.0, 3.0, 4.0
"""Values of output_form; 0: none of these."""


def read_outputs(outputs: Tensor, moment: Moment, pending: Pending) -> None:
    """Mean and spread of all outputs, and their spread over the examples of the batch."""
    if not outputs.is_floating_point() or not outputs.numel():
        return
    values = outputs.float().reshape(len(outputs), -1) if outputs.dim() else outputs.float().reshape(1, 1)
    units = values.mean(dim=0)
    norm = torch.linalg.vector_norm
    found = torch.stack([units.mean(), norm(values), norm(values - units)])
    count, width = values.numel(), values.shape[1]

    def emit(read: list[float]) -> Iterable[tuple[Key, float]]:
        mean, size, varying = read
        yield Key("output_mean"), mean
        yield Key("output_std"), spread(mean, size, count)
        if count > width:  # one example does not vary
            yield Key("output_spread"), varying / count**0.5
        yield Key("output_width"), float(width)

    pending.add(moment, found, emit)


def read_form(outputs: Tensor, moment: Moment, pending: Pending) -> None:
    """Whether outputs (batch, classes) sum to 1 over the classes, or over the batch; or their exponentials do."""
    if not outputs.is_floating_point() or outputs.dim() != 2 or min(outputs.shape) < 2:
        return
    values = outputs.float()
    found = []
    for exponent in (False, True):
        for axis in (1, 0):
            sums = values.logsumexp(axis) if exponent else values.sum(axis) - 1
            fits = (sums.abs() < SUM_ERROR).all()
            found.append(fits if exponent else fits & (values >= 0).all())

    def emit(read: list[float]) -> Iterable[tuple[Key, float]]:
        forms = (PROBABILITIES, ACROSS_BATCH, LOG_PROBABILITIES, LOG_ACROSS_BATCH)
        yield Key("output_form"), next((form for form, fits in zip(forms, read, strict=True) if fits), 0.0)

    pending.add(moment, torch.stack(found).float(), emit)
