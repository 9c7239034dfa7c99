"""Cross-validation inside a population: nothing that a fold holds out reaches it."""

import json
import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn
from torch.nn import functional

import caviar
from caviar.core.checkpoint import read_checkpoint
from caviar.core.columns import Column
from caviar.core.errors import InputError, Interrupted
from caviar.core.seeds import epoch_order
from caviar.core.store import Store
from caviar.population import Population, Step
from caviar.preprocess import fit_table
from caviar.preprocess.settings import PreprocessSettings
from caviar.train.batching import batch_bounds
from caviar.workflow.folds import fitted_to, fold_rows, with_folds
from caviar.workflow.plan import Plan, make_plan
from caviar.workflow.source import InMemory
from caviar.workflow.train import from_settings

FOLDS = 3
SETTINGS: dict[str, Any] = {
    "training": {"batch_size": 16, "patience": "none", "epochs": 2},
    "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    "schedule": {"name": "constant"},
    "model": {"name": "mlp", "widths": [12], "dropout": 0.0},
    "population.folds": FOLDS,
}


def settings_with(**changes: Any) -> dict[str, Any]:
    return SETTINGS | {name.replace("__", "."): value for name, value in changes.items()}


def train(tmp_path: Path, name: str, data: Any = "sample:iris", target: Any = None, **changes: Any) -> caviar.Run:
    return caviar.train(
        data, target, settings=settings_with(**changes), name=name, runs_dir=tmp_path, progress=False
    )  # fmt: skip


def planned(data: tuple[Any, Any], **changes: Any) -> Plan:
    memory = InMemory(data, None, None, None)
    return with_folds(make_plan(from_settings(settings_with(**changes)), memory, pooled=True))


def numbers(rows: int = 150, classes: int | None = 3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    inputs = generator.normal(size=(rows, 5)) * [1, 10, 0.1, 3, 100] + [0, 5, 1, -2, 1000]
    score = inputs[:, 0] + inputs[:, 1] / 10
    return inputs, score if classes is None else np.digitize(score, np.quantile(score, [1 / 3, 2 / 3]))


def last_state(run: caviar.Run) -> dict[str, Tensor]:
    return read_checkpoint(max((run.path / "checkpoints").glob("step-*"))).tensors


def member(state: dict[str, Tensor], trial: int) -> dict[str, Tensor]:
    prefix = "member/model/"
    return {name.removeprefix(prefix): tensor[trial] for name, tensor in state.items() if name.startswith(prefix)}


@pytest.mark.parametrize(
    ("executor", "norm", "task"),
    [("singles", "batch", "classes"), ("stacked", "batch", "classes"), ("stacked", "none", "values")],
)
def test_a_fold_is_ordinary_training_on_the_rows_it_keeps(tmp_path: Path, executor: str, norm: str, task: str) -> None:
    inputs, targets = numbers(classes=3 if task == "classes" else None)
    model = {"name": "mlp", "widths": [12], "dropout": 0.0, "norm": norm}
    run = train(tmp_path, "run", (inputs, targets), model=model, population__executor=executor)
    plan = planned((inputs, targets), model=model)
    rows = fold_rows(plan, FOLDS)
    pool, end = plan.splits.train, last_state(run)
    begin = read_checkpoint(run.path / "checkpoints" / "step-000000000000.safetensors").tensors
    for trial in range(FOLDS + 1):
        held_out = rows[trial] if trial < FOLDS else np.zeros(0, dtype=np.int64)
        kept = np.ones(len(pool), dtype=bool)
        kept[held_out] = False
        x, y = inputs[pool], targets[pool]
        x = torch.tensor((x - x[kept].mean(axis=0)) / x[kept].std(axis=0), dtype=torch.float32)
        loss: Any = functional.cross_entropy
        wanted = torch.tensor(y)
        if task == "values":
            loss, wanted = functional.mse_loss, torch.tensor((y - y[kept].mean()) / y[kept].std()).float().view(-1, 1)
        module = caviar.load(run.path).network
        module.load_state_dict(member(begin, trial))
        rule = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9)
        module.train()
        for epoch in (1, 2):
            order = epoch_order(0, epoch, len(pool))
            for start, end_row in batch_bounds(len(pool), 16, merge_single=norm == "batch"):
                chosen = order[start:end_row]
                chosen = chosen[torch.tensor(kept)[chosen]]
                rule.zero_grad()
                loss(module(x[chosen]), wanted[chosen]).backward()
                rule.step()
        found, expected = member(end, trial), module.state_dict()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)
        if trial < FOLDS:
            module.eval()
            with torch.no_grad():
                outputs = module(x[torch.tensor(held_out).long()])
            judged = wanted[torch.tensor(held_out).long()]
            (record,) = [r for r in run.records(name="loss", split="dev", trial=trial) if r.epoch == 2]
            assert record.value == pytest.approx(float(loss(outputs, judged)), rel=1e-3)


