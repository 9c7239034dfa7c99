import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from caviar.core.seeds import MAX_SEED, derive_seed, epoch_order, generator_for

SEEDS = st.integers(-(2**63), 2**64)
NAMES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6) | st.integers(0, 99).map(str), max_size=3
)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0,), 300_471_914_551_172_981),
        ((0, "order", 1), 6_317_286_645_360_323_213),
        ((0, "order", 2), 984_832_648_118_427_640),
        ((123, "init"), 4_733_098_272_031_007_123),
        ((-1, "split"), 8_513_801_223_808_122_882),
    ],
)
def test_streams_never_change(arguments: tuple[int, ...], expected: int) -> None:
    """Frozen: another value here would change the result of every stored recipe."""
    assert derive_seed(*arguments) == expected


@given(SEEDS, NAMES)
def test_derived_seeds_fit_torch(seed: int, names: list[str]) -> None:
    derived = derive_seed(seed, *names)
    assert 0 <= derived <= MAX_SEED
    assert generator_for(seed, *names).initial_seed() == derived


@given(st.tuples(SEEDS, NAMES), st.tuples(SEEDS, NAMES))
def test_different_arguments_give_different_streams(one: tuple[int, list[str]], two: tuple[int, list[str]]) -> None:
    same = (one[0], *one[1]) == (two[0], *two[1])
    assert (derive_seed(one[0], *one[1]) == derive_seed(two[0], *two[1])) == same


def test_names_are_kept_apart() -> None:
    assert len({derive_seed(0, "a", "b"), derive_seed(0, "a/b"), derive_seed(0, "ab"), derive_seed(0, "b", "a")}) == 4


def test_a_generator_depends_on_nothing_that_ran_before() -> None:
    before = torch.rand(5, generator=generator_for(7, "noise"))
    torch.rand(100)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    assert torch.equal(torch.rand(5, generator=generator_for(7, "noise")), before)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was touched"


@given(st.integers(0, 2**40), st.integers(0, 1000), st.integers(0, 300))
def test_an_order_is_a_permutation_of_seed_and_epoch_only(seed: int, epoch: int, num_rows: int) -> None:
    order = epoch_order(seed, epoch, num_rows)
    assert sorted(order.tolist()) == list(range(num_rows))
    torch.rand(1)
    assert torch.equal(epoch_order(seed, epoch, num_rows), order)


def test_each_epoch_and_each_seed_has_an_order_of_its_own() -> None:
    orders = {tuple(epoch_order(seed, epoch, 50).tolist()) for seed in range(5) for epoch in range(20)}
    assert len(orders) == 100


def test_every_row_is_as_likely_in_every_place() -> None:
    """1,000 orders of 10 rows: each row stands about 100 times in each place (6 standard deviations allowed)."""
    counts = torch.zeros(10, 10)
    for epoch in range(1000):
        counts[torch.arange(10), epoch_order(1, epoch, 10).long()] += 1
    assert (counts - 100).abs().max() < 6 * (1000 * 0.1 * 0.9) ** 0.5


def test_an_order_takes_four_bytes_a_row() -> None:
    assert epoch_order(0, 1, 10).dtype == torch.int32
