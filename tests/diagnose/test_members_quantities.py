"""Quantities of members: each is what a plain loop of that member alone measures, and looking changes nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from caviar.core.observer import Moment
from caviar.core.records import Record
from caviar.diagnose.quantities import QUANTITIES, MembersWatcher, Schedule, Watcher
from caviar.diagnose.quantities.names import MOMENTARY
from caviar.population import Layout, Population, Step, Views
from caviar.population.executors import intra_op_threads

RATES = [0.001, 0.05, 0.4]
LAYOUTS = [
    *(Layout("singles", size, threads) for size, threads in ((3, 1), (2, 2))),
    *(Layout("stacked", size, 1) for size in (3, 2)),
    *(Layout("chain", size, threads) for size, threads in ((3, 1), (1, 2))),
]
STEPS = 13


def net(*first: nn.Module) -> nn.Module:
    middle = first or (nn.BatchNorm1d(8), nn.ReLU())
    return nn.Sequential(nn.Linear(6, 8), *middle, nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3))


def batches(count: int = STEPS, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(size, 6, generator=draw), torch.randint(0, 3, (size,), generator=draw)) for _ in range(count)]


def population(source: Any = net, **options: Any) -> Population:
    return Population(source, members=len(RATES), hyperparameters={"learning_rate": RATES}, **options)


def train(members: Population, layout: Layout, steps: list[Step], schedule: Schedule | None) -> list[Record]:
    """A loop as caviar's own is; without a schedule nobody watches."""
    members.prepare(steps, layout)
    watcher = None if schedule is None else MembersWatcher(schedule)
    with intra_op_threads(layout):
        for number, step in enumerate(steps, start=1):
            if watcher is not None:
                watcher.before_step(members, step, number)
            members.take(step)
            if watcher is not None:
                watcher.on_step(Moment(number, 1, number, len(steps)))
        members.losses()
    records = [] if watcher is None else watcher.drain()
    assert {record.name for record in records} <= QUANTITIES.keys()
    return records


def alone(module: nn.Module, rate: float, schedule: Schedule) -> list[Record]:
    """What the watcher of single runs measures in a plain loop."""
    optimizer = torch.optim.SGD(module.parameters(), rate)
    watcher = Watcher(module.train(), optimizer, schedule)
    for number, (inputs, targets) in enumerate(batches(), start=1):
        optimizer.zero_grad()
        loss = functional.cross_entropy(module(inputs), targets)
        loss.backward()
        if watcher.looking:
            watcher.on_gradients()
        optimizer.step()
        watcher.on_step(Moment(number, 1, number, STEPS), loss.detach())
    watcher.close()
    return watcher.drain()


