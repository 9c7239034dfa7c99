"""From raw input to predictions and to an evaluation, with nothing but a bundle."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from caviar.bundle.forward import Outputs, loss_name, network_outputs
from caviar.bundle.read import RawInput, read_raw, read_with_targets
from caviar.nn.losses import class_scores
from caviar.train.metrics import classification_report, confusion_matrix, regression_report

if TYPE_CHECKING:
    from caviar.bundle.bundle import Bundle


@dataclass(frozen=True, repr=False)
class Predictions:
    """Predictions for rows of raw input, in their order.

    row_ids: row numbers from 0, or picture names. values: class names, or numbers in the target's own units.
    probabilities: (rows, classes), or None for regression.
    unseen: for each column, how many rows held a category that training never saw (they went to its slot for those).
    notices: one sentence for each thing worth knowing.
    std: with Monte Carlo dropout how far predictions go apart: of each probability (rows, classes), or of the values.
    """

    row_ids: Sequence[Any]
    values: NDArray[Any]
    classes: tuple[str, ...]
    probabilities: NDArray[np.float32] | None
    unseen: dict[str, int] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    std: NDArray[Any] | None = None

    def __repr__(self) -> str:
        values = np.array2string(self.values, threshold=8, edgeitems=3, separator=", ")
        return f"Predictions({len(self)} rows: {values})"

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.values, dtype=dtype, copy=copy)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values.tolist())

    def __getitem__(self, row: Any) -> Any:
        return self.values[row]

    def to_frame(self) -> pl.DataFrame:
        """Return columns row_id, prediction and, for classes, probability_<class>; where known std or std_<class>."""
        columns: dict[str, Any] = {"row_id": self.row_ids, "prediction": self.values}
        if self.probabilities is not None:
            columns |= {f"probability_{name}": self.probabilities[:, i] for i, name in enumerate(self.classes)}
        if self.std is not None:
            each = {f"std_{name}": self.std[:, i] for i, name in enumerate(self.classes)}
            columns |= each or {"std": self.std}
        return pl.DataFrame(columns)


def predict(bundle: "Bundle", rows: Any) -> Predictions:
    """Predict from raw input.

    Args:
        bundle: what to predict with.
        rows: for tables a file, a data frame (pandas, Polars, Arrow), a dict of columns, a list of dicts, or one row as
            a dict or a pandas Series; for pictures a folder, a file, a list of files or uint8 pixels of the size that
            the network takes; for arrays a NumPy array, a tensor, lists, a data set, or a .npy or .npz file; for runs
            on a sample also "sample:NAME". Columns are found by name, in any order; more columns than needed are fine
            and reported in `notices`.

    Raises:
        InputError: a column is missing, a value cannot be read, a shape does not fit.
    """
    read = read_raw(bundle.manifest, rows)
    return _predictions(bundle, read, network_outputs(bundle, read.blocks(bundle.preprocess)))


def evaluate_bundle(bundle: "Bundle", rows: Any, target: Any = None) -> dict[str, Any]:
    """Compare the bundle's predictions with known targets and return the report (a dict, as in the run's metrics).

    On exactly the rows of the run's test split, in their order, it equals the run's own metrics.

    Args:
        bundle: what to evaluate.
        rows: as for `predict`. A table must hold the target column; pictures lie in a folder for each class; arrays
            come as a pair (inputs, targets), a data set, or an .npz file that holds both.
        target: the name of another target column, or for arrays the targets themselves or their .npy file.

    Returns:
        The report, with "unseen" and "notices" as `Predictions` has them.
    """
    read, known = read_with_targets(bundle.manifest, rows, target)
    outputs = network_outputs(bundle, read.blocks(bundle.preprocess))
    seed = int(bundle.manifest.recipe.get("seed", 0))
    return report_for(bundle, outputs, known, seed) | {"unseen": _positive(read.unseen), "notices": _notices(read)}


def report_for(bundle: "Bundle", outputs: Outputs, targets: NDArray[Any], seed: int) -> dict[str, Any]:
    """Return the report of network outputs against targets (class numbers, or numbers in the target's own units)."""
    manifest = bundle.manifest
    if manifest.task == "classification":
        labels = torch.from_numpy(targets.astype(np.int64))
        loss = torch.nn.functional.cross_entropy(class_scores(outputs.values, outputs.loss), labels).item()
        confusion = confusion_matrix(labels, outputs.values.argmax(dim=1), len(manifest.classes)).numpy()
        return classification_report(confusion, manifest.classes, loss, manifest.majority)
    return regression_report(targets.astype(np.float64), _unscaled(bundle, outputs.values), manifest.train_mean, seed)


def _predictions(bundle: "Bundle", read: RawInput, outputs: Outputs) -> Predictions:
    unseen, notices = _positive(read.unseen), tuple(_notices(read))
    std = None if outputs.std is None else outputs.std.numpy()
    if bundle.manifest.task == "regression":
        assert bundle.scaler is not None
        std = None if std is None else std.reshape(-1) * bundle.scaler.std
        return Predictions(read.row_ids, _unscaled(bundle, outputs.values), (), None, unseen, notices, std)
    if loss_name(bundle) == "hinge":
        notices = (
            *notices,
            "trained with the hinge loss: the probabilities are a softmax of its scores, not calibrated.",
        )
    probabilities = torch.softmax(class_scores(outputs.values, outputs.loss), dim=1).numpy()
    names = np.array(bundle.classes)[outputs.values.argmax(dim=1).numpy()]
    return Predictions(read.row_ids, names, bundle.classes, probabilities, unseen, notices, std)


def _positive(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _notices(read: RawInput) -> list[str]:
    """Return what is known once all blocks have been read."""
    unseen = [
        f"column {name!r}: {_rows(count)} with a category without a slot of its own (never seen in training, or beyond "
        "preprocess.max_categories)."
        for name, count in _positive(read.unseen).items()
    ]
    missing = [
        f"column {name!r}: {_rows(count)} without a value, where training had one in every row."
        for name, count in _positive(read.missing).items()
    ]
    return [*read.notices, *unseen, *missing]


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _unscaled(bundle: "Bundle", outputs: Tensor) -> NDArray[np.float64]:
    assert bundle.scaler is not None
    return np.asarray(bundle.scaler.unscale(outputs.reshape(-1)), dtype=np.float64)
