"""k folds: every row judged once, classes and groups kept; witnesses from scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, StratifiedKFold

from caviar.core.errors import InputError
from caviar.data.folds import make_folds

RNG = np.random.default_rng(0)


def assert_folds(folds, num_rows):
    assert np.array_equal(np.sort(np.concatenate([dev for _, dev in folds])), np.arange(num_rows))
    for train, dev in folds:
        assert np.array_equal(np.union1d(train, dev), np.arange(num_rows))
        assert len(train) + len(dev) == num_rows
        assert np.all(np.diff(train) > 0)


@settings(max_examples=60, deadline=None)
@given(num_rows=st.integers(2, 80), data=st.data(), seed=st.integers(0, 2**40))
def test_folds_are_complete_even_and_repeatable(num_rows, data, seed):
    k = data.draw(st.integers(2, num_rows))
    folds = make_folds(num_rows, k, seed)
    assert len(folds) == k
    assert_folds(folds, num_rows)
    assert {len(dev) for _, dev in folds} <= {num_rows // k, num_rows // k + 1}
    again = make_folds(num_rows, k, seed)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(folds, again, strict=True))


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(2, 30), min_size=2, max_size=6), k=st.integers(2, 4), seed=st.integers(0, 2**40))
def test_stratified_folds_hold_each_class(counts, k, seed):
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    folds = make_folds(len(y), k, seed, stratify=y)
    assert_folds(folds, len(y))
    table = np.array([np.bincount(y[dev], minlength=len(counts)) for _, dev in folds])
    assert np.all(np.ptp(table, axis=0) <= 1)
    assert np.ptp(table.sum(axis=1)) <= 1
    assert all(set(y[train]) == set(y) for train, _ in folds)


def test_stratified_counts_equal_those_of_scikit_learn():
    y = RNG.choice(4, size=1003, p=[0.6, 0.25, 0.1, 0.05])
    ours = sorted(tuple(np.bincount(y[dev])) for _, dev in make_folds(1003, 5, 0, stratify=y))
    theirs = sorted(tuple(np.bincount(y[dev])) for _, dev in StratifiedKFold(5).split(y, y))
    assert np.abs(np.array(ours) - np.array(theirs)).max() <= 1


def test_group_folds_are_as_even_as_those_of_scikit_learn():
    groups = RNG.choice(40, size=2000, p=RNG.dirichlet(np.ones(40)))
    folds = make_folds(2000, 5, 0, groups=groups)
    assert_folds(folds, 2000)
    for train, dev in folds:
        assert not set(groups[train]) & set(groups[dev])
    ours = sorted(len(dev) for _, dev in folds)
    theirs = sorted(len(dev) for _, dev in GroupKFold(5).split(groups, groups=groups))
    assert ours == theirs


def test_seeds_differ():
    assert not np.array_equal(make_folds(50, 5, 0)[0][1], make_folds(50, 5, 1)[0][1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_rows": 5, "k": 1}, "choose from 2 to 5"),
        ({"num_rows": 5, "k": 6}, "choose from 2 to 5"),
        ({"num_rows": 4, "k": 3, "groups": np.array([0, 0, 1, 1])}, "3 folds of 2 groups"),
        ({"num_rows": 5, "k": 2, "stratify": np.array([0, 0, 1, 2, 2])}, "class number 1 has a single row"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        make_folds(**arguments, seed=0)
