"""Centring, min-max, z-score and robust scaling of columns. The `fit_...` functions make the module."""

from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.core.settings import Settings
from caviar.preprocess.batches import Batches, again, bad_value, matrices, no_examples
from caviar.preprocess.extremes import Extremes
from caviar.preprocess.moments import Floats, Moments, inverse_std
from caviar.preprocess.quartiles import quartiles, robust_scale

ScalingName = Literal["center", "minmax", "zscore", "robust"]


class ScalingState(Settings):
    """What a bundle's JSON says of a fitted scaling; the numbers are in the buffers."""

    kind: Literal["scaling"] = "scaling"
    """what this is the state of"""
    name: ScalingName
    """which scaling"""
    columns: Annotated[int, Field(ge=0)]
    """values of one example"""
    low: float = 0.0
    """added at the end: the lower end of min-max"""


class Scaling(nn.Module):
    """Scales each column (each value of an example): z = (x - center) scale + low.

    With mean, std, minimum, maximum, median and quartiles q1, q3 those of the column over the training examples,

        center:  x - mean                                zscore: (x - mean) / std
        minmax:  low + (x - minimum) (high - low) / (maximum - minimum)
        robust:  (x - median) / (q3 - q1), or / std where q1 = q3

    computed in float64; float64 input stays float64, everything else becomes float32. A column that is constant in
    training (or varies by less than 1e-308) becomes `low`, whatever its later values are: nothing is divided by 0 and
    nothing is blown up. x is (n, columns), or (n, ...) with as many values an example; the shape stays.

    Attributes:
        center, scale: (columns,) float64 buffers; scale is 0 for constant columns.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, state: ScalingState) -> None:
        super().__init__()
        self.state = state
        for name in ("center", "scale"):
            self.register_buffer(name, torch.zeros(state.columns, dtype=torch.float64))

    def forward(self, values: Tensor) -> Tensor:
        """Scale examples (n, ...) of any real type; the result has the same shape."""
        return _as_given((self._flat(values) - self.center) * self.scale + self.state.low, values)

    def inverse(self, scaled: Tensor) -> Tensor:
        """Return the examples that `forward` made `scaled` of; constant columns get their training value."""
        factor = torch.where(self.scale == 0, 0.0, 1 / self.scale)
        return _as_given((self._flat(scaled) - self.state.low) * factor + self.center, scaled)

    def _flat(self, values: Tensor) -> Tensor:
        flat = values.flatten(1)
        if flat.shape[1] != self.state.columns:
            raise InputError(
                f"examples of shape {tuple(values.shape)} have {flat.shape[1]} columns, but this {self.state.name} was "
                f"fitted on {self.state.columns}."
            )
        return flat.to(self.center.dtype)

    @property
    def constant(self) -> list[int]:
        """Numbers of the columns that did not vary in training, counted from 0."""
        places: list[int] = (self.scale == 0).nonzero().flatten().tolist()
        return places

    def config(self) -> dict[str, Any]:
        """Return everything but the buffers as JSON-able data for `caviar.preprocess.rebuild`."""
        return self.state.model_dump(mode="json")

    def extra_repr(self) -> str:
        """Say what is done with how many columns."""
        return f"{self.state.name}, columns={self.state.columns}, constant={len(self.constant)}"


def _as_given(values: Tensor, given: Tensor) -> Tensor:
    """Bring the flat results to the input's shape, and to float32 unless the input was float64."""
    return values.to(torch.float64 if given.dtype == torch.float64 else torch.float32).view(given.shape)


def fit_center(batches: Batches) -> Scaling:
    """Fit x - mean on training examples, in one pass: zero mean, units kept.

    When: columns share one unit and their spread means something (positions, pixels), and before PCA by hand.
    `batches`: see `caviar.preprocess.batches.Batches`. InputError: no examples, uneven widths, NaN, infinity.
    """
    moments = _moments(batches)
    return _scaling("center", moments.mean, np.where(moments.std > 0, 1.0, 0.0))


def fit_zscore(batches: Batches) -> Scaling:
    """Fit (x - mean) / std (population, as scikit-learn's StandardScaler) on training examples, in one pass.

    When: the usual choice; columns of different units then count alike. Arguments and errors: see `fit_center`.
    """
    moments = _moments(batches)
    return _scaling("zscore", moments.mean, inverse_std(moments.std))


def fit_minmax(batches: Batches, low: float = 0.0, high: float = 1.0) -> Scaling:
    """Fit the map of [minimum, maximum] onto [low, high] (default [0, 1]; [-1, 1] is common) in one pass.

    When: bounds are known and mean something (pixels, percentages); one outlier squeezes all the rest. Later values may
    leave the range. Arguments and errors: see `fit_center`; low must be below high.
    """
    check_range(low, high, "low", "high")
    rows = 0
    extremes: Extremes | None = None
    for block in matrices(batches):
        extremes = extremes or Extremes.of_width(block.shape[1])
        extremes.update(block)
        if not extremes.finite:
            raise bad_value(block, rows)
        rows += len(block)
    if extremes is None or not rows:
        raise no_examples()
    return _scaling("minmax", extremes.low, extremes.factor(low, high), low)


def fit_robust(batches: Batches) -> Scaling:
    """Fit (x - median) / interquartile range; outliers move neither. A column with q1 = q3 is divided by its std.

    Exact up to 1,000,000 training examples; above, the quartiles are those of a sample of that many, one drawn at
    random (with a fixed seed) from each of as many equal stretches. One pass for the count and one for every 2^25
    sampled values, so a generator will not do. When: heavy tails, wrong entries. Arguments and errors: `fit_center`.
    """
    blocks = again(batches)
    moments = _moments(batches)
    lower, median, upper = quartiles(blocks, moments.rows, len(moments.mean))
    return _scaling("robust", median, inverse_std(robust_scale(lower, upper, moments.std)))


def check_range(low: float, high: float, first: str, second: str) -> None:
    """Raise an InputError unless low < high and both are finite numbers a finite distance apart."""
    if not (low < high and np.isfinite(float(high) - float(low))):
        raise InputError(f"{first} is {low!r} and {second} is {high!r}; min-max needs {first} below {second}.")


def _moments(batches: Batches) -> Moments:
    moments: Moments | None = None
    for block in matrices(batches):
        moments = moments or Moments.of_width(block.shape[1])
        before = moments.rows
        moments.update(block)
        if not (moments.finite.all() and (moments.count == moments.rows).all()):
            raise bad_value(block, before)
    if moments is None or not moments.rows:
        raise no_examples()
    return moments


def _scaling(name: ScalingName, center: Floats, scale: Floats, low: float = 0.0) -> Scaling:
    module = Scaling(ScalingState(name=name, columns=len(center), low=float(low)))
    module.center.copy_(torch.from_numpy(center))
    module.scale.copy_(torch.from_numpy(scale))
    return module
