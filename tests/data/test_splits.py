"""Splits: disjoint, complete, repeatable, in proportion; witnesses from scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedShuffleSplit

from caviar.core.errors import InputError
from caviar.core.examples import Splits
from caviar.data import draw
from caviar.data.settings import SplitSettings
from caviar.data.splits import count_overlaps, make_splits

RNG = np.random.default_rng(0)


def split(targets, seed=0, task="classification", parts=None, **kwargs):
    choices = {name: kwargs.pop(name) for name in ("split_column", "groups", "class_names") if name in kwargs}
    parts = {"train": len(targets)} if parts is None else parts
    return make_splits(SplitSettings(**kwargs), targets, task, parts, seed, **choices)


def sizes(splits):
    return len(splits.train), len(splits.dev), len(splits.test)


def assert_complete(splits, num_rows):
    rows = np.concatenate([splits.train, splits.dev, splits.test])
    assert np.array_equal(np.sort(rows), np.arange(num_rows))
    for part in (splits.train, splits.dev, splits.test):
        assert part.dtype == np.int32
        assert np.all(np.diff(part) > 0)


@pytest.mark.parametrize(
    ("num_rows", "expected"),
    [
        (3, (1, 1, 1)),
        (10, (6, 2, 2)),
        (1000, (600, 200, 200)),
        (25_000, (15_000, 5_000, 5_000)),
        (60_000, (50_000, 5_000, 5_000)),
    ],
)
def test_auto_is_a_fifth_each_and_at_most_5000(num_rows, expected):
    assert sizes(split(RNG.normal(size=num_rows), task="regression")) == expected


def test_shares_and_counts():
    y = RNG.normal(size=200)
    assert sizes(split(y, task="regression", dev=0.1, test=0.25)) == (130, 20, 50)
    assert sizes(split(y, task="regression", dev=7, test=1)) == (192, 7, 1)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(2, 60), min_size=2, max_size=8),
    shares=st.tuples(st.floats(0.01, 0.3), st.floats(0.01, 0.3)),
    seed=st.integers(0, 2**40),
    chunk=st.sampled_from([7, 64, 1 << 20]),
)
def test_stratified_split_always_holds(counts, shares, seed, chunk):
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw, "CHUNK", chunk)
        one = split(y, seed, dev=shares[0], test=shares[1])
        np.random.default_rng(1).random(5)
        two = split(y, seed, dev=shares[0], test=shares[1])
    assert_complete(one, len(y))
    assert sizes(one)[1:] == tuple(max(1, int(s * len(y) + 0.5)) for s in shares)
    for name in ("train", "dev", "test"):
        assert np.array_equal(one.of(name), two.of(name))
    assert set(y[one.train]) == set(range(len(counts)))


def test_proportions_equal_those_of_scikit_learn():
    y = RNG.choice(5, size=5000, p=[0.5, 0.3, 0.1, 0.07, 0.03])
    ours = split(y, dev=1000, test=1000)
    _, theirs = next(StratifiedShuffleSplit(1, test_size=1000, random_state=0).split(y, y))
    expected = np.bincount(y[theirs])
    assert np.abs(np.bincount(y[ours.test]) - expected).max() <= 1
    assert np.abs(np.bincount(y[ours.dev]) - expected).max() <= 1


@pytest.mark.parametrize("chunk", [50, 1 << 20])
def test_every_row_is_as_likely_as_any_other(chunk, monkeypatch):
    monkeypatch.setattr(draw, "CHUNK", chunk)
    y = np.arange(200) % 2
    hits = np.zeros((3, 200))
    for seed in range(400):
        splits = split(y, seed, dev=0.1, test=0.3)
        for side, name in enumerate(("train", "dev", "test")):
            hits[side, splits.of(name)] += 1
    expected = 400 * np.array([0.6, 0.1, 0.3])
    spread = np.sqrt(expected * (1 - expected / 400))
    assert np.all(np.abs(hits - expected[:, None]) < 5 * spread[:, None])
    halves = hits[:, :100].sum(axis=1) / hits.sum(axis=1)
    assert np.allclose(halves, 0.5, atol=0.02)


def test_without_stratify_the_draw_is_uniform():
    y = np.repeat([0, 1], [9000, 1000])
    counts = [np.bincount(y[split(y, seed, stratify=False).test], minlength=2)[1] for seed in range(30)]
    assert np.std(counts) > 5
    assert 180 < np.mean(counts) < 220


def test_seeds_differ():
    y = np.arange(100) % 4
    assert not np.array_equal(split(y, 0).test, split(y, 1).test)


def test_many_small_classes_are_not_served_in_order():
    y = np.repeat(np.arange(300), 2)
    drawn = y[split(y, dev=0.1, test=0.1).test]
    assert len(drawn) == 60
    assert drawn.mean() == pytest.approx(149.5, abs=40)


def test_given_parts_are_obeyed_and_the_missing_one_is_drawn():
    y = np.arange(100) % 2
    both = split(y, parts={"test": 20, "train": 50, "dev": 30})
    assert np.array_equal(both.train, np.arange(50))
    assert np.array_equal(both.dev, np.arange(50, 80))
    assert np.array_equal(both.test, np.arange(80, 100))
    one = split(y, parts={"train": 80, "test": 20})
    assert np.array_equal(one.test, np.arange(80, 100))
    assert sizes(one) == (64, 16, 20)
    assert_complete(one, 100)
    other = split(y, method="given", parts={"train": 80, "dev": 20})
    assert sizes(other) == (64, 20, 16)


def test_column():
    y = np.arange(8) % 2
    words = np.array(["train", "TRAIN", " Train", "train", "val", "Validation", "TEST", "test "])
    splits = split(y, split_column=words, column="part")
    assert splits.train.tolist() == [0, 1, 2, 3]
    assert splits.dev.tolist() == [4, 5]
    assert splits.test.tolist() == [6, 7]
    for word in ("dev", "valid"):
        assert (
            len(split(y, split_column=np.where(np.arange(8) < 6, "train", word), method="column", column="p").dev) == 2
        )


def test_column_without_dev_draws_it_from_train():
    y = np.arange(40) % 2
    words = np.where(np.arange(40) < 30, "train", "test")
    splits = split(y, split_column=words, column="part")
    assert np.array_equal(splits.test, np.arange(30, 40))
    assert sizes(splits) == (24, 6, 10)


def test_unknown_word_in_the_column_is_named_with_its_row(monkeypatch):
    monkeypatch.setattr(draw, "CHUNK", 4)
    words = np.array(["train"] * 6 + ["tset"] + ["test"] * 3)
    with pytest.raises(InputError, match=r"'part', row 7: 'tset' is no split.*validation"):
        split(np.arange(10) % 2, split_column=words, column="part")


@settings(max_examples=40, deadline=None)
@given(data=st.data(), count=st.integers(3, 30), seed=st.integers(0, 2**40))
def test_no_group_is_on_both_sides(data, count, seed):
    lengths = data.draw(st.lists(st.integers(1, 20), min_size=count, max_size=count))
    labels = data.draw(st.sampled_from([np.arange(count), -3 * np.arange(count), np.arange(count) * 10**12]))
    groups = np.random.default_rng(seed).permutation(np.repeat(labels, lengths))
    splits = split(np.zeros(len(groups)), seed, task="regression", groups=groups, group="who")
    assert_complete(splits, len(groups))
    sides = [set(groups[splits.of(name)]) for name in ("train", "dev", "test")]
    assert all(sides)
    assert sum(map(len, sides)) == count


def test_group_fractions_are_near():
    groups = RNG.integers(0, 500, size=20_000)
    splits = split(np.zeros(20_000), task="regression", groups=groups, method="group", group="who", dev=0.1, test=0.3)
    assert len(splits.dev) == pytest.approx(2000, abs=60)
    assert len(splits.test) == pytest.approx(6000, abs=60)


def test_a_large_group_does_not_swallow_dev_or_test():
    groups = np.repeat([0, 1, 2, 3, 4], [900, 25, 25, 25, 25])
    for seed in range(20):
        assert (
            len(split(np.zeros(1000), seed, task="regression", groups=groups, group="g", dev=0.05, test=0.05).train)
            >= 900
        )


def test_groups_hold_with_a_given_test():
    groups = np.repeat(np.arange(20), 5)
    splits = split(np.zeros(100), task="regression", groups=groups, group="g", parts={"train": 80, "test": 20})
    assert np.array_equal(splits.test, np.arange(80, 100))
    assert not set(groups[splits.train]) & set(groups[splits.dev])


def test_rows_are_divided_alike_whatever_the_values_are():
    """A split depends on the number of rows and classes, never on what the features or values say."""
    one = split(RNG.normal(size=300), task="regression")
    two = split(RNG.normal(size=300), task="regression")
    assert np.array_equal(one.test, two.test)


REFUSED = {
    "two rows": ({"targets": np.zeros(2), "task": "regression"}, r"2 rows cannot be divided.*dev and test.*at least 3"),
    "no rows": ({"targets": np.zeros(0), "task": "regression"}, "no train rows"),
    "too much": (
        {"targets": np.zeros(100), "task": "regression", "dev": 50, "test": 50},
        r"50 rows for dev and 50 rows for test leave nothing.*100",
    ),
    "shares too large": (
        {"targets": np.zeros(100), "task": "regression", "dev": 0.5, "test": 0.5},
        "nothing to train on",
    ),
    "more than there is": ({"targets": np.zeros(100), "task": "regression", "dev": 1000}, "nothing to train on"),
    "classes": (
        {"targets": np.arange(10) // 2, "dev": 3, "test": 3},
        r"each of 5 classes needs a row in train.*at least 11",
    ),
    "two groups": ({"targets": np.arange(10) % 2, "groups": np.arange(10) % 2, "group": "g"}, "2 groups.*at least 3"),
    "column unnamed": ({"targets": np.arange(10) % 2, "method": "column"}, "split.column"),
    "group unnamed": ({"targets": np.arange(10) % 2, "method": "group"}, "split.group"),
    "nothing given": ({"targets": np.arange(10) % 2, "method": "given"}, "neither dev nor test"),
    "parts": ({"targets": np.arange(10) % 2, "parts": {"train": 3}}, "do not add up"),
    "no train": ({"targets": np.arange(10) % 2, "split_column": np.full(10, "test"), "column": "c"}, "no train rows"),
    "unseen class": (
        {
            "targets": np.array([0, 1, 0, 1, 0, 1, 2]),
            "parts": {"train": 6, "test": 1},
            "class_names": ("cat", "dog", "eel"),
        },
        r"class 'eel' is in test \(row 7\) but never in train",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    arguments, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        split(**arguments)


def test_extra_memory_is_a_few_bytes_a_row():
    import tracemalloc

    y = np.zeros(8_000_000, dtype=np.int64)
    y[::3] = 1
    tracemalloc.start()
    splits = split(y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(splits.test) == 5000
    chunk_work = 64 * draw.CHUNK
    assert peak < 7 * len(y) + chunk_work


@pytest.mark.parametrize("portion", [5, 1 << 22])
def test_overlaps_are_counted(portion, monkeypatch):
    monkeypatch.setattr("caviar.data.splits.PORTION", portion)
    keys = RNG.integers(0, 60, size=100).astype(np.uint64) * np.uint64(2**57 + 1)
    splits = split(np.zeros(100), task="regression", dev=20, test=30)
    train = set(keys[splits.train].tolist())
    expected = {name: sum(k in train for k in keys[splits.of(name)].tolist()) for name in ("dev", "test")}
    assert count_overlaps(keys, splits) == expected
    assert sum(expected.values()) > 0


def test_no_overlap():
    keys = np.arange(100, dtype=np.uint64)
    assert count_overlaps(keys, split(np.zeros(100), task="regression")) == {"dev": 0, "test": 0}
    empty = np.empty(0, dtype=np.int32)
    assert count_overlaps(keys, Splits(np.arange(100), empty, empty)) == {"dev": 0, "test": 0}
