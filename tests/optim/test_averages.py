"""Running averages against NumPy, pandas' definition, and torch's swa_utils."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel as TorchAverage
from torch.optim.swa_utils import get_ema_multi_avg_fn

from caviar.core.errors import InputError
from caviar.optim import AveragedModel, RunningAverage, ewma, stochastic_weight_average


def test_series_equal_pandas() -> None:
    values = np.random.default_rng(0).normal(size=50)
    for beta in (0.0, 0.5, 0.9, 0.999):
        expected = pd.Series(values).ewm(alpha=1 - beta, adjust=True).mean()
        np.testing.assert_allclose(ewma(values.tolist(), beta), expected, rtol=1e-10)


def test_without_correction_it_begins_near_zero() -> None:
    assert ewma([1.0, 1.0, 1.0], 0.9, bias_correction=False) == pytest.approx([0.1, 0.19, 0.271])
    assert ewma([], 0.9) == []
    assert math.isnan(RunningAverage().value)  # type: ignore[arg-type]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(0.0, 0.999))
def test_an_average_stays_between_the_values(values: list[float], beta: float) -> None:
    last = ewma(values, beta)[-1]
    slack = 1e-9 * max(map(abs, values))
    assert min(values) - slack <= last <= max(values) + slack


def test_members_have_betas_of_their_own() -> None:
    betas = torch.tensor([0.5, 0.9], dtype=torch.float64)
    series = torch.randn(20, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = RunningAverage(betas)
    alone = [RunningAverage(float(beta)) for beta in betas]
    for value in series:
        result = together.update(value)
        assert isinstance(result, Tensor)
        for member, average in enumerate(alone):
            torch.testing.assert_close(result[member], average.update(value[member]), rtol=1e-12, atol=0)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


def disturb(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype))
            else:
                tensor.add_(1)


@pytest.mark.parametrize("decay", [None, 0.9])
def test_averaged_weights_equal_torch(decay: float | None) -> None:
    model = net()
    function = None if decay is None else get_ema_multi_avg_fn(decay)
    ours, theirs = AveragedModel(model, decay), TorchAverage(model, multi_avg_fn=function, use_buffers=True)
    if decay is not None:
        theirs.update_parameters(model)  # torch's first update copies; ours averages from the first weights on
    for seed in range(6):
        disturb(model, seed)
        ours.update(model)
        theirs.update_parameters(model)
    for name, tensor in ours.model.named_parameters():
        torch.testing.assert_close(tensor, theirs.module.get_parameter(name), rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.model[1].running_var, theirs.module[1].running_var, rtol=1e-12, atol=0)  # type: ignore[index]
    assert int(ours.model[1].num_batches_tracked) == 6  # type: ignore[index]


def test_buffers_may_be_copied_and_decay_may_warm_up() -> None:
    model = net()
    copied, warm = AveragedModel(model, 0.9, average_buffers=False), AveragedModel(model, 0.9, warm_up=True)
    start = model[0].weight.detach().clone()
    disturb(model, 0)
    copied.update(model)
    warm.update(model)
    assert torch.equal(copied.model[1].running_mean, model[1].running_mean)  # type: ignore[index]
    torch.testing.assert_close(warm.model[0].weight, 0.1 * start + 0.9 * model[0].weight.detach())  # type: ignore[index]


def test_members_decay_by_themselves() -> None:
    decay = torch.tensor([0.5, 0.9], dtype=torch.float64)
    stacked = nn.Module()
    stacked.weight = nn.Parameter(torch.ones(2, 3, dtype=torch.float64))
    average = AveragedModel(stacked, decay)
    with torch.no_grad():
        stacked.weight.fill_(2.0)
    average.update(stacked)
    assert average.model.weight.flatten().tolist() == pytest.approx([1.5] * 3 + [1.1] * 3)


def test_state_goes_on_and_the_model_is_left_alone() -> None:
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    average = AveragedModel(model, None)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    for seed in range(3):
        disturb(model, seed)
        average.update(model)
    resumed = AveragedModel(net(), None)
    resumed.load({name: tensor.clone() for name, tensor in average.state().items()})
    disturb(model, 9)
    for each in (average, resumed):
        each.update(model)
    first, second = average.state(), resumed.state()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(parameter.requires_grad for parameter in average.model.parameters())


def test_snapshots_are_averaged_and_recalibrated() -> None:
    model, snapshots = net(), []
    for seed in range(3):
        disturb(model, seed)
        snapshots.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    called = []
    mean = stochastic_weight_average(model, snapshots, called.append)
    expected = torch.stack([snapshot["0.weight"] for snapshot in snapshots]).mean(0)
    torch.testing.assert_close(mean.state_dict()["0.weight"], expected)
    assert called == [mean]
    with pytest.raises(InputError, match="no weights"):
        stochastic_weight_average(model, [])


def test_bad_values() -> None:
    for beta in (1.0, -0.1, math.nan):
        with pytest.raises(InputError, match="beta"):
            RunningAverage(beta)
        with pytest.raises(InputError, match="decay"):
            AveragedModel(nn.Linear(1, 1), beta)
    with pytest.raises(InputError, match="warm_up"):
        AveragedModel(nn.Linear(1, 1), None, warm_up=True)
    with pytest.raises(InputError, match="other weights"):
        AveragedModel(nn.Linear(1, 1)).update(nn.Linear(1, 1, bias=False))
