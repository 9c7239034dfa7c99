"""Averages of members' weights, and plateaus: each member has its own."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import caviar
from caviar.core.checkpoint import read_checkpoint
from caviar.core.errors import Interrupted
from caviar.core.store import Store
from caviar.population import Population, Step
from tests.workflow.test_members import same, train, weights

MODEL = {"name": "mlp", "widths": [12], "dropout": 0.2, "norm": "batch"}
EMA = {"name": "ema", "decay": 0.9}
SWA = {"name": "swa", "start": 1, "every": 1}
PLATEAU = {"name": "plateau", "patience": 0, "factor": 0.5, "threshold": 0.05}


def best(run: caviar.Run) -> dict[str, Tensor]:
    return read_checkpoint(run.path / "checkpoints" / "best.safetensors").tensors


@pytest.mark.parametrize("executor", ["singles", "stacked", "chain"])
@pytest.mark.parametrize("average", [EMA, SWA, EMA | {"every": 3, "warm_up": False}])
def test_a_member_has_the_average_of_the_single_run(tmp_path: Path, executor: str, average: dict[str, Any]) -> None:
    """Every epoch is better than the one before, so that the last one's average is the best; up to rounding."""
    settings = {"average": average, "model": MODEL | {"dropout": 0.0}, "schedule": {"name": "constant"}}
    alone = train(tmp_path, "alone", epochs=3, settings=settings)
    many = train(tmp_path, "many", members=3, epochs=3, settings=settings | {"population.executor": executor})
    expected, found = best(alone), best(many)
    assert read_checkpoint(alone.path / "checkpoints" / "best.safetensors").data["epoch"] == 3
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name][0], tensor, rtol=2e-3, atol=1e-4)
    last = weights(many)
    assert not torch.allclose(last[_hidden(last)][0], _model(last)[0])
    expected_loss = alone.records(name="loss", split="dev")[-1].value
    assert many.summary["trials"][0]["dev_loss"] == pytest.approx(expected_loss, rel=1e-3)


def _hidden(state: dict[str, Tensor]) -> str:
    return next(name for name in state if name.startswith("member/average/") and name.endswith("weight"))


def _model(state: dict[str, Tensor]) -> Tensor:
    return state[_hidden(state).replace("/average/", "/model/")]


def test_an_average_changes_nothing_about_training(tmp_path: Path) -> None:
    for executor in ("singles", "stacked", "chain"):
        settings = {"population.executor": executor, "model": MODEL}
        plain = train(tmp_path, f"plain-{executor}", members=3, epochs=2, settings=settings)
        averaged = train(tmp_path, f"averaged-{executor}", members=3, epochs=2, settings=settings | {"average": EMA})
        one, other = weights(plain), weights(averaged)
        assert all(torch.equal(one[name], other[name]) for name in one if name.startswith("member/"))


@pytest.mark.parametrize("kind", ["stacked", "singles", "chain"])
def test_a_members_average_does_not_depend_on_the_others(kind: str) -> None:
    from dataclasses import replace

    module = torch.nn.Sequential(torch.nn.Linear(5, 3))

    def made(trials: list[int]) -> Population:
        whole = Population(module, members=7, executor=kind, hyperparameters={"learning_rate": [0.1] * 7})
        some = whole.select(trials)
        some.cohort = replace(some.cohort, average=True)
        some._remembered = {}
        return some

    whole, few = made(list(range(7))), made([2, 5])
    generator = torch.Generator().manual_seed(1)
    for share in (0.9, 0.01, 0.3):
        inputs, targets = torch.randn(16, 5, generator=generator), torch.randint(3, (16,), generator=generator)
        for each in (whole, few):
            each.take(Step(inputs, targets, average=share))
    first, second = whole.state(), few.state()
    assert any(name.startswith("average/") for name in first)
    assert all(torch.equal(first[name][[2, 5]], second[name]) for name in first if name.startswith("average/"))


@pytest.mark.parametrize("executor", ["singles", "stacked", "chain"])
@pytest.mark.parametrize(
    "settings", [{"average": EMA}, {"average": SWA, "schedule": PLATEAU}, {"population.folds": 3, "average": EMA}]
)
def test_a_stop_and_a_resume_leave_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: str, settings: dict[str, Any]
) -> None:
    if "population.folds" in settings and executor == "chain":
        settings = settings | {"preprocess.numeric": "none"}
        executor = "stacked"
    settings = settings | {"population.executor": executor, "model": MODEL, "training.patience": 2}
    whole = train(tmp_path, "whole", members=3, epochs=6, settings=settings)
    plain, count = Population.take, 0

    def stopping(population: Population, step: Step) -> None:
        nonlocal count
        count += 1
        if count == 22:
            signal.raise_signal(signal.SIGINT)
        plain(population, step)

    with monkeypatch.context() as patch:
        patch.setattr(Population, "take", stopping)
        with pytest.raises(Interrupted, match="stopped after step"):
            train(tmp_path, "parts", members=3, epochs=6, settings=settings)
    parts = caviar.train(resume=tmp_path / "parts", progress=False)
    assert same(whole, parts)
    assert whole.summary["trials"] == parts.summary["trials"]
    with Store(whole.folder.store, read_only=True) as one, Store(parts.folder.store, read_only=True) as other:
        assert one.read() == other.read()


def test_each_member_listens_to_its_own_metric(tmp_path: Path) -> None:
    settings = {
        "schedule": PLATEAU | {"warmup": 3}, "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9},
        "population.executor": "stacked", "watch.quantities": "none",
    }  # fmt: skip
    rates = [0.05, 1e-5, 0.3]
    many = train(tmp_path, "many", members=3, epochs=8, settings=settings | {"population.learning_rate": rates})
    told = [[r.value for r in many.records(name="learning_rate", trial=trial)] for trial in range(3)]
    drops = [{round(rate / first, 9) for rate in rates_seen} for rates_seen, first in zip(told, rates, strict=True)]
    assert drops[1] != drops[0], "the one that hardly moves is stalled from the beginning"
    for trial, first in enumerate(rates):
        losses = [r.value for r in many.records(name="loss", split="dev", trial=trial)]
        best_loss, factor, expected = float("nan"), 1.0, []
        for loss in losses:
            expected.append(first * factor)
            if best_loss != best_loss or loss < best_loss * (1 - 0.05):
                best_loss = loss
            else:
                factor *= 0.5
        assert told[trial] == pytest.approx(expected)


def test_a_plateau_of_one_of_many_is_that_of_the_single_run(tmp_path: Path) -> None:
    settings = {"schedule": PLATEAU | {"threshold": 0.5}, "model": MODEL | {"dropout": 0.0, "norm": "none"}}
    alone = train(tmp_path, "alone", epochs=5, settings=settings)
    many = train(tmp_path, "many", members=2, epochs=5, settings=settings | {"population.executor": "singles"})
    single, own = ({r.epoch: r.value for r in run.records(name="learning_rate", trial=0)} for run in (alone, many))
    assert own == pytest.approx(single)
    assert len(set(own.values())) > 1, "it fell at least once"
