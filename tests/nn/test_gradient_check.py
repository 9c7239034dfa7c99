import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.nn import (
    ACTIVATIONS,
    LOSSES,
    DropConnectLinear,
    Dropout,
    Maxout,
    build_activation,
    build_model,
    check_gradients,
    cross_entropy,
    hinge,
    mean_squared_error,
)
from caviar.nn.settings import ConvNetSettings, MLPSettings


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(columns: int = 4, classes: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(6, columns, generator=seeded()), torch.randint(classes, (6,), generator=seeded(1))


class _WrongSquare(torch.autograd.Function):
    """x^2 with the gradient 2 x (1 + error)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, error: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.error = error
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad * 2 * x * (1 + ctx.error), None


class Square(nn.Module):
    def __init__(self, error: float) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        return _WrongSquare.apply(x, self.error)  # type: ignore[no-untyped-call,no-any-return]


def squares(error: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), Square(error), nn.Linear(5, 3))


@pytest.mark.parametrize(("error", "verdict"), [(0.5, "wrong"), (-2.0, "wrong"), (1e-4, "suspicious"), (0.0, "fine")])
def test_a_planted_bug_is_found_where_it_is(error: float, verdict: str) -> None:
    report = check_gradients(squares(error), rows(), cross_entropy)
    found = {check.name: check for check in report.parameters}
    assert found["0.weight"].verdict == found["0.bias"].verdict == verdict
    assert found["2.weight"].verdict == found["2.bias"].verdict == "fine"  # behind the bug nothing is wrong
    assert report.ok == (error == 0)
    if error:
        assert report.worst.name.startswith("0.")
        expected = abs(error) / max(1, abs(1 + error))
        assert report.worst.relative_error == pytest.approx(expected, rel=1e-3)
        assert f"{verdict}: " in str(report)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_right_gradients_are_fine(loss: str, activation: str) -> None:
    outputs = 3 if loss in ("cross_entropy", "hinge", "logistic") else 1
    model = nn.Sequential(nn.Linear(4, 6), build_activation(activation), nn.Linear(6, outputs))
    inputs, labels = rows()
    report = check_gradients(model, (inputs, labels if outputs == 3 else inputs[:, 0]), LOSSES[loss])
    assert report.ok, str(report)
    assert all(check.relative_error < 1e-7 or check.verdict == "kink" for check in report.parameters), str(report)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_networks_with_batch_norm_and_dropout_are_fine_and_untouched(activation: Any) -> None:
    for settings, shape in (
        (MLPSettings(widths=(6, 5), activation=activation, dropout=0.3, dropout_form="classic"), (4,)),
        (ConvNetSettings(channels=(3,), activation=activation, spatial_dropout=0.3, dropout=0.2), (2, 4, 4)),
    ):
        model = build_model(settings, shape, 3, seeded()).train()
        before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        batch = torch.randn(6, *shape, generator=seeded(2)), torch.arange(6) % 3
        report = check_gradients(model, batch, cross_entropy, samples=6)
        assert report.ok, str(report)
        assert torch.equal(state, torch.get_rng_state())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(p.grad is None and p.dtype == torch.float32 for p in model.parameters())


def test_layers_with_generators_of_their_own_are_held_still() -> None:
    own = seeded(5)
    model = nn.Sequential(
        DropConnectLinear(4, 6, 0.4, generator=own), Dropout(0.5, generator=seeded(3)), nn.Linear(6, 3)
    )
    state = own.get_state()
    assert check_gradients(model, rows(), cross_entropy).ok
    assert torch.equal(own.get_state(), state)


def test_evaluation_mode_and_frozen_parameters() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).requires_grad_(False)
    model[3].requires_grad_(True)
    report = check_gradients(model, rows(), cross_entropy, training=False)
    assert [check.name for check in report.parameters] == ["3.weight", "3.bias"]
    assert report.ok


def test_on_a_kink_the_sides_differ_and_that_is_said() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.zero_()
    report = check_gradients(model, rows(), cross_entropy)
    found = {check.name: check for check in report.parameters}
    assert found["0.bias"].verdict == "kink"
    assert found["0.bias"].num_kinks == 5
    assert found["2.bias"].verdict == "fine"
    assert report.ok
    assert "the loss bends" in str(report)


@pytest.mark.parametrize("distance", [1e-6, 3e-6, 8e-6])
def test_beside_a_kink_a_smaller_step_agrees(distance: float) -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.fill_(distance)
    batch = torch.zeros(1, 1), torch.tensor([-1.0])
    report = check_gradients(model, batch, mean_squared_error)
    assert {check.name: check.verdict for check in report.parameters}["0.bias"] == "kink"


def test_a_bug_is_not_taken_for_a_kink() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), Square(0.02), Maxout(2), nn.Linear(4, 3))
    report = check_gradients(model, rows(), hinge, samples=40)
    assert {check.name: check.verdict for check in report.parameters}["0.weight"] == "wrong"


def test_a_strong_curve_is_no_kink() -> None:
    class Sharp(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(200 * x)

    model = nn.Sequential(nn.Linear(4, 5), Sharp(), nn.Linear(5, 3))
    report = check_gradients(model, rows(), cross_entropy, step=1e-4)
    assert {check.verdict for check in report.parameters} == {"fine"}, str(report)


def test_channels_last_and_unused_parameters() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3)
            self.idle = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).mean((2, 3))  # type: ignore[no-any-return]

    model = Unused().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    report = check_gradients(model, (torch.randn(4, 2, 5, 5), torch.arange(4) % 3), cross_entropy)
    assert report.ok
    assert all(c.worst.analytic == c.worst.numeric == 0 for c in report.parameters if c.name.startswith("idle"))


def test_the_sample_is_bounded_and_holds_the_largest_gradient() -> None:
    model = nn.Linear(30, 3)
    report = check_gradients(model, rows(30), cross_entropy, samples=7)
    weight, bias = report.parameters
    assert (weight.num_checked, bias.num_checked) == (7, 3)
    assert weight.shape == (3, 30)


class Random(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.weight * self.calls + x.sum()


@pytest.mark.parametrize(
    ("model", "loss", "arguments", "words"),
    [
        (nn.Linear(4, 3), lambda x, y: x, {}, r"one number, but \(6, 3\)"),
        (nn.Linear(4, 3), lambda x, y: 3.0, {}, "one number, but float"),
        (nn.Linear(4, 3), lambda x, y: x.sum() * torch.inf, {}, "the loss is -?(inf|nan)"),
        (Random(), lambda x, y: x.sum(), {}, "at the same weights"),
        (nn.ReLU(), cross_entropy, {}, "no trainable parameter"),
        (nn.Linear(4, 3), cross_entropy, {"samples": 0}, "samples must be at least 1"),
        (nn.Linear(4, 3), cross_entropy, {"step": 1.0}, "step must be from 1e-8 to 1e-2"),
    ],
)
def test_what_cannot_be_checked_is_refused(model: nn.Module, loss: Any, arguments: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_gradients(model, rows(), loss, **arguments)