def table_of(inputs: np.ndarray, targets: np.ndarray, flipped: np.ndarray | None = None) -> pl.DataFrame:
    """Return a table with a category and gaps; in the rows `flipped` both are other ones."""
    words = np.where(inputs[:, 0] > 0, "high", "low").astype(object)
    gaps = inputs[:, 1].copy()
    gaps[::7] = np.nan
    if flipped is not None:
        words[flipped] = "low"
        gaps[flipped] = np.nan
    frame = pl.DataFrame({"a": inputs[:, 2], "b": gaps, "c": words, "d": targets}).with_columns(
        pl.col("b").fill_nan(None)
    )
    return frame.with_columns(pl.col("d").replace_strict({0: "x", 1: "y", 2: "z"}))


@pytest.mark.parametrize("kind", ["arrays", "values", "decorrelated", "onehot", "embedding"])
def test_what_a_fold_holds_out_leaves_no_trace_in_it(tmp_path: Path, kind: str) -> None:
    """Held-out rows, and their targets, may be anything: the fold's weights are the same, byte for byte."""
    inputs, targets = numbers(classes=None if kind == "values" else 3)
    changes: dict[str, Any] = {"split.stratify": False, "population.executor": "stacked"}
    table = kind in ("onehot", "embedding")
    if kind == "decorrelated":
        changes |= {"preprocess": {"decorrelate": "pca", "components": 3}}
    if table:
        changes |= {"preprocess": {"categorical": kind}}
    plan = planned((inputs, targets), **changes)
    held_out = plan.splits.train[fold_rows(plan, FOLDS)[1]]
    other, changed_targets = inputs.copy(), targets.copy()
    other[held_out] = other[held_out] * 3 + 7
    if kind == "values":
        changed_targets[held_out] = changed_targets[held_out] * 5 - 3
    found = []
    for name, x, y, flipped in (("one", inputs, targets, None), ("other", other, changed_targets, held_out)):
        data = table_of(x, y, flipped) if table else (x, y)
        run = train(tmp_path, name, data, "d" if table else None, **changes)
        found.append(last_state(run))
    one, changed = (member(state, 1) for state in found)
    assert one.keys() == changed.keys()
    assert not [name for name in one if not torch.equal(one[name], changed[name])]
    one, changed = (member(state, 0) for state in found)
    assert not all(torch.equal(one[name], changed[name]) for name in one), "another fold trains on those rows"


@pytest.mark.parametrize("categorical", ["onehot", "embedding"])
def test_a_fold_that_knows_fewer_categories_keeps_the_places_of_all(categorical: str) -> None:
    frame = pl.DataFrame({"n": [1.0, 2.0, None, 4.0], "c": ["a", "b", "c", "b"]})
    columns = (Column("n", "numeric"), Column("c", "categorical"))
    settings = PreprocessSettings(categorical=categorical, numeric="zscore")
    whole = fit_table(lambda: iter([frame]), columns, settings)
    own = fit_table(lambda: iter([frame[[1, 3]]]), columns, settings)
    fit = fitted_to(own, whole)
    assert fit is not None
    found = fit(own(own.encode(frame).numbers))
    expected = whole(whole.encode(frame).numbers)
    assert found.shape == expected.shape
    assert found[:, 0].tolist() == [-2.0, -1.0, 0.0, 1.0]
    assert bool((found[:, 1] == 0).all()), "no missing flag: the fold has seen none"
    if categorical == "onehot":
        assert torch.equal(found[[1, 3], 2:], expected[[1, 3], 2:])
        assert found[0, 2:].tolist() == found[2, 2:].tolist() == [1.0, 0.0, 0.0, 0.0]
    else:
        assert torch.equal(found[[1, 3], 2], expected[[1, 3], 2])
        assert found[[0, 2], 2].tolist() == [0.0, 0.0]
    assert fitted_to(whole, whole) is None


