"""Centring, min-max, z-score, robust: against NumPy and scikit-learn, in any cut, and on data that could blow up."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler
from torch.utils.data import DataLoader, TensorDataset

from caviar.core.columns import Column
from caviar.core.errors import InputError
from caviar.preprocess import (
    fit_arrays,
    fit_center,
    fit_minmax,
    fit_robust,
    fit_table,
    fit_zscore,
    quartiles,
    rebuild,
)
from caviar.preprocess import quartiles as quartile_module
from caviar.preprocess.settings import SCALINGS, PreprocessSettings

RNG = np.random.default_rng(0)
FITS = {"center": fit_center, "minmax": fit_minmax, "zscore": fit_zscore, "robust": fit_robust}
WITNESSES = {
    "center": StandardScaler(with_std=False),
    "minmax": MinMaxScaler(),
    "zscore": StandardScaler(),
    "robust": RobustScaler(),
}
SPREAD = RNG.normal(size=(1003, 6)) * [1, 10, 1e-6, 1e6, 3, 1] + [0, 5, 1, 1e9, 1e9, -1e3]


def test_every_scaling_is_listed_and_tested():
    assert set(SCALINGS) == set(FITS) == set(WITNESSES)


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_equal_to_scikit_learn(name, offset):
    values = RNG.normal(size=(1003, 5)) * [1, 10, 0.1, 100, 3] + offset
    out = FITS[name](values)(torch.from_numpy(values))
    assert out.dtype == torch.float64
    np.testing.assert_allclose(out, WITNESSES[name].fit_transform(values), atol=1e-10 * max(1, offset / 10))


@pytest.mark.parametrize("name", FITS)
def test_exact_to_1e_10_far_from_zero(name):
    noise = RNG.normal(size=(5000, 3))
    values = noise + 1e9
    exact = values - np.longdouble(1e9)
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0) - np.longdouble(1e9)
    expected = {
        "center": exact - exact.mean(axis=0),
        "minmax": (exact - exact.min(axis=0)) / np.ptp(exact, axis=0),
        "zscore": (exact - exact.mean(axis=0)) / exact.std(axis=0),
        "robust": (exact - median) / (high - low),
    }[name]
    # Statistics are exact; a centre near 1e9 itself has a spacing of 1.2e-7.
    np.testing.assert_allclose(FITS[name](values)(torch.from_numpy(values)), expected.astype(float), atol=2e-7)


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("cuts", [[1, 2, 500], [1000], range(7, 1003, 7)])
def test_block_size_does_not_matter(name, cuts):
    whole, parts = FITS[name](SPREAD), FITS[name](np.split(SPREAD, list(cuts)))
    np.testing.assert_allclose(parts.center, whole.center, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(parts.scale, whole.scale, rtol=1e-11)


@pytest.mark.parametrize("name", FITS)
def test_every_form_of_batches(name):
    values = torch.from_numpy(RNG.normal(size=(60, 4))).float()
    whole = FITS[name](values)
    loader = DataLoader(TensorDataset(values, torch.zeros(60)), batch_size=7)
    pictures = values.view(60, 1, 2, 2)
    forms = [values.numpy(), [values[:9], values[9:]], loader, lambda: values.split(11), pictures]
    for form in forms:
        np.testing.assert_allclose(FITS[name](form).scale, whole.scale, rtol=1e-12)
    out = whole(pictures)
    assert out.shape == pictures.shape
    assert out.dtype == torch.float32
    assert whole(values).equal(out.flatten(1))


def test_minmax_ranges():
    values = torch.from_numpy(SPREAD)
    out = fit_minmax(SPREAD, -1, 1)(values)
    np.testing.assert_allclose(out, MinMaxScaler((-1, 1)).fit_transform(SPREAD), atol=1e-6)
    np.testing.assert_allclose(out.amin(dim=0), -1, atol=1e-12)
    np.testing.assert_allclose(out.amax(dim=0), 1, atol=1e-12)
    constant = fit_minmax(np.full((4, 1), 7.0), 2, 5)
    assert constant(torch.tensor([[7.0], [9e9]])).tolist() == [[2.0], [2.0]]


@given(
    values=hnp.arrays(np.float64, (12, 3), elements=st.floats(-1e100, 1e100)),
    name=st.sampled_from(sorted(FITS)),
    block=st.integers(1, 12),
)
def test_finite_and_invertible_whatever_the_data(values, name, block):
    module = FITS[name]([values[i : i + block] for i in range(0, 12, block)])
    given_values = torch.from_numpy(values)
    out = module(given_values)
    assert out.isfinite().all()
    back = module.inverse(out)
    span = np.abs(values).max(axis=0)
    varies = np.ones(3, dtype=bool)
    varies[module.constant] = False
    assert (np.abs((back - given_values).numpy())[:, varies] <= 1e-9 * span[varies]).all()
    constant = (values == values[0]).all(axis=0)
    assert set(np.flatnonzero(constant)) <= set(module.constant)
    assert not out[:, torch.from_numpy(constant)].any()
    again = rebuild(json.loads(json.dumps(module.config())), module.state_dict())
    assert again(given_values).equal(out)


def test_robust_does_not_feel_outliers_and_keeps_rare_values():
    values = RNG.normal(size=(1000, 2))
    spoiled = values.copy()
    spoiled[:100, 0] = 1e12
    assert fit_robust(spoiled).scale[0] / fit_robust(values).scale[0] == pytest.approx(1, abs=0.3)
    rare = np.zeros((100, 1))
    rare[:5] = 3.0
    np.testing.assert_allclose(fit_robust(rare).scale, 1 / rare.std())


def test_quartiles_in_groups_and_of_a_sample(monkeypatch):
    values = np.sort(RNG.normal(size=(20_011, 5)), axis=0)
    exact = np.quantile(values, (0.25, 0.5, 0.75), axis=0)

    def blocks():
        return iter(np.array_split(values, 13))

    monkeypatch.setattr(quartile_module, "SAMPLE_CELLS", 50_000)
    np.testing.assert_array_equal(quartiles.quartiles(blocks, len(values), 5), exact)
    monkeypatch.setattr(quartile_module, "EXACT_ROWS", 1000)
    sampled = quartiles.quartiles(blocks, len(values), 5)
    assert not np.array_equal(sampled, exact)
    np.testing.assert_allclose(sampled, exact, atol=0.01)


NAN, TOO_LARGE = np.ones((5, 2)), np.ones((5, 2))
NAN[3, 1], TOO_LARGE[3, 1] = np.nan, -1e300


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no training examples"),
        (np.ones((0, 3)), "no training examples"),
        ([np.ones((2, 3)), np.ones((2, 4))], "4 columns, but the batches before it have 3"),
        ([np.ones((9, 2)), NAN], r"example 13, column 1 .*holds nan"),
        (np.ones(5), r"float64 of shape \(5,\)"),
        ([["a", "b"]], "list"),
        (7, "int"),
    ],
)
def test_bad_batches_are_named(name, batches, message):
    with pytest.raises(InputError, match=message):
        FITS[name](batches)


def test_overflow_ranges_and_generators_are_refused():
    with pytest.raises(InputError, match=r"column 1 .*overflows"):
        fit_zscore(TOO_LARGE)
    with pytest.raises(InputError, match="low is 1"):
        fit_minmax(SPREAD, 1, 1)
    with pytest.raises(InputError, match="generator can be read once"):
        fit_robust(iter([SPREAD]))
    with pytest.raises(InputError, match="3 columns, but this zscore was fitted on 6"):
        fit_zscore(iter([SPREAD]))(torch.ones(2, 3))


def table(values, numeric, **more):
    frame = pl.DataFrame(values, schema=[f"c{i}" for i in range(values.shape[1])], orient="row")
    columns = [Column(name, "numeric") for name in frame.columns]
    module = fit_table(lambda: frame.iter_slices(100), columns, PreprocessSettings(numeric=numeric, **more))
    return module, module(module.encode(frame).numbers)


@pytest.mark.parametrize("name", FITS)
def test_in_a_recipe_tables_and_arrays_are_scaled_the_same(name):
    values = RNG.normal(size=(1003, 4)) * [1, 10, 0.1, 100] + 5
    expected = WITNESSES[name].fit_transform(values)
    module, out = table(values, name)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    again = rebuild(json.loads(json.dumps(module.config())), module.state_dict())
    assert again.state_dict()["scale"].equal(module.scale)
    arrays = fit_arrays(lambda: (values[i : i + 90] for i in range(0, 1003, 90)), PreprocessSettings(numeric=name))
    np.testing.assert_allclose(arrays(torch.from_numpy(values)), expected, atol=2e-5)
    images = fit_arrays(lambda: [values.reshape(1003, 2, 2, 1)], PreprocessSettings(numeric=name))
    channels = values.reshape(-1, 2, 2).swapaxes(1, 2).reshape(-1, 2)
    expected = WITNESSES[name].fit_transform(channels).reshape(-1, 2, 2).swapaxes(1, 2).reshape(1003, 2, 2, 1)
    np.testing.assert_allclose(images(torch.from_numpy(values.reshape(1003, 2, 2, 1))), expected, atol=2e-5)


def test_in_a_recipe_gaps_are_left_out_of_the_statistics():
    values = RNG.normal(size=(500, 3)) * 4 + 9
    values[RNG.random(values.shape) < 0.2] = np.nan
    values[:, 2] = np.nan
    present = values[:, :2]
    for name in FITS:
        _, out = table(values, name, missing="median")
        filled = np.where(np.isnan(present), np.nanmedian(present, axis=0), present)
        expected = WITNESSES[name].fit(present).transform(filled)
        np.testing.assert_allclose(out[:, :2], expected, atol=1e-5)
        assert not out[:, 2].any()


def test_in_a_recipe_minmax_has_its_range():
    values = RNG.random((50, 2))
    for out in (
        table(values, "minmax", minmax_range=(-1.0, 1.0))[1],
        fit_arrays(lambda: [values], PreprocessSettings(numeric="minmax", minmax_range=(-1.0, 1.0)))(
            torch.from_numpy(values)
        ),
    ):
        assert out.min() == -1
        assert out.max() == pytest.approx(1)
    with pytest.raises(InputError, match="minmax_range"):
        table(values, "minmax", minmax_range=(1.0, 0.0))
