"""What caviar.train promises of a run: settings, recipes, seeds, results."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import caviar
from tests.workflow.small import QUICK, arrays, prices, table


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def network(run: caviar.Run) -> bytes:
    return (run.path / "bundle" / "network.safetensors").read_bytes()


def test_settings_of_every_form_reach_the_recipe() -> None:
    settings: dict[str, Any] = {
        "optimizer": {"name": "sgd", "momentum": 0.5},
        "optimizer.learning_rate": 1,
        "training.clip_norm": 1,
        "model.widths": [6],
        "split.test": np.int64(30),
    }
    run = caviar.train(*arrays(), epochs=2, seed=5, device="cpu", settings=settings, progress=False)
    recipe = run.recipe
    assert (recipe.training.epochs, recipe.seed, recipe.device.name) == (2, 5, "cpu")
    assert recipe.optimizer.name == "sgd"
    assert (recipe.optimizer.learning_rate, recipe.optimizer.momentum) == (1.0, 0.5)
    assert (recipe.training.clip_norm, recipe.model.widths, recipe.split.test) == (1.0, (6,), 30)
    assert run.metrics["rows"] == 30


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"optimizer.learnig_rate": 0.1}, "learning_rate"),
        ({"optimiser.learning_rate": 0.1}, "optimizer"),
        ({"learning_rate": 0.1}, "optimizer.learning_rate"),
        ({"model.activation": "rele"}, "relu"),
        ({"optimizer": {"name": "adamv"}}, "adamw"),
        ({"training.epochs": 0}, "at least 1"),
        ({"training.epochs": True}, "whole number"),
        ({"optimizer.learning_rate": float("nan")}, "finite"),
        ({"optimizer.learning_rate": None}, "None"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(caviar.InputError, match=words):
        caviar.train(*arrays(), settings=settings, progress=False)
    assert not (tmp_path / "runs").exists()


def test_a_recipe_file_a_recipe_and_the_stored_recipe_train_alike(tmp_path: Path) -> None:
    table().write_csv("t.csv")
    first = caviar.train("t.csv", "label", epochs=2, seed=7, progress=False)
    for again in (first.path / "recipe.toml", str(first.path / "recipe.toml"), first.recipe):
        run = caviar.train(again, progress=False)
        assert network(run) == network(first)
        assert run.recipe == first.recipe
        assert run.metrics == first.metrics
    changed = caviar.train(first.recipe, seed=8, progress=False)
    assert network(changed) != network(first)


def test_a_recipe_for_data_in_memory() -> None:
    inputs, labels = arrays()
    first = caviar.train(inputs, labels, epochs=2, seed=7, progress=False)
    for settings in (first.recipe, first.path / "recipe.toml"):
        assert network(caviar.train(inputs, labels, settings=settings, progress=False)) == network(first)
    assert caviar.train(inputs, labels, settings=first.recipe, epochs=1, progress=False).recipe.training.epochs == 1
    with pytest.raises(caviar.InputError, match="handed over in memory"):
        caviar.train(first.recipe, progress=False)


def test_relative_paths_in_a_recipe_are_taken_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project").mkdir()
    table().write_csv(tmp_path / "project" / "t.csv")
    recipe = tmp_path / "project" / "r.toml"
    recipe.write_text('[data]\nsource = "t.csv"\ntarget = "label"\n[training]\nepochs = 1\n')
    run = caviar.train(recipe, progress=False)
    assert run.recipe.data.source == str(tmp_path / "project" / "t.csv")


def test_seeds_decide_and_nothing_else_does() -> None:
    inputs, labels = arrays()
    first, second = (caviar.train(inputs, labels, seed=1, **QUICK) for _ in range(2))
    torch.manual_seed(99)
    np.random.seed(99)
    third = caviar.train(inputs, labels, seed=1, **QUICK)
    other = caviar.train(inputs, labels, seed=2, **QUICK)
    assert network(first) == network(second) == network(third) != network(other)
    assert first.metrics == third.metrics


def test_two_processes_come_to_the_same_bytes(tmp_path: Path) -> None:
    table(400).write_csv("t.csv")
    ours = caviar.train("t.csv", "label", epochs=2, seed=4, settings={"device.threads": 1}, progress=False)
    code = (
        "import caviar; caviar.train('t.csv', 'label', epochs=2, seed=4, settings={'device.threads': 1}, "
        "name='theirs', progress=False)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "runs" / "theirs" / "bundle" / "network.safetensors").read_bytes() == network(ours)


def test_what_a_run_has_to_say(capfd: pytest.CaptureFixture[str]) -> None:
    run = caviar.train(prices(), "price", epochs=3, name="homes", runs_dir="kept", progress=False)
    assert capfd.readouterr() == ("", "")
    assert (run.name, run.path) == ("homes", Path("kept/homes"))
    assert run.summary["status"] == "finished"
    assert run.metrics == run.bundle.metrics == run.summary["metrics"]
    losses = [record.value for record in run.records(name="loss", split="train")]
    assert len(losses) == 3
    assert {record.name for record in run.records()} >= {"loss", "r2", "learning_rate"}
    again = caviar.Run.open("kept/homes")
    assert torch.equal(
        again.model.output.weight, load_file(run.path / "bundle" / "network.safetensors")["output.weight"]
    )
    with pytest.raises(caviar.InputError, match=r"Did you mean kept/homes\?"):
        caviar.Run.open("kept/home")


def test_progress_speaks_on_stderr_only(capfd: pytest.CaptureFixture[str]) -> None:
    caviar.train(*arrays(), epochs=1)
    out, err = capfd.readouterr()
    assert out == ""
    assert "parameters" in err
    assert "Classification, 3 classes; 54 train, 18 dev, 18 test rows" in err


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(caviar.InputError, match="nothing to train on"):
        caviar.train()
    with pytest.raises(caviar.InputError, match="no targets were given"):
        caviar.train(arrays()[0], **QUICK)
    with pytest.raises(caviar.InputError, match=r"there is no such file|does not exist"):
        caviar.train("absent.csv", "label", **QUICK)
    with pytest.raises(caviar.InputError, match=r"target is a ndarray, but the data is a file"):
        caviar.train("absent.csv", arrays()[1], **QUICK)
    assert not (tmp_path / "runs").exists()
