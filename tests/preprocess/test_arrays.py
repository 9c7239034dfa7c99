"""Arrays: per feature or channel, every real type, far from zero."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.preprocessing import StandardScaler

from caviar.core.errors import InputError
from caviar.preprocess import arrays, fit_arrays, rebuild
from caviar.preprocess.settings import PreprocessSettings

RNG = np.random.default_rng(0)


def fit(values, block=None, numeric="auto"):
    block = block or len(values)
    return fit_arrays(
        lambda: (values[i : i + block] for i in range(0, len(values), block)), PreprocessSettings(numeric=numeric)
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.int16, np.uint8])
def test_rows_equal_scikit_learn(dtype):
    values = (RNG.random((400, 6)) * 200).astype(dtype)
    out = fit(values)(torch.from_numpy(values))
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out, StandardScaler().fit_transform(values.astype(float)), atol=2e-6)


@pytest.mark.parametrize("shape", [(60, 3, 10), (60, 3, 5, 4), (20, 2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_channels_equal_numpy(shape, dtype):
    values = (RNG.random(shape) * 255).astype(dtype)
    axes = (0, *range(2, len(shape)))
    exact = values.astype(float)
    expected = (exact - exact.mean(axis=axes, keepdims=True)) / exact.std(axis=axes, keepdims=True)
    out = fit(values, block=7)(torch.from_numpy(values))
    assert out.shape == shape
    np.testing.assert_allclose(out, expected, atol=2e-6)


@pytest.mark.parametrize(("dtype", "offset"), [(np.float64, 1e9), (np.int64, 10**9), (np.float32, 1e5)])
def test_large_offset_survives(dtype, offset):
    values = (RNG.normal(0, 100, size=(3000, 2)) + offset).astype(dtype)
    exact = values.astype(np.longdouble) - offset
    expected = (exact - exact.mean(axis=0)) / exact.std(axis=0)
    np.testing.assert_allclose(fit(values)(torch.from_numpy(values)), expected.astype(float), atol=1e-5)


def test_buffers_are_float32_for_every_device():
    assert {t.dtype for t in fit(RNG.normal(size=(9, 2))).state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32, torch.bfloat16, torch.bool])
def test_none_passes_everything_through(dtype):
    values = torch.randint(0, 2, (5, 4)).to(dtype)
    assert fit(values, numeric="none")(values) is values


def test_none_brings_float64_to_float32():
    values = torch.rand(5, 4, dtype=torch.float64)
    out = fit(values, numeric="none")(values)
    assert out.equal(values.float())


def test_constant_features_become_zero():
    values = np.full((10, 2), 0.1)
    values[:, 1] = np.arange(10)
    module = fit(values)
    assert module(torch.tensor([[9e9, 3.0], [0.1, 4.0]]))[:, 0].tolist() == [0, 0]


@settings(max_examples=50, deadline=None)
@given(
    values=hnp.arrays(np.float64, (13, 3), elements=st.floats(-1e30, 1e30)),
    other=hnp.arrays(np.float64, (4, 3), elements=st.floats(-1e30, 1e30)),
    block=st.integers(1, 13),
)
def test_finite_in_finite_out_and_any_block(values, other, block):
    whole, parts = fit(values), fit(values, block)
    out = whole(torch.from_numpy(other))
    assert out.isfinite().all()
    assert whole(torch.from_numpy(other).float()).isfinite().all()
    spread = values.std(axis=0)
    sound = spread > 1e-6 * np.abs(values).max(axis=0)
    np.testing.assert_allclose(parts.center[sound], whole.center[sound], rtol=1e-6, atol=1e-6 * np.abs(values).max())
    np.testing.assert_allclose(parts.scale[sound], whole.scale[sound], rtol=1e-6)
    again = rebuild(json.loads(json.dumps(whole.config())), whole.state_dict())
    assert again(torch.from_numpy(other)).numpy().tobytes() == out.numpy().tobytes()


def test_only_training_rows_are_fitted():
    values = RNG.normal(size=(100, 3))
    spoiled = values.copy()
    spoiled[60:] = 1e6
    assert fit(spoiled[:60]).scale.equal(fit(values[:60]).scale)
    assert not fit(spoiled).scale.equal(fit(values).scale)


def test_tensors_maps_and_small_cells(tmp_path, monkeypatch):
    values = RNG.normal(size=(50, 3, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    whole = fit(values)
    monkeypatch.setattr(arrays, "CELLS", 20)
    for same in (np.load(tmp_path / "x.npy", mmap_mode="r"), torch.from_numpy(values)):
        np.testing.assert_allclose(fit(same, block=9).scale, whole.scale, rtol=1e-6)
    half = torch.from_numpy(values).bfloat16()
    np.testing.assert_allclose(fit(half).scale, 1 / half.float().std(dim=(0, 2), unbiased=False), rtol=1e-5)


def test_forward_exports():
    values = torch.rand(20, 3, 4, 4)
    module = fit(values)
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(module, (values[:5],), dynamic_shapes=({0: rows},)).module()
    assert program(values).equal(module(values))


BAD = np.arange(20.0).reshape(10, 2)
WITH_NAN, WITH_INF, TOO_LARGE = BAD.copy(), BAD.copy(), BAD.copy()
WITH_NAN[6, 1], WITH_INF[6, 1], TOO_LARGE[6, 1] = np.nan, -np.inf, 1e40


@pytest.mark.parametrize(
    "values", [WITH_NAN, WITH_INF, TOO_LARGE, torch.from_numpy(WITH_NAN), WITH_INF.reshape(10, 2, 1)]
)
def test_bad_numbers_are_named(values):
    with pytest.raises(InputError, match=r"example 7, feature 1 .*not a finite float32"):
        fit(values, block=4)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], "no training examples"),
        ([BAD[:0]], "no training examples"),
        ([BAD[:, 0]], "at least two axes"),
        ([BAD, BAD[:, :1]], "2 features"),
    ],
)
def test_refused(blocks, message):
    with pytest.raises(InputError, match=message):
        fit_arrays(lambda: blocks, PreprocessSettings())


@pytest.mark.parametrize("numeric", ["center", "minmax", "zscore", "robust", "none"])
@pytest.mark.parametrize("decorrelate", ["none", "pca", "gram_schmidt", "whiten_pca", "whiten_zca"])
@pytest.mark.parametrize("shape", [(200, 5), (200, 3, 2, 2)])
def test_examples_come_back(shape, decorrelate, numeric):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 50
    values[:, 1] = 7.0
    settings = PreprocessSettings(numeric=numeric, decorrelate=decorrelate, minmax_range=(-1.0, 1.0), eps=0.0)
    module = fit_arrays(lambda: [values[:150], values[150:]], settings)
    back = module.inverse(module(values))
    flattened = decorrelate in ("pca", "whiten_pca")
    torch.testing.assert_close(back, values.flatten(1) if flattened else values, atol=2e-4, rtol=0)


def test_fewer_directions_come_back_as_the_nearest_examples():
    values = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) @ torch.diag(
        torch.tensor([9.0, 5, 3, 1, 0.1])
    )
    settings = PreprocessSettings(numeric="center", decorrelate="pca", components=3)
    module = fit_arrays(lambda: [values], settings)
    back = module.inverse(module(values))
    centred = values - values.mean(0)
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    nearest = u[:, :3] * s[:3] @ v[:3] + values.mean(0)
    torch.testing.assert_close(back, nearest, atol=1e-4, rtol=0)
