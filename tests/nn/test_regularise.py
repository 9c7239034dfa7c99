from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import ElasticNet
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.nn import (
    Regularizer,
    add_penalty_gradients,
    build_model,
    build_regularizer,
    elastic_net_penalty,
    l1_penalty,
    l2_penalty,
    limit_norms,
    regularised_weights,
)
from caviar.nn.settings import MLPSettings, RegularizationSettings

STRENGTHS = st.floats(0, 10)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(*lead: int, seed: int = 0) -> list[Tensor]:
    shapes = [(4, 3), (5, 4, 2, 2), (6,)]
    return [torch.randn(*lead, *s, generator=seeded(seed + i), dtype=torch.float64) for i, s in enumerate(shapes)]


def test_biases_and_norms_are_left_alone_and_shared_weights_count_once() -> None:
    model = build_model(MLPSettings(widths=(6, 5), norm="layer", activation="prelu", dropout=0.0), (4,), 3, seeded())
    names = {id(p): name for name, p in model.named_parameters()}
    assert [names[id(p)] for p in regularised_weights(model)] == [
        "hidden.linear1.weight",
        "hidden.linear2.weight",
        "output.weight",
    ]
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert len(regularised_weights(tied)) == 1
    tied[0].weight.requires_grad_(False)
    assert regularised_weights(tied) == []
    layer = nn.LayerNorm((2, 3))  # a norm of two axes
    assert regularised_weights(layer) == []


@given(STRENGTHS, STRENGTHS, st.integers(0, 100))
def test_values_are_the_formula_and_never_negative(l1: float, l2: float, seed: int) -> None:
    parameters = weights(seed=seed)
    flat = torch.cat([p.flatten() for p in parameters]).numpy()
    expected = l1 * np.abs(flat).sum() + 0.5 * l2 * (flat**2).sum()
    value = elastic_net_penalty(parameters, l1, l2)
    assert float(value) == pytest.approx(expected, rel=1e-12)
    assert float(value) >= 0
    assert float(l1_penalty(parameters, l1) + l2_penalty(parameters, l2)) == pytest.approx(expected, rel=1e-12)


@given(STRENGTHS, STRENGTHS, st.integers(0, 100))
def test_added_gradients_are_autograds(l1: float, l2: float, seed: int) -> None:
    parameters = [p.requires_grad_() for p in weights(seed=seed)]
    with torch.no_grad():
        parameters[0][0, 0] = 0.0  # a kink: 0 is the subgradient
    value = elastic_net_penalty(parameters, l1, l2) + sum(0 * p.sum() for p in parameters)
    expected = torch.autograd.grad(value, parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    add_penalty_gradients(parameters, l1, l2)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, 1.0 + gradient, rtol=1e-12, atol=1e-12)


def test_parameters_without_a_gradient_are_skipped() -> None:
    first, second = (p.requires_grad_() for p in weights()[:2])
    first.grad = torch.zeros_like(first)
    add_penalty_gradients([first, second], 0.1, 0.2)
    assert second.grad is None
    assert (first.grad != 0).all()
    add_penalty_gradients([second], 0.1, 0.2)


@pytest.mark.parametrize("both", [True, False])
def test_members_equal_separate_models(both: bool) -> None:
    stacked = [p.requires_grad_() for p in weights(3)]
    l1 = torch.tensor([0.0, 0.1, 2.0])
    l2: Any = torch.tensor([0.3, 0.0, 1.0]) if both else 0.5
    values = elastic_net_penalty(stacked, l1, l2)
    for p in stacked:
        p.grad = torch.zeros_like(p)
    add_penalty_gradients(stacked, l1, l2)
    for i in range(3):
        own = [p[i].detach().clone().requires_grad_() for p in stacked]
        strengths = (float(l1[i]), float(l2[i]) if both else 0.5)
        torch.testing.assert_close(values[i], elastic_net_penalty(own, *strengths), rtol=1e-6, atol=1e-9)
        for p in own:
            p.grad = torch.zeros_like(p)
        add_penalty_gradients(own, *strengths)
        for together, alone in zip(stacked, own, strict=True):
            assert together.grad is not None
            torch.testing.assert_close(together.grad[i], alone.grad, rtol=1e-6, atol=1e-9)


