"""Small real data sets that come with scikit-learn, read from its embedded files without importing it."""

import hashlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from caviar.core.columns import Task
from caviar.core.errors import InputError, unknown_name
from caviar.data.raw import DataKind, RawData


def open_sample(name: str) -> RawData:
    """Return a sample by name, with or without the prefix "sample:".

    - digits: 1,797 hand-written digits, 64 features of 0 to 16. digits-pictures: the same as grey pictures of 8 x 8,
      0 to 255.
    - iris: 150 flowers, 4 features, 3 classes. wine: 178 wines, 13 features, 3 classes.
    - breast_cancer: 569 tumours, 30 features, 2 classes.
    - diabetes: 442 patients, 10 features as measured; regression of the disease's progression.

    Features are float64, so that nothing is rounded before preprocessing.
    """
    short = name.removeprefix("sample:")
    if short not in SAMPLES:
        raise unknown_name("sample", short, SAMPLES)
    return SAMPLES[short]()


def _digits() -> RawData:
    table = _read("digits.csv.gz", ",")
    return _raw("arrays", table[:, :-1], table[:, -1].astype(np.int64), tuple("0123456789"))


def _digits_pictures() -> RawData:
    table = _read("digits.csv.gz", ",")
    pixels = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    return _raw("pictures", pixels, table[:, -1].astype(np.int64), tuple("0123456789"))


def _labelled(file: str, classes: tuple[str, ...]) -> Callable[[], RawData]:
    def read() -> RawData:
        table = _read(file, ",", skip_rows=1)
        return _raw("arrays", table[:, :-1], table[:, -1].astype(np.int64), classes)

    return read


def _diabetes() -> RawData:
    return _raw("arrays", _read("diabetes_data_raw.csv.gz"), _read("diabetes_target.csv.gz"), (), "regression")


SAMPLES: dict[str, Callable[[], RawData]] = {
    "digits": _digits,
    "digits-pictures": _digits_pictures,
    "iris": _labelled("iris.csv", ("setosa", "versicolor", "virginica")),
    "wine": _labelled("wine_data.csv", ("class_0", "class_1", "class_2")),
    "breast_cancer": _labelled("breast_cancer.csv", ("malignant", "benign")),
    "diabetes": _diabetes,
}


def _read(file: str, delimiter: str | None = None, skip_rows: int = 0) -> NDArray[np.float64]:
    # Importing scikit-learn takes longer than training on its samples; where its files lie is enough.
    package = find_spec("sklearn")
    folders = [] if package is None else list(package.submodule_search_locations or [])
    for folder in folders:
        path = Path(folder) / "datasets" / "data" / file
        if path.is_file():
            return np.loadtxt(path, delimiter=delimiter, skiprows=skip_rows)
    raise InputError(
        f"the samples come with scikit-learn, and its file {file} is not here. Run: pip install scikit-learn"
    )


def _raw(
    kind: DataKind,
    inputs: NDArray[np.generic],
    targets: NDArray[np.generic],
    classes: tuple[str, ...],
    task: Task = "classification",
) -> RawData:
    content = hashlib.blake2b(np.ascontiguousarray(inputs).data, digest_size=16)
    content.update(np.ascontiguousarray(targets).data)
    stored = torch.from_numpy(np.ascontiguousarray(inputs)) if kind == "arrays" else inputs
    return RawData(kind, stored, targets, task, {"train": len(targets)}, content.hexdigest(), classes)
