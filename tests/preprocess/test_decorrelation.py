"""PCA, Gram-Schmidt and whitening: against NumPy, SciPy and scikit-learn; identity covariance; nothing blown up."""

import json
import warnings

import numpy as np
import polars as pl
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.decomposition import PCA

from caviar.core.columns import Column
from caviar.core.errors import InputError
from caviar.preprocess import (
    Covariance,
    directions,
    fit_arrays,
    fit_gram_schmidt,
    fit_pca,
    fit_pictures,
    fit_table,
    fit_whiten_pca,
    fit_whiten_zca,
    rebuild,
)
from caviar.preprocess import covariance as covariance_module
from caviar.preprocess.decorrelation import fit_decorrelation
from caviar.preprocess.settings import DECORRELATIONS, PreprocessSettings

RNG = np.random.default_rng(0)
FITS = {
    "pca": fit_pca,
    "gram_schmidt": fit_gram_schmidt,
    "whiten_pca": fit_whiten_pca,
    "whiten_zca": fit_whiten_zca,
}


def mixed(rows=2000, columns=6, offset=0.0):
    return RNG.normal(size=(rows, columns)) @ RNG.normal(size=(columns, columns)) + offset


def covariance(values):
    return np.atleast_2d(np.cov(np.asarray(values, dtype=float).T, ddof=0))


def up_to_sign(found, expected):
    signs = np.sign((np.asarray(found) * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, atol=1e-9)


def test_every_decorrelation_is_listed_and_tested():
    assert set(DECORRELATIONS) == set(FITS)


@pytest.mark.parametrize("offset", [0.0, -40.0, 1e9])
@pytest.mark.parametrize("cuts", [[], [1, 2, 900], range(13, 2000, 13)])
def test_covariance_is_exact_to_1e_10(offset, cuts, monkeypatch):
    monkeypatch.setattr(covariance_module, "LEAST_ROWS", 100)
    monkeypatch.setattr(covariance_module, "CELLS", 500)
    values = mixed(offset=offset)
    exact = values - np.longdouble(offset)
    centred = exact - exact.mean(axis=0)
    found = Covariance.of_width(6)
    for block in np.split(values, list(cuts)):
        found.update(block)
    expected = (centred.T @ centred / len(values)).astype(float)
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.mean, (exact.mean(axis=0) + offset).astype(float), rtol=1e-15, atol=1e-10)


def test_pca_equals_scikit_learn():
    values = mixed()
    witness = PCA().fit(values)
    module = fit_pca(values)
    up_to_sign(module(torch.from_numpy(values)), witness.transform(values))
    np.testing.assert_allclose(module.share, witness.explained_variance_ratio_, atol=1e-12)
    np.testing.assert_allclose(module.variances, witness.explained_variance_ * 1999 / 2000, rtol=1e-10)


@pytest.mark.parametrize("components", [1, 3, 6, 0.5, 0.9, 0.999])
def test_number_of_directions_equals_scikit_learn(components):
    values = mixed()
    witness = PCA(components, svd_solver="full").fit(values)
    module = fit_pca(values, components)
    out = module(torch.from_numpy(values))
    up_to_sign(out, witness.transform(values))
    np.testing.assert_allclose(module.inverse(out), witness.inverse_transform(witness.transform(values)), atol=1e-9)


def test_whitening_equals_scikit_learn():
    values = mixed()
    expected = PCA(whiten=True).fit_transform(values) * np.sqrt(2000 / 1999)
    up_to_sign(fit_whiten_pca(values, eps=0)(torch.from_numpy(values)), expected)


@pytest.mark.parametrize("eps", [0.0, 1e-5, 0.3])
def test_zca_equals_the_closed_form(eps):
    values = mixed(offset=3.0)
    found = covariance(values) + eps * np.eye(6)
    root = np.linalg.inv(np.real(scipy.linalg.sqrtm(found)))
    expected = (values - values.mean(axis=0)) @ root
    np.testing.assert_allclose(fit_whiten_zca(values, eps=eps)(torch.from_numpy(values)), expected, atol=1e-9)


def test_eps_shrinks_as_the_formula_says():
    values = mixed()
    module = fit_whiten_pca(values, eps=0.5)
    variances = module.variances.numpy()
    np.testing.assert_allclose(
        covariance(module(torch.from_numpy(values))), np.diag(variances / (variances + 0.5)), atol=1e-10
    )


