"""Runs that train many models at once."""

import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import caviar
from caviar.core.checkpoint import read_checkpoint
from caviar.core.errors import InputError, Interrupted
from caviar.core.store import Store
from caviar.population import Population, Step
from caviar.population.settings import HYPERPARAMETERS
from tests.workflow.small import lasting

SETTINGS: dict[str, Any] = {
    "training.batch_size": 16,
    "training.patience": "none",
    "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    "model": {"name": "mlp", "widths": [12], "dropout": 0.2},
}


def train(tmp_path: Path, name: str, **options: Any) -> caviar.Run:
    settings = SETTINGS | options.pop("settings", {})
    data = options.pop("data", "sample:iris")
    return caviar.train(data, settings=settings, name=name, runs_dir=tmp_path, progress=False, **options)


def weights(run: caviar.Run) -> dict[str, torch.Tensor]:
    newest = max((run.path / "checkpoints").glob("step-*"))
    return read_checkpoint(newest).tensors


def same(first: caviar.Run, second: caviar.Run) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("executor", ["singles", "stacked", "chain"])
def test_a_run_of_members(tmp_path: Path, executor: str) -> None:
    run = train(tmp_path, "many", members=5, epochs=4, settings={"population.executor": executor})
    summary = run.summary
    assert summary["status"] == "finished"
    assert [trial["trial"] for trial in summary["trials"]] == list(range(5))
    assert {trial["fate"] for trial in summary["trials"]} == {"finished"}
    spread = summary["spread"]["test_accuracy"]
    assert spread["worst"] <= spread["mean"] <= spread["best"]
    accuracies = [trial["test_accuracy"] for trial in summary["trials"]]
    assert spread["mean"] == pytest.approx(sum(accuracies) / 5)
    assert spread["std"] == pytest.approx(torch.tensor(accuracies).double().std().item())
    best = summary["best"]["trial"]
    assert run.metrics["accuracy"]["value"] == pytest.approx(summary["trials"][best]["test_accuracy"])
    assert run.recipe.population.executor == executor
    assert isinstance(run.recipe.population.size, int)
    records = run.records(name="loss", split="dev")
    assert {record.trial for record in records} == set(range(5))
    assert len(records) == 5 * 4
    assert caviar.load(run.path).network is not None
    for trial in (0, 4):
        evaluated = run.member(trial).evaluate("sample:iris")
        assert 0.3 < evaluated["accuracy"]["value"] <= 1


def test_the_same_again_and_from_its_recipe(tmp_path: Path) -> None:
    first = train(tmp_path, "one", members=4, epochs=3)
    again = caviar.train("sample:iris", settings=first.recipe, name="two", runs_dir=tmp_path, progress=False)
    assert same(first, again)


@pytest.mark.parametrize("executor", ["singles", "stacked", "chain"])
@pytest.mark.parametrize("stop_at", [2, 9])
def test_a_stop_and_a_resume_leave_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: str, stop_at: int
) -> None:
    settings = {"population.executor": executor}
    whole = train(tmp_path, "whole", members=4, epochs=4, settings=settings)
    plain, count = Population.take, 0

    def stopping(population: Population, step: Step) -> None:
        nonlocal count
        count += 1
        if count == stop_at:
            signal.raise_signal(signal.SIGINT)
        plain(population, step)

    with monkeypatch.context() as patch:
        patch.setattr(Population, "take", stopping)
        with pytest.raises(Interrupted, match="stopped after step"):
            train(tmp_path, "parts", members=4, epochs=4, settings=settings)
    parts = caviar.train(resume=tmp_path / "parts", progress=False)
    assert same(whole, parts)
    assert whole.metrics == parts.metrics
    assert whole.summary["trials"] == parts.summary["trials"]
    with Store(whole.folder.store, read_only=True) as one, Store(parts.folder.store, read_only=True) as other:
        assert lasting(one.read()) == lasting(other.read())


