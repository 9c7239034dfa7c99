import copy
import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.nn import (
    ACTIVATION_FACTS,
    INITIALISERS,
    activation_statistics,
    adapt_model,
    build_model,
    data_dependent,
    initialise,
    lsuv,
    resolve_init,
    zero_residual_ends,
)
from caviar.nn.initialise import BASES, gain_for
from caviar.nn.settings import ConvNetSettings, InitName, MLPSettings


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def net(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    hidden = [module for _ in range(3) for module in (nn.Linear(200, 200), activation())]
    return nn.Sequential(*hidden, nn.Linear(200, 10))


def test_every_initialiser_can_be_named_in_a_recipe() -> None:
    assert set(get_args(InitName)) == {"auto", *INITIALISERS, *BASES}


def test_auto_follows_the_activation_behind_each_layer() -> None:
    model = nn.Sequential(
        nn.Linear(300, 400), nn.BatchNorm1d(400), nn.ReLU(), nn.Linear(400, 300), nn.Tanh(), nn.Linear(300, 200),
        nn.SELU(), nn.Linear(200, 5),
    )  # fmt: skip
    initialise(model, generator=seeded())
    stds = [float(layer.weight.detach().std()) for layer in model if isinstance(layer, nn.Linear)]
    expected = [(2 / 300) ** 0.5, (2 / 700) ** 0.5, 200**-0.5 * (2 / 3) ** 0.5, 0.1 * 200**-0.5]
    assert stds == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("name", sorted(ACTIVATION_FACTS))
def test_networks_of_ours_start_with_the_recommended_initialiser(name: Any) -> None:
    facts = ACTIVATION_FACTS[name]
    settings = MLPSettings(widths=(300,), activation=name, dropout=0.0, norm="none")
    weight = build_model(settings, (400,), 2, seeded()).get_parameter("hidden.linear1.weight").detach()
    fan = (400 + len(weight)) / 2 if facts.initialiser == "xavier" else 400
    assert float(weight.std()) == pytest.approx(facts.gain * fan**-0.5, rel=0.02)


@pytest.mark.parametrize("name", sorted(set(get_args(InitName)) - {"auto"}))
@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_recipes_choose_the_initialiser(name: Any, kind: str) -> None:
    shape = (12,) if kind == "mlp" else (3, 8, 8)
    settings: Any = (
        MLPSettings(widths=(6, 5), dropout=0.0, init=name)
        if kind == "mlp"
        else ConvNetSettings(channels=(4,), init=name)
    )
    model = build_model(settings, shape, 3, seeded(4))
    adapt_model(settings, model, torch.randn(20, *shape, generator=seeded(1)))
    assert all(p.isfinite().all() for p in model.parameters())
    assert model(torch.randn(4, *shape, generator=seeded(1))).isfinite().all()
    resolved = settings.model_copy(update=resolve_init(settings))
    assert "auto" not in (resolved.init, resolved.init_gain, resolved.init_fan_mode, resolved.init_distribution)
    again = build_model(type(settings).model_validate(resolved.model_dump()), shape, 3, seeded(4))
    adapt_model(resolved, again, torch.randn(20, *shape, generator=seeded(1)))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_gain_fan_mode_and_distribution_reach_the_weights() -> None:
    settings = MLPSettings(
        widths=(300,), dropout=0.0, init="he", init_gain=3.0, init_fan_mode="fan_out", init_distribution="uniform"
    )
    weight = build_model(settings, (100,), 2, seeded()).get_parameter("hidden.linear1.weight").detach()
    assert float(weight.std()) == pytest.approx(3 / 300**0.5, rel=0.02)
    assert float(weight.abs().max()) <= math.sqrt(3) * 3 / 300**0.5
    assert gain_for("normal", "relu") == 0.05
    assert gain_for("he", "relu") == pytest.approx(math.sqrt(2))


def test_zeros_leave_all_units_equal() -> None:
    model = net()
    initialise(model, "zeros", generator=seeded())
    assert all((p == 0).all() for p in model.parameters())


def test_unknown_names_and_missing_data_are_refused() -> None:
    with pytest.raises(InputError, match=r"unknown initialiser 'xaviar'. Did you mean 'xavier'"):
        initialise(net(), "xaviar", generator=seeded())
    with pytest.raises(InputError, match="'lsuv' looks at data"):
        initialise(net(), "lsuv", generator=seeded())


# Data.


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_data_dependent_units_have_mean_0_and_std_1(kind: str) -> None:
    if kind == "linear":
        model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
        batch = 3 + 5 * torch.randn(50, 20, generator=seeded())
    else:
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3, groups=1), nn.ReLU(inplace=True), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Tanh(),
            nn.Conv2d(6, 4, 1, groups=2),
        )  # fmt: skip
        batch = 3 + 5 * torch.randn(12, 3, 6, 6, generator=seeded())
    state = torch.get_rng_state()
    data_dependent(model, batch, gain=1.5)
    assert torch.equal(state, torch.get_rng_state())
    x = batch
    for layer in model.eval():
        x = layer(x)
        if hasattr(layer, "weight"):
            flat = x.detach().movedim(1, 0).flatten(1).clone()
            torch.testing.assert_close(flat.mean(1), torch.zeros(len(flat)), atol=1e-4, rtol=0)
            torch.testing.assert_close(flat.std(1, correction=0), torch.full((len(flat),), 1.5), atol=1e-4, rtol=0)


