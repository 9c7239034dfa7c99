"""Arrays and tensors: each feature or channel scaled, then perhaps decorrelated. `fit_arrays` makes the module."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.core.settings import Settings
from caviar.core.tensors import tensor_over
from caviar.preprocess.covariance import Covariance
from caviar.preprocess.decorrelation import Decorrelation, DecorrelationState, decorrelation_of
from caviar.preprocess.extremes import Extremes
from caviar.preprocess.moments import CELLS, Floats, Moments, inverse_std
from caviar.preprocess.quartiles import quartiles, robust_scale
from caviar.preprocess.scaling import check_range
from caviar.preprocess.settings import PreprocessSettings

ArrayBlocks = Callable[[], Iterable[NDArray[Any] | Tensor]]

LARGEST = float(np.finfo(np.float32).max)
_SMALL_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.bool)


class ArrayState(Settings):
    """What a bundle's JSON says of fitted arrays; the numbers are in the buffers."""

    kind: Literal["arrays"] = "arrays"
    """what this is the state of"""
    numeric: Literal["center", "minmax", "zscore", "robust", "none"]
    """the setting preprocess.numeric"""
    features: Annotated[int, Field(ge=0)]
    """length of axis 1: features of a row, or channels"""
    low: float = 0.0
    """the lower end of minmax"""
    decorrelate: DecorrelationState | None = None
    """what follows the scaling"""


class ArrayPreprocess(nn.Module):
    """Scales tensors (n, features) or (n, channels, ...) along axis 1: by default to zero mean and unit deviation.

    With mu and s the mean and standard deviation over all axes but axis 1 of the training examples, z = (x - mu) / s;
    features that are constant in training (or vary by less than 1e-38) become 0. The other scalings have the mean and
    1, the minimum and the range, or the median and the interquartile range (the standard deviation where that is 0) in
    place of mu and s; minmax then adds its lower end. The output is float32 of the input's shape. Bytes need no
    division by 255, which cancels. With numeric = "none", float64 becomes float32 and everything else passes through
    untouched (token numbers, bytes).

    A decorrelation follows where one is set, over all values of a scaled example: (n, outputs) for pca and whiten_pca,
    of the input's shape for the others. Before one, numeric = "none" means "center", which changes nothing about it.

    mu is held as the float32 sum center + remainder, good to 48 bits. So x - mu loses nothing for float32 input even
    where mu is large beside s, on devices without float64 as well; float64 input is worked on in float64.

    Attributes:
        center, remainder, scale: (features,) float32 buffers; scale is 1/s, or 0 for constant features.
    """

    center: Tensor
    remainder: Tensor
    scale: Tensor

    def __init__(self, state: ArrayState) -> None:
        super().__init__()
        self.state = state
        width = state.features if state.numeric != "none" else 0
        for name in ("center", "remainder", "scale"):
            self.register_buffer(name, torch.zeros(width))
        self.decorrelation = Decorrelation(state.decorrelate, torch.float32) if state.decorrelate is not None else None

    def forward(self, values: Tensor) -> Tensor:
        """Turn (n, features) or (n, channels, ...) of any real type into float32."""
        if self.state.numeric == "none":
            return values.to(torch.float32) if values.dtype == torch.float64 else values
        shape = [-1] + [1] * (values.dim() - 2)
        centred = (_as_float(values) - self.center.view(shape)) - self.remainder.view(shape)
        scaled: Tensor = centred * self.scale.view(shape)
        if self.state.low:
            scaled = scaled + self.state.low
        scaled = scaled.clamp(-LARGEST, LARGEST)
        if self.decorrelation is not None:
            scaled = torch.nan_to_num(self.decorrelation(scaled))
        return scaled.to(torch.float32)

    def inverse(self, outputs: Tensor) -> Tensor:
        """Return the examples that `forward` made `outputs` of, in float32; constant features get their training value.

        With directions left out it is the nearest example that has these outputs, and always (n, values).
        """
        if self.state.numeric == "none":
            return outputs
        values = outputs if self.decorrelation is None else self.decorrelation.inverse(outputs)
        if self.decorrelation is not None and values.shape[1] != self.state.features:
            values = values.view(len(values), self.state.features, -1)
        shape = [-1] + [1] * (values.dim() - 2)
        factor = torch.where(self.scale == 0, 0.0, 1 / self.scale).view(shape)
        found = (values - self.state.low) * factor + self.remainder.view(shape) + self.center.view(shape)
        return found.flatten(1) if found.dim() != outputs.dim() else found

    def config(self) -> dict[str, Any]:
        """Return everything but the buffers as JSON-able data for `caviar.preprocess.rebuild`."""
        return self.state.model_dump(mode="json")

    def extra_repr(self) -> str:
        """Say what is done with how many features."""
        return f"{self.state.numeric}, features={self.state.features}"


def _as_float(values: Tensor) -> Tensor:
    """The values as floating point that holds them exactly where the device has such a type."""
    if values.is_floating_point():
        return values
    exact = values.dtype in _SMALL_WHOLE or values.device.type == "mps"
    return values.to(torch.float32 if exact else torch.float64)


