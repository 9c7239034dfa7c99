"""A population as a user holds it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from caviar.core.errors import DamagedError, InputError
from caviar.population import Layout, Population, Step

KINDS = ("singles", "stacked", "chain")
MEMBERS = 4


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.25), nn.Linear(16, 3))


def batch(number: int, size: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randn(size, 6, generator=generator)
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 1).long()


def population(kind: str, source: Any = net, **options: Any) -> Population:
    options = {"members": MEMBERS, "optimizer": {"name": "sgd", "momentum": 0.9}} | options
    return Population(source, executor=kind, **options)


def trained(kind: str, steps: int = 5, **options: Any) -> Population:
    found = population(kind, **options)
    for number in range(steps):
        found.step(*batch(number))
    return found


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def take(state: dict[str, Tensor], members: list[int]) -> dict[str, Tensor]:
    return {name: tensor[members] for name, tensor in state.items()}


@pytest.mark.parametrize("kind", KINDS)
class TestMembersAreData:
    def test_selected_ones_go_on_as_they_would_have(self, kind: str) -> None:
        whole = trained(kind)
        some = whole.select([2, 0])
        for number in range(5, 8):
            whole.step(*batch(number))
            some.step(*batch(number))
        assert equal(take(whole.state(), [2, 0]), some.state())
        assert some.trials == (2, 0)

    def test_a_fork_begins_equal_and_draws_apart(self, kind: str) -> None:
        whole = trained(kind)
        copies = whole.fork(1, 3)
        assert copies.trials == (1, MEMBERS, MEMBERS + 1)
        before = copies.state()
        for name in before:
            if name != "draws":
                assert torch.equal(before[name][0], before[name][2]), name
        copies.step(*batch(9))
        whole.step(*batch(9))
        assert equal(take(whole.state(), [1]), take(copies.state(), [0]))
        weights = copies.state()["model/3.weight"]
        assert not torch.equal(weights[0], weights[1])

    def test_replicated(self, kind: str) -> None:
        twice = trained(kind).replicate(2)
        assert len(twice) == 2 * MEMBERS
        assert len(set(twice.trials)) == 2 * MEMBERS

    @pytest.mark.parametrize("rule", ["adamw", "nadam", "ranger"])
    def test_a_refilled_slot_begins_anew_and_the_others_never_notice(self, kind: str, rule: str) -> None:
        options = {"optimizer": {"name": rule}, "hyperparameters": {"learning_rate": [0.01, 0.02, 0.03, 0.04]}}
        whole = trained(kind, **options)
        other = whole.select(range(MEMBERS))
        source = net()
        fresh = whole.refill(1, source, {"learning_rate": 0.05})
        assert fresh.trials == (0, MEMBERS, 2, 3)
        alone = population(kind, source, members=1, optimizer={"name": rule}, hyperparameters={"learning_rate": [0.05]})
        alone.cohort.draws[0].set_state(fresh.state()["draws"][1].clone())
        for number in range(5, 8):
            for each in (other, fresh, alone):
                each.step(*batch(number))
        assert equal(take(other.state(), [0, 2, 3]), take(fresh.state(), [0, 2, 3]))
        for name, tensor in alone.state().items():
            torch.testing.assert_close(take(fresh.state(), [1])[name], tensor, rtol=1e-6, atol=1e-7)

    def test_saved_and_restored_goes_on_the_same(self, kind: str, tmp_path: Path) -> None:
        whole = trained(kind)
        whole.save(tmp_path / "population.safetensors")
        again = population(kind)
        again.restore(tmp_path / "population.safetensors")
        for number in range(5, 8):
            whole.step(*batch(number))
            again.step(*batch(number))
        assert equal(whole.state(), again.state())

    def test_a_member_is_a_plain_module(self, kind: str) -> None:
        whole = trained(kind)
        module = whole.member(2)
        module.eval()
        inputs, _ = batch(3)
        with torch.no_grad():
            torch.testing.assert_close(module(inputs), whole.outputs(inputs)[2], rtol=1e-5, atol=1e-6)
        assert type(module) is nn.Sequential
        assert "forward" not in vars(module[2])

    def test_a_nan_stays_with_its_member(self, kind: str) -> None:
        whole, other = population(kind), population(kind)
        whole.cohort.weights["0.weight"][1] = torch.nan
        for number in range(4):
            whole.step(*batch(number))
            other.step(*batch(number))
        state, expected = whole.state(), other.state()
        assert torch.isnan(state["model/0.weight"][1]).any()
        assert equal(take(state, [0, 2, 3]), take(expected, [0, 2, 3]))

    def test_a_member_without_examples_rests(self, kind: str) -> None:
        whole = trained(kind, optimizer={"name": "adamw"})
        before = whole.state()
        weights = torch.ones(MEMBERS, 16)
        weights[2] = 0
        whole.step(*batch(7), weights)
        after = whole.state()
        assert not torch.equal(before["model/0.weight"][1], after["model/0.weight"][1])
        for name in before:
            if name != "draws":
                assert torch.equal(before[name][2], after[name][2]), name

    def test_hyperparameters_are_those_of_separate_populations(self, kind: str) -> None:
        values = {
            "learning_rate": [0.1, 0.02, 0.3, 0.01],
            "momentum": [0.0, 0.9, 0.5, 0.8],
            "weight_decay": [0.0, 0.1, 0.01, 0.2],
            "dropout": [0.0, 0.5, 0.1, 0.25],
            "label_smoothing": [0.1, 0.0, 0.2, 0.3],
            "l1": [0.001, 0.0, 0.01, 0.002],
            "l2": [0.0, 0.01, 0.02, 0.0],
            "clip_norm": [0.1, 1.0, 10.0, 0.5],
        }
        together = population(kind, hyperparameters=values)
        apart = [
            population(kind, hyperparameters={n: [v[i]] for n, v in values.items()}, members=1, seeds=[i])
            for i in range(4)
        ]
        together = population(kind, hyperparameters=values, seeds=[0, 1, 2, 3])
        for number in range(4):
            together.step(*batch(number))
            for single in apart:
                single.step(*batch(number))
        for member, single in enumerate(apart):
            alone, mine = single.state(), take(together.state(), [member])
            assert {name for name in mine if name.startswith("model/")} <= alone.keys()
            assert all(torch.equal(mine[name], alone[name]) for name in alone), member


def test_equals_a_loop_by_hand() -> None:
    """Torch's own modules and optimiser are the witness, dropout's draws included."""
    source = net()
    found = population("stacked", source, hyperparameters={"learning_rate": [0.1, 0.05, 0.02, 0.2]})
    modules = [found.member(number) for number in range(MEMBERS)]
    for number in range(3):
        found.step(*batch(number))
    for member, module in enumerate(modules):
        optimizer = torch.optim.SGD(module.parameters(), lr=[0.1, 0.05, 0.02, 0.2][member], momentum=0.9)
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(population("stacked", source).state()["draws"][member].clone())
            for number in range(3):
                inputs, targets = batch(number)
                optimizer.zero_grad()
                functional.cross_entropy(module.train()(inputs), targets).backward()
                optimizer.step()
        for name, tensor in found.member(member).state_dict().items():
            torch.testing.assert_close(tensor, module.state_dict()[name], rtol=1e-5, atol=1e-7)


def test_example_weights_train_on_the_kept_rows() -> None:
    """Rows of weight 0 are as if they were not there: batch norm's statistics included."""

    def normed() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    inputs, targets = batch(0, 12)
    weights = torch.ones(2, 12)
    weights[0, :4], weights[1, 8:] = 0, 0
    for kind in ("singles", "stacked"):
        for member, kept in enumerate((slice(4, 12), slice(0, 8))):
            source = normed()
            folded = population(kind, source, members=2)
            folded.step(inputs, targets, weights, learning_rate=0.1)
            optimizer = torch.optim.SGD(source.parameters(), lr=0.1, momentum=0.9)
            functional.cross_entropy(source.train()(inputs[kept]), targets[kept]).backward()
            optimizer.step()
            for name, tensor in folded.member(member).state_dict().items():
                torch.testing.assert_close(tensor, source.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_the_users_module_and_generator_are_left_alone() -> None:
    source = net()
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    state = torch.get_rng_state()
    trained("auto", source=source).close()
    trained("auto").close()
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(before, dict(source.state_dict()))
    assert all(parameter.grad is None for parameter in source.parameters())


def test_dropout_on_threads_gives_one_result() -> None:
    results = []
    for _ in range(5):
        found = population("singles")
        found.prepare([Step(*batch(0))], Layout("singles", 2, 2))
        for number in range(20):
            found.step(*batch(number))
        results.append(found.state())
        found.close()
    assert all(equal(results[0], other) for other in results[1:])


class Noisy(nn.Module):
    """Draws from torch's global generator in a way that cannot be redirected."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.linear(inputs + 0.1 * torch.randn_like(inputs))
        return outputs


def test_modules_that_draw_globally_have_draws_of_their_own_and_no_threads() -> None:
    found = population("singles", Noisy)
    with pytest.raises(InputError, match="global generator"):
        found.prepare([Step(*batch(0))], Layout("singles", 2, 2))
    whole = trained("singles", source=Noisy)
    alone = population("singles", Noisy).select([3])
    for number in range(5):
        alone.step(*batch(number))
    assert equal(take(whole.state(), [3]), alone.state())


def test_seeds_make_members_that_single_runs_are() -> None:
    seeded = population("stacked", seeds=[7, 8, 9, 10])
    assert equal(take(seeded.state(), [1]), population("stacked", members=1, seed=8).state())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hyperparameters": {"learning_rat": [0.1] * 4}}, "learning_rate"),
        ({"hyperparameters": {"learning_rate": [0.1, 0.2]}}, "4 in all"),
        ({"hyperparameters": {"learning_rate": [0.1, 0.2, 0.3, -1.0]}}, "member 3"),
        ({"hyperparameters": {"momentum": [0.1, 0.2, 1.0, 0.5]}}, "below 1"),
        ({"members": 0}, "at least one"),
        ({"seeds": [1, 2]}, "seeds has 2 entries"),
        ({"optimizer": "sdg"}, "sgd"),
        ({"optimizer": {"name": "sgd", "learning_rate": -1.0}}, "learning_rate"),
        ({"loss": "auto"}, "cross_entropy"),
    ],
)
def test_wrong_input_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        population("stacked", **options)


def test_other_wrong_input() -> None:
    with pytest.raises(InputError, match=r"stackd.*stacked"):
        population("stackd")
    with pytest.raises(InputError, match="one model at a time"):
        trained("singles", optimizer="lbfgs")
    with pytest.raises(InputError, match="another architecture for member 1"):
        sizes = iter([3, 4, 5, 6])
        population("stacked", lambda: nn.Linear(6, next(sizes)))
    with pytest.raises(InputError, match="same module twice"):
        module = net()
        population("stacked", lambda: module)
    with pytest.raises(InputError, match="no member 9"):
        population("stacked").member(9)
    with pytest.raises(InputError, match="control flow"):
        trained("stacked", source=Branching)
    with pytest.raises(InputError, match=r"\(4, 16\)"):
        population("stacked").step(*batch(0), torch.ones(4, 5))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.linear(inputs)
        return outputs if bool(outputs.sum() > 0) else outputs * 2


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    with pytest.raises(InputError, match="no such"):
        population("stacked").restore(path)
    path.write_bytes(b"not a population")
    with pytest.raises(DamagedError, match="damaged"):
        population("stacked").restore(path)
    population("stacked", members=2).save(path)
    with pytest.raises(InputError, match="2 members"):
        population("stacked").restore(path)


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 3), Branching, Noisy])
def test_auto_runs_anything(make: Callable[[], nn.Module]) -> None:
    found = trained("auto", source=make)
    assert found.losses().shape == (5, MEMBERS)
    assert found.layout is not None
    assert found.timings
    found.close()
