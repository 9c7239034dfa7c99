"""Digests of large files, remembered by what the file system says of them, so that a second run need not read them."""

import contextlib
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from caviar.core.files import cache_folder, write_json

REMEMBERED_SIZE = 32 << 20
SETTLED_NS = 2 * 10**9


def content_digest(path: Path) -> str:
    """Return `sha256_of(path)`.

    That of a large file comes from the cache while size and times are as they were. (Processors have instructions for
    SHA-256, which make it twice as fast as BLAKE2b.)
    """
    status = path.stat()
    if status.st_size < REMEMBERED_SIZE:
        return sha256_of(path)
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    name = hashlib.blake2b(str(path.resolve()).encode(), digest_size=16).hexdigest()
    memory = cache_folder() / "digests" / f"{name}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(memory.read_text())
        if known["stamp"] == stamp:
            return str(known["digest"])
    digest = sha256_of(path)
    # A file changed a moment ago may change again within the clock's resolution, and look the same.
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED_NS:
        with contextlib.suppress(OSError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_json(memory, {"stamp": stamp, "digest": digest})
    return digest


def sha256_of(path: Path) -> str:
    """Return the first 32 hex digits of the SHA-256 digest of a file's content, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def combined_digest(digests: Sequence[str]) -> str:
    """Return one digest for several contents in order; that of a single content is its own."""
    if len(digests) == 1:
        return digests[0]
    return hashlib.blake2b("/".join(digests).encode(), digest_size=16).hexdigest()
