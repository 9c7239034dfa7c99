"""Decoded pictures on disk: made once, found again by content, mapped into memory.

    <cache>/pictures/<key>/pixels          uint8, rows of height x width x channels, one after another
    <cache>/pictures/<key>/manifest.json   version, shape, digests, what was noticed
    <cache>/pictures/index/<stamp>.json    the content of a folder whose files had these sizes and times, and what the
                                           settings that say "auto" came to

The key is a digest of names and contents with the shape of the pixels. The stamp is one of names, sizes and times: when
nothing has been touched, the key is found without reading a picture. A folder appears whole, by a rename, or not at
all; what a killed process left behind is swept away by the next one.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caviar.core.files import cache_folder, write_json
from caviar.core.formats import CACHE
from caviar.data.decode_pool import Progress, cannot_write, decode_into, guess_plan, rows_per_chunk
from caviar.data.picture_files import PictureFile, duplicates

CLOCK_TICK = 0.02  # seconds; files written within one tick of the system's clock may bear the same time


class Wanted(NamedTuple):
    """The settings that pixels depend on; None stands for auto."""

    size: tuple[int, int] | None
    channels: int | None
    max_pixels: int


class CachedPictures(NamedTuple):
    """Pixels (rows, height, width, channels), the digest of names and contents, and what was noticed."""

    pixels: NDArray[np.uint8]
    content: str
    notices: list[str]


def cached_pictures(files: list[PictureFile], wanted: Wanted, progress: Progress | None = None) -> CachedPictures:
    """Return the decoded `files`, from the cache when they are there, and put there when they are not."""
    stamp = _digest([f"{f.name}\0{f.path}\0{f.size}\0{f.mtime_ns}\0{f.ctime_ns}" for f in files])
    index = cache_folder() / "pictures" / "index" / f"{stamp}.json"
    known = _read_signed(index)
    found = _open(_entry(_key(known, wanted)), len(files)) if known else None
    if found is not None:
        return found
    _let_clock_tick(files)
    content, shape = _build(files, wanted, progress)
    choices = known.get("choices", {}) if known.get("content") == content else {}
    known = {"content": content, "choices": choices | {_wish(wanted): shape}}
    with _writing(index.parent):
        index.parent.mkdir(parents=True, exist_ok=True)
        _write_signed(index, known)
    built = _open(_entry(_key(known, wanted)), len(files))
    if built is None:
        raise cannot_write(index.parent.parent, "what was written there is not what is read back")
    return built


def _wish(wanted: Wanted) -> str:
    return json.dumps([wanted.size, wanted.channels])


def _key(known: dict[str, Any], wanted: Wanted) -> str:
    """The name of the cache entry of known content; "unknown" where it is not known what auto comes to."""
    if wanted.size is not None and wanted.channels is not None:
        shape = [*wanted.size, wanted.channels]
    else:
        shape = known["choices"].get(_wish(wanted))
    return "unknown" if shape is None else _digest([known["content"]], shape, wanted.max_pixels)


def _entry(key: str) -> Path:
    return cache_folder() / "pictures" / key


def _digest(lines: list[str], *settings: object) -> str:
    text = "\n".join([repr(settings), str(CACHE), *lines])
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _let_clock_tick(files: list[PictureFile]) -> None:
    """Wait until a later change of a file is sure to show in its times."""
    newest = max(max(file.mtime_ns, file.ctime_ns) for file in files) / 1e9
    if abs(time.time() - newest) < CLOCK_TICK:
        time.sleep(CLOCK_TICK)


def _build(files: list[PictureFile], wanted: Wanted, progress: Progress | None) -> tuple[str, list[int]]:
    """Decode everything into a folder of its own, then name it. Returns the digest of the content and the shape."""
    paths = [file.path for file in files]
    guess = guess_plan(paths, wanted.max_pixels, wanted.size, wanted.channels)
    with work_folder() as folder:
        pixels = folder / "pixels"
        found, plan = decode_into(paths, pixels, guess, progress, sum(file.size for file in files))
        content = _digest([f"{file.name}\0{digest}" for file, digest in zip(files, found.digests, strict=True)])
        shape = [plan.height, plan.width, plan.channels]
        notices = duplicates(files, found.digests)
        with _writing(folder), pixels.open("rb") as file:
            os.fsync(file.fileno())
            manifest = {
                "shape": [len(files), *shape],
                "content": content,
                "notices": notices,
                "chunk": rows_per_chunk(plan),
                "pixels": _digest(found.chunks),
                "mtime_ns": os.fstat(file.fileno()).st_mtime_ns,
            }
            _write_signed(folder / "manifest.json", manifest)
            os.chmod(folder, 0o755)
            key = _key({"content": content, "choices": {_wish(wanted): shape}}, wanted)
            _publish(folder, _entry(key), len(files))
    return content, shape


def _publish(folder: Path, entry: Path, num_rows: int) -> None:
    """Rename `folder` to `entry`, unless another process was first; a damaged entry is put out of the way."""
    if _open(entry, num_rows) is not None:
        return
    if entry.exists():
        with tempfile.TemporaryDirectory(dir=entry.parent, prefix=".old.") as aside:
            os.replace(entry, Path(aside) / "was")
    try:
        os.replace(folder, entry)
    except OSError:
        if _open(entry, num_rows) is None:
            raise


def _write_signed(path: Path, facts: dict[str, Any]) -> None:
    """Write `facts` with the version of the format and a digest of them."""
    write_json(path, {"version": CACHE, "facts": facts, "digest": _digest([json.dumps(facts)])})


def _read_signed(path: Path) -> dict[str, Any]:
    """Return what `_write_signed` wrote, or nothing when it is absent, damaged or of another version."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        facts: dict[str, Any] = value["facts"]
        whole = value["version"] == CACHE and value["digest"] == _digest([json.dumps(facts)])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return facts if whole else {}


