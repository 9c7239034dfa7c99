"""A regression target: standardised for training, back in its own units for predictions and metrics."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caviar.core.errors import InputError
from caviar.preprocess.moments import Floats, Moments


@dataclass(frozen=True)
class TargetScaler:
    """z = (y - mean) / std with the mean and standard deviation of the training targets, in float64.

    mean: in the target's units, finite. std: in the target's units, above 0.
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.mean) and np.isfinite(self.std) and self.std > 0):
            raise InputError(f"a target's mean must be finite and its std above 0, not {self.mean} and {self.std}.")

    def scale(self, values: NDArray[Any] | Tensor) -> Tensor:
        """Return standardised targets, float32."""
        return torch.from_numpy((_float64(values) - self.mean) / self.std).to(torch.float32)

    def unscale(self, values: NDArray[Any] | Tensor) -> Floats:
        """Return standardised values in the target's own units, float64."""
        return _float64(values) * self.std + self.mean

    def config(self) -> dict[str, Any]:
        """Return JSON-able data for `TargetScaler.rebuild`; JSON keeps every bit of a float."""
        return {"kind": "target", "mean": self.mean, "std": self.std}

    @classmethod
    def rebuild(cls, config: dict[str, Any]) -> "TargetScaler":
        """Return the scaler that `config` came from; an InputError says what is wrong with it."""
        if not isinstance(config, dict) or set(config) != {"kind", "mean", "std"} or config["kind"] != "target":
            raise InputError(f"the stored target scaling must hold kind 'target', mean and std, not {config!r}.")
        mean, std = config["mean"], config["std"]
        if type(mean) not in (int, float) or type(std) not in (int, float):
            raise InputError(f"the stored target scaling's mean and std must be numbers, not {mean!r} and {std!r}.")
        return cls(float(mean), float(std))


def fit_target(targets: NDArray[Any] | Tensor) -> TargetScaler:
    """Fit on the training targets (rows,).

    Raises:
        InputError: there are none, they are all equal, or one is not finite.
    """
    values = _float64(targets)
    if not len(values):
        raise InputError("there are no training targets.")
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(bad.argmax())
        raise InputError(f"training target {row + 1} is {values[row]}; targets must be finite numbers.")
    moments = Moments.of_width(1)
    moments.update(values.reshape(-1, 1))
    mean, std = float(moments.mean[0]), float(moments.std[0])
    if std == 0:
        raise InputError(f"every training target is {mean:g}: there is nothing to learn. Choose another target.")
    if not moments.finite.all():
        raise InputError("the targets are so large that their variance overflows; rescale them.")
    return TargetScaler(mean, std)


def _float64(values: NDArray[Any] | Tensor) -> Floats:
    if isinstance(values, Tensor):
        values = values.detach().cpu().to(torch.float64).numpy()
    return np.asarray(values, dtype=np.float64)
