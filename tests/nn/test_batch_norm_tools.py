import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.nn import build_model, drop_cancelled_biases, fold_batch_norm, recalibrate
from caviar.nn.settings import ConvNetSettings, MLPSettings


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lived_in(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """A model whose norms have seen something and whose scales are not 1."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and norm.weight is not None:
            nn.init.uniform_(norm.weight, 0.5, 2, generator=seeded(3))
            nn.init.uniform_(norm.bias, -1, 1, generator=seeded(4))
    model.train()
    for step in range(3):
        model(2 + 3 * torch.randn(16, *shape, generator=seeded(step)))
    return model


class Residual(nn.Module):
    """A block whose forward must be traced to know who feeds whom."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(3, 2, 1)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 3, 2, stride=2)
        self.up_norm = nn.BatchNorm2d(3)
        self.alone = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up_norm(self.up(torch.relu(self.norm(self.conv(x)))))
        return self.last(self.alone(y + 1)).mean((2, 3))  # type: ignore[no-any-return]


class Branches(nn.Module):
    """Control flow that torch.fx cannot trace, around a Sequential that it can only guess at."""

    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
        self.turned = turned

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e9:
            x = x / 2
        if self.turned:
            return self.layers[0](self.layers[2](self.layers[1](x)))  # type: ignore[no-any-return]
        return self.layers(x)  # type: ignore[no-any-return]


MODELS = {
    "mlp": (lambda: build_model(MLPSettings(widths=(8, 7), dropout=0.5), (4,), 3, seeded()), (4,), 2),
    "convnet": (lambda: build_model(ConvNetSettings(channels=(4, 6)), (3, 8, 8), 3, seeded()), (3, 8, 8), 2),
    "with bias": (lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)), (4,), 1),
    "grouped": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8), nn.Flatten()), (4, 5, 5), 1),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8, affine=False)), (4, 9), 1),
    "traced": (Residual, (3, 6, 6), 2),
    "by order": (lambda: Branches(False), (4,), 1),
    "no norm": (lambda: nn.Linear(4, 2), (4,), 0),
}


@pytest.mark.parametrize("name", MODELS)
def test_folding_leaves_the_function_as_it_is(name: str) -> None:
    build, shape, num_folded = MODELS[name]
    model = lived_in(build(), shape)
    before = copy.deepcopy(model.state_dict())
    example = torch.randn(6, *shape, generator=seeded(9))
    folded, report = fold_batch_norm(model, example)
    assert len(report.folded) == num_folded
    assert model.training
    assert not folded.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    norms = [m for m in folded.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == len(report.left)
    fresh = torch.randn(6, *shape, generator=seeded(10))
    torch.testing.assert_close(folded(fresh), model.eval()(fresh), rtol=1e-4, atol=1e-5)
    assert report.exact_difference < 1e-9
    difference = float((folded(example) - model(example)).abs().max().detach())
    assert report.largest_difference == pytest.approx(difference, abs=1e-7)
    assert report.largest_difference == 0 or num_folded > 0


def test_norms_that_stay_are_named_with_the_reason() -> None:
    _, report = fold_batch_norm(Residual(), torch.zeros(2, 3, 6, 6))
    assert report.left == (("alone", "no linear layer or convolution alone feeds it"),)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False))
    _, report = fold_batch_norm(model, torch.randn(4, 3))
    assert report.left == (("1", "it keeps no running averages"),)
    shared = nn.Linear(3, 3)
    _, report = fold_batch_norm(nn.Sequential(shared, nn.BatchNorm1d(3), shared), torch.randn(4, 3))
    assert report.folded == ()


def test_two_layers_with_one_weight_stay() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    lived_in(model, (3,))
    _, report = fold_batch_norm(model, torch.randn(4, 3))
    assert report.left == (("1", "other layers share the weight of 0"),)


def test_a_forward_that_turns_the_order_round_is_refused() -> None:
    model = lived_in(Branches(True), (4,))
    with pytest.raises(InputError, match=r"folded differs by .* order inside its Sequentials misleads"):
        fold_batch_norm(model, torch.randn(6, 4, generator=seeded()))


# Biases that cancel.


@pytest.mark.parametrize("name", ["with bias", "grouped", "conv1d", "traced"])
def test_cancelled_biases_go_and_nothing_changes(name: str) -> None:
    build, shape, num_folded = MODELS[name]
    model = lived_in(build(), shape)
    twin = copy.deepcopy(model)
    names = drop_cancelled_biases(model)
    assert len(names) == num_folded
    assert all(model.get_submodule(layer).bias is None for layer in names)
    assert drop_cancelled_biases(model) == []
    x = torch.randn(6, *shape, generator=seeded(10))
    for mode in (True, False):
        torch.testing.assert_close(model.train(mode)(x), twin.train(mode)(x), rtol=1e-4, atol=1e-5)


def test_an_instance_norm_cancels_a_bias_and_a_layer_norm_does_not() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.InstanceNorm2d(3), nn.Flatten(), nn.Linear(12, 4), nn.LayerNorm(4))
    x = torch.randn(5, 2, 4, 4)
    expected = model(x)
    assert drop_cancelled_biases(model) == ["0"]
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_our_networks_have_none_to_drop() -> None:
    for name in ("mlp", "convnet"):
        assert drop_cancelled_biases(MODELS[name][0]()) == []


# Recalibration.


@given(st.lists(st.integers(2, 20), min_size=1, max_size=5))
def test_recalibrated_statistics_are_the_datas_however_they_are_cut(sizes: list[int]) -> None:
    data = 1e3 + torch.randn(sum(sizes), 3, 4, 4, generator=seeded()) * torch.tensor([1.0, 5.0, 0.1]).view(3, 1, 1)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(48, 2)).train()
    assert recalibrate(model, torch.split(data, sizes)) == sum(sizes)
    norm, flat = model[0], data.double().movedim(1, 0).flatten(1)
    torch.testing.assert_close(norm.running_mean.double(), flat.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(norm.running_var.double(), flat.var(1), rtol=1e-6, atol=0)
    assert int(norm.num_batches_tracked) == 0
    assert model.training
    assert model[1].training


def test_one_batch_makes_evaluation_equal_training() -> None:
    model = build_model(MLPSettings(widths=(6, 5), dropout=0.0), (4,), 2, seeded())
    data = 5 + torch.randn(200, 4, generator=seeded(1))
    recalibrate(model, [data])
    trained = model.train()(data)
    torch.testing.assert_close(model.eval()(data), trained, rtol=0.01, atol=1e-3)


def test_recalibration_needs_norms_and_batches() -> None:
    with pytest.raises(InputError, match="no batch norm with running averages"):
        recalibrate(nn.Linear(2, 2), [torch.zeros(2, 2)])
    with pytest.raises(InputError, match="no batch arrived"):
        recalibrate(nn.BatchNorm1d(2), [])
    with pytest.raises(InputError, match=r"a batch of shape \(1, 2\) cannot be normalised"):
        recalibrate(nn.BatchNorm1d(2), [torch.zeros(1, 2)])
