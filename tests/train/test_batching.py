import pytest
from hypothesis import given
from hypothesis import strategies as st

from caviar.core.errors import InputError
from caviar.train.batching import batch_bounds


@given(st.integers(2, 500), st.integers(2, 60), st.booleans())
def test_bounds_cover_every_row_once(rows: int, size: int, merge: bool) -> None:
    size = min(size, rows)
    bounds = batch_bounds(rows, size, merge_single=merge)
    assert [row for start, end in bounds for row in range(start, end)] == list(range(rows))
    assert all(end - start == size for start, end in bounds[:-1] if not merge or rows % size != 1)
    if merge:
        assert min(end - start for start, end in bounds) >= 2


def test_last_batch_of_one_joins_the_one_before() -> None:
    assert batch_bounds(21, 10, merge_single=True) == [(0, 10), (10, 21)]
    assert batch_bounds(21, 10, merge_single=False) == [(0, 10), (10, 20), (20, 21)]


def test_too_large_batch_names_both_numbers() -> None:
    with pytest.raises(InputError, match=r"batch_size is 50, but there are only 20 training examples"):
        batch_bounds(20, 50, merge_single=False)


def test_batch_of_one_with_batch_norm() -> None:
    with pytest.raises(InputError, match="batch norm"):
        batch_bounds(20, 1, merge_single=True)
    assert len(batch_bounds(20, 1, merge_single=False)) == 20
