import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as sk

from caviar.train.metrics import (
    classification_report,
    confusion_matrix,
    r2_score,
    regression_report,
    wilson_interval,
)


@given(st.integers(0, 200), st.integers(1, 200))
def test_wilson_equals_scipy(successes: int, trials: int) -> None:
    successes = min(successes, trials)
    found = wilson_interval(successes, trials)
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    assert found.low == pytest.approx(expected.low, abs=1e-12)
    assert found.high == pytest.approx(expected.high, abs=1e-12)


def test_classification_report_equals_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 4, 500)
    said = np.where(draw.random(500) < 0.7, labels, draw.integers(0, 4, 500))
    confusion = confusion_matrix(torch.from_numpy(labels), torch.from_numpy(said), 4).numpy()
    np.testing.assert_array_equal(confusion, sk.confusion_matrix(labels, said))
    report = classification_report(confusion, ("a", "b", "c", "d"), 0.5, majority=2)
    assert report["accuracy"]["value"] == pytest.approx(sk.accuracy_score(labels, said), abs=1e-15)
    np.testing.assert_allclose([c["recall"] for c in report["classes"]], sk.recall_score(labels, said, average=None))
    np.testing.assert_allclose(
        [c["precision"] for c in report["classes"]], sk.precision_score(labels, said, average=None)
    )
    assert report["baseline"]["accuracy"] == pytest.approx((labels == 2).mean())
    wrong = confusion - np.diag(confusion.diagonal())
    assert report["most_confused"]["rows"] == wrong.max()


def test_report_of_perfect_and_absent_classes() -> None:
    report = classification_report(np.array([[5, 0], [0, 0]]), ("yes", "no"), 0.0, majority=0)
    assert report["most_confused"] is None
    assert report["classes"][1]["recall"] is None
    assert report["accuracy"]["high"] == 1.0
    assert report["accuracy"]["low"] < 1.0


def test_regression_report_equals_scikit_learn() -> None:
    draw = np.random.default_rng(1)
    y = draw.normal(1e6, 3.0, 400)
    p = y + draw.normal(0, 1.0, 400)
    report = regression_report(y, p, train_mean=1e6, seed=3)
    assert report["r2"]["value"] == pytest.approx(sk.r2_score(y, p), rel=1e-9)
    assert report["rmse"]["value"] == pytest.approx(sk.root_mean_squared_error(y, p))
    assert report["mae"]["value"] == pytest.approx(sk.mean_absolute_error(y, p))
    assert report["baseline"]["r2"] == pytest.approx(sk.r2_score(y, np.full(400, 1e6)), abs=1e-9)
    for name in ("r2", "rmse", "mae"):
        assert report[name]["low"] < report[name]["value"] < report[name]["high"]
    # the error of a mean of 400 draws: the bootstrap must agree with the closed form within a quarter
    half = (report["mae"]["high"] - report["mae"]["low"]) / 2
    assert half == pytest.approx(1.96 * np.abs(y - p).std() / 20, rel=0.25)
    assert regression_report(y, p, 1e6, 3) == report


def test_r2_of_constant_targets_is_nan() -> None:
    assert math.isnan(r2_score(np.ones(4), np.ones(4)))
