"""What a network says: how its outputs vary, and whether they are probabilities already."""

from collections.abc import Iterable

import torch
from torch import Tensor

from caviar.core.observer import Moment
from caviar.diagnose.quantities.pending import Emit, Key, Pending, spread

SUM_ERROR = 1e-3
"""How far a sum of probabilities may be from 1."""

PROBABILITIES, ACROSS_BATCH, LOG_PROBABILITIES, LOG_ACROSS_BATCH = 1.0, 2.0, 3.0, 4.0
"""Values of output_form; 0: none of these."""


def read_outputs(outputs: Tensor, moment: Moment, pending: Pending) -> None:
    """Mean and spread of all outputs, and their spread over the examples of the batch."""
    if not outputs.is_floating_point() or not outputs.numel():
        return
    values = outputs.float().reshape(len(outputs), -1) if outputs.dim() else outputs.float().reshape(1, 1)
    pending.add(moment, spread_of(values), emit_spread(*values.shape))


def spread_of(values: Tensor) -> Tensor:
    """Return mean, root of the sum of squares, and that of what varies, of outputs (batch, units)."""
    units = values.mean(dim=0)
    norm = torch.linalg.vector_norm
    return torch.stack([units.mean(), norm(values), norm(values - units)])


def emit_spread(rows: int, width: int) -> Emit:
    """Return what names the numbers of `spread_of`."""
    count = rows * width

    def emit(read: list[float]) -> Iterable[tuple[Key, float]]:
        mean, size, varying = read
        yield Key("output_mean"), mean
        yield Key("output_std"), spread(mean, size, count)
        if count > width:  # one example does not vary
            yield Key("output_spread"), varying / count**0.5
        yield Key("output_width"), float(width)

    return emit


def read_form(outputs: Tensor, moment: Moment, pending: Pending) -> None:
    """Whether outputs (batch, classes) sum to 1 over the classes, or over the batch; or their exponentials do."""
    if not outputs.is_floating_point() or outputs.dim() != 2 or min(outputs.shape) < 2:
        return
    pending.add(moment, form_of(outputs.float()), emit_form)


def form_of(values: Tensor) -> Tensor:
    """Return, of each form of `output_form` from 1 on, whether outputs (batch, classes) have it."""
    found = []
    for exponent in (False, True):
        for axis in (1, 0):
            sums = values.logsumexp(axis) if exponent else values.sum(axis) - 1
            fits = (sums.abs() < SUM_ERROR).all()
            found.append(fits if exponent else fits & (values >= 0).all())
    return torch.stack(found).float()


def emit_form(read: list[float]) -> Iterable[tuple[Key, float]]:
    """Name the numbers of `form_of`."""
    forms = (PROBABILITIES, ACROSS_BATCH, LOG_PROBABILITIES, LOG_ACROSS_BATCH)
    yield Key("output_form"), next((form for form, fits in zip(forms, read, strict=True) if fits), 0.0)
