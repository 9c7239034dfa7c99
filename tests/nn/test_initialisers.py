import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import digamma
from scipy.stats import binom, kstest
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.nn import INITIALISERS, fan_in_and_fan_out
from caviar.nn.initialisers import constant, he, identity, lecun, orthogonal, random_walk, small_normal, uniform, xavier

RANDOM = sorted(set(INITIALISERS) - {"zeros", "constant", "identity"})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def filled(name: str, *shape: int, seed: int = 0, **options: Any) -> Tensor:
    weight = torch.empty(shape, dtype=torch.float64)
    INITIALISERS[name](weight, generator=seeded(seed), **options)
    return weight


@given(st.integers(1, 20), st.integers(1, 20), st.lists(st.integers(1, 5), max_size=3))
def test_fans_of_a_tensor_are_torchs(rows: int, columns: int, window: list[int]) -> None:
    weight = torch.empty(rows, columns, *window)
    expected = nn.init._calculate_fan_in_and_fan_out(weight)
    assert fan_in_and_fan_out(weight) == expected
    assert fan_in_and_fan_out(weight.expand(3, *weight.shape), members=True) == expected


@pytest.mark.parametrize(
    ("layer", "fans"),
    [
        (nn.Linear(3, 7), (3, 7)),
        (nn.Conv1d(4, 6, 5), (20, 30)),
        (nn.Conv2d(4, 6, (3, 2)), (24, 36)),
        (nn.Conv2d(4, 6, 3, groups=2), (18, 27)),
        (nn.Conv2d(8, 8, 3, groups=8), (9, 9)),
        (nn.ConvTranspose2d(4, 6, 3), (36, 54)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (18, 27)),
    ],
    ids=repr,
)
def test_fans_of_layers_count_connections(layer: Any, fans: tuple[int, int]) -> None:
    assert fan_in_and_fan_out(layer) == fans
    if isinstance(layer, nn.Conv2d):  # inputs that move one output in the middle of a large picture
        x = torch.zeros(1, layer.in_channels, 21, 21, requires_grad=True)
        nn.init.ones_(layer.weight)
        layer(x)[0, 0, 9, 9].backward()
        assert x.grad is not None
        assert int((x.grad != 0).sum()) == fans[0]


def test_what_has_no_fans_is_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(3,\) has no fan"):
        fan_in_and_fan_out(torch.zeros(3))
    with pytest.raises(InputError, match="ReLU has no weight"):
        he(nn.ReLU())


STD = {  # of a weight (60, 30, 3, 2): fan_in 180, fan_out 360
    "small_normal": {"fan_in": 0.01, "fan_out": 0.01, "fan_avg": 0.01},
    "xavier": {"fan_in": 180**-0.5, "fan_out": 360**-0.5, "fan_avg": (2 / 540) ** 0.5},
    "he": {"fan_in": (2 / 180) ** 0.5, "fan_out": (2 / 360) ** 0.5, "fan_avg": (2 / 270) ** 0.5},
    "lecun": {"fan_in": 180**-0.5, "fan_out": 360**-0.5, "fan_avg": 270**-0.5},
    "random_walk": {
        mode: (2 / fan) ** 0.5 * math.exp(1.2 / (fan - 2.4))
        for mode, fan in (("fan_in", 180), ("fan_out", 360), ("fan_avg", 270))
    },
}


@pytest.mark.parametrize("name", STD)
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_draws_have_the_published_distribution(name: str, mode: str, distribution: str) -> None:
    std = STD[name][mode]
    draws = filled(name, 60, 30, 3, 2, fan_mode=mode, distribution=distribution).flatten().numpy()
    arguments = (0, std) if distribution == "normal" else (-math.sqrt(3) * std, 2 * math.sqrt(3) * std)
    assert kstest(draws, "norm" if distribution == "normal" else "uniform", arguments).pvalue > 1e-3
    assert draws.std() == pytest.approx(std, rel=0.03)


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_he_and_xavier_are_torchs_bit_for_bit(mode: str) -> None:
    ours, torchs = torch.empty(2, 8, 5, 3)
    he(ours, generator=seeded(), fan_mode=mode)  # type: ignore[arg-type]
    nn.init.kaiming_normal_(torchs, mode=mode, generator=seeded())
    assert torch.equal(ours, torchs)
    xavier(ours, generator=seeded())
    nn.init.xavier_normal_(torchs, generator=seeded())
    assert torch.equal(ours, torchs)
    xavier(ours, generator=seeded(), distribution="uniform")
    nn.init.xavier_uniform_(torchs, generator=seeded())
    torch.testing.assert_close(ours, torchs, rtol=1e-6, atol=1e-7)
    orthogonal(ours, generator=seeded(), gain=2.0)
    nn.init.orthogonal_(torchs, gain=2.0, generator=seeded())
    assert torch.equal(ours, torchs)
    identity(ours)
    nn.init.dirac_(torchs)
    assert torch.equal(ours, torchs)


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (6, 4, 3, 3)])
def test_orthogonal_weights_are_orthogonal(shape: tuple[int, ...]) -> None:
    flat = filled("orthogonal", *shape, gain=3.0).flatten(1)
    small = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
    torch.testing.assert_close(small, 9 * torch.eye(len(small), dtype=torch.float64), rtol=0, atol=1e-12)


