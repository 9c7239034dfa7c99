"""From raw input to predictions and to an evaluation, with nothing but a bundle."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from caviar.core.errors import InputError, nearest
from caviar.core.tensors import tensor_over
from caviar.data.arrays import read_inputs
from caviar.data.pictures import read_pictures
from caviar.data.settings import DataSettings
from caviar.data.tables import read_frame, target_values, typed_features
from caviar.train.metrics import classification_report, confusion_matrix, regression_report

if TYPE_CHECKING:
    from caviar.bundle.bundle import Bundle

BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Predictions:
    """Predictions for rows of raw input, in their order.

    row_ids: row numbers from 0, or picture names. values: class names, or numbers in the target's own units.
    probabilities: (rows, classes), or None for regression.
    unseen: for each column, how many rows held a category that training never saw (they went to its slot for those).
    notices: one sentence for each thing worth knowing.
    """

    row_ids: Sequence[Any]
    values: NDArray[Any]
    classes: tuple[str, ...]
    probabilities: NDArray[np.float32] | None
    unseen: dict[str, int] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.values, dtype=dtype, copy=copy)

    def to_frame(self) -> pl.DataFrame:
        """Return columns row_id, prediction and, for classes, probability_<class>."""
        columns: dict[str, Any] = {"row_id": self.row_ids, "prediction": self.values}
        if self.probabilities is not None:
            columns |= {f"probability_{name}": self.probabilities[:, i] for i, name in enumerate(self.classes)}
        return pl.DataFrame(columns)


@dataclass
class _Input:
    """Raw input brought to blocks that the preprocessing takes."""

    row_ids: Sequence[Any]
    blocks: Iterator[Tensor]
    unseen: dict[str, int] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    frame: pl.DataFrame | None = None


def predict(bundle: "Bundle", rows: Any) -> Predictions:
    """Predict from raw input.

    Args:
        bundle: what to predict with.
        rows: for tables a file, a data frame (pandas, Polars, Arrow), a dict of columns or a list of dicts; for pictures a
            folder, a file or a list of files; for arrays a NumPy array, a tensor, lists, or a .npy file. Columns are found
            by name; more columns than needed are fine and reported in `notices`.

    Raises:
        InputError: a column is missing, a value cannot be read, a shape does not fit.
    """
    read = _read(bundle, rows)
    outputs = _outputs(bundle, read)
    return _predictions(bundle, read, outputs)


def evaluate_bundle(bundle: "Bundle", rows: Any, target: Any = None) -> dict[str, Any]:
    """Compare the bundle's predictions with known targets and return the report (a dict, as in the run's metrics).

    Args:
        bundle: what to evaluate.
        rows: as for `predict`. A table must hold the target column; pictures lie in a folder for each class.
        target: the name of another target column, or for arrays the targets themselves.
    """
    read = _read(bundle, rows)
    known = _known_targets(bundle, read, rows, target)
    outputs = _outputs(bundle, read)
    if len(known) != len(outputs):
        raise InputError(f"there are {len(outputs)} rows but {len(known)} targets; give one target for each row.")
    report = report_for(bundle, outputs, known, seed=0)
    return report | {"unseen": read.unseen, "notices": read.notices}


def report_for(bundle: "Bundle", outputs: Tensor, targets: NDArray[Any], seed: int) -> dict[str, Any]:
    """Return the report of network outputs against targets (class numbers, or numbers in the target's own units)."""
    manifest = bundle.manifest
    if manifest.task == "classification":
        labels = torch.from_numpy(targets.astype(np.int64))
        loss = torch.nn.functional.cross_entropy(outputs, labels).item()
        confusion = confusion_matrix(labels, outputs.argmax(dim=1), len(manifest.classes)).numpy()
        return classification_report(confusion, manifest.classes, loss, manifest.majority)
    return regression_report(targets.astype(np.float64), _unscaled(bundle, outputs), manifest.train_mean, seed)


def _read(bundle: "Bundle", rows: Any) -> _Input:
    readers = {"table": _read_table, "pictures": _read_pictures, "arrays": _read_arrays}
    return readers[bundle.manifest.kind](bundle, rows)


def _read_table(bundle: "Bundle", rows: Any) -> _Input:
    manifest = bundle.manifest
    if isinstance(rows, dict):
        rows = pl.DataFrame(
            {k: v if isinstance(v, (list, tuple, np.ndarray, pl.Series)) else [v] for k, v in rows.items()}
        )
    elif isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
        rows = pl.DataFrame(rows, infer_schema_length=None)
    where = str(rows) if isinstance(rows, (str, Path)) else "the rows"
    frame = read_frame(rows, DataSettings(**manifest.reading))
    features = typed_features(frame, manifest.columns, where)
    extra = [c for c in frame.columns if c not in {column.name for column in manifest.columns} and c != manifest.target]
    read = _Input(range(frame.height), iter(()), frame=frame)
    used = set(manifest.recipe.get("data", {}).get("ignore", []))
    if unknown := [name for name in extra if name not in used]:
        read.notices.append(f"{len(unknown)} columns are not used by this model: {', '.join(unknown[:5])}.")

    def blocks() -> Iterator[Tensor]:
        for start in range(0, features.height, BLOCK_ROWS):
            encoded = bundle.preprocess.encode(features.slice(start, BLOCK_ROWS))  # type: ignore[operator]
            for name, count in encoded.unseen.items():
                read.unseen[name] = read.unseen.get(name, 0) + count
            yield encoded.numbers

    read.blocks = blocks()
    return read


def _read_pictures(bundle: "Bundle", rows: Any) -> _Input:
    reading = bundle.manifest.reading
    height, width = reading["picture_size"]
    pixels, names = read_pictures(rows, (height, width), reading["picture_mode"], reading["max_pixels"])
    return _Input(
        names, (tensor_over(pixels[i : i + 500]) for i in range(0, len(pixels), 500))
    )


def _read_arrays(bundle: "Bundle", rows: Any) -> _Input:
    inputs = read_inputs(rows)
    expected = tuple(bundle.manifest.reading["array_shape"])
    if tuple(inputs.shape[1:]) != expected:
        raise InputError(
            f"the inputs have shape {tuple(inputs.shape)}; this model takes (rows, {', '.join(map(str, expected))})."
        )
    return _Input(range(len(inputs)), iter(inputs.split(BLOCK_ROWS)))


@torch.no_grad()
def _outputs(bundle: "Bundle", read: _Input) -> Tensor:
    bundle.network.eval()
    parameter = next(bundle.network.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    preprocess = bundle.preprocess.cpu()
    found = [bundle.network(preprocess(block).to(device)).float().cpu() for block in read.blocks]
    if not found:
        raise InputError("there are no rows to predict.")
    return torch.cat(found)


def _predictions(bundle: "Bundle", read: _Input, outputs: Tensor) -> Predictions:
    for name, count in read.unseen.items():
        if count:
            read.notices.append(f"column {name!r}: {count} rows hold a category that training never saw.")
    notices = tuple(read.notices)
    unseen = {name: count for name, count in read.unseen.items() if count}
    if bundle.manifest.task == "regression":
        return Predictions(read.row_ids, _unscaled(bundle, outputs), (), None, unseen, notices)
    probabilities = torch.softmax(outputs, dim=1).numpy()
    names = np.array(bundle.classes)[outputs.argmax(dim=1).numpy()]
    return Predictions(read.row_ids, names, bundle.classes, probabilities, unseen, notices)


def _unscaled(bundle: "Bundle", outputs: Tensor) -> NDArray[np.float64]:
    assert bundle.scaler is not None
    return np.asarray(bundle.scaler.unscale(outputs.reshape(-1)), dtype=np.float64)


def _known_targets(bundle: "Bundle", read: _Input, rows: Any, target: Any) -> NDArray[Any]:
    manifest = bundle.manifest
    if manifest.kind == "table":
        assert read.frame is not None
        return _table_targets(bundle, read.frame, target or manifest.target)
    if manifest.kind == "pictures":
        return _picture_targets(bundle, read.row_ids)
    if target is None and isinstance(rows, tuple) and len(rows) == 2:
        target = rows[1]
    if target is None:
        raise InputError("evaluating arrays needs their targets: bundle.evaluate(inputs, target=targets).")
    values = np.asarray(target).reshape(-1)
    return _class_numbers(bundle, [str(v) for v in values], "the targets") if manifest.classes else values


def _table_targets(bundle: "Bundle", frame: pl.DataFrame, name: str) -> NDArray[Any]:
    if name not in frame.columns:
        near = nearest(name, frame.columns)
        hint = f" Did you mean {near!r}?" if near else ""
        raise InputError(f"the table has no target column {name!r}, which evaluation needs.{hint}")
    values = target_values(frame, name, bundle.manifest.task)
    return _class_numbers(bundle, values, f"column {name!r}") if bundle.manifest.classes else np.asarray(values)


def _picture_targets(bundle: "Bundle", names: Sequence[str]) -> NDArray[np.int64]:
    folders = [Path(name).parts[:-1] for name in names]
    known = set(bundle.classes)
    found = [next((part for part in parts if part in known), parts[-1] if parts else "") for parts in folders]
    return _class_numbers(bundle, found, "the folders")


def _class_numbers(bundle: "Bundle", values: Sequence[str], where: str) -> NDArray[np.int64]:
    numbers = {name: i for i, name in enumerate(bundle.classes)}
    for row, value in enumerate(values):
        if value not in numbers:
            near = nearest(value, bundle.classes)
            hint = f" Did you mean {near!r}?" if near else ""
            raise InputError(
                f"{where}, row {row + 1}: class {value!r} was not among the classes in training "
                f"({', '.join(bundle.classes[:8])}).{hint}"
            )
    return np.fromiter((numbers[value] for value in values), dtype=np.int64, count=len(values))
