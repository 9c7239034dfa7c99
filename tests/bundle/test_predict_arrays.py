"""Predictions and evaluations of arrays and of pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

import caviar
from tests.workflow.small import QUICK, arrays, quantities, write_pictures


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> caviar.Run:
    inputs, labels = arrays(120)
    data, test = (inputs[:90], labels[:90] + 4), (inputs[90:], labels[90:] + 4)
    return caviar.train(data, test=test, seed=3, runs_dir=tmp_path_factory.mktemp("arrays"), **QUICK)


def own_metrics(run: caviar.Run) -> dict[str, Any]:
    return {key: value for key, value in run.metrics.items() if key not in ("best_epoch", "split")}


def plain(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key not in ("notices", "unseen")}


def test_every_form_of_arrays_predicts_alike(run: caviar.Run, tmp_path: Path) -> None:
    inputs, labels = arrays(120)
    expected = run.bundle.predict(inputs).probabilities
    np.save(tmp_path / "x.npy", inputs)
    np.savez(tmp_path / "x.npz", x=inputs, y=labels)
    tensor = torch.from_numpy(inputs)
    files = [tmp_path / "x.npy", str(tmp_path / "x.npz")]
    for rows in [tensor, TensorDataset(tensor, tensor[:, 0]), *files]:
        assert np.array_equal(run.bundle.predict(rows).probabilities, expected)
    for rows in [inputs.astype(np.float64), inputs.tolist()]:
        assert np.allclose(run.bundle.predict(rows).probabilities, expected, atol=1e-6)
    for one in (inputs[5], tensor[5], inputs[5].tolist(), inputs[5:6]):
        assert np.allclose(run.bundle.predict(one).probabilities, expected[5:6], atol=1e-6)


def test_predictions_by_hand(run: caviar.Run) -> None:
    inputs, _ = arrays(120)
    with torch.no_grad():
        logits = run.model(run.bundle.preprocess(torch.from_numpy(inputs)))
    predictions = run.bundle.predict(inputs)
    assert np.array_equal(predictions.probabilities, torch.softmax(logits, dim=1).numpy())
    assert predictions.values.tolist() == [str(number + 4) for number in logits.argmax(dim=1).tolist()]


def test_evaluation_of_the_test_rows_in_every_form(run: caviar.Run, tmp_path: Path) -> None:
    inputs, labels = arrays(120)
    inputs, labels = inputs[90:], labels[90:] + 4
    np.save(tmp_path / "x.npy", inputs)
    np.save(tmp_path / "y.npy", labels)
    np.savez(tmp_path / "test.npz", x=inputs, y=labels)
    np.savez(tmp_path / "parts.npz", x_train=inputs[:3], y_train=labels[:3], x_test=inputs, y_test=labels)
    reports = [
        run.bundle.evaluate(inputs, labels),
        run.bundle.evaluate((inputs, labels)),
        run.bundle.evaluate(inputs.tolist(), labels.astype(float).tolist()),
        run.bundle.evaluate(torch.from_numpy(inputs), [str(label) for label in labels]),
        run.bundle.evaluate(TensorDataset(torch.from_numpy(inputs), torch.from_numpy(labels))),
        run.bundle.evaluate(tmp_path / "x.npy", str(tmp_path / "y.npy")),
        run.bundle.evaluate(str(tmp_path / "test.npz")),
        run.bundle.evaluate(tmp_path / "parts.npz"),
        caviar.evaluate(run.path, inputs, labels[:, None]),
    ]
    for report in reports:
        assert plain(report) == own_metrics(run)


def test_quantities_on_their_test_rows(tmp_path: Path) -> None:
    inputs, values = quantities(120)
    data, test = (inputs[:90], values[:90]), (inputs[90:], values[90:, None])
    run = caviar.train(data, test=test, epochs=3, seed=2, runs_dir=tmp_path, progress=False)
    assert plain(run.bundle.evaluate(*test)) == own_metrics(run)
    by_hand = run.bundle.predict(inputs[90:]).values
    assert run.metrics["mae"]["value"] == pytest.approx(np.abs(by_hand - values[90:]).mean())


@pytest.mark.parametrize(
    ("inputs", "target", "words"),
    [
        (np.zeros((5, 3)), None, r"shape \(5, 3\); this model takes \(rows, 4\)"),
        (np.full((5, 4), np.nan), None, "NaN"),
        (np.full((5, 4), 1e300), None, "float32|large"),
        (np.zeros((0, 4)), None, "empty"),
        ("absent.npy", None, "absent.npy"),
        ("sample:digit", None, "digits"),
        ("sample:wine", None, "13"),
        (np.zeros((5, 4)), [4, 5, 6, 4], "5 rows of inputs but 4 targets"),
        (np.zeros((2, 4)), [4, 9], "row 1: class '9' was not among"),
        (np.zeros((2, 4)), [4, None], "missing"),
    ],
)
def test_arrays_that_cannot_be_used(run: caviar.Run, inputs: Any, target: Any, words: str) -> None:
    with pytest.raises(caviar.InputError, match=words):
        run.bundle.predict(inputs) if target is None else run.bundle.evaluate(inputs, target)


def test_evaluation_needs_targets(run: caviar.Run) -> None:
    with pytest.raises(caviar.InputError, match="no targets were given"):
        run.bundle.evaluate(arrays()[0])


def test_samples_by_name(tmp_path: Path) -> None:
    run = caviar.train("sample:iris", epochs=2, runs_dir=tmp_path, progress=False)
    assert len(run.bundle.predict("sample:iris")) == 150
    assert run.bundle.evaluate("sample:iris")["rows"] == 150
    with pytest.raises(caviar.InputError, match="holds pictures, and this model predicts from arrays"):
        run.bundle.predict("sample:digits-pictures")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for split in ("train", "val", "test"):
        write_pictures(root / split, per_class=6)
    return root


@pytest.fixture(scope="module")
def picture_run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> caviar.Run:
    return caviar.train(pictures, epochs=3, seed=6, runs_dir=tmp_path_factory.mktemp("runs"), progress=False)


def test_pictures_predict_from_folders_files_and_pixels(picture_run: caviar.Run, pictures: Path) -> None:
    bundle = caviar.load(picture_run.path)
    predictions = bundle.predict(pictures / "test")
    names = [f"{name}/{number:03}.png" for name in ("dark", "light") for number in range(6)]
    assert list(predictions.row_ids) == names
    assert predictions.to_frame().columns == ["row_id", "prediction", "probability_dark", "probability_light"]
    files = [pictures / "test" / name for name in names]
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    for rows in (files, [str(file) for file in files], pixels, torch.from_numpy(pixels)):
        assert np.array_equal(bundle.predict(rows).probabilities, predictions.probabilities)
    for one in (files[7], str(files[7]), pixels[7]):
        assert np.allclose(bundle.predict(one).probabilities, predictions.probabilities[7:8], atol=1e-6)
    assert np.mean(predictions.values == np.repeat(["dark", "light"], 6)) > 0.7


def test_pictures_on_their_test_folder(picture_run: caviar.Run, pictures: Path) -> None:
    bundle = caviar.load(picture_run.path)
    own = own_metrics(picture_run)
    report = bundle.evaluate(pictures / "test")
    assert report["accuracy"] == own["accuracy"]
    assert report["classes"] == own["classes"]
    assert report["loss"] == pytest.approx(own["loss"], abs=1e-6)
    whole = bundle.evaluate(str(pictures))
    assert plain(whole) == plain(report)
    assert whole["notices"] == [f"{pictures} holds splits; {pictures / 'test'} is evaluated."]
    files = sorted((pictures / "test").glob("*/*.png"))
    assert plain(bundle.evaluate(files)) == plain(report)
    assert plain(bundle.evaluate(files, [file.parent.name for file in files])) == plain(report)
    dark = bundle.evaluate(pictures / "test" / "dark")
    assert [entry["rows"] for entry in dark["classes"]] == [6, 0]


def test_pictures_that_cannot_be_evaluated(picture_run: caviar.Run, pictures: Path, tmp_path: Path) -> None:
    bundle = picture_run.bundle
    write_pictures(tmp_path / "new", per_class=2, classes=("dark", "ligth"))
    with pytest.raises(caviar.InputError, match=r"ligth/000\.png: class 'ligth'.*Did you mean 'light'\?"):
        bundle.evaluate(tmp_path / "new")
    (tmp_path / "splits").mkdir()
    for split in ("train", "val"):
        write_pictures(tmp_path / "splits" / split, per_class=2)
    with pytest.raises(caviar.InputError, match=r"no test folder.*splits/val"):
        bundle.evaluate(tmp_path / "splits")
    with pytest.raises(caviar.InputError, match="needs their classes"):
        bundle.evaluate(np.zeros((2, 10, 10, 3), np.uint8))
    with pytest.raises(caviar.InputError, match=r"float64 of shape \(2, 10, 10, 3\); this model takes uint8"):
        bundle.predict(np.zeros((2, 10, 10, 3)))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(caviar.InputError, match=r"broken\.png"):
        bundle.predict(tmp_path / "broken.png")
    with pytest.raises(caviar.InputError, match="absent"):
        bundle.predict(tmp_path / "absent.png")
