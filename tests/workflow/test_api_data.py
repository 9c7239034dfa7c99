"""caviar.train takes data in every form, and the form does not change what is learned."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

import caviar
from tests.workflow.small import NO, QUICK, YES, arrays, prices, quantities, table, write_pictures


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def weights(run: caviar.Run) -> dict[str, torch.Tensor]:
    return run.model.state_dict()


def same(first: caviar.Run, second: caviar.Run) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Custom(Dataset[Any]):
    """A data set of one's own, as people write them."""

    def __init__(self, inputs: Any, targets: Any) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.inputs[index], self.targets[index]


FRAMES = {
    "pandas": lambda frame: frame.to_pandas(),
    "pandas with an index": lambda frame: frame.to_pandas().set_index(pd.Index(range(500, 500 + frame.height))),
    "pandas categories": lambda frame: frame.to_pandas().astype({"city": "category", "label": "category"}),
    "lazy": lambda frame: frame.lazy(),
    "arrow": lambda frame: frame.to_arrow(),
    "record batch": lambda frame: frame.to_arrow().combine_chunks().to_batches()[0],
    "dict of columns": lambda frame: frame.to_dict(as_series=False),
    "list of dicts": lambda frame: frame.to_dicts(),
}


@pytest.mark.parametrize("form", FRAMES.values(), ids=FRAMES)
def test_a_frame_of_any_make_trains_as_the_polars_frame_does(form: Any) -> None:
    frame = table()
    assert same(caviar.train(frame, "label", **QUICK), caviar.train(form(frame), "label", **QUICK))


def test_files_of_a_table_train_as_the_frame_does(tmp_path: Path) -> None:
    frame = table()
    expected = caviar.train(frame, "label", **QUICK)
    frame.write_csv(tmp_path / "t.csv")
    frame.write_csv(tmp_path / "t.tsv", separator="\t")
    frame.write_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.tsv", "t.parquet"):
        for source in (name, tmp_path / name):
            run = caviar.train(source, target="label", **QUICK)
            assert same(run, expected), source
            assert run.recipe.data.source == str(tmp_path / name)


def test_columns_may_be_called_by_numbers() -> None:
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(draw.normal(size=(60, 3)))
    frame[3] = draw.integers(0, 2, 60)
    run = caviar.train(frame, 3, device=torch.device("cpu"), **QUICK)
    assert run.bundle.manifest.target == "3"
    assert len(run.bundle.predict(frame[[2, 1, 0]])) == 60


@pytest.mark.parametrize("as_pair", [True, False])
def test_a_frame_and_its_target_apart(as_pair: bool) -> None:
    frame = table().to_pandas()
    inputs, target = frame.drop(columns="label"), frame["label"]
    run = caviar.train((inputs, target), **QUICK) if as_pair else caviar.train(inputs, target, **QUICK)
    assert run.bundle.manifest.target == "label"
    assert same(run, caviar.train(frame, "label", **QUICK))
    unnamed = caviar.train(inputs, target.to_numpy(), **QUICK)
    assert unnamed.bundle.manifest.target == "target"
    assert same(run, unnamed)


def test_a_frame_and_a_target_that_do_not_go_together() -> None:
    frame = table().to_pandas()
    inputs, target = frame.drop(columns="label"), frame["label"]
    with pytest.raises(caviar.InputError, match="different indexes"):
        caviar.train(inputs, target.sample(frac=1, random_state=0), **QUICK)
    with pytest.raises(caviar.InputError, match=r"120 rows but the target 100"):
        caviar.train(inputs, target.to_numpy()[:100], **QUICK)
    with pytest.raises(caviar.InputError, match="has a column 'label' already"):
        caviar.train(frame, target, **QUICK)
    with pytest.raises(caviar.InputError, match=r'target="\.\.\."'):
        caviar.train(frame, **QUICK)


ARRAYS = {
    "pair": lambda x, y: {"data": (x, y)},
    "tensors": lambda x, y: {"data": torch.from_numpy(x), "target": torch.from_numpy(y)},
    "lists": lambda x, y: {"data": x.tolist(), "target": y.tolist()},
    "pandas series": lambda x, y: {"data": x, "target": pd.Series(y)},
    "polars series": lambda x, y: {"data": x, "target": pl.Series(y)},
    "column of targets": lambda x, y: {"data": x, "target": y[:, None]},
    "floats that are classes": lambda x, y: {"data": x, "target": y.astype(float)},
    "tensor data set": lambda x, y: {"data": TensorDataset(torch.from_numpy(x), torch.from_numpy(y))},
    "data set of one's own": lambda x, y: {"data": Custom(x, y)},
    "not contiguous": lambda x, y: {"data": np.repeat(x, 2, axis=1)[:, ::2], "target": np.repeat(y, 2)[::2]},
    "not writable": lambda x, y: {"data": np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape), "target": y},
}


