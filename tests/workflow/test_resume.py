"""Stops and resumes: a run that was stopped ends as one that was not, to the last byte."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

import caviar
from caviar.core.runs import own_run
from caviar.core.store import Store
from caviar.workflow import execute, observers
from tests.workflow.faulty import SMALL, cli, content, interrupted, iris, kinds, signal_at
from tests.workflow.small import arrays, prices, quantities, table

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dropout": ("sample:wine", {"model.widths": [16, 16], "model.dropout": 0.4, "model.norm": "none"}),
    "batch norm, sgd": (
        "sample:wine",
        {"model.widths": [16], "model.norm": "batch", "optimizer.name": "sgd", "optimizer.momentum": 0.9},
    ),
    "conv net": (
        "sample:digits-pictures",
        {"model.channels": [4, 8], "model.dropout": 0.2, "training.batch_size": 300, "training.clip_norm": 1.0},
    ),
    "regression": ("sample:diabetes", {"model.widths": [16], "model.dropout": 0.1, "device.precision": "bf16"}),
}


@pytest.mark.parametrize("steps", [(1,), (4, 7), (8,)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_resume_equals_never_stopping(
    case: str, steps: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, changes = CASES[case]
    settings = {"training.batch_size": 32, "device.threads": 1} | changes
    given: dict[str, Any] = {"epochs": 2, "settings": settings, "runs_dir": tmp_path, "progress": False}
    whole = caviar.train(source, name="whole", **given)
    run, resume = tmp_path / "stopped", None
    for step in steps:
        with monkeypatch.context() as patch:
            signal_at(patch, step)
            with pytest.raises(caviar.Interrupted, match=rf"after step {step} .*caviar train --resume {run}"):
                if resume:
                    caviar.train(resume=resume, progress=False)
                else:
                    caviar.train(source, name="stopped", **given)
        assert caviar.Run.open(run).summary["status"] == "interrupted"
        resume = run
    caviar.train(resume=run, progress=False)
    assert content(run) == content(whole.path)
    assert kinds(run) == ["started", *["interrupted", "resumed"] * len(steps), "finished"]


def test_a_stop_in_the_first_evaluation_and_after_the_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = iris(tmp_path / "whole")
    last = whole.summary["step"]
    for step in (3, last):
        run = interrupted(monkeypatch, tmp_path / str(step), step)
        caviar.train(resume=run, progress=False)
        assert content(run) == content(whole.path)


def test_early_stopping_counts_on_across_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A learning rate of nearly nothing: dev loss improves seldom, so that patience runs out.
    changes = {"optimizer.learning_rate": 0.3, "training.patience": 2}
    whole = iris(tmp_path / "whole", epochs=60, settings=changes)
    assert whole.summary["epochs_run"] < 60
    step = whole.summary["step"] - 4
    run = interrupted(monkeypatch, tmp_path / "cut", step, epochs=60, settings=changes)
    caviar.train(resume=run, progress=False)
    assert content(run) == content(whole.path)
    assert caviar.Run.open(run).records(name="batch_loss")[-1].step == whole.summary["step"]


def test_a_finished_run_is_returned_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = iris(tmp_path)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    again = caviar.train(resume=run.path, progress=False)
    assert again.metrics == run.metrics
    code, out, err = cli(capsys, "train", "--resume", run.path)
    assert code == 0
    assert "finished already" in err
    assert "accuracy" in out
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_a_lost_bundle_is_made_again(tmp_path: Path) -> None:
    run = iris(tmp_path)
    wanted = content(run.path)
    for path in (run.path / "bundle").iterdir():
        path.unlink()
    (run.path / "bundle").rmdir()
    caviar.train(resume=run.path, progress=False)
    assert content(run.path) == wanted


def test_versions_that_changed_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = interrupted(monkeypatch, tmp_path)
    value = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(value | {"torch": "1.0"}))
    code, _, err = cli(capsys, "train", "--resume", run)
    assert code == 0
    assert f"torch 1.0 -> {torch.__version__}" in " ".join(err.split())


@pytest.mark.parametrize("kind", ["table", "arrays"])
def test_data_streamed_from_a_map(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data: dict[str, Any] = {"data": prices(90_000), "target": "price"} if kind == "table" else {"data": arrays(90_000)}
    settings = SMALL | {"data.memory_budget": 1, "training.batch_size": 9_000}
    given = data | {"epochs": 2, "settings": settings, "runs_dir": tmp_path, "progress": False}
    whole = caviar.train(name="whole", **given)
    with monkeypatch.context() as patch:
        signal_at(patch, 8)
        with pytest.raises(caviar.Interrupted):
            caviar.train(name="it", **given)
    caviar.train(**data, resume=tmp_path / "it", progress=False)
    assert content(tmp_path / "it") == content(whole.path)


KILLED_BEFORE_CHECKPOINT = """
import os, signal
from caviar.cli.main import main
from caviar.train import checkpoints
write, count = checkpoints.write_checkpoint, 0
def write_or_die(*args, **kwargs):
    global count
    count += 1
    if count == 16:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*args, **kwargs)
