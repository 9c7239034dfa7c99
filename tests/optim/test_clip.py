import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from caviar.core.errors import InputError
from caviar.optim import clip_gradients


def parameters_with_gradients(scale: float) -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (5,), ())]
    for parameter in parameters:
        parameter.grad = scale * torch.randn_like(parameter)
    return parameters


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_the_norm_is_bounded_and_the_direction_kept(scale: float, max_norm: float) -> None:
    parameters = parameters_with_gradients(scale)
    before = torch.cat([p.grad.double().reshape(-1) for p in parameters if p.grad is not None])
    norm = clip_gradients(parameters, max_norm)
    after = torch.cat([p.grad.double().reshape(-1) for p in parameters if p.grad is not None])
    assert float(norm) == pytest.approx(float(before.norm()), rel=1e-5)
    torch.testing.assert_close(after, before * min(1.0, max_norm / (float(before.norm()) + 1e-6)), rtol=1e-5, atol=0)
    assert float(after.norm()) <= max_norm * (1 + 1e-6)


def test_a_nan_gradient_gives_a_nan_norm_and_no_error() -> None:
    parameters = parameters_with_gradients(1.0)
    parameters[0].grad[0, 0] = math.nan  # type: ignore[index]
    assert math.isnan(float(clip_gradients(parameters, 1.0)))


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_a_norm_out_of_range_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="max_norm must be greater than 0"):
        clip_gradients([torch.nn.Parameter(torch.zeros(1))], bad)
