import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from caviar.core.checkpoint import Checkpoint, read_checkpoint
from caviar.core.errors import DivergedError
from caviar.train.checkpoints import Checkpoints
from caviar.train.loop import Job, StopRequest, train
from caviar.train.saving import Saver
from caviar.train.state import State
from tests.train.conftest import small_net


def state_of(value: float, best_step: int = 0) -> Checkpoint:
    tensors = {"model/w": torch.full((3,), value), "best/w": torch.full((3,), float(best_step))}
    return Checkpoint(tensors, {"best": {"epoch": best_step, "step": best_step}, "keep": True})


class Slow(Checkpoints):
    """Writes only once it is allowed to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.allowed = threading.Event()

    def save(self, step: int, checkpoint: Checkpoint) -> None:
        assert self.allowed.wait(10)
        super().save(step, checkpoint)


def test_training_goes_on_while_the_state_of_the_moment_is_written(tmp_path: Path) -> None:
    checkpoints = Slow(tmp_path)
    state = state_of(1.0)
    with Saver(checkpoints, []) as saver:
        saver.save(5, state)
        state.tensors["model/w"].fill_(2.0)
        assert checkpoints.steps() == []
        checkpoints.allowed.set()
    assert torch.equal(read_checkpoint(checkpoints.path(5)).tensors["model/w"], torch.full((3,), 1.0))


def test_the_best_is_written_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    original = Checkpoints.save_best

    def counted(self: Checkpoints, checkpoint: Checkpoint) -> None:
        written.append(checkpoint.data["step"])
        original(self, checkpoint)

    monkeypatch.setattr(Checkpoints, "save_best", counted)
    with Saver(Checkpoints(tmp_path), []) as saver:
        for step, best in [(0, 0), (1, 1), (2, 1), (3, 3)]:
            saver.save(step, state_of(0.0, best))
    assert written == [1, 3]
    assert torch.equal(read_checkpoint(tmp_path / "best.safetensors").tensors["w"], torch.full((3,), 3.0))


def test_observers_hear_of_a_save_before_it_is_written(tmp_path: Path) -> None:
    checkpoints, seen = Checkpoints(tmp_path), []

    class Listener:
        def on_step(self, moment: Any, loss: Any) -> None: ...
        def on_epoch(self, facts: Any) -> None: ...
        def on_save(self, step: int) -> None:
            seen.append((step, checkpoints.steps()))

    with Saver(checkpoints, [Listener()]) as saver:
        saver.save(1, state_of(0.0))
        saver.save(2, state_of(0.0))
    assert seen == [(1, []), (2, [1])]


def test_a_failed_write_is_raised_by_the_next_save_or_at_the_end(tmp_path: Path) -> None:
    gone = Checkpoints(tmp_path / "gone")
    with pytest.raises(FileNotFoundError), Saver(gone, []) as saver:
        saver.save(1, state_of(0.0))
    with Saver(gone, []) as saver:
        saver.save(1, state_of(0.0))
        with pytest.raises(FileNotFoundError):
            saver.save(2, state_of(0.0))


def test_an_error_of_the_block_is_the_one_that_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), Saver(Checkpoints(tmp_path / "gone"), []) as saver:
        saver.save(1, state_of(0.0))
        raise ValueError("mine")


def test_a_run_that_fails_has_written_its_last_state(make_job: Callable[..., Job], tmp_path: Path) -> None:
    net = small_net()
    job = make_job(
        net, optimizer=torch.optim.SGD(net.parameters(), lr=1.0), schedule=lambda step: 1e30 if step >= 25 else 0.01
    )
    with pytest.raises(DivergedError):
        train(job, State(), Checkpoints(tmp_path), [], StopRequest())
    assert Checkpoints(tmp_path).steps()[-1] == 22
    assert not [t for t in threading.enumerate() if t.name.startswith("caviar-saver")]


def test_a_disk_that_takes_nothing_stops_the_run_before_its_first_step(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    state = State()
    with pytest.raises(FileNotFoundError):
        train(make_job(), state, Checkpoints(tmp_path / "gone"), [], StopRequest())
    assert state.step == 0


COUNT_THREADS = """
import os, sys, torch
from pathlib import Path
from caviar.core.checkpoint import Checkpoint
from caviar.train.checkpoints import Checkpoints
from caviar.train.saving import Saver
torch.set_num_threads(2)
tensors = {"model/a": torch.ones(1000, 64, 8, 8), "best/b": torch.ones(1000, 64, 8, 8)}
tensors["model/a"] = tensors["model/a"].to(memory_format=torch.channels_last)
tensors["model/c"] = tensors["model/a"].bfloat16()
state = Checkpoint(tensors, {"best": {"epoch": 1, "step": 1}, "keep": True})
torch.ones(1000, 1000).mul_(2)
before = len(os.listdir("/proc/self/task"))
with Saver(Checkpoints(Path(sys.argv[1])), []) as saver:
    saver.save(1, state)
    saver.wait()
    print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_saving_shares_no_torch_operation_between_threads(tmp_path: Path) -> None:
    """A second team of OpenMP threads would make training on all cores take twice as long."""
    command = [sys.executable, "-c", COUNT_THREADS, str(tmp_path)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == "1"