def test_gram_schmidt_equals_scipy_qr():
    values = mixed(offset=5.0)
    centred = values - values.mean(axis=0)
    q, r = scipy.linalg.qr(centred, mode="economic")
    module = fit_gram_schmidt(values)
    out = module(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(out, q * np.diag(r), atol=1e-9)
    np.testing.assert_allclose(module.variances, np.diag(r) ** 2 / 2000, rtol=1e-10)
    np.testing.assert_allclose(out[:, 0], centred[:, 0], atol=1e-12)


SUMS = np.array([[1.0, 0, 0, 0, 1], [0, 1, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 1, 2]])
SHAPES = {
    "full rank": (5, mixed(300, 5)),
    "far from zero": (5, mixed(300, 5, 1e9)),
    "dependent": (4, mixed(300, 4) @ SUMS),
    "constant": (3, np.c_[mixed(300, 3), np.full(300, 1e9 + 0.1), np.zeros(300)]),
    "all constant": (0, np.full((300, 4), 0.1)),
    "one row": (0, mixed(1, 4)),
    "fewer rows than columns": (4, mixed(5, 9)),
    "twice the same, far from zero": (2, np.repeat(mixed(300, 2, 1e9), 2, axis=1)),
    "tiny": (4, mixed(300, 4) * 1e-150),
    "one column": (1, mixed(50, 1)),
}


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("name", FITS)
def test_identity_covariance_and_inverse_whatever_the_rank(case, name):
    rank, values = SHAPES[case]
    module = FITS[name](values) if name in ("pca", "gram_schmidt") else FITS[name](values, eps=0)
    out = module(torch.from_numpy(values))
    assert out.isfinite().all()
    assert module.state.rank == rank
    found = covariance(out)
    if name == "whiten_pca":
        np.testing.assert_allclose(found, np.eye(max(rank, 1)) * (rank > 0), atol=1e-6)
    if name == "whiten_zca":
        values_of = np.linalg.eigvalsh(found)
        np.testing.assert_allclose(values_of, np.sort(np.arange(len(found)) >= len(found) - rank), atol=1e-6)
    if name in ("pca", "gram_schmidt"):
        largest = max(found.max(), 1e-300)
        np.testing.assert_allclose(found / largest, np.diag(np.diag(found)) / largest, atol=1e-8)
    back = module.inverse(out)
    np.testing.assert_allclose(back, values, atol=1e-6 * max(1e-300, np.ptp(values)), rtol=1e-14)
    stray = torch.from_numpy(values + RNG.normal(size=values.shape))
    assert module(stray).isfinite().all()


def test_dependent_columns_are_named_and_zero():
    values = SHAPES["dependent"][1]
    module = fit_gram_schmidt(values)
    assert module.dependent == [4]
    assert not module(torch.from_numpy(RNG.normal(size=values.shape)))[:, 4].any()
    assert "rank=4" in repr(module)


def test_a_sum_of_rounded_columns_does_not_vary_by_itself():
    parts = (mixed(500, 2) + 1000).astype(np.float32)
    values = np.c_[parts, parts.sum(axis=1)]
    assert values.dtype == np.float32
    out = fit_whiten_pca(values, eps=0)(torch.from_numpy(values))
    assert out.shape == (500, 2)
    assert fit_gram_schmidt(values).dependent == [2]


@settings(max_examples=60)
@given(
    values=hnp.arrays(np.float64, (9, 4), elements=st.floats(-1e6, 1e6)),
    name=st.sampled_from(sorted(FITS)),
    block=st.integers(1, 9),
    power=st.integers(-60, 60),
)
def test_finite_whatever_the_data(values, name, block, power):
    values = values * 2.0**power
    module = fit_decorrelation([values[i : i + block] for i in range(0, 9, block)], name)
    out = module(torch.from_numpy(values))
    assert out.isfinite().all()
    assert module(torch.from_numpy(values).float()).dtype == torch.float32
    if name.startswith("whiten"):  # each example lies within sqrt(rows) deviations
        assert out.abs().max() <= 3.0001
    again = rebuild(json.loads(json.dumps(module.config())), module.state_dict())
    assert again(torch.from_numpy(values)).equal(out)


def test_block_size_does_not_matter():
    values = mixed(offset=1e5)
    for name in FITS:
        whole, parts = (fit_decorrelation(form, name) for form in (values, np.array_split(values, 91)))
        np.testing.assert_allclose(parts.forward_matrix, whole.forward_matrix, atol=1e-9)


def test_pictures_keep_their_shape_where_they_can():
    pictures = torch.from_numpy(mixed(400, 12)).float().view(400, 3, 2, 2)
    module = fit_whiten_zca([pictures[:100], pictures[100:]], eps=0)
    out = module(pictures)
    assert out.shape == pictures.shape
    np.testing.assert_allclose(covariance(out.flatten(1)), np.eye(12), atol=1e-5)
    np.testing.assert_allclose(module.inverse(out), pictures, atol=1e-4)
    assert fit_pca(pictures, 5)(pictures).shape == (400, 5)


@pytest.mark.parametrize(
    ("components", "message"),
    [
        (0, "components is 0"),
        (7, "only 6 columns"),
        (1.0, "components is 1.0"),
        (-0.5, "components is -0.5"),
        (True, "components is True"),
        ("most", "components is 'most'"),
        (float("nan"), "components is nan"),
    ],
)
def test_components_out_of_range_are_named(components, message):
    with pytest.raises(InputError, match=message):
        fit_pca(mixed(), components)


@pytest.mark.parametrize("eps", [-1e-9, float("nan"), float("inf"), "0"])
def test_bad_eps_is_named(eps):
    with pytest.raises(InputError, match="eps is"):
        fit_whiten_zca(mixed(), eps=eps)


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no training examples"),
        (np.ones((0, 3)), "no training examples"),
        ([np.ones((2, 3)), np.ones((2, 4))], "4 columns, but the batches before it have 3"),
        ([np.ones((9, 2)), np.array([[0, 1], [2, np.inf]])], r"example 11, column 1 .*holds inf"),
        (np.ones((3, 0)), "without columns|only 0 columns"),
        (np.array([[1e200, 0.0], [-1e200, 0.0]]), r"column 0 .*overflows"),
        (np.ones((1, 10_001)), "at most 10,000"),
    ],
)
def test_bad_batches_are_named(name, batches, message):
    with pytest.raises(InputError, match=message):
        fit_decorrelation(batches, name)


