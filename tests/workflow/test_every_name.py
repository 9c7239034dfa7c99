"""Training with each name that a recipe can use, on real data: from the list itself, so that no name is forgotten."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import caviar
from caviar.recipe import FAMILIES, Family, Name
from caviar.recipe.recipe import CODE
from tests.augment.test_pipeline import STRONG
from tests.workflow.small import table

DIGITS, PICTURES, DIABETES = "sample:digits", "sample:digits-pictures", "sample:diabetes"
TABLE, PHOTOS = "a table with gaps", "patches of two photographs"
SMALL: dict[str, dict[str, Any]] = {
    DIGITS: {"model.widths": [12, 12], "training.batch_size": 128},
    PICTURES: {"model.channels": [4, 8], "training.batch_size": 128},
    DIABETES: {"model.widths": [12, 12], "training.batch_size": 32},
    TABLE: {"model.widths": [12, 12]},
    PHOTOS: {"model.channels": [4, 8], "training.batch_size": 64},
}

HOMES: dict[str, tuple[str, ...]] = {
    "model.name": (),
    "model.activation": (DIGITS, PICTURES),
    "model.init": (DIGITS,),
    "model.norm": (DIGITS, PICTURES),
    "model.dropout_form": (DIGITS, PICTURES),
    "loss.name": (DIGITS, DIABETES),
    "regularization": (DIGITS,),
    "optimizer.name": (PICTURES, DIABETES),
    "schedule.name": (DIGITS,),
    "average.name": (PICTURES, DIABETES),
    "training": (DIGITS,),
    "preprocess.numeric": (DIABETES, TABLE),
    "preprocess.decorrelate": (DIABETES, TABLE),
    "preprocess.missing": (TABLE,),
    "preprocess.categorical": (TABLE,),
    "preprocess.pictures": (PICTURES,),
    "augment": (PICTURES,),
    "prediction.views": (PICTURES,),
    "prediction": (DIGITS, DIABETES),
    "": (DIGITS,),
}
"""Family -> the data that its names are trained on."""

ELSEWHERE: dict[tuple[str, str], tuple[str, ...]] = {
    ("model.name", "mlp"): (DIGITS, DIABETES, TABLE),
    ("model.name", "convnet"): (PICTURES,),
    ("model.name", CODE): (DIGITS,),
    ("model.name", "given"): (DIGITS,),
    ("model.init", "orthogonal"): (DIGITS, PICTURES),
    ("model.init", "data_dependent"): (DIGITS, PICTURES),
    ("model.init", "lsuv"): (DIGITS, PICTURES),
    ("model.norm", "instance"): (PICTURES,),
    ("model.norm", "group"): (PICTURES,),
    ("loss.name", "cross_entropy"): (DIGITS,),
    ("loss.name", "hinge"): (DIGITS,),
    ("loss.name", "logistic"): (DIGITS,),
    ("loss.name", "mean_squared_error"): (DIABETES,),
    ("loss.name", "huber"): (DIABETES,),
    ("optimizer.name", "lbfgs"): (DIGITS, DIABETES),
    ("optimizer.name", "newton"): (DIGITS, DIABETES),
    ("augment", "saturation"): (PHOTOS,),
    ("augment", "hue"): (PHOTOS,),
    ("", "model.spatial_dropout"): (PICTURES,),
}
"""Names that have data of their own."""

VALUES: dict[str, Any] = {
    "regularization.l1": 1e-3,
    "regularization.l2": 1e-2,
    "regularization.max_norm": 0.5,
    "training.patience": 1,
    "training.clip_norm": 0.1,
    "prediction.monte_carlo": 3,
    "model.dropout": 0.4,
    "model.spatial_dropout": 0.4,
    "loss.label_smoothing": 0.1,
    "loss.class_weights": "balanced",
    "optimizer.momentum": 0.5,
    "optimizer.nesterov": True,
    "optimizer.weight_decay": 0.5,
    "schedule.warmup": 4,
    **{f"augment.{name}": value for name, value in STRONG.items()},
}
"""What VALUE stands for in the list."""

MORE: dict[str, dict[str, Any]] = {
    "optimizer.momentum": {"optimizer.name": "sgd"},
    "optimizer.nesterov": {"optimizer.name": "sgd"},
    "optimizer.name=lbfgs": {"optimizer.max_iterations": 3, "training.batch_size": 266},
    "optimizer.name=newton": {"optimizer.max_iterations": 3, "training.batch_size": 266},
    "preprocess.missing=error": {"data.ignore": ["age", "city"]},
    "training.patience": {"training.epochs": 4, "optimizer.learning_rate": 1e-12, "average.name": "none"},
    f"model.name={CODE}": {"model.name": "torch.nn:Linear", "model.arguments": {"in_features": 64, "out_features": 10}},
}
"""What else a name needs for a short run."""

ALIKE = {
    "model.name=mlp", "model.name=convnet", "model.activation=relu", "model.init=auto", "model.init=he",
    "model.norm=batch", "model.dropout_form=inverted", "loss.name=auto", "loss.name=cross_entropy",
    "loss.name=mean_squared_error", "optimizer.name=adamw", "schedule.name=cosine", "average.name=none",
    "preprocess.numeric=zscore", "preprocess.missing=median_and_flag", "preprocess.categorical=onehot",
    "preprocess.pictures=channel_zscore", "prediction.views=none",
}  # fmt: skip
"""What a recipe says anyway."""


class Case(NamedTuple):
    """A name of the list on some data; the first of them is its home."""

    family: Family
    name: Name
    source: str
    at_home: bool

    def __str__(self) -> str:
        return f"{self.name.setting.removesuffix('=VALUE')} on {self.source}"

    @property
    def key(self) -> str:
        return self.name.setting.removesuffix("=VALUE")


def cases() -> Iterator[Case]:
    for family in FAMILIES:
        for name in family.names:
            own = (family.key, name.name if family.key else name.setting.removesuffix("=VALUE"))
            for number, source in enumerate(ELSEWHERE.get(own, HOMES.get(family.key, ("nowhere",)))):
                yield Case(family, name, source, number == 0)


CASES = list(cases())


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 16 x 16 patches of the two photographs that scikit-learn brings, a class for each."""
    from sklearn.datasets import load_sample_images

    root = tmp_path_factory.mktemp("photos")
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        (root / name).mkdir()
        for number, (top, left) in enumerate(np.ndindex(10, 10)):
            patch = photo[40 * top : 40 * top + 16, 60 * left : 60 * left + 16]
            Image.fromarray(patch).save(root / name / f"{number:03}.png")
    return root


