"""What a batch of inputs looks like to the network."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from caviar.core.observer import Moment
from caviar.diagnose.quantities.pending import Key, Pending

SMALLEST_PICTURE = 8
"""Pixels on a side below which neighbours say little."""
DRAWN = 0.3
"""Share of pixels at the ends of the range from which pictures are drawings, whose overflow cannot be told."""
SPAN, NOISY = 0.6, 0.15
"""Neighbouring pixels that differ by more than this share of the range are jumps; those of noise do by half of it."""
SOME_EXAMPLES = 32
MOST_VALUES, LEAST_EXAMPLES = 1 << 16, 16
"""Of larger batches the first examples are looked at, but at least so many."""


def read_inputs(inputs: Tensor, moment: Moment, pending: Pending) -> None:
    """Mean, standard deviation, least and largest of a batch."""
    values = _as_floats(_portion(inputs))
    if values is None:
        return
    count = values.numel()
    low, high = torch.aminmax(values)
    shifted = values - values.reshape(-1)[0]  # of unscaled inputs the squares would cancel
    found = torch.stack([values.mean(), shifted.mean(), torch.linalg.vector_norm(shifted), low, high])

    def emit(read: list[float]) -> Iterable[tuple[Key, float]]:
        mean, offset, norm, least, largest = read
        variance = norm * norm / count - offset * offset
        yield Key("input_mean"), mean
        yield Key("input_std"), variance if variance != variance else max(variance, 0.0) ** 0.5
        yield Key("input_min"), least
        yield Key("input_max"), largest

    pending.add(moment, found, emit)


def read_scales(inputs: Tensor, moment: Moment, pending: Pending) -> None:
    """How the features of a batch compare (channels, of pictures), and how pixels follow each other."""
    values = _as_floats(_portion(inputs))
    if values is None or len(values) < 2:
        return
    others = (0, *range(2, values.dim()))
    shifted = values - values[:1]
    stds = (shifted.square().mean(others) - shifted.mean(others).square()).clamp_min(0).sqrt()
    moving = stds > 0
    largest = torch.where(moving, stds, 0.0).max()
    typical = torch.where(moving, stds, torch.nan).nanmedian()
    least = torch.where(moving, stds, torch.inf).min()
    some = values[:SOME_EXAMPLES]
    whole = (some == some.round()).all().float()
    found = [largest, typical, least, (~moving).float().mean(), whole]
    if values.dim() == 4 and min(values.shape[2:]) >= SMALLEST_PICTURE:
        found.append(jumps(some))

    def emit(read: list[float]) -> Iterable[tuple[Key, float]]:
        high, middle, low, constant, integers, *share = read
        if low > 0 and middle > 0:
            yield Key("input_scale_ratio"), high / low
            yield Key("input_scale_excess"), high / middle
        yield Key("input_constant"), constant
        yield Key("input_whole"), integers
        if share and share[0] == share[0]:
            yield Key("input_jumps"), share[0]

    pending.add(moment, torch.stack(found), emit)


def _portion(inputs: Tensor) -> Tensor:
    if not inputs.dim() or not len(inputs):
        return inputs
    return inputs[: max(LEAST_EXAMPLES, MOST_VALUES * len(inputs) // max(1, inputs.numel()))]


def _as_floats(inputs: Tensor) -> Tensor | None:
    if not inputs.numel() or inputs.dtype in (torch.int64, torch.int32, torch.bool) or inputs.is_complex():
        return None  # whole numbers of these types are codes, not amounts
    return inputs.float()


def jumps(pictures: Tensor) -> Tensor:
    """Return the share of neighbouring pixels, of pictures (n, channels, height, width), that differ by most of the
    range; NaN where that says nothing: drawings, whose pixels are mostly at the ends of the range, and noise.
    """
    low, high = torch.aminmax(pictures)
    pixels = (pictures - low) / (high - low)
    at_ends = ((pixels < 1e-3) | (pixels > 1 - 1e-3)).float().mean()
    steps = (pixels[..., 1:] - pixels[..., :-1]).abs()
    smooth = (at_ends < DRAWN) & (steps.median() < NOISY)
    return torch.where(smooth, (steps > SPAN).float().mean(), torch.nan)


class Moments(NamedTuple):
    """Mean and standard deviation of each feature over some examples, in float64 on the CPU."""

    rows: int
    mean: Tensor
    std: Tensor


@torch.no_grad()
def moments_of(inputs: Tensor) -> Moments | None:
    """Return the moments of a batch's features, every pixel being one; None for codes and for fewer than 2 examples."""
    values = _as_floats(inputs)
    if values is None or len(values) < 2:
        return None
    rows = values.reshape(len(values), -1).cpu().double()
    std, mean = torch.std_mean(rows, dim=0)
    return Moments(len(rows), mean, std)


@dataclass
class RunningMoments:
    """Moments of batch after batch, gathered in float64 until `done`."""

    done: bool = False
    rows: int = 0
    _sum: Tensor | None = None
    _square: Tensor | None = None

    @torch.no_grad()
    def add(self, inputs: Tensor) -> None:
        """Take in a batch; codes, and batches of another shape than the first, are left out."""
        values = _as_floats(inputs.detach())
        if values is None or values.dim() < 2:
            return
        batch = values.reshape(len(values), -1).double()
        total, square = batch.sum(0), batch.square().sum(0)
        if self._sum is None or self._square is None:
            self._sum, self._square = total, square
        elif self._sum.shape == total.shape:
            self._sum, self._square = self._sum + total, self._square + square
        else:
            return
        self.rows += len(values)

    def result(self) -> Moments | None:
        """Return the moments, on the CPU; None for fewer than two examples."""
        if self._sum is None or self._square is None or self.rows < 2:
            return None
        mean = self._sum / self.rows
        variance = (self._square / self.rows - mean.square()).clamp_min(0) * (self.rows / (self.rows - 1))
        return Moments(self.rows, mean.cpu(), variance.sqrt().cpu())


def shift_between(train: Moments, other: Moments) -> dict[str, float]:
    """Return how far the inputs of another split lie from those of train.

    input_shift: the largest difference of a feature's means, in standard deviations; input_shift_sigma: the largest in
    standard errors; input_shift_mean: the root mean square over features; input_scale_shift: the median over features
    of |log(std / std)|. {} where features differ in number, or none varies.
    """
    if train.mean.shape != other.mean.shape:
        return {}
    moving = (train.std > 0) & torch.isfinite(train.std) & torch.isfinite(other.std)
    if not bool(moving.any()):
        return {}
    pooled = torch.maximum(train.std, other.std)[moving]
    shift = (other.mean - train.mean)[moving].abs() / pooled
    error = (1 / train.rows + 1 / other.rows) ** 0.5
    both = moving & (other.std > 0)
    scales = (other.std[both] / train.std[both]).log().abs()
    return {
        "input_shift": float(shift.max()),
        "input_shift_sigma": float(shift.max() / error),
        "input_shift_mean": float(shift.square().mean().sqrt()),
        "input_scale_shift": float(scales.median()) if len(scales) else float("inf"),
    }
