"""Layers of several inputs or outputs inside a stacked graph: member by member, and everything else stacked."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from caviar.population import Layout, Population, Step
from caviar.population.singles import under


class Attending(nn.Module):
    """A small transformer block; inputs (batch, 12) are read as (batch, 3, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm, self.out = nn.LayerNorm(4), nn.Linear(12, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        places = inputs.view(-1, 3, 4)
        attended, _ = self.attention(places, places, places, need_weights=False)
        return self.out(torch.relu(self.norm(places + attended)).flatten(1))


class Mixing(nn.Module):
    """A leaf of two inputs and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8) / 3)

    def forward(self, first: Tensor, second: Tensor, *, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        return first @ self.weight * scale + second, torch.tanh(second)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 8), nn.Linear(12, 8)
        self.mixing, self.out = Mixing(), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        one, other = self.mixing(self.first(inputs), self.second(inputs), scale=0.5)
        return self.out(torch.relu(one) * other)


class Recurrent(nn.Module):
    """An LSTM keeps a list of its weights, so that others cannot stand in for them."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs, _ = self.lstm(inputs.view(-1, 3, 4))
        return self.out(outputs[:, -1])


def batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randn(10, 12, generator=generator)
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 1).long()


@pytest.mark.parametrize("kind", [Attending, Mixed])
def test_it_is_stacked_and_trains_as_plain_modules_do(kind: Any) -> None:
    population = Population(kind, members=4, optimizer={"name": "sgd", "momentum": 0.9}, executor="stacked")
    population.prepare([Step(*batch(0))], Layout("stacked", 4))
    modules = [population.member(number) for number in range(4)]
    rules = [torch.optim.SGD(module.parameters(), 0.01, momentum=0.9) for module in modules]
    for number in range(3):
        inputs, targets = batch(number)
        population.step(inputs, targets)
        for module, rule in zip(modules, rules, strict=True):
            rule.zero_grad()
            functional.cross_entropy(module(inputs), targets).backward()
            rule.step()
    found = under(population.state(), "model/")
    for member, module in enumerate(modules):
        for name, tensor in module.state_dict().items():
            torch.testing.assert_close(found[name][member], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [Attending, Mixed])
def test_a_member_does_not_feel_the_others(kind: Any, one_thread: None) -> None:
    whole = Population(kind, members=5, executor="stacked")
    whole.prepare([Step(*batch(0))], Layout("stacked", 5))
    some = whole.select([3, 1])
    for number in range(3):
        whole.step(*batch(number))
        some.step(*batch(number))
    first, second = whole.state(), some.state()
    assert all(torch.equal(first[name][[3, 1]], second[name]) for name in first)


@pytest.mark.parametrize("kind", [Recurrent, lambda: nn.Sequential(Attending(), nn.Dropout(0.5))])
def test_what_cannot_be_stacked_trains_all_the_same(kind: Any) -> None:
    population = Population(kind, members=3)
    population.step(*batch(0))
    assert torch.isfinite(population.losses()).all()