checkpoints.write_checkpoint = write_or_die
main()
"""


def test_killed_and_resumed_by_other_processes_on_the_command_line(tmp_path: Path) -> None:
    """Three processes, each with another order of its sets: the whole run in this one, one killed, one that resumes."""
    source = tmp_path / "table.csv"
    table().write_csv(source)
    settings = {
        "training.checkpoint_seconds": 0,
        "device.threads": 1,
        "model.widths": [16],
        "training.patience": "none",
    }
    whole = caviar.train(source, "label", epochs=30, settings=settings, name="whole", runs_dir=tmp_path, progress=False)
    flags = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "caviar", "train", str(source), "--target", "label", "--epochs", "30", *flags]
    run = tmp_path / "it"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_BEFORE_CHECKPOINT, *command[3:], "--name", "it", "--runs-dir", str(tmp_path)],
        stderr=subprocess.DEVNULL,
        env=environment("1"),
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(list(run.glob("checkpoints/step-*"))) >= 5
    assert caviar.Run.open(run).summary["status"] == "running"
    command = [sys.executable, "-m", "caviar", "train", "--resume", str(run), "--quiet"]
    subprocess.run(command, check=True, env=environment("2"))
    assert content(run) == content(whole.path)
    assert kinds(run) == ["started", "resumed", "finished"]


def environment(hash_seed: str) -> dict[str, str]:
    return os.environ | {"PYTHONHASHSEED": hash_seed}


class TestOtherRecipe:
    @pytest.fixture
    def run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        return interrupted(monkeypatch, tmp_path)

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["--epochs", "9"], "training.epochs: 3 -> 9"),
            (["--seed", "4"], "seed: 0 -> 4"),
            (["--set", "optimizer.learning_rate=0.5"], "optimizer.learning_rate"),
            (["--set", "model.widths=[8]"], "model.widths"),
            (["sample:wine"], "data.source"),
            (["--name", "new"], "--name is for a new run"),
        ],
    )
    def test_a_flag_that_differs_is_named(
        self, run: Path, arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, _, err = cli(capsys, "train", *arguments, "--resume", run)
        assert code == 2
        assert named in err
        assert caviar.Run.open(run).summary["status"] == "interrupted"

    def test_equal_flags_are_fine(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        code, _, _ = cli(capsys, "train", "sample:iris", "--epochs", "3", "--seed", "0", "--quiet", "--resume", run)
        assert code == 0

    def test_an_edited_recipe_file_is_named(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        recipe = run / "recipe.toml"
        text = recipe.read_text()
        recipe.write_text(text.replace("weight_decay = 0.01", "weight_decay = 0.5"))
        assert recipe.read_text() != text
        code, _, err = cli(capsys, "train", "--resume", run)
        assert code == 2
        assert "recipe.toml was edited" in err
        assert "optimizer.weight_decay: 0.01 -> 0.5" in err
        recipe.write_text(text)
        assert cli(capsys, "train", "--resume", run, "--quiet")[0] == 0

    def test_a_new_name_in_python(self, run: Path) -> None:
        with pytest.raises(caviar.InputError, match="name= is for a new run"):
            caviar.train(resume=run, name="new", progress=False)

    def test_a_module_that_nobody_asked_for(self, run: Path) -> None:
        with pytest.raises(caviar.InputError, match="builds its own network"):
            caviar.train(model=nn.Linear(4, 3), resume=run, progress=False)


def test_a_run_that_another_process_trains_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = interrupted(monkeypatch, tmp_path)
    code = "import sys; from pathlib import Path; from caviar.core.runs import own_run\n"
    code += "with own_run(Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        answer = cli(capsys, "train", "--resume", run)
        assert answer[0] == 2
        assert "another process is training this run" in answer[2]
        other.kill()  # with the process the lock is gone: nothing stale is left
    caviar.train(resume=run, progress=False)
    with own_run(run):
        pass


def test_changed_data_is_refused_by_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "prices.csv"
    frame = prices()
    frame.write_csv(table)
    signal_at(monkeypatch, 2)
    with pytest.raises(caviar.Interrupted):
        caviar.train(table, "price", epochs=3, settings=SMALL, name="it", runs_dir=tmp_path, progress=False)
    monkeypatch.undo()
    for changed in (frame.with_columns(pl.col("size") + 0.5), frame.head(60), frame.sort("price")):
        changed.write_csv(table)
        code, _, err = cli(capsys, "train", "--resume", tmp_path / "it")
        assert code == 2
        assert "data has changed" in err
        assert "digest" in err
    frame.write_csv(table)
    assert cli(capsys, "train", "--resume", tmp_path / "it", "--quiet")[0] == 0


def test_data_that_has_moved_is_followed_by_editing_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    prices().write_csv(old)
    signal_at(monkeypatch, 2)
    with pytest.raises(caviar.Interrupted):
        caviar.train(old, "price", epochs=3, settings=SMALL, name="it", runs_dir=tmp_path, progress=False)
    monkeypatch.undo()
    old.rename(new)
    with pytest.raises(caviar.InputError, match=r"old\.csv.*does not exist"):
        caviar.train(resume=tmp_path / "it", progress=False)
    recipe = tmp_path / "it" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace(str(old), str(new)))
    assert caviar.train(resume=tmp_path / "it", progress=False).summary["status"] == "finished"


class Own(nn.Module):
    """A module of one's own with batch norm, dropout and a mask that is infinite on purpose."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 3)
        )
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layers(inputs)
        return outputs