@pytest.mark.parametrize("form", ARRAYS.values(), ids=ARRAYS)
def test_arrays_of_any_make_train_as_numpy_arrays_do(form: Any) -> None:
    inputs, labels = arrays()
    expected = caviar.train(inputs, labels, **QUICK)
    run = caviar.train(**form(inputs, labels), **QUICK)
    # Lists hold float64, in which the statistics of the preprocessing are not rounded alike.
    one, other = weights(run), weights(expected)
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)
    assert run.bundle.classes == ("0", "1", "2")


def test_files_of_arrays(tmp_path: Path) -> None:
    inputs, labels = arrays()
    expected = caviar.train(inputs, labels, **QUICK)
    np.save("x.npy", inputs)
    np.save("y.npy", labels)
    np.savez("both.npz", x=inputs, y=labels)
    run = caviar.train("x.npy", "y.npy", **QUICK)
    assert same(run, expected)
    assert run.recipe.data.target == str(tmp_path / "y.npy")
    assert same(caviar.train(run.path / "recipe.toml", progress=False), expected)
    assert same(caviar.train(Path("both.npz"), **QUICK), expected)


@pytest.mark.parametrize(
    ("change", "classes"),
    [
        (lambda y: np.array(["ä, b", 'c"d', "e"])[y], ('c"d', "e", "ä, b")),
        (lambda y: y > 0, ("False", "True")),
        (lambda y: y + 5, ("5", "6", "7")),
        (lambda y: -y, ("-2", "-1", "0")),
        (lambda y: [f"{number}" for number in y + 9], ("10", "11", "9")),
    ],
    ids=["text", "booleans", "from five", "negative", "numbers as text"],
)
def test_class_labels_of_every_kind(change: Any, classes: tuple[str, ...]) -> None:
    inputs, labels = arrays()
    run = caviar.train(inputs, change(labels), epochs=30, progress=False)
    assert sorted(run.bundle.classes) == sorted(classes)
    predictions = run.bundle.predict(inputs)
    assert set(predictions.values) <= set(classes)
    assert np.mean(predictions.values == np.array([str(v) for v in np.asarray(change(labels)).tolist()])) > 0.6
    assert run.bundle.evaluate(inputs, change(labels))["rows"] == len(inputs)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_quantities_stay_in_their_own_units(shape: tuple[int, ...]) -> None:
    inputs, values = quantities()
    run = caviar.train(inputs, values.reshape(shape), epochs=40, progress=False, seed=3)
    assert run.recipe.data.task == "regression"
    predicted = run.bundle.predict(inputs).values
    assert predicted.shape == (len(inputs),)
    assert np.abs(predicted - values).mean() < 30
    assert run.metrics["rmse"]["value"] < values.std()
    assert run.metrics["baseline"]["rmse"] == pytest.approx(values.std(), rel=0.6)


def test_dev_and_test_of_their_own() -> None:
    inputs, labels = arrays()
    given = caviar.train(
        (inputs[:50], labels[:50]), dev=(inputs[50:70], labels[50:70]), test=(inputs[70:], labels[70:]), **QUICK
    )
    assert (given.recipe.split.dev, given.recipe.split.test, given.metrics["rows"]) == (20, 20, 20)
    frame = table()
    parts = caviar.train(frame[:80], "label", dev=frame[80:100], test=frame[100:].to_pandas(), **QUICK)
    assert parts.metrics["rows"] == 20
    only_test = caviar.train(frame[:100], "label", test=frame[100:], **QUICK)
    assert (only_test.recipe.split.dev, only_test.recipe.split.test) == (20, 20)
    data_set = caviar.train(Custom(inputs[:60], labels[:60]), test=Custom(inputs[60:], labels[60:]), **QUICK)
    assert data_set.metrics["rows"] == 30


def test_pictures_train_from_either_layout(tmp_path: Path) -> None:
    flat = caviar.train(write_pictures(tmp_path / "flat"), **QUICK)
    assert flat.bundle.classes == ("dark", "light")
    assert flat.recipe.model.name == "convnet"
    for split in ("train", "val", "test"):
        write_pictures(tmp_path / "split" / split, per_class=4)
    run = caviar.train(str(tmp_path / "split"), **QUICK)
    assert run.recipe.split.method == "given"
    assert run.metrics["rows"] == 8


def test_constant_predictions_are_no_better_than_the_baseline() -> None:
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(300, 3))
    labels = np.where(np.arange(300) % 10 < 7, YES, NO)
    metrics = caviar.train(inputs, labels, epochs=2, progress=False).metrics
    assert metrics["baseline"]["accuracy"] == pytest.approx(0.7, abs=0.01)
    assert abs(metrics["accuracy"]["value"] - 0.7) < 0.2
    frame = prices()
    report = caviar.train(frame, "price", **QUICK).metrics
    assert report["baseline"]["r2"] == pytest.approx(0, abs=0.2)
    assert report["r2"]["low"] <= report["r2"]["value"] <= report["r2"]["high"]
