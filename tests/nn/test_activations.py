"""Every fact about an activation, found again by numbers."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.nn import ACTIVATION_FACTS, ACTIVATIONS, Maxout, MaxoutLinear, activation_facts, build_activation
from caviar.nn.activations import pieces_of

NAMES = sorted(ACTIVATIONS)
ELEMENTWISE = [name for name in NAMES if name != "maxout"]


def apply(name: str, z: Tensor) -> Tensor:
    """f(z); for maxout the pieces z and z - 1, of which z wins everywhere."""
    module = build_activation(name).to(z.dtype)
    if name == "maxout":
        z = torch.stack([z, z - 1], dim=-1)
        return module(z).squeeze(-1)  # type: ignore[no-any-return]
    return module(z)  # type: ignore[no-any-return]


def normal_moment(name: str, power: int) -> float:
    """E[f(z)^power] for standard normal z, by Gauss-Hermite on each side of 0 (fine trapezoids: there is a kink)."""
    z = np.linspace(-12, 12, 480_001)
    if name == "maxout":  # density of the larger of two: 2 phi Phi
        from scipy.stats import norm

        values, density = z, 2 * norm.pdf(z) * norm.cdf(z)
    else:
        values = apply(name, torch.tensor(z)).detach().numpy()
        density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return float(np.trapezoid(values**power * density, z))


def test_facts_and_modules_name_the_same_activations() -> None:
    assert set(ACTIVATION_FACTS) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_autograds(name: str) -> None:
    z = torch.tensor([-10.0, 0.0, 10.0], dtype=torch.float64, requires_grad=True)
    apply(name, z).sum().backward()
    assert z.grad is not None
    np.testing.assert_allclose(z.grad.numpy(), ACTIVATION_FACTS[name].gradients, rtol=1e-6, atol=1e-16)


@pytest.mark.parametrize("name", NAMES)
def test_range_and_monotony_hold_on_a_fine_grid(name: str) -> None:
    facts = ACTIVATION_FACTS[name]
    z = torch.linspace(-40, 40, 800_001, dtype=torch.float64)
    values = apply(name, z).detach()
    assert (values.diff() >= 0).all().item() == facts.monotone
    lowest, highest = float(values.min()), float(values.max())
    assert lowest >= facts.low - 1e-9
    assert highest <= facts.high
    if math.isfinite(facts.low):
        assert lowest == pytest.approx(facts.low, abs=1e-9)
    else:
        assert lowest < -0.3
        assert float(apply(name, torch.tensor([-1e6], dtype=torch.float64)).detach()) < -1e3
    if math.isfinite(facts.high):
        assert highest == pytest.approx(facts.high, abs=1e-9)
    else:
        assert highest > 39
    inner = apply(name, torch.linspace(-5, 5, 10_001, dtype=torch.float64)).detach()
    if math.isfinite(facts.low) and not facts.low_reached:
        assert float(inner.min()) > facts.low
    if math.isfinite(facts.high):
        assert float(inner.max()) < facts.high


@pytest.mark.parametrize("name", NAMES)
def test_sides_that_saturate(name: str) -> None:
    z = torch.tensor([-60.0, 60.0], dtype=torch.float64, requires_grad=True)
    apply(name, z).sum().backward()
    assert z.grad is not None
    flat = tuple(side for side, slope in zip(("left", "right"), z.grad.abs().tolist(), strict=True) if slope < 1e-12)
    assert flat == ACTIVATION_FACTS[name].saturates


@pytest.mark.parametrize("name", NAMES)
def test_zero_centred_and_unit_gain_are_moments(name: str) -> None:
    facts = ACTIVATION_FACTS[name]
    assert (abs(normal_moment(name, 1)) < 1e-6) == facts.zero_centred
    assert facts.unit_gain == pytest.approx(1 / math.sqrt(normal_moment(name, 2)), rel=1e-7)
    if name in ("relu", "leaky_relu", "prelu", "selu", "maxout"):
        assert facts.gain == pytest.approx(facts.unit_gain, rel=1e-12)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "prelu"])
def test_he_gains_are_torchs(name: str) -> None:
    slope = {"relu": 0.0, "leaky_relu": 0.01, "prelu": 0.25}[name]
    assert ACTIVATION_FACTS[name].gain == pytest.approx(nn.init.calculate_gain("leaky_relu", slope))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_unit_gain_keeps_the_mean_square_through_a_deep_net(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(50, 1000, generator=generator, dtype=torch.float64)
    for _ in range(3):
        weight = torch.randn(1000, 1000, generator=generator, dtype=torch.float64) / 1000**0.5
        z = ACTIVATION_FACTS[name].unit_gain * apply(name, z).detach() @ weight
        assert float(z.square().mean()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_there(name: str) -> None:
    facts = activation_facts(name)
    assert facts.formula
    assert facts.when
    assert any(character.isdigit() for character in facts.source)


def test_an_unknown_activation_is_offered_its_neighbour() -> None:
    for find in (activation_facts, build_activation):
        with pytest.raises(InputError, match=r"unknown activation 'rellu'. Did you mean 'relu'"):
            find("rellu")


def test_maxout_is_the_largest_piece() -> None:
    x = torch.randn(7, 12)
    expected = x.reshape(7, 4, 3).max(dim=2).values
    assert torch.equal(Maxout(3)(x), expected)
    assert torch.equal(Maxout(3)(x.expand(5, 7, 12)), expected.expand(5, 7, 4))
    pictures = torch.randn(2, 6, 4, 5)
    expected = pictures.reshape(2, 3, 2, 4, 5).max(dim=2).values
    assert torch.equal(Maxout(2, dim=-3)(pictures), expected)
    assert (pieces_of("maxout", 3), pieces_of("relu", 3)) == (3, 1)


def test_a_maxout_layer_with_two_pieces_is_a_hand_written_one() -> None:
    layer = MaxoutLinear(3, 4, pieces=2)
    x = torch.randn(5, 3)
    weight, bias = layer[0].weight, layer[0].bias
    first, second = (x @ weight[i::2].T + bias[i::2] for i in (0, 1))
    torch.testing.assert_close(layer(x), torch.maximum(first, second))


@pytest.mark.parametrize(("pieces", "dim"), [(1, -1), (0, -1), (2, 0)])
def test_maxout_refuses_bad_arguments(pieces: int, dim: int) -> None:
    with pytest.raises(InputError, match="must be"):
        Maxout(pieces, dim)


def test_maxout_refuses_features_it_cannot_share_out() -> None:
    with pytest.raises(InputError, match=r"Maxout\(2\) was given 5 features"):
        Maxout(2)(torch.zeros(3, 5))
