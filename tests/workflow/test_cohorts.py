"""Runs whose members cannot all be stacked: cohorts that train one after another."""

import io
import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import caviar
from caviar.cli.main import main
from caviar.core.checkpoint import read_checkpoint
from caviar.core.errors import InputError, Interrupted
from caviar.core.observer import Moment
from caviar.core.store import Store
from caviar.population import Population, Step
from caviar.workflow.cohorts import CohortLayout
from caviar.workflow.members_observers import MembersBar, Portion
from caviar.workflow.show_cohorts import print_cohorts
from tests.workflow.small import lasting

VARY: dict[str, Any] = {
    "training.batch_size": [16, 32, 16, 32, 16],
    "model.widths": [[8], [8], [12], [8], [8]],
    "optimizer.learning_rate": [0.05, 0.05, 0.02, 0.1, 0.01],
}
"""Cohorts (0, 4), (1, 3) and (2,)."""
SETTINGS: dict[str, Any] = {
    "training.patience": "none",
    "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    "model": {"name": "mlp", "widths": [8], "dropout": 0.2},
    "population.executor": "stacked",
    "population.threads": 1,
}


def train(tmp_path: Path, name: str, vary: dict[str, Any] | None = None, **options: Any) -> caviar.Run:
    vary = VARY if vary is None else vary
    members = len(next(iter(vary.values()), []))
    settings = SETTINGS | {"population.vary": vary} | options.pop("settings", {})
    options = {"members": members, "epochs": 3} | options
    data = options.pop("data", "sample:iris")
    return caviar.train(data, settings=settings, name=name, runs_dir=tmp_path, progress=False, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> caviar.Run:
    """What the runs that are stopped should come to."""
    return train(tmp_path_factory.mktemp("runs"), "whole")


def newest(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(max((folder / "checkpoints").glob("step-*"))).tensors


def same(first: caviar.Run, second: caviar.Run) -> bool:
    """Whether every cohort ended in the same state, and the records and summaries are the same."""
    for cohort in sorted(first.folder.cohorts.iterdir()):
        one, other = newest(cohort), newest(second.folder.cohorts / cohort.name)
        if one.keys() != other.keys() or not all(torch.equal(one[name], other[name]) for name in one):
            return False
    with Store(first.folder.store, read_only=True) as here, Store(second.folder.store, read_only=True) as there:
        records = lasting(here.read()) == lasting(there.read())
    keys = ("trials", "spread", "metrics", "best", "epochs_run")
    return records and all(first.summary[key] == second.summary[key] for key in keys)


def test_members_that_differ_in_anything_train_in_cohorts(whole: caviar.Run) -> None:
    run = whole
    summary = run.summary
    assert summary["status"] == "finished"
    assert [cohort["trials"] for cohort in summary["cohorts"]] == [[0, 4], [1, 3], [2]]
    assert [cohort["parameters"] for cohort in summary["cohorts"]] == [75, 75, 111]
    assert summary["varied"] == ["learning_rate", "model.widths", "training.batch_size"]
    rows = summary["trials"]
    assert [row["trial"] for row in rows] == list(range(5))
    for key, values in VARY.items():
        assert [row[{"optimizer.learning_rate": "learning_rate"}.get(key, key)] for row in rows] == values
    assert {record.trial for record in run.records(name="loss", split="dev")} == set(range(5))
    for row, steps in zip(rows, [6, 3, 6, 3, 6], strict=True):
        losses = run.records(name="batch_loss", trial=row["trial"])
        assert [record.step for record in losses] == list(range(1, 3 * steps + 1))
    accuracies = torch.tensor([row["test_accuracy"] for row in rows], dtype=torch.float64)
    assert summary["spread"]["test_accuracy"]["mean"] == pytest.approx(accuracies.mean().item())
    assert summary["spread"]["test_accuracy"]["std"] == pytest.approx(accuracies.std().item())
    assert run.recipe.population.executor == ("stacked",) * 3
    assert run.recipe.population.size == (2, 2, 1)


def test_the_best_of_all_is_handed_over_as_its_own_model(whole: caviar.Run) -> None:
    run = whole
    rows = run.summary["trials"]
    best = min(rows, key=lambda row: row["dev_loss"])
    assert run.summary["best"]["trial"] == best["trial"]
    assert run.metrics["accuracy"]["value"] == pytest.approx(best["test_accuracy"])
    bundle = caviar.load(run.path)
    assert bundle.manifest.model["widths"] == best["model.widths"]
    assert bundle.manifest.recipe["training"]["batch_size"] == best["training.batch_size"]
    assert bundle.manifest.recipe["optimizer"]["learning_rate"] == best["learning_rate"]
    for row in rows:
        member = run.member(row["trial"])
        assert member.manifest.model["widths"] == row["model.widths"]
        assert member.manifest.recipe["optimizer"]["learning_rate"] == row["learning_rate"]
    judged = run.member(best["trial"]).evaluate("sample:iris")
    assert judged["accuracy"]["value"] == caviar.evaluate(run.path, "sample:iris")["accuracy"]["value"]
    with pytest.raises(InputError, match="no trial 5"):
        run.member(5)


@pytest.mark.parametrize("executor", ["singles", "stacked", "chain"])
def test_a_member_is_what_it_would_be_with_others_beside_it_or_none(tmp_path: Path, executor: str) -> None:
    """Trial for trial: with the same settings for all, and as a single run where it is trial 0."""
    chosen = {"population.executor": executor}
    run = train(tmp_path, "many", settings=chosen)
    other_vary = {key: [values[0]] * 5 for key, values in VARY.items()}
    other_vary["training.batch_size"] = [16, 32, 16, 16, 16]  # cohorts (0, 2, 3, 4) and (1,)
    other_vary["optimizer.learning_rate"] = [0.05, 0.05, 0.3, 0.2, 0.01]
    other = train(tmp_path, "others", other_vary, settings=chosen)
    for trial in (0, 1, 4):
        one, two = run.member(trial).network.state_dict(), other.member(trial).network.state_dict()
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert lasting(run.records(trial=trial)) == lasting(other.records(trial=trial))
    if executor == "singles":
        settings = {k: v for k, v in SETTINGS.items() if "population" not in k} | {"training.batch_size": 16}
        alone = caviar.train(
            "sample:iris", settings=settings, epochs=3, name="alone", runs_dir=tmp_path, progress=False
        )
        one, two = alone.bundle.network.state_dict(), run.member(0).network.state_dict()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_same_again_from_the_resolved_recipe(whole: caviar.Run, tmp_path: Path) -> None:
    again = caviar.train("sample:iris", settings=whole.recipe, name="two", runs_dir=tmp_path, progress=False)
    assert again.recipe == whole.recipe
    assert same(whole, again)


class Killed(BaseException):
    """Nobody catches it, and so nobody writes anything more."""


def end_at(step: int, monkeypatch: pytest.MonkeyPatch, end: Callable[[], None]) -> None:
    """Let something happen before the n-th step of all cohorts together."""
    plain, count = Population.take, 0

    def counting(population: Population, batch: Step) -> None:
        nonlocal count
        count += 1
        if count == step:
            end()
        plain(population, batch)

    monkeypatch.setattr(Population, "take", counting)


@pytest.mark.parametrize("step", [18, 19, 22])
def test_a_stop_and_a_resume_leave_no_trace(
    whole: caviar.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """In the middle of a cohort, at its first step, and at its last; cohorts have 18, 9 and 18 steps."""
    with monkeypatch.context() as patch:
        end_at(step, patch, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(Interrupted, match=r"of cohort \d of 3; everything is saved"):
            train(tmp_path, "parts")
    assert caviar.Run.open(tmp_path / "parts").summary["status"] == "interrupted"
    assert same(whole, caviar.train(resume=tmp_path / "parts", progress=False))


@pytest.mark.parametrize("step", [6, 19, 30])
def test_an_end_without_a_word_keeps_what_was_done(
    whole: caviar.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    def kill() -> None:
        raise Killed

    with monkeypatch.context() as patch:
        end_at(step, patch, kill)
        with pytest.raises(Killed):
            train(tmp_path, "parts", settings={"training.checkpoint_seconds": 0.0})
    summary = caviar.Run.open(tmp_path / "parts").summary
    assert summary["status"] == "running"
    done = [[], [0, 4], [0, 1, 3, 4]][(step > 18) + (step > 27)]
    assert [row["trial"] for row in summary.get("trials", [])] == done
    assert same(whole, caviar.train(resume=tmp_path / "parts", progress=False))


def test_a_kill_in_the_second_cohort(whole: caviar.Run, tmp_path: Path) -> None:
    program = f"""
import os, signal, sys
from caviar.population import Population
from tests.workflow.test_cohorts import train
from pathlib import Path
plain, count = Population.take, 0
def killing(population, step):
    global count
    count += 1
    plain(population, step)
    if count == 23:
        os.kill(os.getpid(), signal.SIGKILL)
Population.take = killing
train(Path({str(tmp_path)!r}), "parts")
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, timeout=240, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert same(whole, caviar.train(resume=tmp_path / "parts", progress=False))


def test_a_finished_run_is_returned_as_it_is_and_an_edited_one_refused(tmp_path: Path) -> None:
    run = train(tmp_path, "many")
    before = run.summary["updated"]
    assert caviar.train(resume=run.path, progress=False).summary["updated"] == before
    text = run.folder.recipe.read_text()
    run.folder.recipe.write_text(text.replace("momentum = 0.9", "momentum = 0.8", 1))
    run.folder.write_summary(status="interrupted")
    with pytest.raises(InputError, match=r"edited.*optimizer\.momentum"):
        caviar.train(resume=run.path, progress=False)


def test_rules_and_their_own_settings(tmp_path: Path) -> None:
    rules = [{"name": "sgd", "momentum": 0.5}, {"name": "adamw"}, {"name": "sgd", "momentum": 0.8}, {"name": "lion"}]
    run = train(tmp_path, "rules", {"optimizer": rules}, settings={"optimizer": {}})
    assert [cohort["trials"] for cohort in run.summary["cohorts"]] == [[0, 2], [1], [3]]
    rows = run.summary["trials"]
    assert [row["optimizer.name"] for row in rows] == ["sgd", "adamw", "sgd", "lion"]
    assert [row.get("optimizer.momentum") for row in rows] == [0.5, None, 0.8, None]
    assert rows[0]["optimizer.learning_rate"] != rows[1]["optimizer.learning_rate"]


def test_diverged_members_and_whole_cohorts_leave(tmp_path: Path) -> None:
    vary = {"training.batch_size": [16, 16, 32, 32], "optimizer.learning_rate": [0.05, 1e9, 1e12, 1e15]}
    run = train(tmp_path, "wild", vary)
    rows = run.summary["trials"]
    assert [row["fate"] for row in rows] == ["finished", "diverged", "diverged", "diverged"]
    assert run.summary["best"]["trial"] == 0
    assert "test_accuracy" not in rows[2]
    assert math.isfinite(run.summary["spread"]["test_accuracy"]["mean"])
    with pytest.raises(InputError, match="trial 3 has no weights"):
        run.member(3)
    with pytest.raises(caviar.RunError, match="every member diverged"):
        train(tmp_path, "lost", {"training.batch_size": [16, 32], "optimizer.learning_rate": [1e12, 1e15]})


def test_preprocessing_is_shared_where_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from caviar.workflow import plan

    plain, calls = plan.prepare, []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments[2].preprocess.numeric)
        return plain(*arguments, **options)

    monkeypatch.setattr(plan, "prepare", counted)
    train(tmp_path, "same")
    assert calls == ["zscore"]
    calls.clear()
    run = train(
        tmp_path, "other", {"preprocess.numeric": ["zscore", "minmax", "none"], "training.batch_size": [16] * 3}
    )
    assert set(calls) == {"zscore", "minmax", "none"}
    configs = [run.member(trial).preprocess.config() for trial in range(3)]  # type: ignore[operator]
    assert configs[0] != configs[1]
    for trial, row in enumerate(run.summary["trials"]):
        judged = run.member(trial).evaluate("sample:iris")
        assert judged["accuracy"]["value"] > 0.3
        assert row["preprocess.numeric"] == ["zscore", "minmax", "none"][trial]


def test_a_module_of_ones_own_and_a_regression(tmp_path: Path) -> None:
    inputs = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    targets = inputs @ torch.tensor([1.0, -2.0, 0.5, 0.0]) + 0.1
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    run = caviar.train(
        (inputs, targets), model=module, members=3, epochs=3, name="own", runs_dir=tmp_path, progress=False,
        settings={"population.vary": {"training.batch_size": [16, 32, 16]}, "population.executor": "singles"},
    )  # fmt: skip
    assert [cohort["trials"] for cohort in run.summary["cohorts"]] == [[0, 2], [1]]
    assert set(run.summary["spread"]) == {"dev_r2", "dev_loss", "test_r2", "test_loss"}
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert run.member(1).network is not None


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        ({"training.batch_size": [16, 0, 16]}, r"trial 1: training\.batch_size is 0"),
        ({"training.batch_size": [16, 32]}, r"2 entries for 3 members"),
        ({"data.target": ["a", "b", "c"]}, r"cannot differ in data\.target"),
        ({"loss.name": ["cross_entropy", "hinge", "hinge"]}, r"cannot be compared by their losses"),
        ({"optimizer.name": ["sgd", "lbfgs", "sgd"]}, r"^trial 1: .*lbfgs"),
        ({"training.batch_size": [16, 500, 500]}, r"^trials 1, 2: training\.batch_size is 500"),
        ({"model.width": [[8], [9], [8]]}, r"trial 0: model\.width is not a setting.*widths"),
        ({"training.batch_size": [16, 32, 16], "model.activation": ["relu", "relu", "rely"]}, r"trial 2:.*relu"),
    ],
)
def test_wrong_input_is_named_and_leaves_nothing(tmp_path: Path, vary: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        train(tmp_path, "wrong", vary, members=3)
    assert list(tmp_path.iterdir()) == []


def test_a_given_module_is_the_network_of_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot differ in model\.widths when model= is the network"):
        train(tmp_path, "own", {"model.widths": [[8], [9]]}, model=torch.nn.Linear(4, 3), settings={"model": {}})
    assert list(tmp_path.iterdir()) == []


def test_ways_to_run_must_fit_the_cohorts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"population\.executor has 2 entries for 3 cohorts"):
        train(tmp_path, "wrong", settings={"population.executor": ["singles", "chain"]})


def test_values_that_can_all_be_stacked_make_one_population(tmp_path: Path) -> None:
    run = train(tmp_path, "one", {"optimizer.learning_rate": [0.1, 0.05], "model.dropout": [0.0, 0.2]})
    population = run.recipe.population
    assert population.vary == {}
    assert population.lists() == {"learning_rate": (0.1, 0.05), "dropout": (0.0, 0.2)}
    assert "cohorts" not in run.summary


def test_cohorts_of_folds(tmp_path: Path) -> None:
    """Trial m * 4 + f is member m without fold f, whichever cohort it is in; the best member of all is handed over."""
    vary = {"training.batch_size": [16, 32, 16], "model.widths": [[8], [8], [12]]}
    run = train(tmp_path, "many", vary, settings={"population.folds": 3})
    assert [cohort["trials"] for cohort in run.summary["cohorts"]] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    rows = run.summary["trials"]
    assert [row["trial"] for row in rows] == list(range(12))
    assert [row["member"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    assert [row["fold"] for row in rows] == [0, 1, 2, "all"] * 3
    means = {}
    for found in run.summary["cross_validation"]["members"]:
        losses = [row["dev_loss"] for row in rows if row["member"] == found["member"] and row["fold"] != "all"]
        means[found["member"]] = found["spread"]["dev_loss"]["mean"]
        assert means[found["member"]] == pytest.approx(sum(losses) / 3)
        assert found["training.batch_size"] == vary["training.batch_size"][found["member"]]
    wholes = [row for row in rows if row["fold"] == "all"]
    best = min(wholes, key=lambda row: row["dev_loss"])
    assert run.summary["best"]["trial"] == best["trial"]
    assert caviar.load(run.path).manifest.model["widths"] == best["model.widths"]
    assert run.member(7).manifest.recipe["training"]["batch_size"] == 32
    alone = train(
        tmp_path, "alone", {}, members=1, settings={"population.folds": 3, "training.batch_size": 16},
    )  # fmt: skip
    for trial in range(4):
        assert lasting(alone.records(trial=trial)) == lasting(run.records(trial=trial))


def shown(values: list[dict[str, Any]]) -> str:
    cohorts = [
        CohortLayout(trials, own, 75, "chain", 2, 2, 0.001, 4096)
        for trials, own in zip([(0, 1, 2, 5), (3, 4)], values, strict=True)
    ]
    console = Console(file=io.StringIO(), width=100)
    print_cohorts(console, cohorts, list(values[0]))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_cohorts_are_told_by_what_their_members_share() -> None:
    text = shown([{"model.widths": [8], "optimizer.name": "sgd"}, {"model.widths": [8, 16], "optimizer.name": "lion"}])
    assert "6 models in 2 cohorts" in text
    assert "0-2, 5" in text
    heading, _, first, second = text.splitlines()[1:5]
    assert heading.split() == ["cohort", "trials", "widths", "optimizer", "parameters", "executor", "ms", "a", "step"]
    assert first.split()[-6:] == ["8", "sgd", "75", "chain", "x2", "1"]
    assert "8 16" in second


def test_many_settings_are_told_where_they_are_unlike_the_first() -> None:
    names = ["model.activation", "optimizer.name", "schedule.name", "loss.margin", "training.clip_norm"]
    text = shown([dict.fromkeys(names, "a"), dict.fromkeys(names, "a") | {"schedule.name": "b", "loss.margin": None}])
    assert "unlike cohort 1" in text
    assert "schedule b, margin -" in text
    assert "optimizer" not in text


def test_one_bar_runs_through_all_cohorts() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with MembersBar(2, 50, 10, 0, console, Portion(number=2, of=3, members=4, before=400, total=1200)) as bar:
        bar.on_step(Moment(10, 2, 5, 5), 4)
        (task,) = bar._bar.tasks
        assert (task.completed, task.total) == (800, 1200)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "cohort 2/3, epoch 2/2, 4 members" in text


def test_the_command_line_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    words = "train sample:iris --members 2 --epochs 2 --json --name a --set population.executor=singles --set"
    monkeypatch.setattr(sys, "argv", ["caviar", *words.split(), "population.vary.training.batch_size=[16, 32]"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [cohort["trials"] for cohort in found["cohorts"]] == [[0], [1]]
    assert [row["training.batch_size"] for row in found["trials"]] == [16, 32]
    assert "2 models in 2 cohorts" in err
    text = Path("runs/a/recipe.toml").read_text()
    assert 'executor = ["singles", "singles"]' in text
    monkeypatch.setattr(sys, "argv", ["caviar", "train", "sample:iris", "--members", "2", "--set", "population.vary=3"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
