"""Files that are either the old one or the new one, whole, whatever happens in between."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 1 << 20


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write `content` to `path` through a temporary file: write, fsync, rename, fsync of the folder.

    Without `durable` the two fsyncs are left out: the file is whole after a kill, but a power cut may undo the change.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    if durable:
        sync_folder(path.parent)


def json_text(value: Any) -> str:
    """Return `value` as the indented strict JSON that files hold; NaN and infinity must already be words."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Write `json_text(value)`, atomically."""
    write_atomic(path, json_text(value).encode(), durable=durable)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes `path` when the block ends well, and vanishes when it does not.

    An older folder at `path` is replaced; there is a moment without either, never one with half of one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        _sync_tree(temporary)
        _put_in_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(parent))


def _put_in_place(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path`; an older folder steps aside first and comes back if the rename fails."""
    if not path.exists():
        os.replace(temporary, path)
        return
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
    try:
        os.replace(path, aside / "was")
        os.replace(temporary, path)
    except BaseException:
        if (aside / "was").exists():
            os.replace(aside / "was", path)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def digest_file(path: Path) -> str:
    """Return the BLAKE2b digest (32 hex digits) of a file's content, read in blocks."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where decoded pictures and converted tables are kept: $CAVIAR_CACHE, or the user's cache folder."""
    chosen = os.environ.get("CAVIAR_CACHE")
    if chosen:
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("caviar"))
