"""The record store of a run: one SQLite file, readable by others while it is written.

Tables: `series` (trial, split, layer, name) names a curve, `points` (series, step, epoch, value) holds it, `events`
(step, kind, JSON) holds what happened, and the view `records` joins the first two for a person with a SQL prompt.
SQLite turns NaN into NULL; as no record is without a value, NULL is read back as NaN. Infinities are kept as they are.
"""

import json
import math
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from caviar.core.errors import InputError
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


class Store:
    """Writes and reads a run's records. Use as a context manager, or call `close`."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        if read_only and not path.is_file():
            raise InputError(f"{path}: there is no record store here.")
        self._series: dict[tuple[int, str, str, str], int] = {}
        try:
            self._connection = _open(path, read_only)
            self._prepare(read_only)
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path}: not a readable record store ({error}).") from error

    def _prepare(self, read_only: bool) -> None:
        found = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if read_only or found:
            check_version("record store", found, STORE, self.path)
        if not read_only:
            self._connection.executescript(SCHEMA)
            self._connection.execute(f"PRAGMA user_version = {STORE}")

    def write(self, records: Iterable[Record]) -> None:
        """Add records in one transaction; a record with the key of an older one replaces it."""
        with self._connection:
            self._connection.executemany(
                "INSERT OR REPLACE INTO points VALUES (?, ?, ?, ?)",
                [(self._series_id(r), r.step, r.epoch, r.value) for r in records],
            )

    def _series_id(self, record: Record) -> int:
        key = (record.trial, record.split, record.layer, record.name)
        if key not in self._series:
            self._connection.execute("INSERT OR IGNORE INTO series (trial, split, layer, name) VALUES (?, ?, ?, ?)", key)
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
        rows = self._connection.execute(
            f"SELECT trial, step, epoch, split, layer, name, value FROM records{where} ORDER BY trial, name, split, layer, step",
            tuple(given.values()),
        )
        return [Record(*row[:6], math.nan if row[6] is None else row[6]) for row in rows]

    def add_event(self, step: int, kind: str, **detail: Any) -> None:
        """Note that something happened (started, resumed, interrupted, finished, ...)."""
        with self._connection:
            self._connection.execute(
                "INSERT INTO events (time, step, kind, detail) VALUES (?, ?, ?, ?)",
                (time.time(), step, kind, json.dumps(detail, allow_nan=False)),
            )

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the events in the order they happened."""
        rows = self._connection.execute("SELECT time, step, kind, detail FROM events ORDER BY id")
        found = [{"time": t, "step": s, "kind": k, **json.loads(d)} for t, s, k, d in rows]
        return [event for event in found if kind in (None, event["kind"])]

    def delete_after(self, step: int) -> int:
        """Delete the records of steps after `step` (a resume does this first) and return how many there were."""
        with self._connection:
            return self._connection.execute("DELETE FROM points WHERE step > ?", (step,)).rowcount

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _open(path: Path, read_only: bool) -> sqlite3.Connection:
    if not read_only:
        connection = sqlite3.connect(path, timeout=30)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection
    location = path.resolve().as_uri()
    try:
        connection = sqlite3.connect(f"{location}?mode=ro", uri=True, timeout=30)
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return connection
    except sqlite3.OperationalError:
        # A write-ahead log needs a writable folder even for reading; in a read-only one nobody writes, so read it as is.
        return sqlite3.connect(f"{location}?immutable=1", uri=True)
