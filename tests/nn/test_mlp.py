import math
from functools import partial
from typing import get_args

import pytest
import torch
from torch import nn

from caviar.core.errors import InputError
from caviar.nn import ACTIVATIONS, MLP, ColumnEmbeddings, build_model, embedding_size
from caviar.nn.settings import Activation, ConvNetSettings, MLPSettings


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_activation_of_the_settings_exists() -> None:
    assert set(get_args(Activation)) == set(ACTIVATIONS)


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - {"maxout"}))
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_outputs_equal_the_layers_written_out(activation: str, norm: str) -> None:
    settings = MLPSettings(widths=(6, 5), activation=activation, norm=norm, dropout=0.0)  # type: ignore[arg-type]
    model = build_model(settings, (4,), 3, generator()).train()
    w = dict(model.named_parameters())
    function = getattr(torch.nn.functional, activation)
    if activation == "prelu":
        function = partial(function, weight=torch.tensor([0.25]))
    inputs = torch.randn(8, 4, generator=generator(1))
    x = inputs
    for i in (1, 2):
        x = x @ w[f"hidden.linear{i}.weight"].T
        if norm != "batch":
            x = x + w[f"hidden.linear{i}.bias"]
        if norm == "batch":
            x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
        if norm == "layer":
            x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        x = function(x)
    expected = x @ w["output.weight"].T + w["output.bias"]
    torch.testing.assert_close(model(inputs), expected, rtol=1e-5, atol=1e-6)


def test_the_layers_and_their_order() -> None:
    model = MLP(4, (8, 7), 3, norm="batch", dropout=0.5)
    assert list(dict(model.hidden.named_children())) == [
        f"{name}{i}" for i in (1, 2) for name in ("linear", "norm", "activation", "dropout")
    ]
    assert all(layer.bias is None for layer in model.hidden if isinstance(layer, nn.Linear))
    assert model.output.bias is not None
    assert MLP(4, (8,), 3, norm="layer").hidden[0].bias is not None
    assert list(MLP(4, (), 3).hidden) == []
    assert [type(layer) for layer in MLP(4, (8,), 3).hidden] == [nn.Linear, nn.ReLU]


def test_pictures_are_flattened() -> None:
    model = build_model(MLPSettings(widths=(8,), dropout=0.0), (3, 5, 4), 2, generator())
    inputs = torch.randn(6, 3, 5, 4)
    expected = model(inputs.reshape(6, 60))
    torch.testing.assert_close(model(inputs), expected, rtol=0, atol=0)
    torch.testing.assert_close(model(inputs.to(memory_format=torch.channels_last)), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("slots", "size"), [(1, 2), (2, 3), (10, 6), (100, 22), (450, 49), (470, 50), (10**6, 50)])
def test_embedding_sizes(slots: int, size: int) -> None:
    assert embedding_size(slots) == size == min(50, math.ceil(1.6 * slots**0.56))


@pytest.mark.parametrize("numeric", [0, 3])
def test_slots_become_vectors(numeric: int) -> None:
    layer = ColumnEmbeddings(numeric + 2, (5, 30))
    assert layer.num_outputs == numeric + embedding_size(5) + embedding_size(30)
    slots = torch.tensor([[0, 29], [4, 7]])
    inputs = torch.cat([torch.randn(2, numeric), slots.float()], dim=1)
    first, second = (table.weight for table in layer.tables)
    expected = torch.cat([inputs[:, :numeric], first[slots[:, 0]], second[slots[:, 1]]], dim=1)
    assert torch.equal(layer(inputs), expected)


def test_a_network_with_categories_trains_its_vectors() -> None:
    model = build_model(MLPSettings(widths=(8,), dropout=0.0), (4,), 2, generator(), cardinalities=(3, 1000))
    assert isinstance(model, MLP)
    inputs = torch.tensor([[0.5, -1.0, 2.0, 999.0], [0.1, 0.2, 0.0, 5.0]])
    model(inputs).sum().backward()
    assert isinstance(model.embeddings, ColumnEmbeddings)
    rows = [table.weight.grad.abs().sum(1).nonzero().flatten().tolist() for table in model.embeddings.tables]
    assert rows == [[0, 2], [5, 999]]


def test_more_categories_than_columns_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="2 categorical columns"):
        ColumnEmbeddings(1, (3, 3))


