"""Views of a picture averaged at prediction, and Monte Carlo dropout: by hand, and against the run's metrics."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import caviar
from caviar.core.errors import InputError
from caviar.data.samples import open_sample
from caviar.nn import class_log_probabilities
from caviar.workflow.evaluate import open_bundle
from tests.workflow.small import QUICK, arrays, quantities

PICTURES: dict[str, Any] = {"model.channels": [4, 8], "training.batch_size": 128}


def pixels(rows: int = 120) -> Any:
    return np.asarray(torch.randint(0, 256, (rows, 8, 8, 1), generator=torch.Generator().manual_seed(1))).astype(
        "uint8"
    )


def trained(runs: Path, settings: dict[str, Any]) -> caviar.Run:
    return caviar.train("sample:digits-pictures", settings=PICTURES | settings, runs_dir=runs, **QUICK)


def mean_of(bundle: caviar.Bundle, views: list[torch.Tensor], loss: str) -> Any:
    """The mean of the classes' probabilities over views of pictures (n, channels, height, width)."""
    with torch.no_grad():
        found = [bundle.network(bundle.preprocess(view.permute(0, 2, 3, 1))) for view in views]
    return torch.stack([class_log_probabilities(each, loss).exp() for each in found]).double().mean(0).numpy()


def enlarged(pictures: torch.Tensor) -> torch.Tensor:
    large = nn.functional.interpolate(pictures.float(), size=(9, 9), mode="bilinear", align_corners=False)
    return large.round().to(torch.uint8)


@pytest.mark.parametrize("views", ["flip", "ten_crop"])
@pytest.mark.parametrize(
    "settings", [{"loss.name": "logistic"}, {"preprocess.pictures": "mean_image"}], ids=["logistic", "mean_image"]
)
def test_probabilities_are_the_mean_over_views(tmp_path: Path, views: str, settings: dict[str, Any]) -> None:
    run = trained(tmp_path, settings | {"prediction.views": views})
    bundle, raw = run.bundle, torch.from_numpy(pixels()).permute(0, 3, 1, 2)
    shown = [raw, raw.flip(3)]
    if views == "ten_crop":
        large = enlarged(raw)
        shown = [large[:, :, t : t + 8, x : x + 8] for t, x in ((0, 0), (0, 1), (1, 0), (1, 1), (0, 0))]
        shown += [view.flip(3) for view in shown]
    expected = mean_of(bundle, shown, run.recipe.loss.name)
    found = bundle.predict(pixels())
    tolerance = 1e-4 if views == "ten_crop" else 2e-6  # interpolated pixels may be rounded the other way
    np.testing.assert_allclose(found.probabilities, expected, atol=tolerance)
    assert found.values.tolist() == [bundle.classes[number] for number in expected.argmax(1)]
    plain = bundle.with_prediction(views="none").predict(pixels())
    np.testing.assert_allclose(plain.probabilities, mean_of(bundle, [raw], run.recipe.loss.name), atol=2e-6)
    assert np.abs(plain.probabilities - found.probabilities).max() > 1e-3


@pytest.mark.parametrize("settings", [{"prediction.views": "flip"}, {"prediction.monte_carlo": 5}], ids=str)
def test_training_reports_what_the_bundle_evaluates(tmp_path: Path, settings: dict[str, Any]) -> None:
    sample = open_sample("sample:digits-pictures")
    for part, rows in (("train", slice(0, 1200)), ("test", slice(1200, None))):
        for number, (picture, label) in enumerate(zip(sample.inputs[rows], sample.targets[rows], strict=True)):
            path = tmp_path / "data" / part / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture[:, :, 0]).save(path)
    run = caviar.train(tmp_path / "data", settings=PICTURES | settings, runs_dir=tmp_path, **QUICK)
    report = run.bundle.evaluate(tmp_path / "data" / "test")
    own = {key: value for key, value in run.metrics.items() if key not in ("best_epoch", "split")}
    assert {key: value for key, value in report.items() if key not in ("notices", "unseen")} == own
    plain = run.bundle.with_prediction(views="none", monte_carlo="none").evaluate(tmp_path / "data" / "test")
    assert plain["loss"] != report["loss"]


