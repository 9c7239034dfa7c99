import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.metrics import log_loss, mean_squared_error

from caviar.core.columns import Task
from caviar.core.errors import InputError
from caviar.nn import build_loss, huber
from caviar.nn import mean_squared_error as squared_error
from caviar.nn.settings import (
    AutoLossSettings,
    CrossEntropySettings,
    LossSettings,
    MeanSquaredErrorSettings,
)


@given(st.integers(2, 7), st.integers(1, 20), st.floats(0, 0.9), st.integers(0, 1000))
def test_cross_entropy_matches_scipy(classes: int, batch: int, smoothing: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits, targets = random.normal(scale=5, size=(batch, classes)), random.integers(classes, size=batch)
    wanted = np.full((batch, classes), smoothing / classes)
    wanted[np.arange(batch), targets] += 1 - smoothing
    expected = -(wanted * log_softmax(logits, axis=1)).sum(axis=1)
    settings = AutoLossSettings(label_smoothing=smoothing)
    arguments = torch.tensor(logits), torch.tensor(targets)
    one_by_one = build_loss(settings, "classification", "none")(*arguments)
    np.testing.assert_allclose(one_by_one.numpy(), expected, rtol=1e-10, atol=1e-12)
    mean = build_loss(settings, "classification")(*arguments)
    assert float(mean) == pytest.approx(expected.mean(), rel=1e-10)


def test_cross_entropy_matches_scikit_learn() -> None:
    logits = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(50) % 4
    expected = log_loss(targets.numpy(), torch.softmax(logits, 1).numpy())
    assert float(build_loss(AutoLossSettings(), "classification")(logits, targets)) == pytest.approx(
        expected, rel=1e-10
    )


def test_huge_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    loss = build_loss(CrossEntropySettings(), "classification", "none")(logits, torch.tensor([0, 0]))
    assert loss.tolist() == [0.0, 2e4]


@pytest.mark.parametrize("shape", [(20,), (20, 1)])
def test_mean_squared_error_matches_scikit_learn(shape: tuple[int, ...]) -> None:
    outputs = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = mean_squared_error(targets.numpy(), outputs.reshape(20).numpy())
    assert float(build_loss(AutoLossSettings(), "regression")(outputs, targets)) == pytest.approx(expected, rel=1e-12)
    one_by_one = build_loss(AutoLossSettings(), "regression", "none")(outputs, targets)
    torch.testing.assert_close(one_by_one, (outputs.reshape(20) - targets) ** 2, rtol=1e-12, atol=0)


def test_half_precision_outputs_are_summed_in_float32() -> None:
    logits, targets = torch.randn(64, 10).to(torch.bfloat16), torch.arange(64) % 10
    loss = build_loss(AutoLossSettings(), "classification")(logits, targets)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, torch.nn.functional.cross_entropy(logits.float(), targets))
    values = build_loss(AutoLossSettings(), "regression")(logits[:, 0], torch.zeros(64))
    assert values.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "task", "words"),
    [
        (MeanSquaredErrorSettings(), "classification", "'mean_squared_error'.*'cross_entropy'"),
        (CrossEntropySettings(), "regression", "'cross_entropy'.*'mean_squared_error'"),
        (AutoLossSettings(label_smoothing=0.1), "regression", "label_smoothing = 0.1"),
    ],
)
def test_a_loss_that_does_not_fit_is_refused(settings: LossSettings, task: Task, words: str) -> None:
    with pytest.raises(InputError, match=words):
        build_loss(settings, task)


def test_a_wrong_number_of_outputs_is_an_error_not_a_broadcast() -> None:
    with pytest.raises(InputError, match=r"outputs of shape \(4, 3\) and targets of shape \(4,\) do not fit"):
        build_loss(AutoLossSettings(), "regression")(torch.zeros(4, 3), torch.zeros(4))
    assert math.isfinite(float(build_loss(AutoLossSettings(), "regression")(torch.zeros(4, 1), torch.zeros(4))))


def test_a_single_member_has_a_loss_of_its_own() -> None:
    outputs, targets = torch.randn(1, 5, 1), torch.randn(5)
    for loss in (squared_error, huber):
        assert loss(outputs, targets).shape == (1,)
        torch.testing.assert_close(loss(outputs, targets)[0], loss(outputs[0], targets))
