"""A run's folder: its name, its owner, what lies in it, and the list of all runs.

runs/NAME/recipe.toml        the resolved recipe; training it again reproduces the run
          environment.json   versions and machine
          run.json           how it stands (status, epoch, metrics)
          records.sqlite     every record and event
          facts.json         what findings may ask besides the records: task, classes, layers
          proof.json         what trying the remedies of findings came to, once that was asked for
          checkpoints/       states to resume from
          cohorts/N/         checkpoints and bundle of one cohort, where members cannot all be stacked
          bundle/            what the run hands over, once finished
          train.log          messages
          lock               held by the process that trains; an OS lock, so a kill leaves nothing stale
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from caviar.core.errors import DamagedError, InputError, nearest
from caviar.core.files import sync_folder, write_json
from caviar.core.formats import RUN, check_version

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)

SWEEP_AGE_SECONDS = 5.0
OWN_SECONDS = 0.5
"""How long a process waits for a run: another one that lists the runs holds the lock for a moment."""
STATUSES = ("running", "interrupted", "failed", "finished")


def check_name(name: str) -> str:
    """Return `name` when it is safe as a folder's name, else raise an InputError."""
    if not NAME.fullmatch(name) or name.endswith(".") or RESERVED.fullmatch(name):
        raise InputError(
            f"run name {name!r} is not allowed: use 1 to 100 letters, digits, '-', '_' and '.', "
            "starting with a letter or digit."
        )
    return name


def generate_name(runs_dir: Path, stem: str) -> str:
    """Return a readable name that is free: the data's name and the next number."""
    cleaned = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_.")[:60] or "run"
    if not cleaned[0].isalnum():
        cleaned = f"run{cleaned}"
    taken = [path.name for path in runs_dir.iterdir()] if runs_dir.is_dir() else []
    numbers = [int(m.group(1)) for name in taken if (m := re.fullmatch(re.escape(cleaned) + r"-(\d+)", name))]
    return f"{cleaned}-{max(numbers, default=0) + 1}"


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run's folder."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def summary(self) -> Path:
        return self.path / "run.json"

    @property
    def store(self) -> Path:
        return self.path / "records.sqlite"

    @property
    def facts(self) -> Path:
        return self.path / "facts.json"

    @property
    def proof(self) -> Path:
        return self.path / "proof.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    @property
    def cohorts(self) -> Path:
        return self.path / "cohorts"

    def cohort(self, number: int) -> "RunFolder":
        """Return the folder of a cohort, counted from 1: its own are checkpoints and bundle."""
        return RunFolder(self.cohorts / str(number))

    @property
    def log(self) -> Path:
        return self.path / "train.log"

    def read_summary(self) -> dict[str, Any]:
        """Return run.json.

        Raises:
            DamagedError: it cannot be read, or its fields are not those of a run.
            InputError: it is missing, or from a newer caviar.
        """
        try:
            value = json.loads(self.summary.read_text())
        except FileNotFoundError:
            raise InputError(f"{self.path}: not a run folder (it has no run.json).") from None
        except (ValueError, OSError, RecursionError) as error:
            raise DamagedError(f"{self.summary}: damaged, it cannot be read ({error}).") from error
        if isinstance(value, dict) and "version" in value:
            check_version("run", value["version"], RUN, self.summary)
        if not _is_whole(value):
            raise DamagedError(f"{self.summary}: damaged: its fields are not those of a run.")
        return dict(value)

    def begin_summary(self, **facts: Any) -> None:
        """Write run.json as it is at the beginning, atomically."""
        now = time.time()
        head = {"format": "caviar run", "version": RUN, "name": self.name, "status": "running"}
        write_json(self.summary, head | {"created": now, "updated": now} | facts)

    def write_summary(self, **changes: Any) -> None:
        """Change some fields of run.json, atomically; those that become None are removed."""
        self._change_summary(changes, durable=True)

    def note_progress(self, **changes: Any) -> None:
        """Change some fields of run.json, as `write_summary` does, without waiting for the disk."""
        self._change_summary(changes, durable=False)

    def _change_summary(self, changes: dict[str, Any], *, durable: bool) -> None:
        value = self.read_summary() | changes | {"updated": time.time()}
        write_json(self.summary, {key: item for key, item in value.items() if item is not None}, durable=durable)

    def is_locked(self) -> bool:
        """Whether a living process owns this run."""
        lock = self._lock()
        try:
            with lock.acquire(blocking=False):
                return False
        except Timeout:
            return True
        except OSError:
            return False

    def _lock(self) -> FileLock:
        return FileLock(self.path / "lock")


def _is_whole(summary: Any) -> bool:
    """Whether what the list of runs and a resume read from run.json has the types that it was written with."""
    if not isinstance(summary, dict) or summary.get("version") != RUN:
        return False
    times = all(isinstance(summary.get(key), int | float) for key in ("created", "updated"))
    groups = all(isinstance(summary.get(key, {}), dict) for key in ("last", "best", "metrics"))
    return times and groups and summary.get("status") in STATUSES