def test_monte_carlo_of_classes(tmp_path: Path) -> None:
    inputs, labels = arrays()
    run = caviar.train(inputs, labels, settings={"model.dropout": 0.5}, runs_dir=tmp_path, **QUICK)
    plain, many = run.bundle.predict(inputs), run.bundle.with_prediction(monte_carlo=400).predict(inputs)
    assert plain.std is None
    assert many.std is not None
    assert many.probabilities is not None
    assert many.std.shape == many.probabilities.shape == (90, 3)
    np.testing.assert_allclose(many.probabilities.sum(1), 1, atol=1e-5)
    network = run.bundle.network
    for module in network.modules():
        module.train(isinstance(module, nn.Dropout))
    torch.manual_seed(5)
    with torch.no_grad():
        prepared = run.bundle.preprocess(torch.from_numpy(inputs))
        draws = torch.stack([torch.softmax(network(prepared), 1) for _ in range(400)])
    np.testing.assert_allclose(many.probabilities, draws.mean(0), atol=0.06)
    np.testing.assert_allclose(many.std, draws.std(0), atol=0.06)
    again = run.bundle.with_prediction(monte_carlo=400).predict(inputs)
    assert np.array_equal(many.probabilities, again.probabilities)
    assert many.to_frame().columns == [
        "row_id",
        "prediction",
        *(f"{w}_{c}" for w in ("probability", "std") for c in "012"),
    ]


def test_monte_carlo_of_numbers_is_in_their_own_units(tmp_path: Path) -> None:
    inputs, values = quantities()
    settings = {"model.dropout": 0.5, "prediction.monte_carlo": 200, "optimizer.learning_rate": 1e-9}
    run = caviar.train(inputs, values, settings=settings, runs_dir=tmp_path, **QUICK)
    many = run.bundle.predict(inputs)
    network = run.bundle.network
    for module in network.modules():
        module.train(isinstance(module, nn.Dropout))
    torch.manual_seed(5)
    with torch.no_grad():
        prepared = run.bundle.preprocess(torch.from_numpy(inputs))
        draws = torch.stack([network(prepared).squeeze(1) for _ in range(200)]).double()
    assert run.bundle.scaler is not None
    assert many.std is not None
    units = run.bundle.scaler.std
    np.testing.assert_allclose(many.std.mean(), draws.std(0).mean() * units, rtol=0.05)
    np.testing.assert_allclose(many.values, run.bundle.scaler.unscale(draws.mean(0)), atol=0.4 * units)
    assert many.to_frame().columns == ["row_id", "prediction", "std"]


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    inputs, labels = arrays()

    def train(**prediction: Any) -> caviar.Run:
        settings = {"prediction": prediction, "model.dropout": 0.0}
        return caviar.train(inputs, labels, settings=settings, runs_dir=tmp_path / "runs", **QUICK)

    with pytest.raises(InputError, match="views is 'flip', which is for pictures"):
        train(views="flip")
    with pytest.raises(InputError, match="monte_carlo is 10, but the network has no dropout"):
        train(monte_carlo=10)
    with pytest.raises(InputError, match=r'views is "flp"; it must be "none", "flip" or "ten_crop". Did you mean'):
        train(views="flp")
    assert not (tmp_path / "runs").exists()
    pictures = trained(tmp_path, {})
    with pytest.raises(InputError, match="do not go together"):
        pictures.bundle.with_prediction(views="flip", monte_carlo=5)
    with pytest.raises(InputError, match=r"prediction\.view is not valid: Extra"):
        pictures.bundle.with_prediction(view="flip")
    with pytest.raises(InputError, match="only settings of"):
        open_bundle(pictures.path, ["training.epochs=3"])
    changed = open_bundle(pictures.path, ["prediction.views=flip"]).predict(pixels())
    assert np.array_equal(
        changed.probabilities, pictures.bundle.with_prediction(views="flip").predict(pixels()).probabilities
    )
