"""Damaged, foreign, newer and malicious files of a run; full and read-only disks; names that are tricks."""

import errno
import json
import math
import pickle
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import caviar
from caviar.core import checkpoint, files, store
from caviar.core.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from caviar.core.runs import list_runs
from caviar.train import checkpoints
from caviar.workflow import execute, observers
from tests.workflow.faulty import cli, content, interrupted, iris, kinds, signal_at

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the iris run comes to when nothing happens to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAVIAR_CACHE", str(tmp_path_factory.mktemp("cache")))
        return content(iris(tmp_path_factory.mktemp("whole")).path)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run stopped after step 8 of 9, with checkpoints of steps 0, 3, 6 and 8."""
    return interrupted(monkeypatch, tmp_path, 8)


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


class Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    value = bytearray(path.read_bytes())
    value[-5] ^= 16
    path.write_bytes(bytes(value))


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Evil(path.parent / "owned")))


def torch_saved(path: Path) -> None:
    torch.save({"weights": torch.ones(2)}, path)


def stripped(path: Path) -> None:
    save_file(load_file(path), path)


def made_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: list[Callable[[Path], None]] = [cut, emptied, flipped, pickled, torch_saved, stripped, made_folder]


class TestCheckpoints:
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_a_damaged_newest_one_is_named_and_the_one_before_used(
        self, damage: Callable[[Path], None], run: Path, whole: dict[str, Any], capsys: Capture
    ) -> None:
        last = newest(run)
        damage(last)
        code, _, err = cli(capsys, "train", "--resume", run)
        assert code == 0
        said = " ".join(err.split())
        assert last.name in said
        assert "Going on from step 6" in said
        assert last.name in (run / "train.log").read_text()
        assert content(run) == whole
        assert not (run / "checkpoints" / "owned").exists()

    def test_a_missing_newest_one_is_named(self, run: Path, whole: dict[str, Any], capsys: Capture) -> None:
        newest(run).unlink()
        code, _, err = cli(capsys, "train", "--resume", run)
        assert code == 0
        assert "checkpoint of step 8 is missing" in " ".join(err.split())
        assert content(run) == whole

    def test_several_damaged_ones(self, run: Path, whole: dict[str, Any], capsys: Capture) -> None:
        for step, damage in zip((8, 6, 3), (cut, flipped, pickled), strict=True):
            damage(run / "checkpoints" / f"step-{step:012}.safetensors")
        code, _, err = cli(capsys, "train", "--resume", run)
        assert code == 0
        assert "Going on from step 0" in " ".join(err.split())
        assert content(run) == whole

    def test_all_of_them_damaged_is_an_error_that_names_each(self, run: Path, capsys: Capture) -> None:
        names = [path.name for path in (run / "checkpoints").glob("step-*")]
        for name in names:
            flipped(run / "checkpoints" / name)
        code, _, err = cli(capsys, "train", "--resume", run)
        assert code == 2
        assert all(name in err for name in names)
        assert f"caviar train {run / 'recipe.toml'}" in err
        assert caviar.Run.open(run).summary["status"] == "interrupted"

    def test_none_of_them_left_begins_anew_and_says_so(self, run: Path, whole: dict[str, Any], capsys: Capture) -> None:
        shutil.rmtree(run / "checkpoints")
        code, _, err = cli(capsys, "train", "--resume", run)
        assert code == 0
        assert "Going on from step 0" in " ".join(err.split())
        assert content(run) == whole

    def test_a_damaged_best_does_not_matter_for_a_resume(self, run: Path, whole: dict[str, Any]) -> None:
        flipped(run / "checkpoints" / "best.safetensors")
        caviar.train(resume=run, progress=False)
        assert content(run) == whole
        assert read_checkpoint(run / "checkpoints" / "best.safetensors").data["step"] == whole["best"]["epoch"] * 3

    def test_a_newer_one_is_refused_by_name(self, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        state = read_checkpoint(newest(run))
        monkeypatch.setattr(checkpoint, "CHECKPOINT", 7)
        write_checkpoint(
            newest(run), Checkpoint(state.tensors, {k: v for k, v in state.data.items() if k != "version"})
        )
        monkeypatch.undo()
        code, _, err = cli(capsys, "train", "--resume", run)
        assert code == 2
        assert newest(run).name in err
        assert "format version 7" in err
        assert "Upgrade caviar" in err

    @pytest.mark.parametrize("lost", ["best", "optimizer", "epoch", "recipe"])
    def test_one_that_lacks_something_is_refused(self, lost: str, run: Path, capsys: Capture) -> None:
        state = read_checkpoint(newest(run))
        write_checkpoint(newest(run), Checkpoint(state.tensors, {k: v for k, v in state.data.items() if k != lost}))
        code, _, err = cli(capsys, "train", "--resume", run)
        assert code == 2
        assert lost in err
        assert "Traceback" not in err

    def test_one_of_another_run_is_refused(
        self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        other = interrupted(monkeypatch, tmp_path / "other", 8, settings={"model.widths": [9]})
        shutil.copy(newest(other), newest(run))
        code, _, err = cli(capsys, "train", "--resume", run)
        assert code == 2
        assert "model.widths: [9] -> [16]" in err

    def test_a_state_that_is_not_finite_is_passed_over(self, run: Path, whole: dict[str, Any], capsys: Capture) -> None:
        state = read_checkpoint(newest(run))
        state.tensors["model/output.bias"][0] = torch.nan
        write_checkpoint(newest(run), Checkpoint(state.tensors, state.data | {"good": False}))
        code, _, err = cli(capsys, "train", "--resume", run)
        assert code == 0
        assert "not finite" in err
        assert content(run) == whole


class TestOtherFiles:
    @pytest.mark.parametrize("text", ["", "{", '{"version": 1}', "[]", "null", "\xff", "[" * 100_000], ids=range(7))
    def test_a_damaged_summary_is_named_and_made_anew(
        self, text: str, run: Path, whole: dict[str, Any], capsys: Capture
    ) -> None:
        (run / "run.json").write_text(text, encoding="latin-1")
        code, out, _ = cli(capsys, "runs", "--runs-dir", run.parent)
        assert code == 0
        assert "damaged" in out
        with pytest.raises(caviar.InputError, match=r"run\.json: damaged"):
            _ = caviar.Run.open(run).summary
        code, _, err = cli(capsys, "train", "--resume", run)
        assert code == 0
        assert "It has been made anew" in " ".join(err.split())
        assert content(run) | {"best": whole["best"]} == whole  # which epoch was best is lost with the file

    @pytest.mark.parametrize(
        "change", [{"status": "odd"}, {"created": "now"}, {"metrics": 3}, {"best": []}, {"version": None}], ids=str
    )
    def test_a_summary_of_the_wrong_types(
        self, change: dict[str, Any], run: Path, whole: dict[str, Any], capsys: Capture
    ) -> None:
        value = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(value | change))
        assert cli(capsys, "runs", "--runs-dir", run.parent)[0] == 0
        if "version" in change:
            assert cli(capsys, "train", "--resume", run)[0] == 2
        else:
            caviar.train(resume=run, progress=False)
            assert content(run) | {"best": whole["best"]} == whole  # which epoch was best is lost with the file

    def test_a_newer_run_is_refused_by_name_and_still_listed(self, run: Path, capsys: Capture) -> None:
        value = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(value | {"version": 9}))
        code, _, err = cli(capsys, "train", "--resume", run)
        assert code == 2
        assert "this run has format version 9" in err
        assert "version 9" in list_runs(run.parent)[0].problem

    def test_a_newer_recipe_is_refused_by_name(self, run: Path, capsys: Capture) -> None:
        recipe = run / "recipe.toml"
        recipe.write_text(recipe.read_text().replace("version = 1", "version = 4"))
        code, _, err = cli(capsys, "train", "--resume", run)
        assert code == 2
        assert "recipe.toml" in err
        assert "format version 4" in err

    @pytest.mark.parametrize("damage", [halved, emptied, pickled, made_folder, Path.unlink])
    def test_a_damaged_recipe_is_named(self, damage: Callable[[Path], None], run: Path, capsys: Capture) -> None:
        damage(run / "recipe.toml")
        code, _, err = cli(capsys, "train", "--resume", run)
        assert code == 2
        assert "recipe" in err
        assert "Traceback" not in err

    def test_a_newer_store_is_refused_by_name(self, run: Path, capsys: Capture) -> None:
        with sqlite3.connect(run / "records.sqlite") as connection:
            connection.execute("PRAGMA user_version = 3")
        connection.close()
        code, _, err = cli(capsys, "train", "--resume", run)
        assert code == 2
        assert "records.sqlite" in err
        assert "format version 3" in err

    @pytest.mark.parametrize("how", ["text", "middle", "cut"])
    def test_a_damaged_store_is_named_with_a_remedy_that_works(
        self, how: str, run: Path, whole: dict[str, Any], capsys: Capture
    ) -> None:
        path = run / "records.sqlite"
        value = path.read_bytes()
        damaged = {
            "text": b"hello " * 2000,
            "middle": value[:4096] + b"\xa5" * 8192 + value[12288:],
            "cut": value[:9000],
        }
        path.write_bytes(damaged[how])
        code, _, err = cli(capsys, "train", "--resume", run)
        assert code == 2
        assert "records.sqlite" in err
        assert "move it away" in err
        assert caviar.Run.open(run).summary["status"] == "interrupted"
        path.unlink()
        code, _, err = cli(capsys, "train", "--resume", run)
        assert code == 0
        assert "records before step 8 are lost" in " ".join(err.split())
        found = content(run)
        assert found["network.safetensors"] == whole["network.safetensors"]
        anew = [record for record in whole["records"] if int(record[1]) > 8 or int(record[1]) == 0]
        assert found["records"] == anew

    def test_a_missing_folder_and_what_is_none(self, run: Path, tmp_path: Path, capsys: Capture) -> None:
        code, _, err = cli(capsys, "train", "--resume", tmp_path / "if")
        assert code == 2
        assert f"Did you mean {tmp_path / 'it'}?" in err
        for path in (run / "checkpoints", run / "recipe.toml", tmp_path / "no" / "such" / "folder", tmp_path / "x\n"):
            code, _, err = cli(capsys, "train", "--resume", path)
            assert code == 2
            assert "run" in err

    def test_what_a_kill_left_in_the_folder_is_removed(self, run: Path) -> None:
        (run / ".run.json.abc").write_text("{")
        (run / ".bundle.xyz").mkdir()
        (run / ".bundle.xyz" / "network.safetensors").write_bytes(b"half")
        (run / "checkpoints" / ".step-000000000009.safetensors.q").write_bytes(b"half")
        (run / "checkpoints" / ".tmpAbCdEf").write_bytes(b"half")
        (run / ".mine").write_text("notes")
        caviar.train(resume=run, progress=False)
        assert sorted(path.name for path in run.glob(".*")) == [".mine"]
        assert not list((run / "checkpoints").glob(".*"))


class TestNames:
    BAD = ("../x", "/x", "a/b", "..", ".", ".x", "-x", "con", "NUL.txt", "x" * 101, "ü", "", "a b", "x\n", "x.", "a\\b")

    @pytest.mark.parametrize("name", BAD)
    def test_names_that_are_tricks_are_refused_before_anything_is_read(
        self, name: str, tmp_path: Path, capsys: Capture
    ) -> None:
        code, _, err = cli(capsys, "train", "no-such-file.csv", "--runs-dir", tmp_path / "runs", f"--name={name}")
        assert code == 2
        assert "run name" in err
        assert "letters, digits" in err
        with pytest.raises(caviar.InputError, match="run name"):
            iris(tmp_path / "runs", name=name)
        assert not (tmp_path / "runs").exists()

    def test_a_name_that_is_taken(self, tmp_path: Path, capsys: Capture) -> None:
        run = iris(tmp_path)
        before = content(run.path)
        code, _, err = cli(capsys, "train", "sample:iris", "--runs-dir", tmp_path, "--name", "it")
        assert code == 2
        assert f"{tmp_path / 'it'} exists already" in err
        assert f"caviar train --resume {tmp_path / 'it'}" in err
        assert content(run.path) == before
        (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
        (tmp_path / "file").write_text("mine")
        for name in ("dangling", "file"):
            code, _, err = cli(capsys, "train", "sample:iris", "--runs-dir", tmp_path, "--name", name)
            assert code == 2
            assert "exists already. It is not a run" in err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file", "it"]


class TestPlaces:
    def test_a_file_where_the_folder_should_be(self, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "runs").write_text("a file")
        for runs_dir in (tmp_path / "runs", tmp_path / "runs" / "deeper", tmp_path / ("x" * 300)):
            code, _, err = cli(capsys, "train", "sample:iris", "--epochs", "1", "--runs-dir", runs_dir)
            assert code == 2
            assert "a run folder cannot be" in err
        assert [path.name for path in tmp_path.iterdir()] == ["runs"]

    def test_a_folder_that_may_not_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        monkeypatch.setattr("os.access", lambda *_: False)
        code, _, err = cli(capsys, "train", "sample:iris", "--runs-dir", tmp_path / "runs")
        assert code == 2
        assert "writable" in err
        assert not list(tmp_path.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A function that mounts a disk of so many KiB at one place, or gives it another size."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted: list[int] = []

    def resize(kibibytes: int) -> Path:
        options = f"{'remount,' if mounted else ''}size={kibibytes}k"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("this user may not mount a small disk")
        mounted.append(kibibytes)
        return disk

    yield resize
    if mounted:
        subprocess.run(["umount", "-l", str(disk)], check=True)


class TestFullDisk:
    """The same faults on a real small disk, where the user may mount one, and simulated, where not."""

    @pytest.mark.parametrize("kibibytes", [4, 16, 40, 80])
    def test_full_at_the_start(self, kibibytes: int, small_disk: Callable[[int], Path], capsys: Capture) -> None:
        disk = small_disk(kibibytes)
        code, _, err = cli(capsys, "train", "sample:digits", "--epochs", "1", "--quiet", "--runs-dir", disk / "runs")
        assert code == 2
        assert str(disk / "runs") in err
        assert "Traceback" not in err
        assert not list(disk.iterdir())

    @pytest.mark.parametrize("kibibytes", [130, 150, 170])
    def test_full_in_the_middle_and_resumed_when_there_is_room(
        self, kibibytes: int, small_disk: Callable[[int], Path], whole: dict[str, Any], capsys: Capture
    ) -> None:
        disk = small_disk(kibibytes)
        with pytest.raises(caviar.RunError, match=f"caviar train --resume {disk / 'runs' / 'it'}"):
            iris(disk / "runs")
        run = disk / "runs" / "it"
        assert cli(capsys, "runs", "--runs-dir", disk / "runs")[0] == 0
        caviar.Run.open(run).records()
        assert cli(capsys, "train", "--resume", run)[0] in (1, 2)
        small_disk(20_000)
        caviar.train(resume=run, progress=False)
        assert content(run) == whole

    @pytest.mark.parametrize("after", [0, 1, 2, 3, 4, 6, 8, 11, 14])
    def test_simulated_at_every_kind_of_write(
        self, after: int, tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The disk is full from the write number `after` on: of a JSON file, a checkpoint, the log or the store."""
        left = [after]

        def limited(original: Callable[..., Any], error: Exception) -> Callable[..., Any]:
            def write(*args: Any, **kwargs: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise error
                return original(*args, **kwargs)

            return write

        no_room = OSError(errno.ENOSPC, "No space left on device")
        with monkeypatch.context() as patch:
            patch.setattr(files, "write_atomic", limited(files.write_atomic, no_room))
            patch.setattr(checkpoints, "write_checkpoint", limited(checkpoints.write_checkpoint, no_room))
            patch.setattr(observers.RunLog, "write", limited(observers.RunLog.write, no_room))
            full = caviar.RunError("records cannot be written (database or disk is full).")
            patch.setattr(store.Store, "write", limited(store.Store.write, full))
            with pytest.raises((caviar.InputError, caviar.RunError), match=r"No space left|disk is full") as raised:
                iris(tmp_path)
            begun = (tmp_path / "it").exists()
            assert isinstance(raised.value, caviar.RunError) == begun
        if begun:
            assert not list((tmp_path / "it").glob(".*"))
            caviar.train(resume=tmp_path / "it", progress=False)
        else:
            assert not list(tmp_path.iterdir())
            iris(tmp_path)
        assert content(tmp_path / "it") == whole


class TestDivergence:
    SETTINGS = (
        "--set",
        "schedule.name=constant",
        "--set",
        "optimizer.name=sgd",
        "--set",
        "optimizer.learning_rate=1e6",
        "--set",
        "model.norm=none",
    )

    def test_it_is_told_in_words_and_the_last_good_state_is_kept(self, tmp_path: Path, capsys: Capture) -> None:
        arguments = ("train", "sample:diabetes", *self.SETTINGS, "--runs-dir", tmp_path, "--name", "it")
        code, _, err = cli(capsys, *arguments)
        assert code == 1
        assert "the training loss became" in err
        assert re.search(r"at step \d+ \(epoch \d, learning rate 1e\+06\)", err)
        assert f"caviar train {tmp_path / 'it' / 'recipe.toml'} --set optimizer.learning_rate=1e+05" in err
        run = caviar.Run.open(tmp_path / "it")
        assert run.summary["status"] == "failed"
        assert "the training loss became" in run.summary["error"]
        state = read_checkpoint(newest(run.path))
        assert state.data["good"]
        assert all(bool(torch.isfinite(t).all()) for t in state.tensors.values() if t.is_floating_point())
        assert any(not math.isfinite(record.value) for record in run.records(name="batch_loss"))
        assert kinds(run.path) == ["started", "failed"]
        code, out, err = cli(capsys, "runs", "--runs-dir", tmp_path, "--json")
        assert code == 0
        assert json.loads(out)["runs"][0]["status"] == "failed"
        code, _, err = cli(capsys, "train", "--resume", run.path)
        assert code == 1
        assert "Resuming it would meet the same" in err

    def test_a_loss_that_explodes_but_stays_finite(self, tmp_path: Path) -> None:
        settings = {"model.norm": "batch", "optimizer": {"name": "sgd", "learning_rate": 1e6}, "device.threads": 1}
        with pytest.raises(caviar.RunError, match=r"grew from \d.* to .*e\+\d+ within epoch 1"):
            caviar.train("sample:digits", epochs=3, settings=settings, runs_dir=tmp_path, name="it", progress=False)
        assert caviar.Run.open(tmp_path / "it").summary["status"] == "failed"
        assert [path.name for path in (tmp_path / "it" / "checkpoints").iterdir()] == ["step-000000000000.safetensors"]

    def test_interrupted_after_it_began_the_bad_state_is_not_resumed_from(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        arguments = ("train", "sample:diabetes", *self.SETTINGS, "--runs-dir", tmp_path, "--name", "it")
        with monkeypatch.context() as patch:
            signal_at(patch, 8)
            assert cli(capsys, *arguments)[0] == 130
        assert not read_checkpoint(newest(tmp_path / "it")).data["good"]
        code, _, err = cli(capsys, "train", "--resume", tmp_path / "it")
        assert code == 1
        assert "not finite. Going on from step 0" in " ".join(err.split())
        assert "the training loss became" in err


def test_checkpoints_that_are_kept(tmp_path: Path) -> None:
    run = iris(tmp_path, epochs=20, settings={"training.patience": "none"})
    steps = sorted(int(path.stem.removeprefix("step-")) for path in (run.path / "checkpoints").glob("step-*"))
    assert steps == [0, *(3 * epoch for epoch in (1, 2, 4, 8, 16, 18, 19, 20))]
    best = read_checkpoint(run.path / "checkpoints" / "best.safetensors")
    assert best.data["epoch"] == run.metrics["best_epoch"]
    bundle = load_file(run.path / "bundle" / "network.safetensors")
    assert all(torch.equal(best.tensors[name], bundle[name]) for name in bundle)
    assert best.tensors.keys() == bundle.keys()


def test_memory_that_runs_out_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(execute, "finish", no_memory)
    with pytest.raises(caviar.RunError, match=r"not enough memory.*caviar train --resume"):
        iris(tmp_path)