class TestInMemory:
    def given(self, tmp_path: Path, **changes: Any) -> dict[str, Any]:
        torch.manual_seed(3)
        settings = {"training.checkpoint_seconds": 0, "training.batch_size": 16, "device.threads": 1}
        arguments = {"model": Own(), "epochs": 3, "settings": settings, "runs_dir": tmp_path, "progress": False}
        return arguments | changes

    @pytest.fixture
    def run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        with monkeypatch.context() as patch:
            signal_at(patch, 5)
            words = rf'caviar\.train\(data, model=module, resume="{tmp_path / "it"}"\)'
            with pytest.raises(caviar.Interrupted, match=words):
                caviar.train(arrays(), name="it", **self.given(tmp_path))
        return tmp_path / "it"

    def test_resume_equals_never_stopping(self, run: Path, tmp_path: Path) -> None:
        whole = caviar.train(arrays(), name="whole", **self.given(tmp_path))
        again = caviar.train(arrays(), model=Own(), resume=run, progress=False)
        assert content(run) == content(whole.path)
        assert torch.equal(again.model(torch.ones(2, 4)), whole.model(torch.ones(2, 4)))

    def test_without_the_data(self, run: Path) -> None:
        words = r"handed over in memory; give it again: caviar\.train\(data, model=module, resume="
        with pytest.raises(caviar.InputError, match=words):
            caviar.train(model=Own(), resume=run, progress=False)

    def test_without_the_module(self, run: Path) -> None:
        with pytest.raises(caviar.InputError, match=r"module of your own, .*Own, .*model=module, resume="):
            caviar.train(arrays(), resume=run, progress=False)

    def test_changed_data(self, run: Path) -> None:
        inputs, labels = arrays()
        inputs = inputs.copy()
        inputs[7, 2] = np.nextafter(inputs[7, 2], np.float32(9))
        with pytest.raises(caviar.InputError, match=r"data has changed.*digest"):
            caviar.train((inputs, labels), model=Own(), resume=run, progress=False)

    def test_a_module_of_another_class(self, run: Path) -> None:
        with pytest.raises(caviar.InputError, match=r"class .*Own, but model= is a torch.*Linear"):
            caviar.train(arrays(), model=nn.Linear(4, 3), resume=run, progress=False)

    def test_a_module_of_other_shapes(self, run: Path) -> None:
        with pytest.raises(caviar.InputError, match=r"layers\.0\.bias \(\(12,\) there, \(13,\) in the module\)"):
            caviar.train(arrays(), model=Own(13), resume=run, progress=False)
        assert caviar.Run.open(run).summary["status"] == "interrupted"

    def test_another_target_of_a_frame(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        signal_at(monkeypatch, 2)
        with pytest.raises(caviar.Interrupted):
            caviar.train(prices(), "price", epochs=2, settings=SMALL, name="it", runs_dir=tmp_path, progress=False)
        monkeypatch.undo()
        with pytest.raises(caviar.InputError, match=r"data\.target"):
            caviar.train(prices(), "size", resume=tmp_path / "it", progress=False)
        assert caviar.train(prices(), "price", resume=tmp_path / "it", progress=False).metrics


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
    def test_the_command_line_saves_says_how_to_go_on_and_returns_130(
        self, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        signal_at(monkeypatch, 4, number)
        settings = ["--set", "training.batch_size=32", "--set", "model.widths=[16]"]
        code, out, err = cli(
            capsys, "train", "sample:iris", "--epochs", 3, *settings, "--runs-dir", tmp_path, "--name", "it", "--json"
        )
        assert code == 130
        assert "stopped after step 4 (epoch 2)" in err
        assert f"caviar train --resume {tmp_path / 'it'}" in err
        assert "Traceback" not in err
        assert '"exit_code": 130' in out
        assert (tmp_path / "it" / "checkpoints" / "step-000000000004.safetensors").is_file()
        monkeypatch.undo()
        assert cli(capsys, "train", "--resume", tmp_path / "it", "--quiet")[0] == 0

    def test_a_second_signal_stops_at_once_and_what_was_saved_is_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        whole = iris(tmp_path / "whole")
        with monkeypatch.context() as patch:
            signal_at(patch, 5, times=2)
            with pytest.raises(caviar.Interrupted, match=r"stopped at once; .*caviar train --resume"):
                iris(tmp_path)
        assert "step-000000000005.safetensors" not in os.listdir(tmp_path / "it" / "checkpoints")
        code, out, _ = cli(capsys, "runs", "--runs-dir", tmp_path)
        assert code == 0
        assert "stopped" in out
        caviar.train(resume=tmp_path / "it", progress=False)
        assert content(tmp_path / "it") == content(whole.path)

    def test_handlers_are_put_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        interrupted(monkeypatch, tmp_path)
        iris(tmp_path, name="other")
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
    def test_while_data_is_read_nothing_is_left_behind(
        self, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("caviar.workflow.plan.open_source", lambda *_: signal.raise_signal(number))
        code, _, err = cli(capsys, "train", "sample:iris", "--runs-dir", tmp_path / "runs")
        assert (code, err) == (130, "stopped\n")
        assert not list(tmp_path.iterdir())

    def test_while_a_process_reads_a_large_table(self, tmp_path: Path) -> None:
        source, runs = tmp_path / "table.csv", tmp_path / "runs"
        pl.select(a=pl.int_range(400_000), y=pl.int_range(400_000) % 2).write_csv(source)
        command = [sys.executable, "-c", READ_AND_WAIT, "train", str(source), "--target", "y", "--runs-dir", str(runs)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "reading\n"
            process.terminate()
            _, err = process.communicate(timeout=300)
        assert (process.returncode, err) == (130, "stopped\n")
        assert not runs.exists()


READ_AND_WAIT = """
import time
from caviar.cli.main import main
from caviar.workflow import plan
def read(*args, open_source=plan.open_source):
    print("reading", flush=True)
    open_source(*args)
    time.sleep(600)  # on a fast machine, or when the test is slow to send its signal
plan.open_source = read
main()
"""


def test_records_are_readable_by_another_process_while_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observers, "FLUSH_SECONDS", 0.0)
    original = observers.Recorder.on_step
    read: list[str] = []
    code = (
        "import sys; from pathlib import Path; from caviar.core.runs import list_runs\n"
        "from caviar.core.store import Store\n"
        "with Store(Path(sys.argv[1]), read_only=True) as store:\n"
        "    print(len(store.read(name='batch_loss')), store.events()[0]['kind'])\n"
        "print(list_runs(Path(sys.argv[1]).parents[1])[0].status)"
    )

    def on_step(self: Any, moment: Any, loss: Any) -> None:
        original(self, moment, loss)
        if moment.step == 7:
            command = [sys.executable, "-c", code, str(tmp_path / "it" / "records.sqlite")]
            read.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    monkeypatch.setattr(observers.Recorder, "on_step", on_step)
    iris(tmp_path)
    count, first, status = read[0].split()
    assert status == "running"
    assert int(count) >= 6
    assert first == "started"


def test_resume_deletes_the_records_after_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = interrupted(monkeypatch, tmp_path, 5)
    with Store(run / "records.sqlite") as store:
        last = store.read(name="batch_loss")[-1]
        store.write([last._replace(step=6, value=99.0), last._replace(step=500, value=99.0)])
    caviar.train(resume=run, progress=False)
    values = [record.value for record in caviar.Run.open(run).records(name="batch_loss")]
    assert len(values) == 9
    assert 99.0 not in values


def test_a_failure_in_code_of_ones_own_is_noted_and_raised_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of my own")

    monkeypatch.setattr(execute, "finish", broken)
    with pytest.raises(ZeroDivisionError):
        iris(tmp_path)
    summary = caviar.Run.open(tmp_path / "it").summary
    assert summary["status"] == "failed"
    assert "of my own" in summary["error"]
    monkeypatch.undo()
    again = caviar.train(resume=tmp_path / "it", progress=False)
    assert again.summary["status"] == "finished"
    assert "error" not in again.summary


def test_values_that_are_not_numbers_survive_store_resume_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """R2 on a dev split of one value is 0 / 0: no epoch is ever better, so the last weights are handed over."""
    inputs, targets = quantities()
    dev = (inputs[:20], np.full(20, 1000.0))
    given: dict[str, Any] = {"settings": SMALL | {"training.metric": "r2"}, "epochs": 3, "runs_dir": tmp_path}
    with monkeypatch.context() as patch:
        signal_at(patch, 4)
        with pytest.raises(caviar.Interrupted):
            caviar.train((inputs, targets), dev=dev, name="it", progress=False, **given)
    run = caviar.train((inputs, targets), dev=dev, resume=tmp_path / "it", progress=False)
    whole = caviar.train((inputs, targets), dev=dev, name="whole", progress=False, **given)
    assert content(run.path) == content(whole.path)
    assert [math.isnan(record.value) for record in run.records(split="dev", name="r2")] == [True] * 3
    code, out, _ = cli(capsys, "runs", "--runs-dir", tmp_path, "--json")
    listed = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert code == 0
    assert {entry["last"]["dev_r2"] for entry in listed["runs"]} == {"NaN"}
    assert cli(capsys, "train", "--resume", run.path, "--json")[0] == 0
    assert cli(capsys, "runs", "--runs-dir", tmp_path)[0] == 0