def test_wrong_width_is_named():
    module = fit_pca(mixed(), 2)
    with pytest.raises(InputError, match="5 columns, but this pca was fitted for 6"):
        module(torch.ones(2, 5))
    with pytest.raises(InputError, match="6 columns, but this pca was fitted for 2"):
        module.inverse(torch.ones(2, 6))
    with pytest.raises(InputError, match="gram_schmidt keeps every column"):
        fit_decorrelation(mixed(), "gram_schmidt", 2)


# --- in a recipe


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("numeric", ["zscore", "minmax", "robust", "none"])
def test_arrays(name, numeric):
    values = mixed(offset=100.0)
    chosen = PreprocessSettings(numeric=numeric, decorrelate=name, eps=0)
    module = fit_arrays(lambda: np.array_split(values, 7), chosen)
    out = module(torch.from_numpy(values))
    assert out.dtype == torch.float32
    found = covariance(out)
    expected = np.eye(6) if name.startswith("whiten") else np.diag(np.diag(found))
    np.testing.assert_allclose(found, expected, atol=2e-4 * found.max())
    again = rebuild(json.loads(json.dumps(module.config())), module.state_dict())
    assert again(torch.from_numpy(values)).equal(out)
    assert {t.dtype for t in module.state_dict().values()} == {torch.float32}
    rows = torch.export.Dim("rows", min=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (torch.from_numpy(values[:5]),), dynamic_shapes=({0: rows},)).module()
    assert program(torch.from_numpy(values)).equal(out)


def test_arrays_with_channels_are_flattened():
    values = mixed(500, 12).reshape(500, 3, 4).astype(np.float32)
    zca = fit_arrays(lambda: [values], PreprocessSettings(decorrelate="whiten_zca", eps=0))(torch.from_numpy(values))
    assert zca.shape == (500, 3, 4)
    np.testing.assert_allclose(covariance(zca.flatten(1)), np.eye(12), atol=1e-3)
    pca = fit_arrays(lambda: [values], PreprocessSettings(decorrelate="pca", components=2))(torch.from_numpy(values))
    assert pca.shape == (500, 2)


