"""Optimisers against their published formulas, written out in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.optim import build_optimizer, parameter_groups, set_learning_rate
from caviar.optim.settings import AdamSettings, AdamWSettings, SGDSettings

Settings = SGDSettings | AdamSettings | AdamWSettings

CASES: list[Settings] = [
    SGDSettings(learning_rate=0.05, momentum=0.0),
    SGDSettings(learning_rate=0.05),
    SGDSettings(learning_rate=0.05, nesterov=True, weight_decay=0.01),
    SGDSettings(learning_rate=0.05, momentum=0.0, weight_decay=0.1),
    AdamSettings(learning_rate=0.001),
    AdamSettings(learning_rate=0.001, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-3),
    AdamWSettings(learning_rate=0.001),
    AdamWSettings(learning_rate=0.001, weight_decay=0.0),
    AdamWSettings(weight_decay=0.5, learning_rate=0.1),
]


def small_net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3))


def sgd_by_hand(s: SGDSettings, w: Tensor, grads: list[Tensor], decay: float) -> Tensor:
    velocity = torch.zeros_like(w)
    for g in grads:
        g = g + decay * w
        velocity = s.momentum * velocity + g
        w = w - s.learning_rate * (g + s.momentum * velocity if s.nesterov else velocity)
    return w


def adam_by_hand(s: AdamSettings | AdamWSettings, w: Tensor, grads: list[Tensor], decay: float) -> Tensor:
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        if isinstance(s, AdamWSettings):
            w = w - s.learning_rate * decay * w
        else:
            g = g + decay * w
        m = s.betas[0] * m + (1 - s.betas[0]) * g
        v = s.betas[1] * v + (1 - s.betas[1]) * g**2
        m_hat, v_hat = m / (1 - s.betas[0] ** t), v / (1 - s.betas[1] ** t)
        w = w - s.learning_rate * m_hat / (v_hat.sqrt() + s.eps)
    return w


def without_fused(options: dict[str, bool]) -> Callable[[nn.Module], dict[str, bool]]:
    return lambda model: options


@pytest.mark.parametrize("kernel", [{"fused": True}, {"foreach": True}, {"foreach": False}], ids=str)
@pytest.mark.parametrize("settings", CASES, ids=repr)
def test_every_kernel_follows_the_formula(
    settings: Settings, kernel: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caviar.optim.build.kernel_options", without_fused(kernel))
    model = small_net().double()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(settings, model)
    torch.manual_seed(0)
    grads = {name: [torch.randn_like(p) for _ in range(12)] for name, p in start.items()}
    for step in range(12):
        for name, p in model.named_parameters():
            p.grad = grads[name][step].clone()
        optimizer.step()
    by_hand = sgd_by_hand if isinstance(settings, SGDSettings) else adam_by_hand
    for name, p in model.named_parameters():
        decay = settings.weight_decay if name in ("0.weight", "3.weight") else 0.0
        expected = by_hand(settings, start[name], grads[name], decay)  # type: ignore[arg-type]
        torch.testing.assert_close(p.detach(), expected, rtol=1e-10, atol=1e-12)


def test_fused_and_plain_agree_in_float32_on_a_channels_last_net() -> None:
    results = []
    for fused in (True, False):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = build_optimizer(AdamWSettings(learning_rate=0.01), net)
        if not fused:
            for group in optimizer.param_groups:
                group.update(fused=False, foreach=False)
        inputs = torch.randn(4, 3, 8, 8)
        for _ in range(10):
            optimizer.zero_grad()
            net(inputs).square().mean().backward()
            optimizer.step()
        results.append(torch.cat([p.detach().reshape(-1) for p in net.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 3)
        self.conv = nn.Conv2d(3, 2, 3)
        self.linear = nn.Linear(3, 2)
        self.norm2d = nn.LayerNorm((2, 3))
        self.group = nn.GroupNorm(1, 2)
        self.lstm = nn.LSTM(3, 2)
        self.scale = nn.Parameter(torch.ones(3))
        self.position = nn.Parameter(torch.ones(5, 3))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.tied = self.linear


def test_decay_reaches_weights_only_and_each_parameter_once() -> None:
    model = Everything()
    names = {parameter: name for name, parameter in model.named_parameters()}
    weights, others = parameter_groups(model, 0.1)
    assert weights["weight_decay"] == 0.1
    assert others["weight_decay"] == 0.0
    assert [names[p] for p in weights["params"]] == [
        "position", "embedding.weight", "conv.weight", "linear.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0",
    ]  # fmt: skip
    assert [names[p] for p in others["params"]] == [
        "scale", "conv.bias", "linear.bias", "norm2d.weight", "norm2d.bias", "group.weight", "group.bias",
        "lstm.bias_ih_l0", "lstm.bias_hh_l0",
    ]  # fmt: skip
    (single,) = parameter_groups(model, 0.0)
    assert single["params"] == [p for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Linear(2, 2).requires_grad_(False)])
def test_a_model_without_parameters_is_refused(model: nn.Module) -> None:
    with pytest.raises(InputError, match="no trainable parameter"):
        build_optimizer(SGDSettings(learning_rate=0.05), model)


@pytest.mark.parametrize("settings", [SGDSettings(learning_rate=0.05), AdamWSettings(learning_rate=0.001)], ids=repr)
def test_a_parameter_may_get_its_first_gradient_late(settings: Settings) -> None:
    model = nn.ModuleList([nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)])
    optimizer = build_optimizer(settings, model)
    first, second = model.parameters()
    first.grad = torch.ones_like(first)
    optimizer.step()
    second.grad = torch.ones_like(second)
    before = second.detach().clone()
    optimizer.step()
    decay = settings.learning_rate * settings.weight_decay * before if isinstance(settings, AdamWSettings) else 0
    torch.testing.assert_close(second.detach(), before - settings.learning_rate - decay, rtol=1e-5, atol=1e-7)


def test_parameters_with_gaps_keep_their_neighbours() -> None:
    whole = torch.zeros(4, 6)
    model = nn.Module()
    model.part = nn.Parameter(whole[:, ::2])
    optimizer = build_optimizer(SGDSettings(learning_rate=1.0), model)
    model.part.grad = torch.ones(4, 3)
    optimizer.step()
    assert (whole[:, ::2] == -1).all()
    assert (whole[:, 1::2] == 0).all()


def test_sparse_gradients_work_with_sgd() -> None:
    model = nn.Embedding(4, 2, sparse=True)
    before = model.weight.detach().clone()
    optimizer = build_optimizer(SGDSettings(learning_rate=1.0, momentum=0.0), model)
    model(torch.tensor([1])).sum().backward()
    optimizer.step()
    expected = before - torch.tensor([[0.0], [1.0], [0.0], [0.0]])
    torch.testing.assert_close(model.weight.detach(), expected)


@pytest.mark.parametrize("settings", CASES, ids=repr)
def test_the_learning_rate_set_is_the_one_used(settings: Settings) -> None:
    model = small_net()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = build_optimizer(settings, model)
    set_learning_rate(optimizer, 0.0)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    set_learning_rate(optimizer, math.pi)
    assert [group["lr"] for group in optimizer.param_groups] == [math.pi] * len(optimizer.param_groups)
