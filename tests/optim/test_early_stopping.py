"""Early stopping against its definition, and in the middle of a stop."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caviar.core.errors import InputError
from caviar.optim import EarlyStopping, is_better

values = st.one_of(st.floats(-1e3, 1e3), st.just(math.nan))


@given(st.lists(values, max_size=40), st.integers(1, 6), st.booleans(), st.sampled_from([0.0, 0.5]))
def test_it_stops_when_the_best_lies_patience_back(
    metrics: list[float], patience: int, grows: bool, threshold: float
) -> None:
    stopping, best, best_at = EarlyStopping(patience, threshold, grows=grows), math.nan, 0
    for number, metric in enumerate(metrics, start=1):
        sign = 1 if grows else -1
        if not math.isnan(metric) and (math.isnan(best) or sign * metric > sign * best + threshold):
            best, best_at = metric, number
        stops = stopping.observe(metric)
        assert stops == (number - best_at >= patience)
        assert stopping.best_at == best_at
        stopping_again = EarlyStopping(patience, threshold, grows=grows)
        stopping_again.load(json.loads(json.dumps(stopping.state())))
        stopping = stopping_again


def test_better() -> None:
    assert is_better(1.0, 2.0)
    assert not is_better(2.0, 2.0)
    assert is_better(3.0, 2.0, grows=True)
    assert not is_better(2.4, 2.0, grows=True, threshold=0.5)
    assert is_better(0.0, math.nan)
    assert not is_better(math.nan, 0.0)
    assert not is_better(math.nan, math.nan)
    assert is_better(-math.inf, 0.0)


@pytest.mark.parametrize(("patience", "threshold"), [(0, 0.0), (True, 0.0), (1.5, 0.0), (3, -1.0), (3, math.nan)])
def test_bad_arguments(patience: int, threshold: float) -> None:
    with pytest.raises(InputError, match=r"patience is|threshold must be"):
        EarlyStopping(patience, threshold)
