"""Tables: scikit-learn as witness, missing values, unseen categories, export, nothing but finite numbers."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from caviar.core.columns import Column
from caviar.core.errors import InputError
from caviar.preprocess import fit as fitting
from caviar.preprocess import fit_table, rebuild
from caviar.preprocess.settings import PreprocessSettings

RNG = np.random.default_rng(0)
COLUMNS = (
    Column("age", "numeric"),
    Column("colour", "categorical"),
    Column("member", "boolean"),
    Column("income", "numeric"),
    Column("city", "categorical"),
)


def table(rows=500, seed=0, gaps=True):
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {
            "age": rng.normal(40, 12, rows),
            "colour": rng.choice(["red", "green", "blue"], rows),
            "member": rng.random(rows) < 0.3,
            "income": rng.lognormal(10, 1, rows),
            "city": rng.choice(["Rome", "Oslo", "Bern", "Zürich, CH"], rows),
        }
    )
    if not gaps:
        return frame
    mask = pl.Series(rng.random(rows) < 0.2)
    return frame.with_columns(pl.when(~mask).then(pl.col(name)).alias(name) for name in ("income", "member", "city"))


def fit(frame, columns=COLUMNS, block=None, **options):
    def blocks():
        return frame.iter_slices(block) if block else [frame]

    return fit_table(blocks, columns, PreprocessSettings(**options))


def features(module, frame):
    return module(module.encode(frame).numbers)


def column_of(module, frame, name):
    return features(module, frame)[:, module.feature_names.index(name)].numpy()


def test_names_width_and_type():
    module = fit(table())
    assert module.feature_names == [
        "age", "member", "income", "member (missing)", "income (missing)",
        "colour (unknown)", "colour=blue", "colour=green", "colour=red",
        "city (unknown)", "city (missing)", "city=Bern", "city=Oslo", "city=Rome", "city=Zürich, CH",
    ]  # fmt: skip
    out = features(module, table())
    assert out.shape == (500, module.width)
    assert out.dtype == torch.float32
    assert out.is_contiguous()
    assert module.cardinalities == ()
    assert module.columns == COLUMNS


def test_numbers_equal_those_of_scikit_learn():
    frame = table()
    module = fit(frame)
    for name in ("age", "member", "income"):
        values = frame[name].cast(pl.Float64).to_numpy().reshape(-1, 1)
        scaler = StandardScaler().fit(values)
        expected = scaler.transform(SimpleImputer(strategy="median").fit_transform(values))[:, 0]
        np.testing.assert_allclose(column_of(module, frame, name), expected, rtol=1e-6, atol=1e-6)
    flag = column_of(module, frame, "income (missing)")
    np.testing.assert_array_equal(flag, frame["income"].is_null().cast(pl.Float32).to_numpy())


def test_one_hot_equals_that_of_scikit_learn():
    train, other = table(seed=0), table(seed=1)
    other = other.with_columns(
        pl.when(pl.int_range(pl.len()) < 9).then(pl.lit("pink")).otherwise("colour").alias("colour")
    )
    module = fit(train)
    names = train.select("colour", "city").fill_null("")
    witness = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(names.to_numpy())
    expected = witness.transform(other.select("colour", "city").fill_null("").to_numpy())
    ours = features(module, other)
    kept = [module.feature_names.index(n) for n in ("colour=blue", "colour=green", "colour=red", "city (missing)")]
    kept += [i for i, n in enumerate(module.feature_names) if n.startswith("city=")]
    np.testing.assert_array_equal(ours[:, kept].numpy(), expected)
    unknown = column_of(module, other, "colour (unknown)")
    assert unknown[:9].tolist() == [1.0] * 9
    assert unknown[9:].sum() == 0
    assert module.encode(other).unseen == {"colour": 9}


def test_embedding_gives_slot_numbers_at_the_end():
    frame = table()
    module = fit(frame, categorical="embedding")
    assert module.cardinalities == (4, 6)
    assert module.feature_names[-2:] == ["colour", "city"]
    encoded = module.encode(frame.with_columns(colour=pl.lit("pink")))
    out = module(encoded.numbers)
    assert out[:, -2].unique().tolist() == [0.0]
    assert out[:, -1].min() >= 1
    assert out[frame["city"].is_null().arg_true().to_list(), -1].unique().tolist() == [1.0]
    assert features(module, frame)[:, -2].unique().tolist() == [1.0, 2.0, 3.0]


def test_max_categories_keeps_the_most_frequent():
    frame = pl.DataFrame({"c": ["d"] * 5 + ["b"] * 4 + ["a"] * 3 + ["c"] * 3 + ["e"]})
    module = fit(frame, [Column("c", "categorical")], max_categories=3)
    assert module.feature_names == ["c (unknown)", "c=a", "c=b", "c=d"]
    assert module.encode(frame).unseen == {"c": 4}
    assert features(module, frame)[:, 0].sum() == 4


def test_missing_where_training_had_none():
    module = fit(table(gaps=False))
    other = pl.DataFrame(
        {
            "age": [None, 50.0],
            "colour": [None, "red"],
            "member": [None, True],
            "income": [1.0, None],
            "city": ["Oslo", "Oslo"],
        },
        schema_overrides={"colour": pl.String},
    )
    encoded = module.encode(other)
    assert encoded.missing == {"age": 1, "colour": 1, "member": 1, "income": 1}
    assert encoded.unseen == {}
    out = module(encoded.numbers)
    train = table(gaps=False)["age"].to_numpy()
    assert out[0, 0].item() == pytest.approx((np.median(train) - train.mean()) / train.std(), abs=1e-6)
    assert out[0, module.feature_names.index("colour (unknown)")] == 1


def test_median_without_flag():
    module = fit(table(), missing="median")
    assert not any("income (missing)" in name for name in module.feature_names)
    assert features(module, table()).isfinite().all()


def test_missing_error_names_column_and_row():
    frame = pl.DataFrame({"a": [1.0, 2.0, None, 4.0]})
    columns = [Column("a", "numeric")]
    with pytest.raises(InputError, match=r"'a', row 3: the value is missing.*median_and_flag"):
        fit(frame, columns, block=2, missing="error")
    module = fit(frame.drop_nulls(), columns, missing="error")
    with pytest.raises(InputError, match=r"'a', row 13"):
        module.encode(frame, first_row=10)
    nan = pl.DataFrame({"a": [1.0, float("nan")]})
    with pytest.raises(InputError, match="row 2"):
        module.encode(nan)


def test_large_offset_survives_the_way_to_float32():
    noise = RNG.normal(size=2000)
    frame = pl.DataFrame({"t": noise + 1e9})
    out = column_of(fit(frame, [Column("t", "numeric")]), frame, "t")
    np.testing.assert_allclose(out, (noise - noise.mean()) / noise.std(), atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, -7e8, 1e300])
def test_constant_columns_become_zero(value):
    columns = [Column("x", "numeric"), Column("y", "boolean")]
    train = pl.DataFrame({"x": [value] * 7 + [None], "y": [True] * 8})
    module = fit(train, columns)
    other = pl.DataFrame({"x": [value, 5.0, -1e300, None], "y": [False, True, None, True]})
    assert features(module, other)[:, :2].eq(0).all()


def test_a_column_without_any_value():
    columns = [Column("x", "numeric"), Column("c", "categorical")]
    frame = pl.DataFrame({"x": [None, None], "c": [None, None]}, schema={"x": pl.Float64, "c": pl.String})
    module = fit(frame, columns)
    assert features(module, frame).tolist() == [[0, 1, 0, 1], [0, 1, 0, 1]]
    assert features(module, pl.DataFrame({"x": [3.0], "c": ["new"]})).tolist() == [[0, 0, 1, 0]]


def test_numeric_none_imputes_but_does_not_scale():
    frame = pl.DataFrame({"x": [1.0, None, 5.0, 30.0]})
    module = fit(frame, [Column("x", "numeric")], numeric="none")
    assert features(module, frame).tolist() == [[1, 0], [5, 1], [5, 0], [30, 0]]


def test_only_categories_and_no_columns():
    frame = table()
    assert features(fit(frame, COLUMNS[1:2]), frame).shape == (500, 4)
    assert features(fit(frame, ()), frame).shape == (500, 0)


def test_types_that_mean_the_same():
    frame = table(gaps=False)
    module = fit(frame)
    same = frame.with_columns(pl.col("colour").cast(pl.Categorical), pl.col("member").cast(pl.Boolean))
    assert features(module, same).equal(features(module, frame))
    whole = pl.DataFrame({"x": [1, 2, 3]})
    assert features(fit(whole, [Column("x", "numeric")]), whole)[1, 0] == 0


def test_columns_are_found_by_name():
    frame = table()
    module = fit(frame)
    shuffled = frame.select(["city", "income", "age", "colour", "member"]).with_columns(extra=1)
    assert features(module, shuffled).equal(features(module, frame))


def test_order_of_rows_is_kept():
    frame = table()
    module = fit(frame)
    order = RNG.permutation(500)
    assert features(module, frame[order]).equal(features(module, frame)[order])


WITH_INFINITY = pl.when(pl.int_range(pl.len()) == 6).then(np.inf).otherwise("age")
BAD_FRAMES = {
    "absent": (lambda f: f.rename({"income": "incme"}), r"'income' is missing.*'incme'"),
    "text": (lambda f: f.with_columns(age=pl.lit("old")), "'age' holds String.*numeric"),
    "number for category": (lambda f: f.with_columns(city=pl.lit(3)), "'city' holds Int32.*categorical"),
    "infinity": (
        lambda f: f.with_columns(age=WITH_INFINITY),
        "'age', row 7: infinity",
    ),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_refused_in_fit_and_in_encode(case):
    change, message = BAD_FRAMES[case]
    with pytest.raises(InputError, match=message):
        fit(change(table()), block=5)
    with pytest.raises(InputError, match=message):
        fit(table()).encode(change(table()))


def test_no_rows_and_overflow_are_refused():
    with pytest.raises(InputError, match="no training rows"):
        fit(table().head(0))
    with pytest.raises(InputError, match="'x' holds numbers so large"):
        fit(pl.DataFrame({"x": [1e200, -1e200]}), [Column("x", "numeric")])


@pytest.mark.parametrize("block", [1, 7, 100, 499])
def test_block_size_does_not_matter(block, monkeypatch):
    monkeypatch.setattr(fitting, "CELLS", 11)
    frame = table()
    whole, parts = fit(frame), fit(frame, block=block)
    assert parts.config() == whole.config()
    for name, tensor in whole.state_dict().items():
        np.testing.assert_allclose(parts.state_dict()[name], tensor, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(features(parts, frame), features(whole, frame), atol=1e-6)


def test_medians_of_many_columns_in_groups(monkeypatch):
    monkeypatch.setattr(fitting, "MEDIAN_COLUMNS", 3)
    values = RNG.normal(size=(101, 8))
    values[RNG.random(values.shape) < 0.2] = np.nan
    frame = pl.DataFrame(values, schema=[f"c{i}" for i in range(8)], orient="row")
    module = fit(frame, [Column(f"c{i}", "numeric") for i in range(8)], block=10)
    np.testing.assert_array_equal(module.median, np.nanmedian(values, axis=0))


def test_medians_of_a_sample(monkeypatch):
    monkeypatch.setattr(fitting, "MEDIAN_ROWS", 1000)
    values = np.sort(RNG.normal(size=50_003))
    frame = pl.DataFrame({"x": values})
    columns = [Column("x", "numeric")]
    one, two = fit(frame, columns), fit(frame, columns, block=777)
    assert one.median.equal(two.median)
    assert one.median.item() != np.median(values)
    assert one.median.item() == pytest.approx(np.median(values), abs=0.01)
    rows = fitting.sample_rows(50_003, 1000)
    assert 990 <= len(rows) <= 1000
    assert rows[0] < 51
    assert 49_950 < rows[-1] < 50_003


def test_rarest_categories_are_forgotten_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(fitting, "DISTINCT", 50)
    names = [f"id{i}" for i in range(1000)]
    frame = pl.DataFrame({"c": [x for i in range(1000) for x in ("often", names[i])]})
    module = fit(frame, [Column("c", "categorical")], block=40, max_categories=1)
    assert module.feature_names == ["c (unknown)", "c=often"]


def test_nothing_but_training_rows_is_fitted():
    """The fit sees its blocks only; changing every other row changes nothing, changing a training row does."""
    frame = table(600)
    rows = np.arange(0, 600, 2)
    spoiled = frame.with_row_index("row").with_columns(
        pl.when(pl.col("row") % 2 == 1).then(1e6).otherwise("income").alias("income"),
        pl.when(pl.col("row") % 2 == 1).then(pl.lit("Atlantis")).otherwise("city").alias("city"),
    )
    one, two = fit(frame[rows]), fit(spoiled[rows])
    assert one.config() == two.config()
    assert all(a.equal(b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert not fit(spoiled).center.equal(fit(frame).center)


text = st.one_of(st.none(), st.sampled_from(["a", "b", "", " ", "é", "(missing)", "a,b\n"]), st.text(max_size=3))
number = st.one_of(st.none(), st.floats(-1e30, 1e30), st.sampled_from([0.0, 1e-300, -1e30]))
row = st.tuples(number, text, st.one_of(st.none(), st.booleans()))
some_rows = st.lists(row, min_size=1, max_size=12)


@settings(max_examples=80, deadline=None)
@given(train=some_rows, other=some_rows, categorical=st.sampled_from(["onehot", "embedding"]))
def test_only_finite_numbers_come_out_and_rebuild_is_byte_identical(train, other, categorical):
    schema = {"n": pl.Float64, "c": pl.String, "b": pl.Boolean}
    columns = [Column("n", "numeric"), Column("c", "categorical"), Column("b", "boolean")]
    frame, new = (pl.DataFrame(rows, schema=schema, orient="row") for rows in (train, other))
    module = fit(frame, columns, categorical=categorical)
    assert module.encode(frame).unseen == {}
    assert module.encode(frame).missing == {}
    out = features(module, new)
    assert out.isfinite().all()
    assert out.shape == (len(other), module.width)
    seen = {r[1] for r in train} | {None}
    assert module.encode(new).unseen.get("c", 0) == sum(r[1] not in seen for r in other)
    again = rebuild(json.loads(json.dumps(module.config())), module.state_dict())
    assert features(again, new).numpy().tobytes() == out.numpy().tobytes()


@pytest.mark.parametrize("categorical", ["onehot", "embedding"])
def test_forward_exports(categorical):
    frame = table()
    module = fit(frame, categorical=categorical)
    numbers = module.encode(frame).numbers
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(module, (numbers[:10],), dynamic_shapes=({0: rows},)).module()
    assert program(numbers).equal(module(numbers))


def test_adult(shared_data):
    frame = pl.read_csv(shared_data / "adult_train.csv", n_rows=5000)
    kinds = {name: "numeric" if dtype.is_numeric() else "categorical" for name, dtype in frame.schema.items()}
    columns = [Column(name, kind) for name, kind in kinds.items()]
    module = fit(frame, columns, block=999)
    numeric = frame.select(c.name for c in columns if c.kind == "numeric").to_numpy()
    out = features(module, frame)
    np.testing.assert_allclose(
        out[:, : numeric.shape[1]], StandardScaler().fit_transform(numeric), rtol=1e-4, atol=1e-5
    )