def test_folds_are_whole_disjoint_and_stratified_as_those_of_scikit_learn() -> None:
    plan = planned(numbers())
    rows = fold_rows(plan, FOLDS)
    count = len(plan.splits.train)
    assert len(plan.splits.dev) == 0
    assert not set(plan.splits.train) & set(plan.splits.test)
    assert len(plan.splits.train) + len(plan.splits.test) == 150
    assert np.array_equal(np.sort(np.concatenate(rows)), np.arange(count))
    labels = plan.raw.targets[plan.splits.train]
    ours = sorted(tuple(np.bincount(labels[own])) for own in rows)
    theirs = sorted(tuple(np.bincount(labels[own])) for _, own in StratifiedKFold(FOLDS).split(labels, labels))
    assert np.abs(np.array(ours) - np.array(theirs)).max() <= 1
    assert plan.folds is not None
    weights = plan.folds.weights(2 * (FOLDS + 1))
    assert torch.equal(weights[: FOLDS + 1], weights[FOLDS + 1 :])
    assert torch.equal(weights[:FOLDS].sum(dim=0), torch.full((count,), FOLDS - 1.0))
    assert bool((weights[FOLDS] == 1).all())


def test_groups_stay_in_one_fold(tmp_path: Path) -> None:
    inputs, targets = numbers()
    groups = np.arange(150) // 5
    frame = pl.DataFrame({"a": inputs[:, 0], "b": inputs[:, 1], "g": groups, "y": targets})
    frame.write_csv(tmp_path / "data.csv")
    data = {"data.source": str(tmp_path / "data.csv"), "data.target": "y", "split.group": "g"}
    plan = make_plan(from_settings(SETTINGS | data), pooled=True)
    assert plan.raw.groups is not None
    own = plan.raw.groups[plan.splits.train]
    rows = fold_rows(plan, FOLDS)
    for first in range(FOLDS):
        assert not set(own[rows[first]]) & set(own[np.concatenate([r for f, r in enumerate(rows) if f != first])])


@pytest.mark.parametrize("scaling", ["zscore", "minmax", "robust"])
def test_every_fold_has_statistics_of_its_own(scaling: str) -> None:
    inputs, targets = numbers()
    plan = planned((inputs, targets), preprocess={"numeric": scaling})
    assert plan.folds is not None
    pool = inputs[plan.splits.train]
    for held_out, view in zip(fold_rows(plan, FOLDS), plan.folds.views, strict=False):
        kept = np.delete(pool, held_out, axis=0)
        low, high = kept.min(axis=0), kept.max(axis=0)
        quarters = np.quantile(kept, [0.25, 0.5, 0.75], axis=0)
        center, scale = {
            "zscore": (kept.mean(axis=0), kept.std(axis=0)),
            "minmax": (low, high - low),
            "robust": (quarters[1], quarters[2] - quarters[0]),
        }[scaling]
        found = view.prepare(view.train.inputs)
        np.testing.assert_allclose(found.numpy(), (pool - center) / scale, rtol=1e-3, atol=1e-4)


def test_without_preprocessing_all_folds_share_the_batch(tmp_path: Path) -> None:
    plan = planned(numbers(), preprocess={"numeric": "none"})
    assert plan.folds is not None
    assert plan.folds.common_inputs
    assert plan.folds.common_targets
    run = train(tmp_path, "run", numbers(), preprocess={"numeric": "none"}, population__executor="chain")
    assert run.summary["status"] == "finished"


def test_the_one_trained_on_all_rows_is_handed_over(tmp_path: Path) -> None:
    run = train(tmp_path, "run", population__members=2, population__learning_rate=[1e-6, 0.05])
    summary = run.summary
    assert len(summary["trials"]) == 2 * (FOLDS + 1)
    assert [trial["fold"] for trial in summary["trials"]] == [0, 1, 2, "all"] * 2
    best = summary["best"]["trial"]
    assert best == 7, "the member that learned, on all rows"
    assert run.metrics["accuracy"]["value"] == pytest.approx(summary["trials"][best]["test_accuracy"])
    own = summary["trials"][4:7]
    for key in ("dev_loss", "dev_accuracy", "test_accuracy"):
        values = np.array([trial[key] for trial in own])
        assert summary["spread"][key]["mean"] == pytest.approx(values.mean())
        assert summary["spread"][key]["std"] == pytest.approx(values.std(ddof=1))
    members = summary["cross_validation"]["members"]
    assert [each["learning_rate"] for each in members] == [1e-6, 0.05]
    assert members[1]["spread"] == summary["spread"]
    losses = {t: [r.value for r in run.records(name="loss", split="dev", trial=t)] for t in range(4, 8)}
    means = np.mean([losses[4], losses[5], losses[6]], axis=0)
    np.testing.assert_allclose(losses[7], means)
    assert summary["trials"][best]["dev_loss"] == pytest.approx(means.min())
    assert run.member(3).evaluate("sample:iris")["accuracy"]["value"] > 0.2
    with pytest.raises(InputError, match="held out a fold"):
        run.member(4)


