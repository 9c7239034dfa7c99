"""Streaming moments against NumPy, in any cut, with gaps, and far from zero."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from caviar.preprocess import moments as module
from caviar.preprocess.moments import Moments, inverse_std

RNG = np.random.default_rng(0)


def fitted(values, cuts=()):
    moments = Moments.of_width(values.shape[1])
    for block in np.split(values, cuts):
        moments.update(block)
    return moments


@pytest.mark.parametrize("center", [0.0, -3.0, 1e9, 1e12])
@pytest.mark.parametrize("order", ["C", "F"])
def test_exact_to_1e_10_against_numpy(center, order):
    noise = RNG.normal(size=(100_000, 3))
    values = np.asarray(noise + center, order=order)
    exact = values - np.longdouble(center)
    moments = fitted(values, [1, 17, 30_000])
    assert moments.rows == 100_000
    np.testing.assert_allclose(moments.mean, (exact.mean(axis=0) + center).astype(float), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(moments.variance, exact.var(axis=0).astype(float), rtol=1e-10)
    np.testing.assert_allclose(moments.std, exact.std(axis=0).astype(float), rtol=1e-10)


def test_missing_values_are_skipped():
    values = RNG.normal(size=(1000, 4)) * [1, 10, 1e-6, 1e6] + [0, 5, 1, 1e9]
    values[RNG.random(values.shape) < 0.3] = np.nan
    values[:400, 1] = np.nan
    moments = fitted(values, [100, 350, 360])
    np.testing.assert_array_equal(moments.count, (~np.isnan(values)).sum(axis=0))
    np.testing.assert_allclose(moments.mean, np.nanmean(values, axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, np.nanvar(values, axis=0), rtol=1e-10)


finite = st.floats(-1e100, 1e100)


@settings(max_examples=60, deadline=None)
@given(
    values=hnp.arrays(float, (20, 2), elements=finite),
    cuts=st.lists(st.integers(0, 20), max_size=4),
    cells=st.integers(1, 50),
)
def test_cuts_do_not_matter(values, cuts, cells):
    whole = fitted(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CELLS", cells)
        parts = fitted(values, sorted(cuts))
    scale = np.abs(values).max(axis=0) + 1e-300
    np.testing.assert_allclose(parts.mean / scale, whole.mean / scale, atol=1e-12)
    np.testing.assert_allclose(parts.std / scale, whole.std / scale, atol=1e-8)


@given(value=finite, rows=st.integers(1, 50))
def test_constant_columns_have_variance_zero(value, rows):
    moments = fitted(np.full((rows, 1), value), [rows // 3])
    assert moments.variance[0] == 0
    assert moments.mean[0] == value


def test_no_value_at_all():
    moments = fitted(np.full((5, 1), np.nan))
    assert (moments.count[0], moments.mean[0], moments.variance[0]) == (0, 0, 0)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, 1e200])
def test_what_overflows_is_not_finite(bad):
    assert fitted(np.array([[1.0, 1.0], [2.0, bad], [3.0, 4.0]])).finite.tolist() == [True, False]


def test_whole_numbers_and_bytes():
    values = RNG.integers(0, 256, size=(500, 2)).astype(np.uint8)
    np.testing.assert_allclose(fitted(values).variance, values.astype(float).var(axis=0), rtol=1e-12)


def test_inverse_std_of_constant_is_zero():
    assert inverse_std(np.array([0.0, 2.0, 5e-324])).tolist() == [0.0, 0.5, 0.0]
