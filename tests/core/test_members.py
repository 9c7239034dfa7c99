import math

import pytest
import torch

from caviar.core.errors import InputError
from caviar.core.members import cast_over_members, check_range, is_per_member, over_members


def test_a_number_stays_and_members_get_axes() -> None:
    like = torch.zeros(3, 4, 5)
    assert over_members(0.5, like) == 0.5
    assert over_members(torch.tensor(0.5), like).shape == ()  # type: ignore[union-attr]
    value = torch.tensor([1.0, 2.0, 3.0])
    wide = over_members(value, like)
    assert isinstance(wide, torch.Tensor)
    assert wide.shape == (3, 1, 1)
    assert torch.equal((torch.ones(3, 4, 5) * wide)[:, 0, 0], value)
    assert [is_per_member(v) for v in (1.0, torch.tensor(1.0), value)] == [False, False, True]


def test_a_cast_value_widens_nothing() -> None:
    like = torch.zeros(3, 4, dtype=torch.bfloat16)
    wide = cast_over_members(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), like)
    assert (like * wide).dtype == torch.bfloat16
    assert cast_over_members(0.5, like) == 0.5


@pytest.mark.parametrize("value", [torch.zeros(2), torch.zeros(3, 1)])
def test_another_number_of_members_is_refused(value: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"does not fit a tensor of shape \(3, 4\)"):
        over_members(value, torch.zeros(3, 4))


def test_ranges_name_the_argument_the_value_and_the_rule() -> None:
    check_range("rate", 0.0, least=0, below=1)
    check_range("rate", torch.tensor([0.0, 0.5]), least=0, below=1)
    with pytest.raises(InputError, match="rate must be at least 0 and below 1, but 1 arrived"):
        check_range("rate", 1.0, least=0, below=1)
    with pytest.raises(InputError, match="rate must be greater than 0 and at most 2, but 3 arrived for member 1"):
        check_range("rate", torch.tensor([1.0, 3.0]), above=0, most=2)
    with pytest.raises(InputError, match="rate must be a finite number, but nan arrived"):
        check_range("rate", math.nan)
    with pytest.raises(InputError, match="shape"):
        check_range("rate", torch.zeros(2, 2), least=0)
