import math
import warnings
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from caviar.optim import build_schedule
from caviar.optim.settings import ConstantSettings, CosineSettings

rates = st.floats(1e-8, 10.0)
shares = st.floats(0.0, 1.0)
lengths = st.integers(1, 10_000)


@given(rates, lengths, st.integers(0, 20_000))
def test_constant(learning_rate: float, total_steps: int, step: int) -> None:
    assert build_schedule(ConstantSettings(), learning_rate, total_steps)(step) == learning_rate


@pytest.mark.parametrize(("total_steps", "final"), [(2, 0.0), (7, 0.0), (100, 0.25), (51, 1.0)])
def test_cosine_matches_torch_and_the_closed_form(total_steps: int, final: float) -> None:
    learning_rate = 0.3
    schedule = build_schedule(CosineSettings(final=final), learning_rate, total_steps)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=learning_rate)
    witness = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total_steps - 1, eta_min=final * learning_rate)
    for step in range(total_steps):
        angle = math.pi * step / (total_steps - 1)
        lowest = final * learning_rate
        assert schedule(step) == pytest.approx(lowest + (learning_rate - lowest) * (1 + math.cos(angle)) / 2, abs=1e-15)
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            witness.step()


@given(rates, lengths, shares)
def test_cosine_starts_and_ends_where_it_says_and_never_rises(learning_rate: float, total: int, final: float) -> None:
    schedule = build_schedule(CosineSettings(final=final), learning_rate, total)
    assert schedule(0) == pytest.approx(learning_rate, rel=1e-12)
    if total > 1:
        assert schedule(total - 1) == learning_rate * final
        assert schedule(total + 5) == learning_rate * final
    sample = [schedule(step) for step in range(0, total, max(1, total // 50))]
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(sample))


def test_no_steps_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        build_schedule(ConstantSettings(), 0.1, 0)
