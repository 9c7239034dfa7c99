"""Members that see a batch in different ways, with weights of examples: what folds are made of."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from caviar.core.errors import InputError
from caviar.population import Layout, Population, Step, Views
from tests.population.test_population import equal, take

FOLDS = 3
OF = (0, 1, 2, 0, 1)
LAYOUTS = [Layout("singles", 5), Layout("stacked", 5), Layout("stacked", 2), Layout("stacked", 3, 2)]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3))


def views(number: int, size: int = 16) -> tuple[Views, Tensor, Tensor]:
    """Return inputs that every fold sees scaled in its own way, targets, and weights of examples."""
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randn(size, 6, generator=generator)
    parts = tuple(inputs * (1 + 0.3 * fold) - 0.2 * fold for fold in range(FOLDS))
    held_out = torch.randint(FOLDS, (size,), generator=generator)
    weights = (held_out != torch.tensor(OF).unsqueeze(1)).float()
    return Views(parts, OF), (inputs[:, 0] > 0).long() + (inputs[:, 1] > 1).long(), weights


def prepared(layout: Layout, **options: Any) -> Population:
    options = {"optimizer": {"name": "sgd", "momentum": 0.9}} | options
    population = Population(net, members=len(OF), **options)
    inputs, targets, weights = views(0)
    population.prepare([Step(inputs, targets, weights)], layout)
    return population


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_member_trains_as_a_plain_loop_on_the_rows_it_keeps(layout: Layout) -> None:
    population = prepared(layout)
    modules = [population.member(number) for number in range(len(OF))]
    rules = [torch.optim.SGD(module.parameters(), 0.01, momentum=0.9) for module in modules]
    for number in range(4):
        inputs, targets, weights = views(number)
        population.step(inputs, targets, weights)
        for member, (module, rule) in enumerate(zip(modules, rules, strict=True)):
            kept = weights[member] > 0
            rule.zero_grad()
            functional.cross_entropy(module(inputs.parts[OF[member]][kept]), targets[kept]).backward()
            rule.step()
    found = population.state()
    for member, module in enumerate(modules):
        for name, tensor in module.state_dict().items():
            # A bias before batch norm has no true gradient: rounding decides, and it is small.
            torch.testing.assert_close(found[f"model/{name}"][member], tensor, rtol=1e-5, atol=1e-6)
    own = Views(tuple(part[:7] for part in views(9)[0].parts), OF)
    outputs = population.outputs(own)
    for member, module in enumerate(modules):
        with torch.no_grad():
            torch.testing.assert_close(outputs[member], module.eval()(own.member(member)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_member_does_not_feel_the_others(layout: Layout, one_thread: None) -> None:
    whole = prepared(layout)
    some = whole.select([1, 3])
    for number in range(3):
        inputs, targets, weights = views(number)
        whole.step(inputs, targets, weights)
        some.step(Views(inputs.parts, (OF[1], OF[3])), targets, weights[[1, 3]])
    assert equal(take(whole.state(), [1, 3]), some.state())


def test_targets_may_be_seen_in_different_ways() -> None:
    inputs = torch.randn(12, 6, generator=torch.Generator().manual_seed(3))
    wanted = inputs.sum(dim=1)
    targets = Views((wanted, 2 * wanted), (0, 1))
    found = []
    for kind in ("singles", "stacked"):
        module = nn.Linear(6, 1)
        nn.init.constant_(module.weight, 0.1)
        nn.init.zeros_(module.bias)
        population = Population(module, members=2, loss="mean_squared_error", executor=kind)
        population.step(inputs, targets)
        found.append(population.state()["model/weight"])
        for member, own in enumerate(targets.parts):
            plain = nn.Linear(6, 1)
            plain.load_state_dict(module.state_dict())
            functional.mse_loss(plain(inputs).view(-1), own).backward()
            assert plain.weight.grad is not None
            torch.testing.assert_close(found[-1][member], (plain.weight - 0.01 * plain.weight.grad).detach())


def test_the_chain_says_why_it_stays_out_and_still_evaluates() -> None:
    inputs, targets, weights = views(0)
    with pytest.raises(InputError, match="in different ways"):
        prepared(Layout("chain", len(OF)))
    population = Population(net, members=len(OF), executor="chain")
    population.step(inputs.parts[0], targets, weights)
    outputs = population.outputs(inputs)
    for member in range(len(OF)):
        with torch.no_grad():
            expected = population.member(member).eval()(inputs.member(member))
        torch.testing.assert_close(outputs[member], expected, rtol=1e-5, atol=1e-6)


def test_auto_finds_a_way() -> None:
    inputs, targets, weights = views(0)
    population = Population(net, members=len(OF))
    population.step(inputs, targets, weights)
    assert population.layout is not None
    assert population.layout.kind != "chain"
