"""Models of any structure on common batches, against populations of those that are alike."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.population import Cohorts, Population
from caviar.population.structure import structure


def net(width: int, rate: float = 0.0, activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(nn.Linear(6, width), activation(), nn.Dropout(rate), nn.Linear(width, 3))


class Scaled(nn.Module):
    """Does what its attribute says, which no parameter shows."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(6, 3), scale

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.linear(inputs) * self.scale
        return outputs


class Twice(nn.Module):
    """Two layers, which may be one."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = self.first if tied else nn.Linear(6, 6)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.second(self.first(inputs).relu())
        return outputs


MAKERS: list[Callable[[], nn.Module]] = [
    partial(net, 4),
    partial(net, 8),
    partial(net, 4, 0.3),
    partial(net, 4, activation=nn.Tanh),
    partial(Scaled, 1.0),
    partial(Scaled, 2.0),
    partial(Twice, tied=True),
    partial(Twice, tied=False),
    lambda: nn.Sequential(net(4), nn.Identity()),
    lambda: net(4).double(),
]


def batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(16, 6, generator=generator), torch.randint(3, (16,), generator=generator)


def trained(found: Cohorts | Population) -> Any:
    for number in range(5):
        found.step(*batch(number))
    return found


def same(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("maker", range(len(MAKERS)))
def test_modules_are_alike_when_they_are_made_alike(maker: int) -> None:
    own = structure(MAKERS[maker]())
    assert [structure(other()) == own for other in MAKERS] == [place == maker for place in range(len(MAKERS))]


def test_what_cannot_be_compared_counts_as_different() -> None:
    module, hooked = net(4), net(4)
    hooked.register_forward_hook(lambda *_: None)
    assert structure(module) != structure(hooked)
    one, two = net(4), net(4)
    one.table, two.table = torch.ones(2), torch.ones(2)
    assert structure(one) == structure(one) != structure(two)
    two[0].weight.requires_grad_(False)
    assert structure(module) != structure(two)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.sampled_from([(4, "sgd"), (4, "adamw"), (8, "sgd")]), min_size=1, max_size=5))
def test_every_member_is_what_it_is_alone(kinds: list[tuple[int, str]]) -> None:
    """Byte for byte as in a population of as many of its kind, whoever else stands beside."""
    found = trained(
        Cohorts(
            [partial(net, width, 0.2) for width, _ in kinds], optimizer=[rule for _, rule in kinds], executor="singles"
        )
    )
    assert sorted(number for members in found.members for number in members) == list(range(len(kinds)))
    losses = found.losses()
    assert losses.shape == (5, len(kinds))
    for number, (width, rule) in enumerate(kinds):
        alike = Population(partial(net, width, 0.2), len(kinds), optimizer=rule, executor="singles")
        trained(alike)
        assert same(found.member(number), alike.member(number))
        assert torch.equal(losses[:, number], alike.losses()[:, number])
        assert torch.equal(found.outputs(batch(9)[0])[number], alike.outputs(batch(9)[0])[number])


def test_rates_of_one_rule_stay_together() -> None:
    rules = [{"name": "sgd", "learning_rate": 0.1}, {"name": "adamw"}, {"name": "sgd", "learning_rate": 0.01}]
    found = trained(Cohorts([partial(net, 4)] * 3, optimizer=rules, executor="singles"))
    assert found.members == ((0, 2), (1,))
    rates = {"learning_rate": [0.1, 0.1, 0.01]}
    alike = trained(Population(partial(net, 4), optimizer="sgd", hyperparameters=rates, executor="singles"))
    assert same(found.member(0), alike.member(0))
    assert same(found.member(2), alike.member(2))


def test_lists_and_weights_are_dealt_out_by_member() -> None:
    rates = torch.tensor([0.1, 0.2, 0.3])
    found = Cohorts([partial(net, w) for w in (4, 8, 4)], hyperparameters={"learning_rate": rates}, executor="singles")
    alike = Population(partial(net, 4), hyperparameters={"learning_rate": rates}, executor="singles")
    weights = torch.rand(3, 16)
    for each in (found, alike):
        each.step(*batch(0), weights)
        each.step(*batch(1), learning_rate=rates / 2, momentum=0.5)
    assert [same(found.member(number), alike.member(number)) for number in (0, 2)] == [True, True]


def test_some_go_on_as_they_would_with_all() -> None:
    found = trained(Cohorts([partial(net, w, 0.2) for w in (4, 8, 4, 16)], executor="stacked"))
    fewer = found.select([3, 0, 2])
    trained(found), trained(fewer)
    assert [same(fewer.member(place), found.member(number)) for place, number in enumerate([3, 0, 2])] == [True] * 3
    assert len(fewer) == 3
    assert torch.equal(fewer.losses(), found.losses()[-5:, [3, 0, 2]])
    found.close()


def test_a_module_is_copied_and_stays_as_it_is() -> None:
    module = net(4)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found = trained(Cohorts([module, module, partial(net, 4)], executor="singles"))
    assert found.members == ((0, 1, 2),)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert same(found.member(0), found.member(1))
    assert not same(found.member(0), found.member(2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sources": []}, "no member"),
        ({"optimizer": ["sgd"]}, "1 entries for 2 members"),
        ({"optimizer": ["sgd", "sdg"]}, "Did you mean 'sgd'"),
        ({"hyperparameters": {"learning_rate": [0.1]}}, "2 in all"),
        ({"sources": [partial(net, 4), 3]}, "not of 3"),
    ],
)
def test_wrong_input_is_named(options: dict[str, Any], words: str) -> None:
    sources = options.pop("sources", [partial(net, 4), partial(net, 8)])
    with pytest.raises(InputError, match=words):
        Cohorts(sources, **options)


def test_there_is_no_member_beyond_the_last() -> None:
    with pytest.raises(InputError, match="no member 2; here are members 0 to 1"):
        Cohorts([partial(net, 4), partial(net, 8)]).member(2)