def test_plain_numbers() -> None:
    assert (filled("zeros", 3, 4) == 0).all()
    assert (filled("constant", 3, 4, gain=0.3) == 0.3).all()
    assert filled("normal", 300, 100, gain=2.0).std() == pytest.approx(2.0, rel=0.02)
    spread = filled("uniform", 300, 100, gain=2.0)
    assert float(spread.max()) <= 2.0 < float(spread.max()) + 0.01
    assert float(spread.min()) >= -2.0
    weight = torch.empty(3, 5)
    identity(weight, gain=2.0)
    assert torch.equal(weight, 2 * torch.eye(3, 5))


@pytest.mark.parametrize(("gain", "rectifies"), [(1.0, False), (math.sqrt(2), True)])
@pytest.mark.parametrize("width", [30, 100])
def test_random_walk_has_no_drift(gain: float, rectifies: bool, width: int) -> None:
    """E log of a gradient's squared length through one layer: digamma for a chi-squared number of active units."""
    weight = filled("random_walk", 2000, width, gain=gain)
    log_variance = math.log(float(weight.square().mean()))
    active = np.arange(1, width + 1)
    shares = binom.pmf(active, width, 0.5) if rectifies else (active == width).astype(float)
    drift = log_variance + (shares * (digamma(active / 2) + math.log(2))).sum() / shares.sum()
    assert drift == pytest.approx(0, abs=0.015)
    he_drift = drift - 2 * (1.2 / (width - 2.4) if rectifies else 1 / (2 * width))
    assert he_drift < drift


@pytest.mark.parametrize("name", RANDOM)
def test_draws_follow_the_generator_only(name: str) -> None:
    state = torch.get_rng_state()
    first, again, other = (filled(name, 8, 6, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", INITIALISERS)
def test_members_equal_separate_weights(name: str) -> None:
    gains = torch.tensor([0.5, 1.0, 2.0])
    stacked = torch.empty(3, 8, 6, 2, dtype=torch.float64)
    INITIALISERS[name](stacked, gain=gains, generator=[seeded(i) for i in range(3)])
    for i in range(3):
        assert torch.equal(stacked[i], filled(name, 8, 6, 2, seed=i, gain=float(gains[i])))
    pair = torch.empty(2, 8, 6, 2, dtype=torch.float64)
    INITIALISERS[name](pair, gain=gains[[2, 0]], generator=[seeded(2), seeded(0)])
    assert torch.equal(pair, stacked[[2, 0]])
    INITIALISERS[name](stacked, gain=0.7, generator=[seeded(i) for i in range(3)])
    assert torch.equal(stacked[1], filled(name, 8, 6, 2, seed=1, gain=0.7))


def test_a_layer_is_filled_with_its_bias_at_zero() -> None:
    layer = nn.Conv2d(4, 6, 3, groups=2)
    lecun(layer, generator=seeded())
    assert layer.bias is not None
    assert (layer.bias == 0).all()
    assert layer.weight.detach().std() == pytest.approx(18**-0.5, rel=0.2)
    assert layer.weight.requires_grad


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"gain": math.nan}, "gain must be a finite number, but nan"),
        ({"fan_mode": "fan_inn"}, "unknown fan mode 'fan_inn'. Did you mean 'fan_in'"),
        ({"distribution": "normall"}, "Did you mean 'normal'"),
        ({"gain": torch.ones(2)}, "3 members, but 2 gains and 3 generators"),
        ({"generator": [torch.Generator()]}, "3 members, but 3 gains and 1 generators"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], words: str) -> None:
    for initialiser in (he, uniform, constant, small_normal, random_walk):
        with pytest.raises(InputError, match=words):
            initialiser(torch.empty(3, 4, 5), **arguments)
    with pytest.raises(InputError, match="Give the tensor, not a layer"):
        he(nn.Linear(3, 3), gain=torch.ones(3))
