"""Decode many picture files into one file of pixels: here for a few, in worker processes for many.

The workers are started as `python decode.py`, not through multiprocessing, so that a plain script without a
`__main__` guard may call this, nothing is forked, and a worker imports neither torch nor the user's program.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from caviar.core.errors import InputError, RunError
from caviar.data import decode
from caviar.data.decode import BadPicture, Misfit, Plan

Progress = Callable[[int, int], None]

CHUNK_PICTURES = 64
CHUNK_BYTES = 32 << 20
FEW_PICTURES = 500
FEW_BYTES = 8 << 20
MAX_WORKERS = 32
OWN_SIZE = 128
DEFAULT_SIZE = (64, 64)


class DecodedFile(NamedTuple):
    """What `decode_into` found out: digests of the files, and of each chunk of pixels."""

    digests: list[str]
    chunks: list[str]


class _Job(NamedTuple):
    number: int
    first: int
    paths: list[str]


Reports = Generator[tuple[_Job, dict[str, Any]], None, None]


def rows_per_chunk(plan: Plan) -> int:
    """Pictures decoded and digested together: a function of the plan only."""
    return max(1, min(CHUNK_PICTURES, CHUNK_BYTES // plan.row_bytes))


def guess_plan(paths: Sequence[str], max_pixels: int, size: tuple[int, int] | None, channels: int | None) -> Plan:
    """Guess from the headers of some pictures what `auto` will come to; bad files are left for the decoding to name.

    Own size where it is at most 128 pixels a side, else 64 x 64; grey where these pictures are grey.
    """
    sizes, grey = set(), True
    with decode.pillow_rules():
        for path in paths[:: max(1, len(paths) // 32)]:
            with suppress(BadPicture):
                picture = decode.open_header(decode.read_file(path, max_pixels), max_pixels)
                grey = grey and picture.mode in decode.GREY_MODES
                sizes.add(_upright_size(picture))
    own = len(sizes) == 1 and max(next(iter(sizes))) <= OWN_SIZE
    width, height = next(iter(sizes)) if own else DEFAULT_SIZE
    if size is not None:
        height, width = size
    count = channels or (1 if grey else 3)
    return Plan(
        height, width, count, max_pixels, own_size=own and size is None, own_mode=count == 1 and channels is None
    )


def _upright_size(picture: Image.Image) -> tuple[int, int]:
    if max(picture.size) <= OWN_SIZE:  # else the size will not be kept, whichever way up it is
        with suppress(Exception):
            picture.load()
            return decode.upright(picture).size
    return picture.size


def decode_into(
    paths: Sequence[str], target: Path, plan: Plan, progress: Progress | None, total_bytes: int
) -> tuple[DecodedFile, Plan]:
    """Decode `paths` into `target`, rows of plan.row_bytes, and return what was found and the plan that held.

    A guessed plan that does not hold gives way to 64 x 64 or to RGB, and the work begins again.
    Raises `InputError` naming the pictures that cannot be used.
    """
    while True:
        try:
            return _decode_all(paths, target, plan, progress, total_bytes), plan
        except Misfit as misfit:
            if misfit.what == "mode":
                plan = plan._replace(channels=3, own_mode=False)
            else:
                plan = plan._replace(height=DEFAULT_SIZE[0], width=DEFAULT_SIZE[1], own_size=False)


def _decode_all(
    paths: Sequence[str], target: Path, plan: Plan, progress: Progress | None, total_bytes: int
) -> DecodedFile:
    step = rows_per_chunk(plan)
    jobs = [_Job(k, first, list(paths[first : first + step])) for k, first in enumerate(range(0, len(paths), step))]
    target.write_bytes(b"")
    reports: list[dict[str, Any]] = [{}] * len(jobs)
    done = 0
    with closing(_reports(jobs, target, plan, len(paths), total_bytes)) as answers:
        for job, report in answers:
            if "failed" in report:
                raise cannot_write(target.parent, report["failed"])
            if report["misfit"]:
                raise Misfit(report["misfit"])
            reports[job.number] = report
            done += len(job.paths)
            if progress is not None:
                progress(done, len(paths))
    _refuse_bad(jobs, reports)
    digests = "".join(report["digests"] for report in reports)
    return DecodedFile(
        [digests[at : at + 32] for at in range(0, len(digests), 32)],
        [report["pixels"] for report in reports],
    )


def cannot_write(folder: Path, why: str | None) -> InputError:
    """The error for a cache folder that is read-only or full."""
    return InputError(
        f"{folder}: the cache cannot be written ({why}). "
        "Make room, or set CAVIAR_CACHE to a folder that can be written."
    )


def _refuse_bad(jobs: list[_Job], reports: list[dict[str, Any]]) -> None:
    bad = [
        (job.paths[at], reason, remedy)
        for job, report in zip(jobs, reports, strict=True)
        for at, reason, remedy in report["bad"]
    ]
    if not bad:
        return
    path, reason, remedy = bad[0]
    message = f"{path}: the file {reason}. {remedy}"
    if len(bad) > 1:
        shown = "; ".join(f"{path} {reason}" for path, reason, _ in bad[1:4])
        message += f" {len(bad) - 1:,} more cannot be used: {shown}{'; ...' if len(bad) > 4 else '.'}"
    raise InputError(message)


def _reports(jobs: list[_Job], target: Path, plan: Plan, num_pictures: int, total_bytes: int) -> Reports:
    few = num_pictures < FEW_PICTURES and total_bytes < FEW_BYTES
    if few or len(jobs) < 2 or not sys.executable or getattr(sys, "frozen", False):
        yield from _reports_here(jobs, target, plan)
    else:
        yield from _reports_from_workers(jobs, target, plan)


def _reports_here(jobs: list[_Job], target: Path, plan: Plan) -> Reports:
    with open(target, "r+b") as file:
        for job in jobs:
            with decode.pillow_rules():
                try:
                    report = decode.decode_chunk(job.paths, plan, file.fileno(), job.first)
                except OSError as error:
                    raise cannot_write(target.parent, error.strerror) from error
            yield job, report


def num_workers() -> int:
    """How many processors this process may use, at most 32."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MAX_WORKERS, usable))