def test_data_dependent_survives_dead_units_and_missing_biases() -> None:
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2))
    nn.init.zeros_(model[0].weight)
    before = model[2].weight.detach().clone()
    data_dependent(model, torch.randn(10, 4))
    assert (model[0].weight == 0).all()
    assert torch.equal(model[2].weight, before)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.SiLU])
def test_lsuv_gives_every_layer_variance_1(activation: type[nn.Module]) -> None:
    model = net(activation)
    batch = 7 * torch.randn(100, 200, generator=seeded())
    initialise(model, "lsuv", generator=seeded(), batch=batch, output_gain=None)
    found = [s for s in activation_statistics(model, batch) if s.kind == "Linear"]
    assert [s.std for s in found] == pytest.approx([1.0] * 4, rel=1e-3)
    weight = model[0].weight.detach()
    gram = weight @ weight.T
    torch.testing.assert_close(gram / gram[0, 0], torch.eye(200), atol=1e-4, rtol=0)
    initialise(model, "lsuv", generator=seeded(), batch=batch)
    assert float(model(batch).detach().std()) < 0.3  # the output layer starts small


@pytest.mark.parametrize("adapt", [data_dependent, lsuv])
def test_adapting_leaves_buffers_modes_and_named_layers(adapt: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)).train()
    before = copy.deepcopy(model)
    adapt(model, torch.randn(9, 4), leave=model[3])
    assert model.training
    assert torch.equal(model[3].weight, before[3].weight)
    assert not torch.equal(model[0].weight, before[0].weight)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before.get_buffer(name))
    with pytest.raises(InputError, match="a batch of 1 inputs"):
        adapt(model, torch.randn(1, 4))
    with pytest.raises(InputError, match="gain must be greater than 0"):
        adapt(model, torch.randn(3, 4), gain=0.0)


# Statistics.


def test_statistics_of_known_activations() -> None:
    model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(inplace=True), nn.Linear(4, 1), nn.Sigmoid()).train()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        model[2].weight.copy_(torch.tensor([[10.0, 0.0, 0.0, 0.0]]))
        model[2].bias.zero_()
    batch = torch.tensor([[1.0, -1.0], [2.0, 1.0], [3.0, -1.0], [0.1, -1.0]])
    first, relu, _, sigmoid = activation_statistics(model, batch)
    assert (first.name, first.kind, relu.name) == ("0", "Linear", "1")
    z = batch @ model[0].weight.detach().T
    assert first.mean == pytest.approx(float(z.mean()))
    assert first.std == pytest.approx(float(z.std(correction=0)))
    assert first.saturated is None
    assert first.dead == 0.25  # the last unit is 0 always
    assert relu.mean == pytest.approx(float(z.clamp_min(0).mean()))
    assert relu.dead == 0.5
    assert relu.saturated == pytest.approx(float((z <= 0).float().mean()))
    assert sigmoid.saturated == 0.75  # 10, 20, 30 against 1
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_statistics_of_channels_and_deep_nets() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1, 1))
        model[0].bias.zero_()
    found = activation_statistics(model, torch.rand(5, 1, 4, 4))
    assert found[1].dead == pytest.approx(2 / 3)
    deep = nn.Sequential(*[module for _ in range(10) for module in (nn.Linear(100, 100), nn.Tanh())])
    batch = torch.randn(50, 100, generator=seeded())
    fades, stays = [], []
    for name, into in (("small_normal", fades), ("xavier", stays)):
        initialise(deep, name, generator=seeded(), output_gain=None)
        into += [s.std for s in activation_statistics(deep, batch) if s.kind == "Tanh"]
    assert fades[-1] < 1e-8
    assert stays[-1] > 0.1


# Residual ends.


class Block(nn.Module):
    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        out += self.shortcut(x)
        return torch.relu(out)


def test_residual_blocks_start_as_the_identity() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Block(4, 4), Block(4, 6))
    assert zero_residual_ends(model) == ["1.bn2", "2.bn2"]
    x = torch.rand(2, 4, 5, 5)
    assert torch.equal(model[1](x), x)
    torch.testing.assert_close(model[2](x), torch.relu(model[2].shortcut(x)))


def test_residual_ends_can_be_named_or_are_missed() -> None:
    assert zero_residual_ends(nn.Sequential(nn.Linear(2, 2)), ["0"]) == ["0"]
    with pytest.raises(InputError, match="adds no two signals"):
        zero_residual_ends(nn.Linear(2, 2))
    with pytest.raises(InputError, match="has no layer 'x'"):
        zero_residual_ends(nn.Linear(2, 2), ["x"])


def test_a_batch_that_says_nothing_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    before = [p.detach().clone() for p in model.parameters()]
    for scale in (lsuv, data_dependent):
        with pytest.raises(InputError, match="layer '0' gives outputs on the batch that are not finite"):
            scale(model, torch.full((4, 3), float("nan")))
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    with pytest.raises(InputError, match="the batch is empty"):
        activation_statistics(model, torch.zeros(0, 3))
    with pytest.raises(InputError, match=r"layer '0' \(Linear\), given \(4, 5\), raised"):
        activation_statistics(model, torch.zeros(4, 5))
