"""Groups of equals."""

from hypothesis import given
from hypothesis import strategies as st

from caviar.core.partition import partition


@given(st.lists(st.integers(0, 5), max_size=40))
def test_a_partition_is_one(keys: list[int]) -> None:
    """Disjoint, complete, equal within and unequal between, in order: the witness is a quadratic search."""
    groups = partition(keys)
    assert sorted(place for group in groups for place in group) == list(range(len(keys)))
    assert all(list(group) == sorted(group) and group for group in groups)
    assert [group[0] for group in groups] == sorted(group[0] for group in groups)
    for place, key in enumerate(keys):
        (own,) = [group for group in groups if place in group]
        assert own == tuple(other for other, its in enumerate(keys) if its == key)


@given(st.lists(st.integers(0, 5), max_size=20), st.integers(0, 5))
def test_a_later_member_moves_nobody(keys: list[int], key: int) -> None:
    before, after = partition(keys), partition([*keys, key])
    kept = [tuple(place for place in group if place < len(keys)) for group in after]
    assert tuple(group for group in kept if group) == before


def test_keys_are_looked_up_once() -> None:
    assert partition(iter("abcab")) == ((0, 3), (1, 4), (2,))
    assert partition(()) == ()
