"""The record store of a run: one SQLite file, readable by others while it is written.

Tables: `series` (trial, split, layer, name) names a curve, `points` (series, step, epoch, value) holds it, `events`
(step, kind, JSON) holds what happened, and the view `records` joins the first two for a person with a SQL prompt.
SQLite turns NaN into NULL; as no record is without a value, NULL is read back as NaN. Infinities are kept as they are.
"""

import contextlib
import json
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from caviar.core.errors import InputError, RunError
from caviar.core.formats import STORE, check_version
from caviar.core.records import Record

SCHEMA = """
CREATE TABLE IF NOT EXISTS series (
  id INTEGER PRIMARY KEY, trial INTEGER NOT NULL, split TEXT NOT NULL, layer TEXT NOT NULL, name TEXT NOT NULL,
  UNIQUE (trial, split, layer, name));
CREATE TABLE IF NOT EXISTS points (
  series INTEGER NOT NULL, step INTEGER NOT NULL, epoch INTEGER NOT NULL, value REAL,
  PRIMARY KEY (series, step)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
  id INTEGER PRIMARY KEY, time REAL NOT NULL, step INTEGER NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL);
CREATE VIEW IF NOT EXISTS records AS
  SELECT trial, step, epoch, split, layer, name, value FROM points JOIN series ON series.id = points.series;
"""

HELD = """
SELECT DISTINCT trial FROM series WHERE EXISTS (SELECT 1 FROM points WHERE points.series = series.id) ORDER BY trial
"""


class Store:
    """Writes and reads a run's records. Use as a context manager, or call `close`."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        if read_only and not path.is_file():
            raise InputError(f"{path}: there is no record store here.")
        self._series: dict[tuple[int, str, str, str], int] = {}
        with _readable(path):
            self._connection = _open_for_reading(path) if read_only else sqlite3.connect(path, timeout=30)
            try:
                self._prepare(read_only)
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self, read_only: bool) -> None:
        found = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if read_only and not found and not self.path.stat().st_size:
            raise InputError(
                f"{self.path}: the record store is empty: nothing was recorded, or the file was cut short."
            )
        if read_only or found:
            check_version("record store", found, STORE, self.path)
        if read_only:
            return
        if found and (said := self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(said)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version = {STORE};COMMIT;")

    def write(self, records: Iterable[Record]) -> None:
        """Add records in one transaction; a record with the key of an older one replaces it."""
        with self._transaction():
            self._connection.executemany(
                "INSERT OR REPLACE INTO points VALUES (?, ?, ?, ?)",
                [(self._series_id(r), r.step, r.epoch, float(r.value)) for r in records],
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of the block is written, or none of it; what the disk refuses is a RunError."""
        try:
            with self._connection:
                yield
        except BaseException as error:
            self._series.clear()  # series added in the block have been rolled back with it
            if isinstance(error, sqlite3.DatabaseError):
                raise RunError(f"{self.path}: records cannot be written ({error}).") from error
            raise

    def _series_id(self, record: Record) -> int:
        key = (record.trial, record.split, record.layer, record.name)
        if key not in self._series:
            self._connection.execute(
                "INSERT OR IGNORE INTO series (trial, split, layer, name) VALUES (?, ?, ?, ?)", key
            )
            row = self._connection.execute(
                "SELECT id FROM series WHERE trial = ? AND split = ? AND layer = ? AND name = ?", key
            ).fetchone()
            self._series[key] = row[0]
        return self._series[key]

    def read(
        self,
        *,
        name: str | None = None,
        split: str | None = None,
        layer: str | None = None,
        trial: int | None = None,
        after_step: int | None = None,
    ) -> list[Record]:
        """Return the records that match every argument given, ordered by trial, name, split, layer and step."""
        wanted = {"name = ?": name, "split = ?": split, "layer = ?": layer, "trial = ?": trial, "step > ?": after_step}
        given = {clause: value for clause, value in wanted.items() if value is not None}
        where = f" WHERE {' AND '.join(given)}" if given else ""
        columns = "trial, step, epoch, split, layer, name, value"
        order = "trial, name, split, layer, step"
        with _readable(self.path):
            rows = self._connection.execute(
                f"SELECT {columns} FROM records{where} ORDER BY {order}", tuple(given.values())
            )
            return [Record._make((*row[:6], math.nan if row[6] is None else row[6])) for row in rows]

    def trials(self) -> list[int]:
        """Return the numbers of the trials that there are records of, in order."""
        with _readable(self.path):
            return [row[0] for row in self._connection.execute(HELD)]

    def add_event(self, step: int, kind: str, **detail: Any) -> None:
        """Note that something happened (started, resumed, interrupted, finished, ...).

        `detail` must be strict JSON: NaN and infinity must already be words.
        """
        with self._transaction():
            self._connection.execute(
                "INSERT INTO events (time, step, kind, detail) VALUES (?, ?, ?, ?)",
                (time.time(), step, kind, json.dumps(detail, allow_nan=False)),
            )

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the events in the order they happened."""
        with _readable(self.path):
            rows = self._connection.execute("SELECT time, step, kind, detail FROM events ORDER BY id")
            found = [{"time": t, "step": s, "kind": k, **json.loads(d)} for t, s, k, d in rows]
        return [event for event in found if kind in (None, event["kind"])]

    def delete_after(self, step: int, trials: Iterable[int] | None = None) -> int:
        """Delete the records of steps after `step` (a resume does this first) and return how many there were.

        trials: of these only.
        """
        clause = "" if trials is None else f" AND series IN (SELECT id FROM series WHERE trial IN ({_listed(trials)}))"
        with self._transaction():
            return self._connection.execute(f"DELETE FROM points WHERE step > ?{clause}", (step,)).rowcount

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(str(int(number)) for number in numbers)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what SQLite says about a file it cannot open or read into an InputError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if str(error).startswith("no such"):
            raise InputError(f"{path}: the record store is damaged ({error}), and cannot be read.") from error
        raise InputError(
            f"{path}: the record store cannot be opened ({error}). Check that its folder may be written to, "
            "and that the disk has room."
        ) from error
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"{path}: not a record store, or a damaged one ({error}). The run's weights do not depend on it: move it "
            "away, and a resume begins a new one."
        ) from error


def _open_for_reading(path: Path) -> sqlite3.Connection:
    location = path.resolve().as_uri()
    connection = sqlite3.connect(f"{location}?mode=ro", uri=True, timeout=30)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        # A write-ahead log needs a writable folder even for reading; in a read-only one nobody writes: read it as is.
        connection.close()
        return sqlite3.connect(f"{location}?immutable=1", uri=True)
    return connection