def fit_arrays(blocks: ArrayBlocks, settings: PreprocessSettings) -> ArrayPreprocess:
    """Fit the scaling of each feature (axis 1) on the training examples, in float64, and then the decorrelation.

    Args:
        blocks: returns an iterator over the training examples, and nothing else, in blocks (n, features) or
            (n, channels, ...) of any n. It is called once for the scaling (twice or more for robust), once for the
            decorrelation, and once more to say where a bad value is.
        settings: the section [preprocess]; numeric "auto" is "zscore".

    Raises:
        InputError: there are no examples, they have one axis only, there is NaN, infinity, or a number that does not
            fit into float32, or a setting does not fit the data.
    """
    numeric = "zscore" if settings.numeric == "auto" else settings.numeric
    if numeric == "none" and settings.decorrelate != "none":
        numeric = "center"
    if numeric == "minmax":
        check_range(*settings.minmax_range, "preprocess.minmax_range[0]", "preprocess.minmax_range[1]")
    moments: Moments | None = None
    extremes: Extremes | None = None
    for block in blocks():
        features = _num_features(block, moments)
        if numeric == "none":
            return ArrayPreprocess(ArrayState(numeric="none", features=features))
        moments = moments or Moments.of_width(features)
        extremes = extremes or Extremes.of_width(features)
        for matrix in _matrices(block):
            moments.update(matrix)
            if numeric == "minmax":
                extremes.update(matrix)
    if moments is None or extremes is None or not moments.rows:
        raise InputError("there are no training examples to fit the preprocessing on.")
    _check(blocks, moments)
    low = settings.minmax_range[0] if numeric == "minmax" else 0.0
    module = ArrayPreprocess(ArrayState(numeric=numeric, features=len(moments.mean), low=low))
    exact, scale = _factors(numeric, blocks, moments, extremes, settings)
    center = exact.astype(np.float32)
    module.center.copy_(torch.from_numpy(center))
    module.remainder.copy_(torch.from_numpy(exact - center))
    module.scale.copy_(torch.from_numpy(np.where(scale < LARGEST, scale, 0.0)))
    return module if settings.decorrelate == "none" else _decorrelated(module, blocks, settings)


def _factors(
    numeric: str, blocks: ArrayBlocks, moments: Moments, extremes: Extremes, settings: PreprocessSettings
) -> tuple[Floats, Floats]:
    """Return what is taken from each feature, and what it is then multiplied by."""
    if numeric == "center":
        return moments.mean, np.where(moments.std > 0, 1.0, 0.0)
    if numeric == "minmax":
        return extremes.low, extremes.factor(*settings.minmax_range)
    if numeric == "robust":

        def rows() -> Iterator[NDArray[Any]]:
            for block in blocks():
                yield from _matrices(block)

        lower, median, upper = quartiles(rows, moments.rows, len(moments.mean))
        return median, inverse_std(robust_scale(lower, upper, moments.std))
    return moments.mean, inverse_std(moments.std)


def _decorrelated(module: ArrayPreprocess, blocks: ArrayBlocks, settings: PreprocessSettings) -> ArrayPreprocess:
    """Return the module with a decorrelation of what it makes of the training examples."""
    found: Covariance | None = None
    for block in blocks():
        values = block if isinstance(block, Tensor) else tensor_over(np.ascontiguousarray(block))
        size = max(1, CELLS * 8 // max(1, math.prod(values.shape[1:])))
        for start in range(0, len(values), size):
            scaled = module(values[start : start + size].cpu()).flatten(1).numpy()
            found = found or Covariance.of_width(scaled.shape[1])
            found.update(scaled)
    assert found is not None
    assert settings.decorrelate != "none"
    decorrelation = decorrelation_of(found, settings.decorrelate, settings.components, settings.eps).float()
    state = module.state.model_copy(update={"decorrelate": decorrelation.state})
    whole = ArrayPreprocess(state)
    whole.load_state_dict(
        module.state_dict() | {f"decorrelation.{k}": v for k, v in decorrelation.state_dict().items()}
    )
    return whole


def _num_features(block: NDArray[Any] | Tensor, moments: Moments | None) -> int:
    shape = tuple(block.shape)
    if len(shape) < 2:
        raise InputError(f"arrays need at least two axes (examples, features), but the shape is {shape}.")
    if moments is not None and shape[1] != len(moments.count):
        raise InputError(f"a block of shape {shape} among blocks with {len(moments.count)} features.")
    return int(shape[1])


def _matrices(block: NDArray[Any] | Tensor) -> Iterator[NDArray[Any]]:
    """Yield the values of a block as small matrices (values, features)."""
    size = max(1, CELLS // max(1, math.prod(block.shape[1:])))
    for start in range(0, len(block), size):
        part = block[start : start + size]
        if isinstance(part, Tensor):
            part = part.detach().cpu().to(torch.float64).numpy()
        # A matrix whose columns, not rows, are contiguous: sums over a few long columns are fast.
        yield np.moveaxis(part, 1, 0).reshape(block.shape[1], -1).T if block.ndim > 2 else part


def _check(blocks: ArrayBlocks, moments: Moments) -> None:
    """Refuse what cannot be standardised in float32; the place of a bad value is looked for only now."""
    present = moments.finite & (moments.count == moments.rows)
    fits = present & (moments.std < LARGEST) & (np.abs(moments.mean) < LARGEST)
    if fits.all():
        return
    row = 0
    for block in blocks():
        values = block if isinstance(block, Tensor) else torch.from_numpy(np.array(block, dtype=np.float64))
        bad = ~(torch.isfinite(values) & (values.abs() <= LARGEST))
        if bad.any():
            place = [int(i) for i in bad.nonzero()[0]]
            raise InputError(
                f"training example {row + place[0] + 1}, feature {place[1]} (counting from 0), holds "
                f"{values[tuple(place)].item()}, which is not a finite float32 number. Remove, replace or rescale it."
            )
        row += len(block)
