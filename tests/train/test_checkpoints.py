import math
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from caviar.core import checkpoint as module
from caviar.core.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from caviar.core.errors import InputError
from caviar.train.checkpoints import Checkpoints, is_finite


def state(value: float = 1.0, keep: bool = False) -> Checkpoint:
    tied = torch.full((3, 4), value)
    tensors = {"a": tied, "b": tied, "bytes": torch.arange(5, dtype=torch.uint8), "half": torch.ones(2).bfloat16()}
    return Checkpoint(tensors, {"epoch": 1, "keep": keep})


def test_round_trip_with_tied_weights_and_every_layout(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    pixels = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    saved = Checkpoint(
        state().tensors | {"pixels": pixels, "empty": torch.zeros(0), "scalar": torch.tensor(3)}, {"x": 1}
    )
    write_checkpoint(path, saved)
    back = read_checkpoint(path)
    assert back.data["x"] == 1
    for name, tensor in saved.tensors.items():
        assert torch.equal(back.tensors[name], tensor)
        assert back.tensors[name].dtype == tensor.dtype
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_any_flipped_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, state())
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(InputError, match=r"x\.safetensors"):
            read_checkpoint(path)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_cut_file_is_found(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, state())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match="damaged"):
        read_checkpoint(path)


def test_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "owned",))  # type: ignore[return-value]

    path = tmp_path / "x.safetensors"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="never pickles"):
        read_checkpoint(path)
    assert not (tmp_path / "owned").exists()


def test_foreign_safetensors_and_newer_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(InputError, match="digest"):
        read_checkpoint(path)
    monkeypatch.setattr(module, "CHECKPOINT", 99)
    write_checkpoint(path, state())
    monkeypatch.undo()
    with pytest.raises(InputError, match="format version 99"):
        read_checkpoint(path)


def test_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, state(1.0))

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        write_checkpoint(path, state(2.0))
    assert read_checkpoint(path).tensors["a"][0, 0] == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_which_checkpoints_are_kept(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    for step in range(12):
        kept.save(step, state(keep=step in (1, 2, 4, 8)))
    assert kept.steps() == [0, 1, 2, 4, 8, 9, 10, 11]


def test_newest_good_one_is_kept_among_bad_ones(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    for step in range(10):
        kept.save(step, state(float("nan") if step > 4 else 1.0))
    assert kept.steps() == [0, 4, 7, 8, 9]
    assert read_checkpoint(kept.path(4)).data["good"]
    assert not read_checkpoint(kept.path(9)).data["good"]


def test_damaged_newest_is_named_and_the_one_before_used(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    for step in range(3):
        kept.save(step, state(float(step)))
    kept.path(2).write_bytes(kept.path(2).read_bytes()[:50])
    found, problems = kept.newest()
    assert found is not None
    assert found.data["step"] == 1
    assert len(problems) == 1
    assert kept.path(2).name in problems[0]


def test_leftovers_of_a_kill_are_removed(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    (tmp_path / ".step-000000000001.safetensors.abc").write_bytes(b"half")
    kept.save(2, state())
    assert [p.name for p in tmp_path.iterdir()] == [kept.path(2).name]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_is_seen(dtype: torch.dtype, value: float) -> None:
    ordinary = torch.tensor([0.0, -1.5, torch.finfo(dtype).max, torch.finfo(dtype).min], dtype=dtype)
    assert is_finite({"a": ordinary, "b": torch.zeros(0, dtype=dtype), "c": torch.tensor([7])})
    assert not is_finite({"a": ordinary, "b": torch.cat([ordinary, torch.tensor([value], dtype=dtype)])})
