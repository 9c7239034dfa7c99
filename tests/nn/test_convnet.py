import copy

import pytest
import torch
from hypothesis import given
from hypothesis import settings as options
from hypothesis import strategies as st
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.nn import ACTIVATIONS, ConvNet, build_model, use_channels_last
from caviar.nn.graph import trace
from caviar.nn.layers import build_picture_norm, num_groups
from caviar.nn.settings import ConvNetSettings


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def usual_order(model: ConvNet, inputs: Tensor) -> Tensor:
    """The textbook's order: ReLU before the pool, nothing in place."""
    x = inputs
    for name, layer in model.blocks.named_children():
        if name.startswith("pool"):
            continue
        x = nn.functional.max_pool2d(nn.functional.relu(x), 2) if name.startswith("relu") else layer(x)
    return model.output(model.hidden(x.flatten(1)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("size", [(16, 16), (13, 11)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_pool_before_relu_is_the_same_function(norm: str, size: tuple[int, int], layout: torch.memory_format) -> None:
    settings = ConvNetSettings(channels=(5, 6), hidden=(7,), norm=norm, dropout=0.0)  # type: ignore[arg-type]
    model = build_model(settings, (3, *size), 4, generator()).to(memory_format=layout)  # type: ignore[call-overload]
    twin = copy.deepcopy(model)
    inputs = torch.randn(9, 3, *size, generator=generator(1))
    ours, usual = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    outputs, expected = model(ours), usual_order(twin, usual)
    assert torch.equal(outputs, expected)
    outputs.square().sum().backward()
    expected.square().sum().backward()
    assert torch.equal(ours.grad, usual.grad)  # type: ignore[arg-type]
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)  # type: ignore[arg-type]


def test_the_layers_and_their_order() -> None:
    model = ConvNet((3, 8, 8), (4, 5), (6,), 2, dropout=0.5)
    names = [f"{name}{i}" for i in (1, 2) for name in ("conv", "norm", "pool", "relu")]
    assert list(dict(model.blocks.named_children())) == names
    assert list(dict(model.hidden.named_children())) == ["dropout1", "linear1", "relu1", "dropout"]
    assert model.blocks[0].bias is None
    assert ConvNet((3, 8, 8), (4,), (), 2, norm="none").blocks[0].bias is not None
    assert list(ConvNet((3, 8, 8), (4,), (), 2).hidden) == []


@options(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40), st.integers(0, 4))
def test_every_size_that_fits_works_and_others_are_refused(channels: int, height: int, width: int, blocks: int) -> None:
    chosen = ConvNetSettings(channels=(2,) * blocks, hidden=())
    if min(height, width) // 2**blocks == 0:
        with pytest.raises(InputError, match=f"{height} x {width}") as caught:
            build_model(chosen, (channels, height, width), 3, generator())
        fitting = int(str(caught.value).split("at most ")[1].split()[0])
        assert min(height, width) // 2**fitting > 0
        assert min(height, width) // 2 ** (fitting + 1) == 0
    else:
        model = build_model(chosen, (channels, height, width), 3, generator()).eval()
        assert model(torch.zeros(2, channels, height, width)).shape == (2, 3)


def test_tables_are_refused() -> None:
    with pytest.raises(InputError, match=r"needs pictures.*\(64,\).*mlp"):
        build_model(ConvNetSettings(), (64,), 10, generator())


def test_channels_last_changes_the_layout_only() -> None:
    model = build_model(ConvNetSettings(channels=(4, 8), dropout=0.0), (3, 8, 8), 3, generator())
    twin = copy.deepcopy(model)
    parameters = list(model.parameters())
    assert use_channels_last(model, torch.zeros(2, 3, 8, 8))
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert model.get_parameter("blocks.conv1.weight").is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True))
    inputs = torch.randn(4, 3, 8, 8, generator=generator(1))
    torch.testing.assert_close(model(inputs), twin(inputs), rtol=1e-5, atol=1e-6)


class WithView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.output = nn.Linear(4 * 36, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.conv(inputs)
        return self.output(x.view(x.size(0), -1))  # type: ignore[no-any-return]


def test_a_model_that_rests_on_the_usual_layout_keeps_it() -> None:
    model = WithView()
    assert not use_channels_last(model, torch.zeros(2, 3, 8, 8))
    assert model.conv.weight.is_contiguous()
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 2)
    assert model.training


def test_models_without_pictures_are_left_alone() -> None:
    assert not use_channels_last(nn.Linear(3, 2), torch.zeros(2, 3))
    assert not use_channels_last(nn.Flatten(), torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize("norm", ["none", "batch", "layer", "instance", "group"])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_norm_and_activation_trains(norm: str, activation: str) -> None:
    settings = ConvNetSettings(channels=(4, 6), hidden=(5,), norm=norm, activation=activation)  # type: ignore[arg-type]
    model = build_model(settings, (3, 8, 8), 2, generator())
    assert (model.get_submodule("blocks.conv1").bias is None) == (norm in ("batch", "instance"))
    outputs = model(torch.randn(5, 3, 8, 8, generator=generator(1)))
    assert outputs.shape == (5, 2)
    outputs.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_an_activation_that_falls_stands_before_the_pool() -> None:
    names = list(dict(ConvNet((3, 8, 8), (4,), (), 2, activation="gelu").blocks.named_children()))
    assert names == ["conv1", "norm1", "activation1", "pool1"]


@pytest.mark.parametrize(("name", "channels", "groups"), [("layer", 6, 1), ("group", 64, 8), ("group", 12, 6)])
def test_layer_and_group_norm_are_normalised_over_their_groups(name: str, channels: int, groups: int) -> None:
    x = torch.randn(3, channels, 4, 5, generator=generator()) * 3 + 2
    parts = build_picture_norm(name, channels)(x).reshape(3, groups, -1)
    torch.testing.assert_close(parts.mean(2), torch.zeros(3, groups), atol=1e-5, rtol=0)
    torch.testing.assert_close(parts.var(2, correction=0), torch.ones(3, groups), atol=1e-4, rtol=0)


def test_groups_divide_the_channels_and_leave_two_in_each() -> None:
    for channels in range(1, 200):
        groups = num_groups(channels)
        assert channels % groups == 0
        assert groups <= 8
        assert groups == 1 or channels // groups >= 2


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_network_can_be_traced(activation: str) -> None:
    settings = ConvNetSettings(
        channels=(4,),
        hidden=(5,),
        activation=activation,  # type: ignore[arg-type]
        spatial_dropout=0.2,
        dropout=0.1,
        dropout_form="classic",
    )
    model = build_model(settings, (3, 8, 8), 2, generator())
    graph = trace(model)
    assert graph is not None
    inputs = torch.randn(3, 3, 8, 8, generator=generator(1))
    model.eval()
    assert torch.equal(torch.fx.GraphModule(model, graph)(inputs), model(inputs))
