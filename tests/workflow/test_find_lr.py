"""caviar.find_lr: what it says of rates, against hand-written loops, and that it leaves everything as it was."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import caviar
from caviar.core.errors import InputError
from caviar.optim.settings import OPTIMIZERS
from caviar.workflow.learning_rates import judge
from tests.workflow.small import arrays, quantities, write_pictures

FEW: dict[str, Any] = {"rates": 8, "steps": 20, "seeds": 2, "progress": False}
RATES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)


def curves(*last: float, steps: int = 20, start: float = 2.0) -> Tensor:
    """Losses (1, steps, rates) that go straight from `start` to `last`."""
    share = torch.linspace(0, 1, steps)[:, None]
    return ((1 - share) * start + share * torch.tensor(last))[None]


def flat(steps: int = 20, value: float = 2.0) -> Tensor:
    return torch.full((1, steps), value)


def test_every_kind_of_rate_is_told_apart() -> None:
    found = judge(RATES, curves(1.95, 0.6, 0.01, 0.5, 1.9, math.nan), flat())
    assert found.kinds == ("barely moves", "good", "best", "good", "unstable", "explodes")
    assert (found.outcome, found.suggestion) == ("found", 0.1)
    assert [(each.low, each.high) for each in found.ranges] == [(rate, rate) for rate in RATES]
    assert "Begin with 0.1" in found.verdict


def test_from_the_best_rate_outwards_kinds_only_get_worse() -> None:
    found = judge(RATES, curves(0.9, 1.9, 0.0, math.nan, 0.5, 1.9), flat())
    assert found.kinds == ("barely moves", "barely moves", "best", "explodes", "explodes", "explodes")


def test_a_spike_or_a_seed_that_explodes_makes_a_rate_unstable() -> None:
    losses = curves(1.9, 0.5, 0.0, 0.0, 0.0, math.nan)
    losses[0, 15, 3] = 9.0
    more = torch.cat([losses, losses.clone(), losses.clone()])
    more[1, -1, 4] = math.inf
    found = judge(RATES, more, torch.cat([flat()] * 3))
    assert found.kinds == ("barely moves", "good", "best", "unstable", "unstable", "explodes")


def test_the_spread_of_ranges_is_that_of_seeds_alone() -> None:
    first, second = curves(1.9, 0.0, 0.0, 1.9, 1.9, 9.0), curves(1.9, 1.9, 0.0, 0.0, 9.0, 9.0)
    found = judge(RATES, torch.cat([first, second, second]), torch.cat([flat()] * 3))
    best = next(each for each in found.ranges if each.kind == "best")
    assert (best.low, best.high) == (0.1, 1.0)
    assert (best.lows, best.highs) == ((0.01, 0.1), (0.1, 1.0))
    gone = found.ranges[-1]
    assert (gone.kind, gone.low, gone.lows) == ("explodes", 10.0, (10.0, 100.0))


@pytest.mark.parametrize(("last", "outcome"), [((0.5, 0.9), "lowest is best"), ((0.9, 0.5), "highest is best")])
def test_a_best_rate_at_the_end_is_called_so(last: tuple[float, float], outcome: str) -> None:
    found = judge((0.1, 1.0), curves(*last), flat())
    assert found.outcome == outcome
    assert "may be better still" in found.verdict


@pytest.mark.parametrize(("optimizer", "loss"), [("sgd", "cross_entropy"), ("adamw", functional.cross_entropy)])
def test_losses_are_those_of_a_plain_loop(optimizer: str, loss: Any) -> None:
    """Both ways, stacked and one by one, against torch's own rule; batches of all examples have no order."""
    inputs, labels = (torch.as_tensor(each) for each in arrays())
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    found = caviar.find_lr(net, (inputs, labels), loss, optimizer=optimizer, batch_size=90, **FEW)
    for rate, ended in zip(found.rates, found.losses[0].tolist(), strict=True):
        own = copy.deepcopy(net)
        rule = torch.optim.SGD(own.parameters(), rate, momentum=0.9) if optimizer == "sgd" else None
        rule = rule or torch.optim.AdamW(_decayed(own), rate)  # type: ignore[assignment]
        last = []
        for _ in range(20):
            assert rule is not None
            rule.zero_grad()
            value = functional.cross_entropy(own(inputs), labels)
            value.backward()
            rule.step()
            last.append(value.item())
        assert ended == pytest.approx(np.mean(last[-5:]), rel=2e-3), rate
    assert found.before[0] == pytest.approx(functional.cross_entropy(net(inputs), labels).item(), rel=1e-5)


def _decayed(net: nn.Module) -> list[dict[str, Any]]:
    weights = [each for each in net.parameters() if each.dim() == 2]
    return [
        {"params": weights, "weight_decay": 0.01},
        {"params": [each for each in net.parameters() if each.dim() == 1], "weight_decay": 0.0},
    ]


def test_nothing_of_the_users_is_changed() -> None:
    inputs, labels = (torch.as_tensor(each) for each in arrays())
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3)).eval()
    optimizer = torch.optim.SGD([{"params": net[0].parameters()}, {"params": net[4].parameters(), "lr": 0.01}], lr=0.1)
    before, settings = copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict())
    torch.manual_seed(7)
    drawn, numbers = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    given = caviar.find_lr(net, (inputs, labels), nn.CrossEntropyLoss(), optimizer=optimizer, **FEW)
    named = caviar.find_lr(net, (inputs, labels), "cross_entropy", optimizer="sgd", **FEW)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert optimizer.state_dict() == settings
    assert not net.training
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert np.random.get_state()[1].tolist() == numbers  # type: ignore[index]
    assert given.suggestion
    assert named.suggestion


