"""Predictions and evaluations of tables: columns by name, what training never saw, the network applied by hand."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import caviar
from tests.workflow.small import NO, QUICK, YES, prices, table

FEATURES = ["age", "level", "city", "member"]


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    return table()


@pytest.fixture(scope="module")
def run(frame: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> caviar.Run:
    folder = tmp_path_factory.mktemp("table")
    return caviar.train(frame[:90], "label", test=frame[90:], seed=11, runs_dir=folder, **QUICK)


@pytest.fixture(scope="module")
def bundle(run: caviar.Run) -> caviar.Bundle:
    return caviar.load(run.path / "bundle")


def probabilities(bundle: caviar.Bundle, rows: Any) -> Any:
    found = bundle.predict(rows).probabilities
    assert found is not None
    return found


def test_predictions_are_those_of_preprocessing_and_network_applied_by_hand(
    bundle: caviar.Bundle, frame: pl.DataFrame
) -> None:
    raw = frame.select(FEATURES).with_columns(pl.col("level").cast(pl.Float64))
    with torch.no_grad():
        logits = bundle.network(bundle.preprocess(bundle.preprocess.encode(raw).numbers))
    by_hand = torch.softmax(logits, dim=1).numpy()
    predictions = bundle.predict(frame)
    assert np.array_equal(probabilities(bundle, frame), by_hand)
    assert predictions.values.tolist() == [bundle.classes[number] for number in by_hand.argmax(axis=1)]
    assert list(predictions.row_ids) == list(range(len(frame)))


def test_every_form_of_rows_predicts_alike(bundle: caviar.Bundle, frame: pl.DataFrame, tmp_path: Path) -> None:
    expected = probabilities(bundle, frame)
    frame.write_csv(tmp_path / "new.csv")
    frame.write_parquet(tmp_path / "new.parquet")
    forms = {
        "pandas": frame.to_pandas(),
        "lazy": frame.lazy(),
        "arrow": frame.to_arrow(),
        "columns": frame.to_dict(as_series=False),
        "arrays": {name: frame[name].to_numpy() for name in frame.columns},
        "dicts": frame.to_dicts(),
        "csv": tmp_path / "new.csv",
        "parquet": str(tmp_path / "new.parquet"),
        "other order": frame[:, ::-1],
        "without the target": frame.drop("label"),
        "numbers as text": frame.with_columns(pl.col("age", "level").cast(pl.String)),
    }
    for name, form in forms.items():
        assert np.array_equal(probabilities(bundle, form), expected), name
    for name, row in {
        "dict": frame.row(0, named=True),
        "series": frame.to_pandas().iloc[0],
        "list of one": [frame.row(0, named=True)],
        "NumPy values": {key: np.array([value])[0] for key, value in frame.row(0, named=True).items()},
        "tensor value": {**frame.row(0, named=True), "age": torch.tensor(frame["age"][0], dtype=torch.float64)},
    }.items():
        assert np.allclose(probabilities(bundle, row), expected[:1], atol=1e-6), name


@given(st.permutations(FEATURES), st.lists(st.integers(0, 119), min_size=1, max_size=8))
def test_order_of_columns_and_company_of_rows_do_not_matter(columns: list[str], rows: list[int]) -> None:
    bundle, frame = SHARED["bundle"], SHARED["frame"]
    every = probabilities(bundle, frame)
    assert np.allclose(probabilities(bundle, frame[rows].select(columns)), every[rows], atol=1e-6)


SHARED: dict[str, Any] = {}
"""Hypothesis takes no fixtures that change; these do not."""


@pytest.fixture(autouse=True)
def _shared(bundle: caviar.Bundle, frame: pl.DataFrame) -> None:
    SHARED.update(bundle=bundle, frame=frame)


def test_missing_columns_are_named_with_the_nearest_one(bundle: caviar.Bundle, frame: pl.DataFrame) -> None:
    with pytest.raises(caviar.InputError, match=r"column 'city' is missing\. Did you mean 'citty'\?"):
        bundle.predict(frame.rename({"city": "citty"}))
    with pytest.raises(caviar.InputError, match=r"'age' is missing \(and 1 more: level\)"):
        bundle.predict(frame.drop("age", "level"))


def test_extra_columns_are_a_warning_of_whatever_type(bundle: caviar.Bundle, frame: pl.DataFrame) -> None:
    extra = frame.with_columns(extra=1, when=pl.date(2020, 1, 1), many=pl.lit([1, 2]))
    predictions = bundle.predict(extra)
    assert predictions.notices == ("3 columns are not used, as training did not have them: 'extra', 'when', 'many'.",)
    assert np.array_equal(predictions.probabilities, bundle.predict(frame).probabilities)
    one = bundle.predict(frame.with_columns(extra=1))
    assert one.notices == ("1 column is not used, as training did not have it: 'extra'.",)


def test_unseen_categories_go_to_their_slot_and_are_counted(bundle: caviar.Bundle, frame: pl.DataFrame) -> None:
    bergen = pl.when(pl.int_range(pl.len()) < 7).then(pl.lit("Bergen")).otherwise(pl.col("city"))
    predictions = bundle.predict(frame.with_columns(bergen.alias("city")))
    assert predictions.unseen == {"city": 7}
    assert any("'city': 7 rows" in notice for notice in predictions.notices)
    riga = pl.when(pl.int_range(pl.len()) < 7).then(pl.lit("Rīga")).otherwise(pl.col("city"))
    others = bundle.predict(frame.with_columns(riga.alias("city")))
    assert np.array_equal(predictions.probabilities, others.probabilities), "one slot for all of them"


def test_missing_values_where_training_had_none(bundle: caviar.Bundle, frame: pl.DataFrame) -> None:
    predictions = bundle.predict(frame.with_columns(pl.lit(None, dtype=pl.Int64).alias("level")))
    assert np.isfinite(predictions.probabilities).all()
    assert any("'level': 120 rows without a value" in notice for notice in predictions.notices)
    assert not bundle.predict(frame.with_columns(pl.lit(None).alias("age"))).notices, "training knew gaps in age"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"age": ["forty"], "level": 1, "city": "Oslo", "member": True}, r"row 1.*'age': text 'forty'"),
        ({"age": float("inf"), "level": 1, "city": "Oslo", "member": True}, "'age'"),
        ({"age": 1e300, "level": 1, "city": "Oslo", "member": True}, "'age'"),
        ({"age": 1.0, "level": 1, "city": "Oslo", "member": "perhaps"}, r"'member': 'perhaps'.*true or false"),
        ([], "no columns|no rows"),
        ({}, "no columns|no rows"),
        (pl.DataFrame(schema=dict.fromkeys(FEATURES, pl.Float64)), "no rows"),
        (np.zeros((3, 4)), "not a table"),
        (3, "not a table"),
        ("absent.csv", "no such file"),
        ("sample:digits", "holds arrays, and this model predicts from table"),
    ],
)
def test_rows_that_cannot_be_predicted(bundle: caviar.Bundle, rows: Any, words: str) -> None:
    with pytest.raises(caviar.InputError, match=words):
        bundle.predict(rows)


def test_a_wrong_line_of_a_file_is_named(bundle: caviar.Bundle, frame: pl.DataFrame, tmp_path: Path) -> None:
    lines = frame.write_csv().splitlines()
    lines[41] = lines[41].replace(lines[41].split(",")[1], "three", 1)
    lines[41] = f"x{lines[41]}" if "three" not in lines[41] else lines[41]
    path = tmp_path / "new.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(caviar.InputError, match=rf"{path}, line 42, column '(age|level)'"):
        bundle.predict(path)


def test_the_frame_of_predictions_and_its_csv(bundle: caviar.Bundle, frame: pl.DataFrame) -> None:
    predictions = bundle.predict(frame)
    assert set(bundle.classes) == {YES, NO}
    columns = ["row_id", "prediction", *(f"probability_{name}" for name in bundle.classes)]
    assert predictions.to_frame().columns == columns
    read = list(csv.reader(io.StringIO(predictions.to_frame().write_csv())))
    assert read[0] == columns
    assert [row[1] for row in read[1:]] == predictions.values.tolist() == list(predictions)
    assert [int(row[0]) for row in read[1:]] == list(range(120))
    assert np.allclose([sum(map(float, row[2:])) for row in read[1:]], 1, atol=1e-5)
    assert (len(predictions), predictions[3], np.asarray(predictions)[3]) == (120, read[4][1], read[4][1])
    assert repr(predictions).startswith("Predictions(120 rows: [")


def test_evaluation_on_the_test_rows_equals_the_runs_own(
    run: caviar.Run, bundle: caviar.Bundle, frame: pl.DataFrame, tmp_path: Path
) -> None:
    test = frame[90:]
    test.write_csv(tmp_path / "test.csv")
    own = {key: value for key, value in run.metrics.items() if key not in ("best_epoch", "split")}
    for rows in (test, test.to_pandas(), test.to_dicts(), tmp_path / "test.csv", test[:, ::-1]):
        report = bundle.evaluate(rows)
        assert report.pop("notices") == []
        assert report.pop("unseen") == {}
        assert report == own
    assert caviar.evaluate(run.path, test) | {"notices": 0, "unseen": 0} == {**own, "notices": 0, "unseen": 0}
    labels = test["label"].to_numpy()
    assert own["accuracy"]["value"] == np.mean(bundle.predict(test).values == labels)


def test_targets_that_cannot_be_evaluated(bundle: caviar.Bundle, frame: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(caviar.InputError, match=r"no target column 'label'\. Did you mean 'labels'\?"):
        bundle.evaluate(frame.rename({"label": "labels"}))
    assert bundle.evaluate(frame.rename({"label": "truth"}), "truth")["rows"] == 120
    with pytest.raises(caviar.InputError, match="name its target column"):
        bundle.evaluate(frame, frame["label"])
    path = tmp_path / "t.csv"
    fifth = pl.when(pl.int_range(pl.len()) == 4)
    frame.with_columns(fifth.then(pl.lit("noo")).otherwise("label").alias("label")).write_csv(path)
    with pytest.raises(caviar.InputError, match=rf"{path}, line 6, column 'label': class 'noo' was not among"):
        bundle.evaluate(path)
    frame.with_columns(fifth.then(None).otherwise("label").alias("label")).write_csv(path)
    with pytest.raises(caviar.InputError, match=rf"{path}, column 'label': the target is missing in line 6"):
        bundle.evaluate(path)


def test_regression_predicts_and_evaluates_in_its_own_units(tmp_path: Path) -> None:
    frame = prices(300)
    run = caviar.train(
        frame[:220], "price", test=frame[220:], epochs=40, seed=9, runs_dir=tmp_path / "runs", progress=False
    )
    test = frame[220:]
    predictions = run.bundle.predict(test)
    price = test["price"].to_numpy()
    assert np.abs(predictions.values - price).mean() < 0.5 * price.std()
    assert predictions.to_frame().columns == ["row_id", "prediction"]
    assert predictions.probabilities is None
    report = run.bundle.evaluate(test)
    assert {key: report[key] for key in report if key not in ("notices", "unseen")} == {
        key: value for key, value in run.metrics.items() if key not in ("best_epoch", "split")
    }
    assert report["rmse"]["value"] == pytest.approx(np.sqrt(np.square(predictions.values - price).mean()))
    assert report["baseline"]["rmse"] > report["rmse"]["value"]


CODES = {
    "numbers with zeros in front": (["007", "08", "x"], {}),
    "integers": ([3, 11, 7], {"data.categorical": ["code"]}),
    "integers as floats": ([3.0, 11.0, 7.0], {"data.categorical": ["code"]}),
}


@pytest.mark.parametrize("form", ["frame", "csv"])
@pytest.mark.parametrize(("codes", "settings"), CODES.values(), ids=CODES)
def test_categories_written_as_numbers(codes: list[Any], settings: dict[str, Any], form: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    chosen = draw.integers(0, 3, 150)
    frame = pl.DataFrame({"code": [codes[i] for i in chosen], "x": draw.normal(size=150), "y": chosen == 0})
    run = caviar.train(frame, "y", settings=settings, runs_dir=tmp_path / "runs", epochs=15, progress=False)
    first = frame.filter(pl.col("y")).drop("y")
    source: Any = first
    if form == "csv":
        source = tmp_path / "new.csv"
        first.write_csv(source)
    predictions = run.bundle.predict(source)
    assert predictions.unseen == {}
    assert np.mean(predictions.values == "true") > 0.9
    as_integers = first.with_columns(pl.col("code").cast(pl.Int64)) if codes[0] == 3.0 else first
    assert run.bundle.predict(as_integers).unseen == {}


@pytest.mark.parametrize("classes", [("007", "08a"), ("1", "2"), ("true", "false"), ("a", "NA?")])
def test_class_names_survive_a_file_that_holds_one_class_only(classes: tuple[str, str], tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    labels = [classes[i] for i in draw.integers(0, 2, 80)]
    pl.DataFrame({"x": draw.normal(size=80), "y": labels}).write_csv(tmp_path / "train.csv")
    run = caviar.train(tmp_path / "train.csv", "y", runs_dir=tmp_path / "runs", **QUICK)
    assert set(run.bundle.classes) == set(classes)
    for name in classes:
        pl.DataFrame({"x": [0.1, 0.2], "y": [name] * 2}).write_csv(tmp_path / "one.csv")
        report = run.bundle.evaluate(tmp_path / "one.csv")
        assert [entry["rows"] for entry in report["classes"] if entry["class"] == name] == [2]


def test_ignored_and_split_columns_are_not_wanted_later(tmp_path: Path) -> None:
    frame = table().with_columns(
        number=pl.int_range(pl.len()), same=pl.lit(1.0), side=pl.Series(["train", "train", "train", "dev", "test"] * 24)
    )
    run = caviar.train(frame, "label", settings={"split.column": "side"}, runs_dir=tmp_path / "runs", **QUICK)
    assert set(run.recipe.data.ignore) == {"number", "same"}
    assert run.bundle.predict(frame).notices == ()
    assert run.bundle.predict(frame.select(FEATURES)).notices == ()
    assert run.metrics["rows"] == 24
    assert run.bundle.evaluate(frame.filter(side="test"))["accuracy"] == run.metrics["accuracy"]


def test_pandas_and_booleans_as_numbers(bundle: caviar.Bundle, frame: pl.DataFrame) -> None:
    expected = probabilities(bundle, frame)
    numbers: pd.DataFrame = frame.to_pandas().astype({"member": int, "level": "Int64"})
    assert np.array_equal(probabilities(bundle, numbers), expected)