def _open(entry: Path, num_rows: int) -> CachedPictures | None:
    """Map a cache entry, or return None when it is absent, cut or damaged."""
    manifest = _read_signed(entry / "manifest.json")
    if not manifest:
        return None
    shape, pixels = tuple(manifest["shape"]), entry / "pixels"
    try:
        status = pixels.stat()
    except OSError:
        return None
    if status.st_size != int(np.prod(shape, dtype=np.int64)) or shape[0] != num_rows:
        return None
    # Whoever writes to the file changes its time, and so does a copy; only then are the pixels themselves checked.
    if status.st_mtime_ns != manifest["mtime_ns"]:
        if _pixels_digest(pixels, manifest) != manifest["pixels"]:
            return None
        with suppress(OSError):
            os.utime(pixels, ns=(manifest["mtime_ns"], manifest["mtime_ns"]))
    mapped = np.memmap(pixels, dtype=np.uint8, mode="r", shape=shape)
    return CachedPictures(mapped, manifest["content"], manifest["notices"])


def _pixels_digest(pixels: Path, manifest: dict[str, Any]) -> str:
    block = manifest["chunk"] * int(np.prod(manifest["shape"][1:]))
    chunks = []
    with pixels.open("rb") as file:
        while content := file.read(block):
            chunks.append(hashlib.blake2b(content, digest_size=16).hexdigest())
    return _digest(chunks)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(folder, error.strerror) from error


@contextmanager
def work_folder() -> Iterator[Path]:
    """Yield a folder in the cache to decode into; gone afterwards unless it was renamed.

    The folder is locked while its process lives, so that those of killed processes can be told and swept away.
    """
    parent = cache_folder() / "pictures"
    with _writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
        for leftover in parent.glob(".work.*"):
            _sweep(leftover)
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=".work."))
        lock = os.open(folder, os.O_RDONLY)
    try:
        _try_lock(lock)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _sweep(leftover: Path) -> None:
    try:
        descriptor = os.open(leftover, os.O_RDONLY)
    except OSError:
        return
    try:
        if _try_lock(descriptor):
            shutil.rmtree(leftover, ignore_errors=True)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Lock an open folder for this process; False where another one holds it, or the system has no such locks."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True
