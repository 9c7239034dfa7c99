import errno
import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caviar.core import files
from caviar.core.files import atomic_folder, cache_folder, digest_file, sync_folder, write_atomic, write_json

NEW = b"new content\n" * 1000


def break_call(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, error: BaseException, at: int = 1) -> None:
    """Let the `at`-th call of module.name fail with `error`; the other calls work."""
    original: Callable[..., Any] = getattr(module, name)
    calls = 0

    def broken(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return original(*arguments, **named)

    monkeypatch.setattr(module, name, broken)


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@given(st.binary(max_size=200))
def test_what_is_written_is_there(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "some.bin"
    write_atomic(path, content)
    assert path.read_bytes() == content


def test_a_write_leaves_one_readable_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for content in (b"old", NEW):
        write_atomic(path, content)
    assert tree(tmp_path) == {"a.bin": NEW}
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_bare_name_is_written_to_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_atomic(Path("a.bin"), NEW)
    assert tree(tmp_path) == {"a.bin": NEW}


@pytest.mark.parametrize("old", [{}, {"a.bin": b"old content"}], ids=["first", "again"])
@pytest.mark.parametrize("error", [full_disk(), OSError(errno.EIO, "io"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize(
    ("module", "name"),
    [(tempfile, "mkstemp"), (os, "fsync"), (os, "chmod"), (os, "replace")],
    ids=lambda part: part if isinstance(part, str) else part.__name__,
)
def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, error: BaseException, old: dict[str, bytes]
) -> None:
    for file, content in old.items():
        (tmp_path / file).write_bytes(content)
    with monkeypatch.context() as patch:
        break_call(patch, module, name, error)
        with pytest.raises(type(error)):
            write_atomic(tmp_path / "a.bin", NEW)
    assert tree(tmp_path) == old


def test_a_disk_that_fills_up_during_the_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.bin").write_bytes(b"old")
    opened = os.fdopen

    def fdopen(descriptor: int, mode: str) -> Any:
        file = opened(descriptor, mode, buffering=0)

        class Full:
            def __enter__(self) -> "Full":
                return self

            def __exit__(self, *exception: object) -> None:
                file.close()

            def write(self, content: bytes) -> int:
                file.write(content[:10])
                raise full_disk()

        return Full()

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", fdopen)
        with pytest.raises(OSError, match="No space left") as caught:
            write_atomic(tmp_path / "a.bin", NEW)
    assert caught.value.errno == errno.ENOSPC
    assert tree(tmp_path) == {"a.bin": b"old"}


def test_a_real_full_disk() -> None:
    """/dev/full refuses every byte: the error arrives although Python's own buffer takes them first."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    descriptor = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match="No space left"), os.fdopen(descriptor, "wb") as file:
        file.write(b"x")
        file.flush()


def test_when_only_the_last_flush_fails_the_new_content_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.bin").write_bytes(b"old")
    with monkeypatch.context() as patch:
        break_call(patch, os, "fsync", full_disk(), at=2)
        with pytest.raises(OSError, match="No space"):
            write_atomic(tmp_path / "a.bin", NEW)
    assert tree(tmp_path) == {"a.bin": NEW}


def test_the_order_is_write_fsync_rename_fsync_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        size = os.fstat(descriptor).st_size
        seen.append("fsync folder" if is_folder else f"fsync {size} bytes")
        fsync(descriptor)

    def noted_replace(source: str, target: Path) -> None:
        seen.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_atomic(tmp_path / "a.bin", NEW)
    assert seen == [f"fsync {len(NEW)} bytes", "rename", "fsync folder"]


def test_a_missing_folder_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "absent" / "a.bin", NEW)


def test_no_descriptor_is_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("open descriptors are listed on Linux only")
    before = len(list(folder.iterdir()))
    write_atomic(tmp_path / "a.bin", NEW)
    sync_folder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(full_disk()))
        for act in (lambda: write_atomic(tmp_path / "a.bin", NEW), lambda: sync_folder(tmp_path)):
            with pytest.raises(OSError, match="No space"):
                act()
    assert len(list(folder.iterdir())) == before


def test_json_is_strict_and_ends_with_a_newline(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = {"a": [1, 2.5, None, True], "ü": "é"}
    write_json(path, value)
    assert json.loads(path.read_text()) == value
    assert path.read_text().endswith("}\n")
    for wrong in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(path, {"value": wrong})
    with pytest.raises(TypeError):
        write_json(path, {"value": object()})
    assert json.loads(path.read_text()) == value
    assert list(tree(tmp_path)) == ["a.json"]


def fill(folder: Path, content: bytes = NEW) -> None:
    """What a block puts into its folder: a file, and one in a folder below."""
    (folder / "one.bin").write_bytes(content)
    (folder / "below").mkdir()
    (folder / "below" / "two.bin").write_bytes(content)


FILLED = {"one.bin": NEW, "below/two.bin": NEW}


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "bundle"
    with atomic_folder(target) as folder:
        fill(folder)
        assert not target.exists()
        assert folder.parent == target.parent
    assert tree(target) == FILLED
    assert [path.name for path in target.parent.iterdir()] == ["bundle"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o755


def test_an_older_folder_is_replaced_not_merged(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "left over.bin").write_bytes(b"old")
    with atomic_folder(target) as folder:
        fill(folder)
        assert tree(target) == {"left over.bin": b"old"}
    assert tree(target) == FILLED
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("old", [False, True], ids=["first", "again"])
@pytest.mark.parametrize("error", [ValueError("no"), full_disk(), KeyboardInterrupt()], ids=repr)
def test_a_failed_block_leaves_no_trace(tmp_path: Path, error: BaseException, old: bool) -> None:
    target = tmp_path / "bundle"
    if old:
        target.mkdir()
        (target / "a").write_bytes(b"old")
    before = tree(tmp_path)
    with pytest.raises(type(error)), atomic_folder(target) as folder:
        fill(folder)
        raise error
    assert tree(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (["bundle"] if old else [])


FIRST_TIME = [
    (os, "chmod", 1),
    *((os, "fsync", at) for at in (1, 2, 3, 4)),
    (os, "replace", 1),
    (tempfile, "mkdtemp", 1),
]
AGAIN = [*FIRST_TIME, (os, "replace", 2), (tempfile, "mkdtemp", 2)]  # these put the older folder aside


@pytest.mark.parametrize(
    ("module", "name", "at", "old"),
    [(*call, False) for call in FIRST_TIME] + [(*call, True) for call in AGAIN],
    ids=lambda part: part.__name__ if hasattr(part, "__name__") else str(part),
)
def test_a_folder_that_cannot_be_finished_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, at: int, old: bool
) -> None:
    target = tmp_path / "bundle"
    if old:
        target.mkdir()
        (target / "a").write_bytes(b"old")
    before = tree(tmp_path)
    with monkeypatch.context() as patch:
        break_call(patch, module, name, full_disk(), at)
        with pytest.raises(OSError, match="No space"), atomic_folder(target) as folder:
            fill(folder)
    assert tree(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (["bundle"] if old else [])


def test_every_file_and_folder_is_flushed_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    with atomic_folder(tmp_path / "bundle") as folder:
        fill(folder)
        inside = {path.stat().st_ino for path in (folder, *folder.rglob("*"))}
    assert set(flushed[:-1]) == inside
    assert flushed[-1] == tmp_path.stat().st_ino


def test_an_old_folder_that_cannot_be_cleared_away_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors: None)
    with atomic_folder(target) as folder:
        fill(folder)
    assert tree(target) == FILLED


@pytest.mark.parametrize("size", [0, 1, files.BLOCK - 1, files.BLOCK, files.BLOCK + 1])
def test_digest_against_hashlib(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.bin"
    content = bytes(range(256)) * (size // 256 + 1)
    path.write_bytes(content[:size])
    expected = hashlib.blake2b(content[:size], digest_size=16).hexdigest()
    assert digest_file(path) == expected
    assert len(expected) == 32


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAVIAR_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("CAVIAR_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder().name == "caviar"
    assert tmp_path in cache_folder().parents