@given(st.floats(0.01, 5), st.integers(0, 100))
def test_limited_norms_are_bounded_and_short_ones_stay(limit: float, seed: int) -> None:
    parameters = weights(seed=seed)
    before = [p.clone() for p in parameters]
    limit_norms(parameters, limit)
    for old, new in zip(before[:2], parameters[:2], strict=True):
        lengths = old.flatten(1).norm(dim=1)
        assert (new.flatten(1).norm(dim=1) <= limit * (1 + 1e-12)).all()
        assert torch.equal(new[lengths <= limit], old[lengths <= limit])
        torch.testing.assert_close(new, torch.renorm(old, 2, 0, limit), rtol=1e-5, atol=1e-6)
    assert torch.equal(before[2], parameters[2])  # a vector has no units
    again = [p.clone() for p in parameters]
    limit_norms(parameters, limit)
    for once, twice in zip(again, parameters, strict=True):
        torch.testing.assert_close(once, twice, rtol=1e-14, atol=0)


def test_norms_of_members_are_limited_one_by_one() -> None:
    stacked = weights(3)
    alone = [[p[i].clone() for p in stacked] for i in range(3)]
    limits = torch.tensor([0.1, 1.0, 100.0], dtype=torch.float64)
    limit_norms(stacked, limits)
    for i in range(3):
        limit_norms(alone[i], float(limits[i]))
        for together, own in zip(stacked, alone[i], strict=True):
            assert torch.equal(together[i], own)


def test_a_zero_weight_stays_zero() -> None:
    zero = torch.zeros(2, 3)
    limit_norms([zero], 1.0)
    assert (zero == 0).all()


def test_descent_with_an_elastic_net_finds_scikit_learns_coefficients() -> None:
    x = torch.randn(80, 5, generator=seeded(), dtype=torch.float64)
    y = x @ torch.tensor([2.0, -1.0, 0.5, 0.0, 0.0], dtype=torch.float64)
    l1, l2 = 0.1, 0.2
    expected = ElasticNet(alpha=l1 + l2, l1_ratio=l1 / (l1 + l2), fit_intercept=False, tol=1e-10).fit(x, y).coef_
    weight = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
    for step in range(4000):
        weight.grad = None
        (0.5 * (x @ weight[0] - y).square().mean()).backward()  # type: ignore[no-untyped-call]
        add_penalty_gradients([weight], l1, l2)
        with torch.no_grad():
            assert weight.grad is not None
            weight -= 0.1 / (1 + step / 100) * weight.grad
    np.testing.assert_allclose(weight.detach()[0].numpy(), expected, atol=3e-3)


def test_a_recipe_builds_what_it_says() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    assert build_regularizer(RegularizationSettings(), model) is None
    built = build_regularizer(RegularizationSettings(l1=0.1, l2=0.2, max_norm=0.5), model)
    assert isinstance(built, Regularizer)
    model(torch.ones(2, 4)).sum().backward()
    before = model[0].weight.grad.clone()
    built.add_gradients()
    weight = model[0].weight.detach()
    torch.testing.assert_close(model[0].weight.grad, before + 0.1 * weight.sign() + 0.2 * weight)
    assert float(built.penalty().detach()) > 0
    built.constrain()
    assert (model[0].weight.norm(dim=1) <= 0.5001).all()
    with pytest.raises(InputError, match="no trainable weight to regularise"):
        build_regularizer(RegularizationSettings(l1=0.1), nn.BatchNorm1d(3))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"l1": -0.1}, "l1 must be at least 0, but -0.1 arrived"),
        ({"l2": torch.tensor([0.1, -1.0, 0.0])}, "l2 must be at least 0, but -1 arrived for member 1"),
        ({"max_norm": 0.0}, "max_norm must be greater than 0"),
        ({"l1": torch.zeros(2)}, "does not fit a tensor"),
        ({"parameters": []}, "no parameters to penalise"),
    ],
)
def test_bad_values_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Regularizer(**({"parameters": weights(3)} | arguments))


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_a_largest_length_out_of_range_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="max_norm must be greater than 0"):
        limit_norms([torch.ones(2, 3)], bad)
