"""A regression target and its own units."""

import json

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from caviar.core.errors import InputError
from caviar.preprocess import TargetScaler, fit_target


def test_equals_scikit_learn():
    y = np.random.default_rng(0).lognormal(10, 1, 1000)
    scaler = fit_target(y)
    out = scaler.scale(y)
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out, StandardScaler().fit_transform(y.reshape(-1, 1))[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scaler.unscale(out), y, rtol=1e-5)
    assert scaler.unscale(out).dtype == np.float64


@given(st.lists(st.floats(-1e100, 1e100), min_size=2, max_size=30))
def test_there_and_back(values):
    y = np.array(values)
    assume(np.ptp(y) > 1e-3 * np.abs(y).max() + 1e-100)
    scaler = fit_target(torch.from_numpy(y))
    np.testing.assert_allclose(scaler.unscale(scaler.scale(y)), y, atol=1e-5 * np.abs(y).max())


def test_rebuild_is_exact():
    scaler = fit_target(np.array([0.1, 0.2, 1e9]))
    assert TargetScaler.rebuild(json.loads(json.dumps(scaler.config()))) == scaler


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "no training targets"),
        ([0.1] * 7, "every training target is 0.1"),
        ([1.0, np.nan], "target 2 is nan"),
        ([1.0, 2.0, -np.inf], "target 3 is -inf"),
        ([1e200, -1e200], "overflows"),
    ],
)
def test_refused(values, message):
    with pytest.raises(InputError, match=message):
        fit_target(np.array(values, dtype=float))


BAD_CONFIGS = [
    {},
    [],
    {"kind": "target", "mean": 0.0},
    {"kind": "target", "mean": "0", "std": 1.0},
    {"kind": "target", "mean": 0.0, "std": True},
    {"kind": "target", "mean": 0.0, "std": 0.0},
    {"kind": "target", "mean": float("nan"), "std": 1.0},
    {"kind": "table", "mean": 0.0, "std": 1.0},
]


@pytest.mark.parametrize("config", BAD_CONFIGS)
def test_malformed_config_is_refused(config):
    with pytest.raises(InputError):
        TargetScaler.rebuild(config)
