"""Rules that torch lacks, written a second time as their papers print them, parameter by parameter."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from caviar.optim import Optimizer, newton_schulz, rules
from caviar.optim.rules import Rule
from tests.optim.test_rules import give_gradients

Array = NDArray[np.float64]
SHAPES = [(3, 4), (4,), (2, 3, 2)]


def steps(rule: Rule, count: int) -> tuple[list[Array], list[list[Array]], list[Array]]:
    """Return the first weights, the gradients of each step, and the last weights."""
    torch.manual_seed(1)
    params = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in SHAPES]
    first = [p.detach().numpy().copy() for p in params]
    optimizer, gradients = Optimizer(params, rule), []
    for step in range(count):
        give_gradients(params, step)
        gradients.append([p.grad.numpy().copy() for p in params if p.grad is not None])
        optimizer.step()
    return first, gradients, [p.detach().numpy() for p in params]


def lion(w: Array, gradients: list[Array], lr: float, b1: float, b2: float, decay: float) -> Array:
    m = np.zeros_like(w)
    for g in gradients:
        c = b1 * m + (1 - b1) * g
        w = w - lr * (np.sign(c) + decay * w)
        m = b2 * m + (1 - b2) * g
    return w


def adam_without_correction(w: Array, gradients: list[Array], lr: float, b1: float, b2: float, eps: float) -> Array:
    m, v = np.zeros_like(w), np.zeros_like(w)
    for g in gradients:
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        w = w - lr * m / (np.sqrt(v) + eps)
    return w


def radam_step(w: Array, m: Array, v: Array, t: int, lr: float, b1: float, b2: float, eps: float) -> Array:
    longest = 2 / (1 - b2) - 1
    length = longest - 2 * t * b2**t / (1 - b2**t)
    m_hat = m / (1 - b1**t)
    if length <= 5:
        return w - lr * m_hat
    rectified = np.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
    return np.asarray(w - lr * rectified * m_hat * np.sqrt(1 - b2**t) / (np.sqrt(v) + eps))


def ranger(w: Array, gradients: list[Array], lr: float, decay: float, period: int, alpha: float) -> Array:
    b1, b2, eps = 0.95, 0.999, 1e-5
    m, v, slow = np.zeros_like(w), np.zeros_like(w), w.copy()
    for t, g in enumerate(gradients, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        w = radam_step(w - lr * decay * w, m, v, t, lr, b1, b2, eps)
        if t % period == 0:
            slow = slow + alpha * (w - slow)
            w = slow.copy()
    return w


def lookahead_momentum(w: Array, gradients: list[Array], lr: float, mu: float, period: int, alpha: float) -> Array:
    velocity, slow = np.zeros_like(w), w.copy()
    for t, g in enumerate(gradients, start=1):
        velocity = mu * velocity + g
        w = w - lr * velocity
        if t % period == 0:
            slow = slow + alpha * (w - slow)
            w = slow.copy()
    return w


CASES: list[tuple[str, Rule, Callable[[Array, list[Array]], Array]]] = [
    ("lion", rules.lion_rule(0.01, (0.8, 0.95), 0.1), lambda w, g: lion(w, g, 0.01, 0.8, 0.95, 0.1)),
    (
        "adam",
        rules.adam_rule(0.01, bias_correction=False),
        lambda w, g: adam_without_correction(w, g, 0.01, 0.9, 0.999, 1e-8),
    ),
    ("ranger", rules.ranger_rule(0.01, weight_decay=0.1), lambda w, g: ranger(w, g, 0.01, 0.1, 6, 0.5)),
    (
        "lookahead",
        rules.lookahead(rules.sgd_rule(0.01, 0.9), 4, 0.3),
        lambda w, g: lookahead_momentum(w, g, 0.01, 0.9, 4, 0.3),
    ),
]


@pytest.mark.parametrize(("name", "rule", "by_hand"), CASES, ids=[case[0] for case in CASES])
def test_published_formula(name: str, rule: Rule, by_hand: Callable[[Array, list[Array]], Array]) -> None:
    first, gradients, last = steps(rule, 50)
    for index, (w, result) in enumerate(zip(first, last, strict=True)):
        expected = by_hand(w, [each[index] for each in gradients])
        np.testing.assert_allclose(result, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("nesterov", [False, True])
def test_both_forms_of_momentum_are_one_while_the_rate_is_constant(nesterov: bool) -> None:
    outside = steps(rules.sgd_rule(0.02, 0.9, nesterov=nesterov, weight_decay=0.01), 50)[2]
    inside = steps(rules.sgd_rule(0.02, 0.9, nesterov=nesterov, weight_decay=0.01, rate_in_velocity=True), 50)[2]
    for a, b in zip(outside, inside, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_the_forms_of_momentum_part_when_the_rate_changes() -> None:
    results = []
    for inside in (False, True):
        weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
        optimizer = Optimizer([weight], rules.sgd_rule(0.1, 0.5, rate_in_velocity=inside))
        for rate in (0.1, 0.01):
            optimizer.param_groups[0]["lr"] = rate
            weight.grad = torch.ones(1, dtype=torch.float64)
            optimizer.step()
        results.append(float(weight.detach()))
    assert results == pytest.approx([1 - 0.1 - 0.01 * 1.5, 1 - 0.1 - (0.5 * 0.1 + 0.01)], rel=1e-12)


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6), (3, 10, 4)])
def test_newton_schulz_brings_singular_values_near_one_and_keeps_directions(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape, dtype=torch.float64)
    result = newton_schulz(matrices)
    values = torch.linalg.svdvals(result)
    assert float(values.min()) > 0.3  # those that begin far below the largest are still on their way up
    assert float(values.max()) < 1.25
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    middle = left.mT @ result @ right.mT
    off = middle - torch.diag_embed(torch.diagonal(middle, dim1=-2, dim2=-1))
    assert float(off.abs().max()) < 1e-10
    torch.testing.assert_close(newton_schulz(1e3 * matrices), result)
    assert torch.equal(newton_schulz(torch.zeros(shape)), torch.zeros(shape))


def test_newton_schulz_follows_its_polynomial() -> None:
    a, b, c = 3.4445, -4.7750, 2.0315
    values = np.array([0.9, 0.5, 0.1])
    x = values / np.linalg.norm(values)
    for _ in range(5):
        x = a * x + b * x**3 + c * x**5
    result = newton_schulz(torch.diag(torch.tensor(values)))
    np.testing.assert_allclose(torch.diagonal(result).numpy(), x, rtol=1e-10)


def test_muon_sees_a_convolution_as_a_matrix() -> None:
    torch.manual_seed(0)
    kernel = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    flat = kernel.detach().reshape(4, 12).clone().requires_grad_()
    for weight in (kernel, flat):
        weight.grad = torch.arange(48, dtype=torch.float64).sin().reshape(weight.shape)
        Optimizer([weight], rules.muon_rule(0.1)).step()
    assert torch.equal(kernel.detach().reshape(4, 12), flat.detach())