def test_the_network_can_be_traced() -> None:
    traced = torch.fx.symbolic_trace(MLP(5, (8,), 2, norm="batch", dropout=0.1, cardinalities=(3, 4)).eval())
    assert traced(torch.zeros(2, 5)).shape == (2, 2)


# Building.


@pytest.mark.parametrize(
    "settings",
    [
        MLPSettings(widths=(8, 8), dropout=0.1, norm="batch"),
        MLPSettings(widths=(8,), dropout=0.0, norm="layer", activation="tanh"),
        ConvNetSettings(channels=(4, 4), hidden=(5,), dropout=0.5),
    ],
    ids=repr,
)
def test_building_draws_from_the_generator_only(settings: MLPSettings | ConvNetSettings) -> None:
    shape = (3, 8, 9)
    state = torch.get_rng_state()
    first, second = (build_model(settings, shape, 3, generator(5)).state_dict() for _ in range(2))
    other = build_model(settings, shape, 3, generator(6)).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(value.device.type == "cpu" and value.isfinite().all() for value in first.values())
    drawn = [name for name, value in first.items() if name.endswith("weight") and value.dim() > 1]
    assert drawn
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def test_norms_and_biases_start_as_torch_starts_norms_and_at_zero() -> None:
    for norm in ("batch", "layer"):
        model = build_model(MLPSettings(widths=(4,), norm=norm, dropout=0.0), (2,), 2, generator())  # type: ignore[arg-type]
        fresh = MLP(2, (4,), 2, norm=norm)
        for name, value in model.state_dict().items():
            if "norm" in name:
                assert torch.equal(value, fresh.state_dict()[name])
            if name.endswith("bias"):
                assert (value == 0).all()


@pytest.mark.parametrize(
    ("activation", "variance"),
    [("relu", 2 / 400), ("silu", 2 / 400), ("leaky_relu", 2 / 1.0001 / 400), ("tanh", 2 / 700), ("sigmoid", 2 / 700)],
)
def test_hidden_weights_have_the_published_variance(activation: str, variance: float) -> None:
    settings = MLPSettings(widths=(300,), activation=activation, dropout=0.0)  # type: ignore[arg-type]
    model = build_model(settings, (400,), 2, generator())
    weight = model.get_parameter("hidden.linear1.weight").detach().double()
    draws = weight.numel()
    assert float(weight.mean()) == pytest.approx(0, abs=4 * (variance / draws) ** 0.5)
    assert float(weight.var()) == pytest.approx(variance, rel=4 * (2 / draws) ** 0.5)
    assert float((weight**4).mean()) == pytest.approx(3 * variance**2, rel=0.05)  # a normal distribution's kurtosis


def test_convolutions_count_their_window_as_fan_in() -> None:
    model = build_model(ConvNetSettings(channels=(64, 128)), (3, 8, 8), 2, generator())
    weight = model.get_parameter("blocks.conv2.weight").detach()
    assert float(weight.var()) == pytest.approx(2 / (64 * 9), rel=0.03)


@pytest.mark.parametrize("widths", [(), (32,), (512, 256)])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_first_loss_is_close_to_log_classes(widths: tuple[int, ...], classes: int) -> None:
    model = build_model(MLPSettings(widths=widths, dropout=0.0), (50,), classes, generator())
    inputs = torch.randn(500, 50, generator=generator(1))
    targets = torch.randint(classes, (500,), generator=generator(2))
    loss = nn.functional.cross_entropy(model(inputs), targets)
    assert loss.item() == pytest.approx(math.log(classes), abs=0.03)


@pytest.mark.parametrize("settings", [MLPSettings(), MLPSettings(widths=(3,)), MLPSettings(dropout=0.1)], ids=repr)
def test_auto_must_be_resolved(settings: MLPSettings) -> None:
    with pytest.raises(ValueError, match="must be resolved"):
        build_model(settings, (3,), 2, generator())


@pytest.mark.parametrize(("shape", "outputs"), [((0,), 2), ((), 2), ((3,), 0)])
def test_nothing_in_or_out_is_refused(shape: tuple[int, ...], outputs: int) -> None:
    with pytest.raises(InputError, match="at least one input column and one output"):
        build_model(MLPSettings(widths=(3,), dropout=0.0), shape, outputs, generator())