def test_tables():
    values = mixed(800, 3, 1e6)
    values[::7, 1] = np.nan
    frame = pl.DataFrame(values, schema=["a", "b", "c"], orient="row").with_columns(
        pl.lit(1.0).alias("d"), pl.int_range(800).mod(3).cast(pl.String).alias("word")
    )
    columns = [*(Column(name, "numeric") for name in "abcd"), Column("word", "categorical")]

    def fitted(block, **chosen):
        return fit_table(lambda: frame.iter_slices(block), columns, PreprocessSettings(**chosen))

    plain = fitted(800)
    module = fitted(800, decorrelate="whiten_pca", eps=0)
    assert module.feature_names[:4] == ["direction 1", "direction 2", "direction 3", "b (missing)"]
    numbers = module.encode(frame).numbers
    out = module(numbers)
    assert out.shape == (800, module.width)
    assert out[:, 3:].equal(plain(numbers)[:, 4:])
    np.testing.assert_allclose(covariance(out[:, :3]), np.eye(3), atol=1e-5)
    scaled = plain(numbers)[:, :3].numpy()
    up_to_sign_loosely = PCA(whiten=True).fit_transform(scaled) * np.sqrt(800 / 799)
    np.testing.assert_allclose(out[:, :3].abs(), np.abs(up_to_sign_loosely), atol=1e-3)
    again = rebuild(json.loads(json.dumps(module.config())), module.state_dict())
    assert again(numbers).equal(out)
    np.testing.assert_allclose(fitted(97, decorrelate="whiten_pca", eps=0)(numbers), out, atol=1e-5)
    names = fitted(800, decorrelate="gram_schmidt").feature_names
    assert names == plain.feature_names
    assert fitted(800, decorrelate="pca", components=1).feature_names[0] == "direction 1"
    assert fitted(800, decorrelate="pca", components=1).feature_names[1] == "b (missing)"


def test_tables_without_numbers_and_pictures():
    frame = pl.DataFrame({"word": ["a", "b"]})
    chosen = PreprocessSettings(decorrelate="pca")
    module = fit_table(lambda: [frame], [Column("word", "categorical")], chosen)
    assert module.width == 3
    with pytest.raises(InputError, match=r"preprocess.decorrelate is 'pca'.*pictures"):
        fit_pictures(lambda: [np.zeros((2, 4, 4, 3), np.uint8)], chosen)


def test_old_bundles_are_read():
    old_table = {
        "kind": "table",
        "columns": [{"name": "n", "kind": "numeric"}],
        "vocabularies": {},
        "gaps": [],
        "missing": "median",
        "categorical": "onehot",
    }
    one = torch.ones(1, dtype=torch.float64)
    module = rebuild(old_table, {"center": one, "scale": 2 * one, "median": 0 * one})
    assert module(torch.tensor([[4.0]], dtype=torch.float64)).tolist() == [[6.0]]
    old_arrays = {"kind": "arrays", "numeric": "zscore", "features": 1}
    tensors = {"center": torch.ones(1), "remainder": torch.zeros(1), "scale": 2 * torch.ones(1)}
    assert rebuild(old_arrays, tensors)(torch.tensor([[4.0]])).tolist() == [[6.0]]
    old_pictures = {"kind": "pictures", "mode": "channel_mean", "channels": 1}
    assert rebuild(old_pictures, {"scale": torch.ones(1), "shift": torch.ones(1)}).state.size is None


@pytest.mark.parametrize(
    "change",
    [{"outputs": 3}, {"rank": 3}, {"inputs": 10_001}, {"name": "whiten_zca", "outputs": 1}, {"name": "ica"}],
)
def test_malformed_states_are_refused(change):
    module = fit_pca(mixed(20, 2))
    with pytest.raises(InputError, match="stored preprocessing"):
        rebuild(module.config() | change, module.state_dict())


def test_directions_do_not_lose_a_column_of_other_units():
    values = np.c_[RNG.normal(size=500) * 1e5, RNG.normal(size=500)]
    assert fit_pca(values).state.rank == 2
    assert directions.SAFETY < 1e-14
