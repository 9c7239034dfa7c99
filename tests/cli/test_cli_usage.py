"""Help, exit codes, typos, and the flags that are common to commands."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caviar.core.store import Store
from caviar.workflow.observers import ProgressBar
from tests.cli.conftest import Caviar
from tests.workflow.small import arrays, table

NAMES = ("train", "recipe", "evaluate", "predict", "runs")
QUICK = ("--epochs", "1", "--quiet")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    table().write_csv(tmp_path / "t.csv")
    return tmp_path / "t.csv"


def weights(run: Path) -> bytes:
    return (run / "bundle" / "network.safetensors").read_bytes()


def test_help_is_in_plain_whole_words(caviar: Caviar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for flag in ("--help", "-h"):
        done = caviar(flag)
        assert (done.code, done.err) == (0, "")
        assert "..." not in done.out.replace("[ARGS]...", "")
        assert all(re.search(rf"^  {name} +[A-Z].*\.$", done.out, re.MULTILINE) for name in NAMES)
        assert max(map(len, done.out.splitlines())) <= 80
    assert caviar().code == 2


@pytest.mark.parametrize("name", NAMES)
def test_help_of_each_command(caviar: Caviar, name: str) -> None:
    done = caviar(name, "--help")
    assert (done.code, done.err) == (0, "")
    assert {"--json", "--quiet"} <= set(re.findall(r"--[a-z-]+", done.out))
    assert "None" not in done.out
    options = done.out.partition("Options:")[2]
    described = re.split(r"^  (?=-)", options, flags=re.MULTILINE)[1:]
    assert all(re.search(r"\s{2,}\S+", option) for option in described), "every option says what it does"


def test_help_of_train_names_the_common_flags(caviar: Caviar) -> None:
    flags = set(re.findall(r"--[a-z-]+", caviar("train", "--help").out))
    assert {"--target", "--epochs", "--seed", "--set", "--name", "--runs-dir", "--device", "--resume"} <= flags
    assert {"--dev", "--test", "--allow-code"} <= flags


def test_version(caviar: Caviar) -> None:
    import caviar as package

    assert caviar("--version").out == f"caviar {package.__version__}\n"


TYPOS = {
    ("trian", "t.csv"): "'train'",
    ("evalute", "b", "t.csv"): "'evaluate'",
    ("train", "t.csv", "--epoch", "3"): "--epochs",
    ("train", "t.csv", "--tagret", "label"): "--target",
    ("predict", "b", "t.csv", "--outptu", "p.csv"): "--output",
    ("train", "t.cvs", "--target", "label"): "Did you mean",
    ("train", "t.csv", "--target", "lable"): "Did you mean 'label'?",
    ("train", "sample:digit"): "Did you mean 'digits'?",
    ("train", "r.tml"): "r.toml",
    ("train", "x.toml"): "r.toml",
    ("train", "t.csv", "--target", "label", "--set", "optimizer.learnig_rate=1"): "optimizer.learning_rate",
    ("train", "t.csv", "--target", "label", "--set", "optimiser.learning_rate=1"): "optimizer",
    ("train", "t.csv", "--target", "label", "--set", "optimizer.name=adamv"): "adamw",
    ("train", "t.csv", "--target", "label", "--set", "model.activation=rellu"): "relu",
    ("train", "t.csv", "--target", "label", "--set", "data.ignore=['agee']"): "age",
    ("train", "t.csv", "--target", "label", "--set", "split.group=citty"): "city",
    ("train", "t.csv", "--target", "label", "--device", "gpu"): "Known: auto, cpu, cuda",
    ("train", "t.csv", "--target", "label", "--device", "cup"): "Did you mean 'cpu'?",
    ("train", "--resume", "runs/frist"): "runs/first",
    ("evaluate", "runs/frist/bundle", "t.csv"): "runs/first",
    ("predict", "runs/first/bundel", "t.csv"): "runs/first/bundle",
    ("evaluate", "runs/first", "t.csv", "--target", "lable"): "label",
}


@pytest.mark.parametrize(("arguments", "words"), TYPOS.items(), ids=[" ".join(typo) for typo in TYPOS])
def test_typos_are_met_with_the_nearest_name(
    caviar: Caviar, trained: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "t.csv").write_bytes((trained / "t.csv").read_bytes())
    (tmp_path / "r.toml").write_text("seed = 1\n")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "first").symlink_to(trained / "runs" / "table")
    done = caviar(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert words in done.err
    assert os.listdir(tmp_path / "runs") == ["first"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("train",),
        ("recipe",),
        ("evaluate",),
        ("evaluate", "b"),
        ("predict",),
        ("train", "t.csv", "u.csv"),
        ("train", "t.csv", "--epochs", "many"),
        ("train", "t.csv", "--epochs", "1.5"),
        ("train", "t.csv", "--seed", "-1"),
        ("train", "t.csv", "--seed", str(2**63)),
        ("train", "t.csv", "--set", "seed"),
        ("train", "t.csv", "--set", "=3"),
        ("train", "t.csv", "--set", "training.epochs="),
        ("train", "t.csv", "--set", "model.widths=[3"),
        ("train", "t.csv", "--epochs"),
        ("runs", "extra"),
    ],
)
def test_wrong_usage_ends_with_2(caviar: Caviar, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = caviar(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert re.search(r"^(error|Error): \S", done.err, re.MULTILINE)
    assert "Traceback" not in done.err
    assert not (tmp_path / "runs").exists()


def test_a_run_that_fails_ends_with_1(caviar: Caviar, data: Path) -> None:
    setting = "optimizer.learning_rate=1e30"
    done = caviar("train", data, "--target", "label", "--set", "optimizer.name=sgd", "--set", setting, "--json")
    assert done.code == 1
    assert "Lower optimizer.learning_rate" in done.err
    assert done.json["exit_code"] == 1


def test_an_interrupted_run_ends_with_130_and_says_how_to_go_on(
    caviar: Caviar, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ProgressBar.on_epoch

    def interrupted(bar: ProgressBar, facts: Any) -> None:
        plain(bar, facts)
        if facts.epoch == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ProgressBar, "on_epoch", interrupted)
    done = caviar("train", data, "--target", "label", "--epochs", "4", "--name", "stopped", "--json")
    assert done.code == 130
    assert "caviar train --resume runs/stopped" in done.err
    assert done.json["exit_code"] == 130
    assert [run["status"] for run in caviar("runs", "--json").json["runs"]] == ["interrupted"]
    monkeypatch.undo()
    os.chdir(data.parent)
    assert caviar("train", "--resume", "runs/stopped", "--quiet").code == 0
    assert caviar("train", data, "--target", "label", "--epochs", "4", "--name", "whole", "--quiet").code == 0
    assert weights(data.parent / "runs/stopped") == weights(data.parent / "runs/whole")


def test_the_common_flags(caviar: Caviar, data: Path, tmp_path: Path) -> None:
    table(40, seed=5).write_csv(tmp_path / "dev.csv")
    table(30, seed=6).write_csv(tmp_path / "test.csv")
    done = caviar(
        *("train", "t.csv", "--target", "label", "--epochs", "2", "--seed", "5", "--device", "cpu"),
        *("--name", "mine", "--runs-dir", "kept", "--dev", "dev.csv", "--test", "test.csv"),
        *("--set", "optimizer.learning_rate=3e-4", "--set", "model.widths=[8, 4]", "--json"),
    )
    assert done.code == 0, done.err
    assert done.json["run"] == "kept/mine"
    assert done.json["metrics"]["rows"] == 30
    recipe = caviar("recipe", "kept/mine/recipe.toml", "--json").json["recipe"]
    assert (recipe["seed"], recipe["training"]["epochs"], recipe["device"]["name"]) == (5, 2, "cpu")
    assert (recipe["optimizer"]["learning_rate"], recipe["model"]["widths"]) == (3e-4, [8, 4])
    assert (recipe["data"]["dev"], recipe["split"]["dev"]) == (str(tmp_path / "dev.csv"), 40)


def test_names_of_runs_count_up(caviar: Caviar, data: Path) -> None:
    names = [caviar("train", "t.csv", "--target", "label", "--epochs", "1", "--json").json["name"] for _ in range(2)]
    assert names == ["t-1", "t-2"]


@pytest.mark.parametrize("source", ["t.csv", "xy.npz", "pictures", "sample:iris"])
def test_a_printed_recipe_trains_as_its_source_does(caviar: Caviar, trained: Path, tmp_path: Path, source: str) -> None:
    given = source if source.startswith("sample:") else str(trained / source)
    target = ["--target", "label"] if source == "t.csv" else []
    printed = caviar("recipe", given, *target, "--epochs", "2", "--seed", "9")
    assert (printed.code, printed.err) == (0, "")
    (tmp_path / "x.toml").write_text(printed.out, encoding="utf-8")
    assert caviar("train", given, *target, "--epochs", "2", "--seed", "9", "--name", "direct", "--quiet").code == 0
    assert caviar("train", "x.toml", "--name", "printed", "--quiet").code == 0
    assert caviar("train", "runs/direct/recipe.toml", "--name", "again", "--quiet").code == 0
    direct, again, by_recipe = (tmp_path / "runs" / name for name in ("direct", "again", "printed"))
    assert weights(direct) == weights(by_recipe) == weights(again)
    assert (direct / "recipe.toml").read_text() == (by_recipe / "recipe.toml").read_text() == printed.out
    assert caviar("recipe", "x.toml").out == printed.out
    assert caviar("train", "x.toml", "--set", "optimizer.learning_rate=1e-4", "--name", "other", "--quiet").code == 0
    assert weights(tmp_path / "runs" / "other") != weights(direct)


MODULE = """
from torch import nn
def build(width=4):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
"""


def test_code_runs_only_when_it_is_allowed(
    caviar: Caviar, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "nets_of_mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n{MODULE}")
    command = ("train", trained / "xy.npz", "--set", "model.name=nets_of_mine:build", *QUICK)
    for refused in (command, ("recipe", *command[1:4])):
        done = caviar(*refused)
        assert done.code == 2 or refused[0] == "recipe"
        assert not (tmp_path / "ran").exists()
    assert "--allow-code" in caviar(*command).err
    wide = ("--set", "model.arguments={width = 7}", "--name", "first")
    assert caviar(*command, *wide, "--allow-code").code == 0
    again = ("train", "runs/first/recipe.toml", "--name", "second", "--quiet")
    assert "--allow-code" in caviar(*again).err
    assert caviar(*again, "--allow-code").code == 0
    assert weights(tmp_path / "runs" / "first") == weights(tmp_path / "runs" / "second")
    done = caviar("predict", "runs/first", trained / "xy.npz")
    assert done.code == 2
    assert "nets_of_mine:build" in done.err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nets_of_me:build", "nets_of_us"),
        ("nets_of_us:biuld", "build"),
        ("nets_of_us:number", "not something to call"),
        ("nets_of_us:nothing", "must return a torch.nn.Module"),
        ("nets_of_us", "module.path:callable"),
    ],
)
def test_code_that_cannot_be_used(
    caviar: Caviar, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "nets_of_us", raising=False)
    (tmp_path / "nets_of_us.py").write_text(f"{MODULE}\nnumber = 3\ndef nothing(): return 3\n")
    done = caviar("train", trained / "xy.npz", "--set", f"model.name={name}", "--allow-code", *QUICK)
    assert done.code == 2
    assert words in done.err
    assert not (tmp_path / "runs").exists()


def test_as_a_process(tmp_path: Path) -> None:
    """The one test that starts a process: exit codes, streams, no warnings."""
    inputs, labels = arrays()
    np.savez(tmp_path / "xy.npz", x=inputs, y=labels)
    command = [sys.executable, "-W", "error", "-m", "caviar"]
    done = subprocess.run(
        [*command, "train", "xy.npz", "--epochs", "2", "--quiet"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with Store(tmp_path / "runs" / "xy-1" / "records.sqlite", read_only=True) as store:
        assert len(store.read(name="loss", split="dev")) == 2
    failed = subprocess.run([*command, "runz"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert failed.stdout == ""