@pytest.mark.parametrize("stop_at", [3, 12])
def test_a_stop_and_a_resume_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int) -> None:
    changes = {"population__executor": "stacked", "training": {"batch_size": 16, "patience": 1, "epochs": 4}}
    whole = train(tmp_path, "whole", **changes)
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
            train(tmp_path, "parts", **changes)
    parts = caviar.train(resume=tmp_path / "parts", progress=False)
    one, other = last_state(whole), last_state(parts)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert whole.metrics == parts.metrics
    assert whole.summary["trials"] == parts.summary["trials"]
    with Store(whole.folder.store, read_only=True) as first, Store(parts.folder.store, read_only=True) as second:
        assert first.read() == second.read()


def test_when_all_folds_have_left_so_does_the_one_on_all_rows(tmp_path: Path) -> None:
    settings = {"training": {"batch_size": 16, "patience": 2, "epochs": 60}}
    run = train(tmp_path, "run", optimizer={"name": "sgd", "learning_rate": 0.3, "momentum": 0.9}, **settings)
    trials = run.summary["trials"]
    assert {trial["fate"] for trial in trials} == {"stopped early"}
    last = {trial: max(r.epoch for r in run.records(name="loss", split="dev", trial=trial)) for trial in range(4)}
    assert last[3] == max(last[trial] for trial in range(3))
    assert trials[3]["best_epoch"] <= last[3]


def test_a_member_whose_fold_diverged_is_not_handed_over(tmp_path: Path) -> None:
    run = train(tmp_path, "run", population__members=2, population__learning_rate=[1e12, 0.01])
    assert run.summary["best"]["trial"] == 7
    assert {trial["fate"] for trial in run.summary["trials"][:4]} == {"diverged"}
    with pytest.raises(caviar.RunError, match="fold of every member diverged"):
        train(tmp_path, "lost", optimizer={"name": "sgd", "learning_rate": 1e12})


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for kind, shade in (("dark", 60), ("light", 190)):
        (tmp_path / "pictures" / kind).mkdir(parents=True)
        for number in range(16):
            pixels = np.clip(generator.normal(shade, 30, size=(8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / kind / f"{number}.png")
    return tmp_path / "pictures"


PICTURES: dict[str, Any] = {
    "model": {"name": "convnet", "channels": [4], "dropout": 0.0},
    "training": {"batch_size": 16, "epochs": 1, "patience": "none"},
}


@pytest.mark.parametrize("augment", [{}, {"flip": 0.5}])
def test_pictures_are_normalised_by_each_fold(tmp_path: Path, pictures: Path, augment: dict[str, Any]) -> None:
    run = train(tmp_path, "run", str(pictures), augment=augment, **PICTURES)
    assert run.summary["status"] == "finished"
    assert len(run.summary["trials"]) == FOLDS + 1
    assert not math.isnan(run.summary["spread"]["dev_loss"]["mean"])


def test_mixed_pictures_would_leak_and_are_refused(tmp_path: Path, pictures: Path) -> None:
    with pytest.raises(InputError, match="would mix rows"):
        train(tmp_path, "mixed", str(pictures), augment={"mixup": 0.2}, **PICTURES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"population.folds": 1}, "folds"),
        ({"population.folds": 500}, "500 folds of 120 rows"),
        ({"population.learning_rate": [0.1, 0.2]}, "2 entries for 1 members"),
    ],
)
def test_wrong_input_is_named_and_leaves_nothing(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        caviar.train("sample:iris", settings=SETTINGS | changes, name="wrong", runs_dir=tmp_path, progress=False)
    assert not (tmp_path / "wrong").exists()


def test_the_command_line_shows_every_fold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from caviar.cli.main import main

    arguments = ["train", "sample:iris", "--folds", "3", "--epochs", "2", "--runs-dir", str(tmp_path)]
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    said = capsys.readouterr().out
    assert "3 folds, each judged by rows" in said
    assert "mean" in said
    assert "Handed over: the model trained on all rows that are not test" in said
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "--json", "-q"])
    found = json.loads(capsys.readouterr().out)
    assert found["cross_validation"]["folds"] == 3
    assert found["best"]["trial"] == 3


def test_checks_and_searches_for_a_learning_rate_still_have_dev_rows() -> None:
    plan = make_plan(from_settings(SETTINGS), InMemory(numbers(), None, None, None))
    assert len(plan.splits.dev) > 0
    assert plan.folds is None
    assert isinstance(plan.model, nn.Module)