def values(records: list[Record], trial: int | None = None) -> dict[tuple[str, str, str, int], float]:
    machine = MOMENTARY - {"gradient_cosine", "noise_scale", "dead"} | {"momentum", "weight_decay"}
    return {
        (r.name, r.split, r.layer, r.step): r.value
        for r in records
        if r.name not in machine and trial in (None, r.trial)
    }


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_member_is_measured_as_it_would_be_alone(layout: Layout) -> None:
    members, schedule = population(optimizer={"name": "sgd", "momentum": 0.0}), Schedule(6)
    modules = [members.member(number) for number in range(len(RATES))]
    records = train(members, layout, [Step(*batch) for batch in batches()], schedule)
    for trial, rate in enumerate(RATES):
        found, expected = values(records, trial), values(alone(modules[trial], rate, schedule))
        # Pairs of gradients are compared behind regular looks only.
        pairs = ("gradient_cosine", "noise_scale")
        expected = {key: value for key, value in expected.items() if key[0] not in pairs or key[3] in (7, 13)}
        noisy = {key for key in expected if key[0] == "noise_scale"}  # an average that began later
        assert found.keys() | noisy == expected.keys() | noisy
        for key, value in expected.items():
            if key not in noisy:
                assert found[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key
        assert {layer for name, _, layer, _ in found if name == "dead"} == {"2"}
        assert {layer for name, _, layer, _ in found if name == "norm_mean_lag"} == {"1"}


class Drawing(nn.Module):
    """Draws from torch's global generator, and counts its calls where no state dict sees it."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + 0.1 * torch.randn_like(inputs) if self.training else inputs


@pytest.mark.parametrize("layout", [*LAYOUTS, Layout("singles", 1)], ids=str)
@pytest.mark.parametrize("rule", ["sgd", "adamw"])
def test_looking_changes_neither_weights_nor_draws(layout: Layout, rule: str) -> None:
    source = (lambda: net(Drawing(), nn.ReLU())) if layout.size == 1 and layout.kind == "singles" else net_with_dropout
    if layout.size == 1:
        layout = Layout(layout.kind, 3)
    steps = [Step(*batch) for batch in batches()]
    plain, watched = population(source, optimizer=rule), population(source, optimizer=rule)
    torch.manual_seed(5)
    train(plain, layout, steps, None)
    torch.manual_seed(5)
    records = train(watched, layout, steps, Schedule(1))
    one, other = plain.state(), watched.state()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert {record.step for record in records if record.name == "gradient_norm"} == set(range(1, STEPS + 1))
    plain.close()
    watched.close()


def net_with_dropout() -> nn.Module:
    return net(nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.4))


@pytest.mark.parametrize("layout", LAYOUTS[:4], ids=str)
def test_members_with_weights_and_views_of_their_own(layout: Layout) -> None:
    """One member sees the batch scaled, one lacks half of the examples, one rests."""
    inputs, targets = batches(1)[0]
    weights = torch.ones(3, len(inputs))
    weights[1, ::2] = 0
    weights[2] = 0
    step = Step(Views((inputs, 3 * inputs), (1, 0, 0)), targets, weights)
    members = population(lambda: net(nn.ReLU()))
    modules = [members.member(number) for number in range(3)]
    found = values(train(members, layout, [step], Schedule(1)), 0)
    records = train(population(lambda: net(nn.ReLU())), layout, [step], Schedule(1))
    for trial, given, kept in ((0, 3 * inputs, slice(None)), (1, inputs, slice(1, None, 2))):
        found = values(records, trial)
        loss = functional.cross_entropy(modules[trial](given[kept]), targets[kept])
        gradients = torch.autograd.grad(loss, list(modules[trial].parameters()))
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm().item()
        assert found["gradient_norm", "train", "", 1] == pytest.approx(norm, rel=1e-4)
        assert found["input_std", "train", "", 1] == pytest.approx(given.std(correction=0).item(), rel=1e-4)
    assert {record.name for record in records if record.trial == 2} <= {"learning_rate", "momentum", "weight_decay"}


def test_members_that_leave_are_not_measured_any_more_and_the_others_go_on() -> None:
    members, steps = population(lambda: net(nn.ReLU())), [Step(*batch) for batch in batches()]
    whole = train(population(lambda: net(nn.ReLU())), Layout("chain", 3), steps, Schedule(1))
    members.prepare(steps, Layout("chain", 2, 2))
    watcher = MembersWatcher(Schedule(1))
    for number, step in enumerate(steps, start=1):
        watcher.before_step(members, step, number)
        members.take(step)
        watcher.on_step(Moment(number, 1, number, len(steps)))
        if number == 6:
            members.losses()
            fewer = members.select([0, 2])
            members.close()
            members = fewer
    members.losses()
    records = watcher.drain()
    members.close()
    found, expected = values(records), values(whole)
    assert {record.step for record in records if record.trial == 1} == set(range(1, 7))
    for trial in (0, 2):
        found, expected = values(records, trial), values(whole, trial)
        lost = {key for key in expected if key[0] in ("gradient_cosine", "noise_scale") and key[3] >= 7}
        assert found.keys() >= expected.keys() - lost
        for key in expected.keys() - lost:
            assert found[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-4), key


def test_frozen_weights_tied_weights_and_functional_activations() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
            self.two.weight = self.one.weight
            self.out = nn.Linear(6, 3)
            self.out.weight.requires_grad_(False)

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = functional.relu(self.one(inputs))
            return self.out(functional.relu(self.two(hidden)))

    steps = [Step(*batch) for batch in batches(3)]
    layouts = [Layout("singles", 3), Layout("stacked", 3)]
    one, other = (values(train(population(Tied), layout, steps, Schedule(1))) for layout in layouts)
    assert one.keys() == other.keys()
    assert all(other[key] == pytest.approx(value, rel=1e-3, abs=1e-5) for key, value in one.items())
    assert one["frozen", "train", "out", 1] == 1
    assert {layer for name, _, layer, _ in one if name == "dead"} == {"out"}  # layer two has no weight of its own
    assert ("gradient_norm", "train", "two", 1) not in one


@pytest.mark.parametrize(
    ("schedule", "looks"),
    [
        (Schedule(500, base=4), [1, 4, 16, 64, 256, 500, 1000, 1500]),
        (Schedule(150), [1, 2, 4, 8, 16, 32, 64, 128, 150, 300]),
        (Schedule(3, early=False), [3, 6, 9]),
        (Schedule(1, base=4), [1, 2, 3, 4, 5]),
    ],
)
def test_when_members_are_looked_at(schedule: Schedule, looks: list[int]) -> None:
    found, step = [], 0
    for _ in looks:
        step = schedule.next_after(step)
        found.append(step)
    assert found == looks
    assert [step for step in range(1, 300) if Schedule(9, base=4).is_early(step)] == [1, 4, 16, 64, 256]