def test_diverged_members_leave_and_the_others_never_notice(tmp_path: Path) -> None:
    rates = [0.05, 1e6, 0.02]
    run = train(
        tmp_path,
        "wild",
        members=3,
        epochs=3,
        settings={"population.learning_rate": rates, "population.executor": "stacked"},
    )
    trials = run.summary["trials"]
    assert [trial["fate"] for trial in trials] == ["finished", "diverged", "finished"]
    assert [trial["learning_rate"] for trial in trials] == rates
    settings = {"population.learning_rate": [0.05, 0.03, 0.02], "population.executor": "stacked"}
    calm = train(tmp_path, "calm", members=3, epochs=3, settings=settings)
    for name in ("dev_loss", "test_loss"):
        assert calm.summary["trials"][0][name] == trials[0][name]
        assert calm.summary["trials"][2][name] == trials[2][name]


def test_all_diverged_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(caviar.RunError, match="learning_rate"):
        train(tmp_path, "lost", members=2, epochs=2, settings={"population.learning_rate": [1e12, 1e15]})


def test_patience_ends_members_one_by_one(tmp_path: Path) -> None:
    run = train(
        tmp_path, "patient", members=4, epochs=40,
        settings={"training.patience": 2, "population.learning_rate": [1e-9, 0.05, 0.3, 0.01]},
    )  # fmt: skip
    fates = [trial["fate"] for trial in run.summary["trials"]]
    assert "stopped early" in fates
    assert run.summary["status"] == "finished"


def test_trial_0_is_the_single_run(tmp_path: Path) -> None:
    """Same weights, order and draws: after one epoch they agree up to rounding."""
    alone = train(tmp_path, "alone", epochs=1)
    many = train(tmp_path, "many", members=3, epochs=1, settings={"population.executor": "stacked"})
    single = alone.records(name="batch_loss")
    member = many.records(name="batch_loss", trial=0)
    assert [r.step for r in single] == [r.step for r in member]
    for one, other in zip(single, member, strict=True):
        assert math.isclose(one.value, other.value, rel_tol=1e-4)
    found, expected = weights(many), weights(alone)
    for name, tensor in expected.items():
        if name.startswith("model/") and tensor.is_floating_point():
            torch.testing.assert_close(found[f"member/{name}"][0], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_every_hyperparameter_can_differ(tmp_path: Path, name: str) -> None:
    rule = {"name": "adamw"} if name in ("beta1", "beta2", "eps") else SETTINGS["optimizer"]
    low, high = (0.001, 0.1) if name != "init_gain" else (0.5, 2.0)
    settings = {"optimizer": rule, f"population.{name}": [low, high]}
    run = train(tmp_path, "varied", members=2, epochs=2, settings=settings)
    first, second = run.summary["trials"]
    assert (first[name], second[name]) == (low, high)
    assert first["dev_loss"] != second["dev_loss"]


def test_a_regression_and_a_module_of_ones_own(tmp_path: Path) -> None:
    inputs = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    targets = inputs @ torch.tensor([1.0, -2.0, 0.5, 0.0]) + 0.1
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    run = caviar.train(
        (inputs, targets), model=module, members=3, epochs=5, name="own", runs_dir=tmp_path, progress=False,
        settings={"population.learning_rate": [0.001, 0.01, 0.03]},
    )  # fmt: skip
    assert set(run.summary["spread"]) == {"dev_r2", "dev_loss", "test_r2", "test_loss"}
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"population.learning_rate": [0.1, 0.2]}, "2 entries for 3 members"),
        ({"optimizer": {"name": "lbfgs"}}, "lbfgs"),
        ({"population.executor": "stackd"}, "stacked"),
        ({"population.dropout": [0.1, 0.2, 1.0]}, "dropout"),
        ({"population.momentum": [0.1, 0.2, 0.3], "optimizer": {"name": "adamw"}}, "momentum"),
    ],
)
def test_wrong_input_is_named_and_leaves_nothing(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        train(tmp_path, "wrong", members=3, epochs=1, settings=settings)
    assert not (tmp_path / "wrong").exists()


def test_zero_members_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"population\.members is 0"):
        train(tmp_path, "none", members=0, epochs=1)