def _start_worker(target: Path, plan: Plan) -> subprocess.Popen[str]:
    # The same packages as here, however they were found; -P keeps the folder of decode.py off the worker's path.
    search_path = os.pathsep.join(entry for entry in sys.path if entry)
    worker = subprocess.Popen(
        [sys.executable, "-P", decode.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": search_path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C is for us; a worker ends when its standard input does
    )
    assert worker.stdin is not None
    with suppress(BrokenPipeError):
        worker.stdin.write(json.dumps({"plan": plan._asdict(), "target": str(target)}) + "\n")
    return worker


def _reports_from_workers(jobs: list[_Job], target: Path, plan: Plan) -> Reports:
    """Yield reports as they come. One thread a worker hands it a job and waits for the answer."""
    waiting: queue.SimpleQueue[_Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    answers: queue.SimpleQueue[tuple[_Job, dict[str, Any] | None]] = queue.SimpleQueue()
    workers: list[subprocess.Popen[str]] = []
    threads: list[threading.Thread] = []
    try:
        for _ in range(min(num_workers(), len(jobs))):
            workers.append(_start_worker(target, plan))
            threads.append(threading.Thread(target=_feed, args=(workers[-1], waiting, answers), daemon=True))
            threads[-1].start()
        for _ in jobs:
            job, report = answers.get()
            if report is None:
                raise RunError(
                    f"{job.paths[0]}: the process decoding this picture, or one of the {len(job.paths) - 1} after it, "
                    "ended without a word; it may have run out of memory. Lower data.max_pixels, or free memory."
                )
            yield job, report
    finally:
        for worker in workers:
            worker.kill()
        for thread in threads:
            thread.join()
        for worker in workers:
            with suppress(OSError):
                worker.communicate()


def _feed(
    worker: "subprocess.Popen[str]",
    waiting: "queue.SimpleQueue[_Job]",
    answers: "queue.SimpleQueue[tuple[_Job, dict[str, Any] | None]]",
) -> None:
    assert worker.stdin is not None
    assert worker.stdout is not None
    with suppress(queue.Empty):
        while True:
            job = waiting.get_nowait()
            try:
                worker.stdin.write(json.dumps({"first": job.first, "paths": job.paths}) + "\n")
                worker.stdin.flush()
                answer = json.loads(worker.stdout.readline())
            except (OSError, ValueError):
                answers.put((job, None))
                return
            answers.put((job, answer))