@pytest.fixture
def rows_of(photos: Path) -> Callable[[str], Any]:
    """Return what to predict, which is what was trained on."""
    return lambda source: {TABLE: table(), PHOTOS: photos}.get(source, source)


def settings_of(case: Case) -> dict[str, Any]:
    """The settings of a short run with the case's name."""
    said = {case.key: VALUES[case.key]} if case.key in VALUES else dict([case.key.split("=", 1)])
    own = {} if case.family.key == "model.name" and case.name.name in (CODE, "given") else SMALL[case.source]
    return {"training.epochs": 2, "device.name": "cpu", **own, **said, **MORE.get(case.key, {})}


def train(rows: Any, settings: dict[str, Any], runs: Path, **more: Any) -> caviar.Run:
    target = None if isinstance(rows, str | Path) else "label"
    return caviar.train(rows, target, settings=settings, runs_dir=runs, progress=False, **more)


def bundled(run: caviar.Run) -> bytes:
    return (run.path / "bundle" / "network.safetensors").read_bytes()


@pytest.fixture(scope="module")
def plain_networks(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> dict[str, bytes]:
    """What the same runs come to when nothing is said."""
    runs, rows = tmp_path_factory.mktemp("plain"), {TABLE: table(), PHOTOS: photos}
    return {
        source: bundled(train(rows.get(source, source), {"training.epochs": 2, "device.name": "cpu", **small}, runs))
        for source, small in SMALL.items()
    }


def test_every_name_has_a_home() -> None:
    assert not [str(case) for case in CASES if case.source == "nowhere"], "say in HOMES what data they are trained on"
    assert {case.name.setting for case in CASES} == {name.setting for family in FAMILIES for name in family.names}
    assert {case.key for case in CASES if case.name.setting.endswith("=VALUE")} == set(VALUES)
    assert {case.key for case in CASES} >= ALIKE | set(MORE)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_run_trains_hands_over_and_repeats_itself(
    tmp_path: Path, case: Case, rows_of: Callable[[str], Any], plain_networks: dict[str, bytes]
) -> None:
    settings, more = settings_of(case), dict[str, Any]()
    if case.name.name == CODE:
        more = {"allow_code": True}
    if case.name.name == "given":
        torch.manual_seed(0)
        settings, more = {"training.epochs": 2}, {"model": torch.nn.Linear(64, 10)}
    rows = rows_of(case.source)
    run = train(rows, settings, tmp_path, **more)
    again = caviar.load(run.path, more.get("model", run.model if case.name.name == CODE else None))
    predicted = np.asarray(again.predict(rows))
    assert np.array_equal(predicted, np.asarray(run.bundle.predict(rows)))
    assert len(predicted) > 100
    text = (run.path / "recipe.toml").read_text()
    for word in ('init = "auto"', 'name = "auto"', 'numeric = "auto"'):
        assert word not in text
    if case.name.name != "given" and case.source != TABLE and case.at_home:
        rerun = caviar.train(run.path / "recipe.toml", runs_dir=tmp_path, progress=False, **more)
        assert bundled(rerun) == bundled(run)
    changes_weights = case.family.key not in ("prediction", "prediction.views")
    assert (bundled(run) != plain_networks[case.source]) == (changes_weights and case.key not in ALIKE)