def test_equal_arguments_give_equal_answers_and_seeds_differ() -> None:
    data = arrays()
    first, again = (caviar.find_lr(lambda: nn.Linear(4, 3), data, "cross_entropy", **FEW) for _ in range(2))
    assert torch.equal(first.losses, again.losses)
    assert not torch.equal(first.losses[0], first.losses[1])
    assert first.before[0] != first.before[1]


def test_where_everything_explodes_it_says_so() -> None:
    inputs, values = quantities()
    found = caviar.find_lr(
        nn.Linear(4, 1), (inputs * 1e12, values.astype(np.float32)), "mean_squared_error", optimizer="sgd", **FEW
    )
    assert found.outcome == "everything explodes"
    assert found.suggestion is None
    assert set(found.kinds) == {"explodes"}
    assert "Every rate from 1e-06 to 10 explodes" in found.verdict
    assert len(found.to_dict()["rates"]) == 8


def test_where_nothing_moves_it_says_so() -> None:
    found = caviar.find_lr(nn.Linear(4, 3), arrays(), lambda outputs, _: 1 + 0 * outputs.sum(), **FEW)
    assert found.outcome == "nothing moves"
    assert found.suggestion is None
    assert set(found.kinds) == {"barely moves"}
    assert "No rate" in found.verdict


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ("lbfgs", "newton")])
def test_every_first_order_rule(name: str) -> None:
    few = {"rates": 7, "steps": 20, "seeds": 1, "progress": False}
    found = caviar.find_lr("sample:iris", settings={"optimizer.name": name}, **few)
    assert found.suggestion is not None
    assert 1e-5 < found.suggestion <= 10


@pytest.mark.parametrize("name", ["lbfgs", "newton"])
def test_rules_without_a_rate_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="one model at a time"):
        caviar.find_lr("sample:iris", settings={"optimizer.name": name}, **FEW)
    if name == "lbfgs":
        net = nn.Linear(4, 3)
        with pytest.raises(InputError, match="own step length"):
            caviar.find_lr(
                net, arrays(), functional.cross_entropy, optimizer=torch.optim.LBFGS(net.parameters()), **FEW
            )


def test_pictures_augmented_and_a_module_of_ones_own(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", per_class=12)
    settings = {"augment.flip": 0.5, "model.norm": "batch", "training.batch_size": 8}
    found = caviar.find_lr(folder, settings=settings, rates=5, steps=6, seeds=1, progress=False)
    assert len(found.kinds) == 5
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    net(torch.zeros(2, 3, 10, 10))
    assert caviar.find_lr(net, folder, rates=5, steps=6, seeds=1, progress=False).losses.shape == (1, 5)


@pytest.mark.parametrize(
    ("source", "settings"),
    [("sample:digits", {"optimizer.name": "sgd"}), ("sample:diabetes", {})],
)
def test_the_suggestion_trains_well(source: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """Beside the best of nine rates three apart, each trained for ten epochs.

    Two rates next to each other there differ by as much as two seeds do, a few per cent of what there is to learn; a
    rate ten times off loses far more. So the suggestion must win nine tenths of what the best one wins.
    """
    found = caviar.find_lr(source, settings=settings, rates=16, seeds=2, progress=False)
    assert found.suggestion is not None
    rates = [*np.logspace(-4, 0, 9).round(6).tolist(), found.suggestion]
    every = {**settings, "training.epochs": 10, "population.learning_rate": rates, "population.members": len(rates)}
    run = caviar.train(source, settings={**every, "population.executor": "singles"}, runs_dir=tmp_path, progress=False)
    trials = run.summary["trials"]
    key = next(key for key in trials[0] if key in ("dev_accuracy", "dev_r2"))
    reached = [float(trial.get(key, -math.inf)) for trial in trials]
    assert reached[-1] > 0.9 * max(reached)
    assert sum(value < 0.9 * max(reached) for value in reached) >= 2, "this test could not fail"


def test_wrong_input() -> None:
    net, data = nn.Linear(4, 3), arrays()
    for wrong, words in (
        ({"low": 1.0, "high": 0.1}, "0 < low < high"),
        ({"rates": 1}, "give 2 at least"),
        ({"seeds": 0}, "give 1 at least"),
        ({"settings": {}}, "settings cannot be used with a loss"),
        ({"optimizer": "adamm"}, "Did you mean 'adam"),
        ({"data": None}, "needs data"),
    ):
        arguments = {"data": data, "loss": "cross_entropy", **FEW, **wrong}
        with pytest.raises(InputError, match=words):
            caviar.find_lr(net, **arguments)
    with pytest.raises(InputError, match="no loss"):
        caviar.find_lr(lambda: net, data, **FEW)
    with pytest.raises(InputError, match="belongs to one module"):
        caviar.find_lr(lambda: net, data, "cross_entropy", optimizer=torch.optim.SGD(net.parameters(), lr=0.1), **FEW)


def test_the_picture_shows_ranges_and_suggestion(tmp_path: Path) -> None:
    found = judge(RATES, curves(1.95, 0.6, 0.01, 0.5, 1.9, math.nan), flat())
    found.plot(tmp_path / "rates.svg")
    text = (tmp_path / "rates.svg").read_text()
    assert text.startswith("<svg")
    assert all(word in text for word in ("best", "explodes", "learning rate", ">0.1<"))
    assert "nan" not in text
    judge(RATES, torch.full((1, 20, 6), math.nan), torch.full((1, 20), math.nan)).plot(tmp_path / "gone.svg")
    assert "nan" not in (tmp_path / "gone.svg").read_text()