class OwnedRun:
    """A run folder while this process owns it; leave the `with` block to let it go."""

    def __init__(self, folder: RunFolder, lock: FileLock, *, made_parent: bool = False) -> None:
        self.folder = folder
        self._lock = lock
        self._made_parent = made_parent

    def release(self) -> None:
        self._lock.release(force=True)

    def discard(self) -> None:
        """Remove the folder, and the folder of runs if this run made it: nothing of it is worth keeping."""
        shutil.rmtree(self.folder.path, ignore_errors=True)
        if self._made_parent:
            _remove_empty(self.folder.path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def create_run(
    runs_dir: Path, name: str | None, stem: str, files: dict[str, bytes], summary: dict[str, Any]
) -> OwnedRun:
    """Create a run folder with `files` in it and own it.

    It appears under its name in one step, complete and locked: a kill at any moment leaves a whole folder or none.
    Without a `name` the next free one after `stem` is taken.
    """
    wanted = check_name(name) if name is not None else None
    made_parent = not os.path.lexists(runs_dir)
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        _sweep(runs_dir)
        building = Path(tempfile.mkdtemp(dir=runs_dir, prefix=".new."))
    except OSError as error:
        raise InputError(
            f"{runs_dir}: a run folder cannot be created here ({error.strerror or error}). "
            "Choose another folder with --runs-dir, or free some space."
        ) from error
    lock = FileLock(building / "lock")
    try:
        lock.acquire(blocking=False)
        _fill(building, files, summary)
        path = _put_in_place(building, runs_dir, wanted, stem)
    except BaseException as error:
        lock.release(force=True)
        shutil.rmtree(building, ignore_errors=True)
        if made_parent:
            _remove_empty(runs_dir)
        if isinstance(error, OSError):
            raise InputError(f"{runs_dir}: a run folder cannot be written here ({error.strerror or error}).") from error
        raise
    return OwnedRun(RunFolder(path), lock, made_parent=made_parent)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _fill(building: Path, files: dict[str, bytes], summary: dict[str, Any]) -> None:
    for name, content in files.items():
        with (building / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    (building / "checkpoints").mkdir()
    RunFolder(building).begin_summary(**summary)
    os.chmod(building, 0o755)


def _put_in_place(building: Path, runs_dir: Path, wanted: str | None, stem: str) -> Path:
    while True:
        path = runs_dir / (wanted or generate_name(runs_dir, stem))
        RunFolder(building).write_summary(name=path.name)
        try:
            if os.path.lexists(path):
                raise FileExistsError
            building.rename(path)  # fails where the name has been taken meanwhile
            sync_folder(runs_dir)
            return path
        except OSError as error:
            if not os.path.lexists(path):
                raise error
            if wanted is not None:
                raise _taken(path) from None


def _taken(path: Path) -> InputError:
    if (path / "run.json").is_file():
        remedy = f"Choose another --name, or go on with it: caviar train --resume {path}"
    else:
        remedy = "It is not a run. Choose another --name."
    return InputError(f"{path} exists already. {remedy}")


def _sweep(runs_dir: Path) -> None:
    """Remove folders that a killed process had begun to build."""
    for left in runs_dir.glob(".new.*"):
        try:
            if time.time() - left.stat().st_mtime < SWEEP_AGE_SECONDS:
                continue  # its maker may not have locked it yet
            with FileLock(left / "lock").acquire(blocking=False):
                shutil.rmtree(left, ignore_errors=True)
        except (Timeout, OSError):
            continue


def open_run(path: Path) -> RunFolder:
    """Return the run folder at `path`; when there is none, name the nearest one."""
    if (path / "run.json").is_file():
        return RunFolder(path)
    siblings = [p.name for p in path.parent.iterdir() if (p / "run.json").is_file()] if path.parent.is_dir() else []
    near = nearest(path.name, siblings)
    hint = f" Did you mean {path.parent / near}?" if near else " `caviar runs` lists the runs there are."
    what = "is not a run folder (it has no run.json)" if path.exists() else "does not exist"
    raise InputError(f"{path} {what}.{hint}")


def own_run(path: Path) -> OwnedRun:
    """Open the run at `path` and own it, to go on with it; refused while another process trains it."""
    folder = open_run(path)
    lock = folder._lock()
    try:
        lock.acquire(timeout=OWN_SECONDS)
    except Timeout:
        raise InputError(f"{path}: another process is training this run. Wait for it, or stop it first.") from None
    except OSError as error:
        raise InputError(f"{path}: the run cannot be written to ({error.strerror or error}).") from error
    _clear_leftovers(path)
    return OwnedRun(folder, lock)


def _clear_leftovers(path: Path) -> None:
    """Remove what a killed process had begun to write beside run.json and the bundle."""
    for left in [*path.glob(f".{RunFolder(path).summary.name}.*"), *path.glob(f".{RunFolder(path).bundle.name}.*")]:
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                left.unlink()


@dataclass(frozen=True)
class RunLine:
    """One line of the list of runs; `problem` says why a folder's run.json could not be read."""

    name: str
    path: Path
    status: str
    summary: dict[str, Any]
    problem: str = ""


def list_runs(runs_dir: Path) -> list[RunLine]:
    """Return all runs of a folder, oldest first. A run that says it is running but has no owner was stopped."""
    if not runs_dir.is_dir():
        return []
    lines = [_line(path) for path in sorted(runs_dir.iterdir()) if not path.name.startswith(".") and path.is_dir()]
    found = [line for line in lines if line is not None]
    return sorted(found, key=lambda line: (line.summary.get("created", 0.0), line.name))


def _line(path: Path) -> RunLine | None:
    folder = RunFolder(path)
    if not folder.summary.exists():
        return None
    try:
        summary = folder.read_summary()
    except InputError as error:
        return RunLine(path.name, path, "damaged", {}, str(error))
    status = str(summary.get("status", "unknown"))
    if status == "running" and not folder.is_locked():
        status = "stopped"
    return RunLine(path.name, path, status, summary)


def check_can_create(runs_dir: Path, name: str | None) -> None:
    """Refuse early, before long work, a run folder that `create_run` would refuse: a bad or taken name, no writing."""
    if name is not None:
        path = runs_dir / check_name(name)
        if os.path.lexists(path):
            raise _taken(path)
    above = (runs_dir.absolute(), *runs_dir.absolute().parents)
    existing = next(parent for parent in above if os.path.exists(parent))
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"{runs_dir}: a run folder cannot be created here ({existing} is not a writable folder).")
