import contextlib
import math
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caviar.core.errors import InputError, RunError
from caviar.core.formats import STORE
from caviar.core.records import Record
from caviar.core.store import Store

NOBODY = 65534
NUMBERS = st.floats(width=64)


def record(
    step: int, value: float, *, name: str = "loss", split: str = "train", layer: str = "", trial: int = 0
) -> Record:
    """A record with the fields that a test does not care about filled in."""
    return Record(trial, step, step // 10, split, layer, name, value)


def same(one: float, two: float) -> bool:
    return one == two or (math.isnan(one) and math.isnan(two))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.sqlite"


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("ab"), st.sampled_from(["", "l1"]), NUMBERS), max_size=30))
def test_what_is_written_is_read(rows: list[tuple[int, str, str, float]]) -> None:
    records = [Record(trial, step, 1, "train", layer, name, v) for step, (trial, name, layer, v) in enumerate(rows)]
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "r.sqlite") as store:
        store.write(records)
        found = store.read()
    expected = sorted(records, key=lambda r: (r.trial, r.name, r.split, r.layer, r.step))
    assert [r[:6] for r in found] == [r[:6] for r in expected]
    assert all(same(one.value, two.value) for one, two in zip(found, expected, strict=True))


def test_nan_and_infinities_come_back_as_they_were(path: Path) -> None:
    values = [math.nan, math.inf, -math.inf, 0.0, 5e-324, 1.7976931348623157e308, 1]
    with Store(path) as store:
        store.write(record(step, value) for step, value in enumerate(values))
    with Store(path, read_only=True) as store:
        found = [r.value for r in store.read()]
    assert math.isnan(found[0])
    assert found[1:] == values[1:]
    assert all(type(value) is float for value in found)


def test_numbers_of_other_libraries_are_taken(path: Path) -> None:
    import numpy as np
    import torch

    with Store(path) as store:
        store.write([record(1, np.float32(0.5)), record(2, torch.tensor(0.25)), record(3, np.int64(3))])
        assert [r.value for r in store.read()] == [0.5, 0.25, 3.0]


def test_every_argument_of_read_narrows(path: Path) -> None:
    records = [
        Record(trial, step, step, split, layer, name, float(step))
        for trial in (0, 1)
        for step in (0, 1, 2)
        for split in ("train", "dev")
        for layer in ("", "fc1")
        for name in ("loss", "accuracy")
    ]
    random.Random(0).shuffle(records)
    with Store(path) as store:
        store.write(records)
        assert store.read() == sorted(records, key=lambda r: (r.trial, r.name, r.split, r.layer, r.step))
        assert {r.name for r in store.read(name="loss")} == {"loss"}
        assert {r.split for r in store.read(split="dev")} == {"dev"}
        assert {r.layer for r in store.read(layer="")} == {""}
        assert {r.trial for r in store.read(trial=0)} == {0}
        assert {r.step for r in store.read(after_step=0)} == {1, 2}
        (one,) = store.read(name="loss", split="dev", layer="fc1", trial=1, after_step=1)
        assert one == Record(1, 2, 2, "dev", "fc1", "loss", 2.0)
        assert store.read(name="absent") == []


def test_a_record_with_the_same_key_replaces(path: Path) -> None:
    with Store(path) as store:
        store.write([record(1, 0.5), record(2, 0.25)])
        store.write([record(1, math.nan)])
        found = store.read()
    assert [r.step for r in found] == [1, 2]
    assert math.isnan(found[0].value)


def test_names_may_hold_anything(path: Path) -> None:
    odd = ["", "'; DROP TABLE points; --", "schicht ü", "a\nb", "%", "🐟"]
    with Store(path) as store:
        store.write(record(1, float(i), name=name, layer=name) for i, name in enumerate(odd))
        for i, name in enumerate(odd):
            assert [r.value for r in store.read(name=name, layer=name)] == [float(i)]


def test_series_keep_their_ids_after_reopening(path: Path) -> None:
    with Store(path) as store:
        store.write([record(1, 1.0), record(1, 2.0, name="accuracy")])
    with Store(path) as store:
        store.write([record(2, 4.0, name="accuracy"), record(2, 3.0), record(2, 9.0, split="dev")])
        assert [(r.name, r.split, r.step, r.value) for r in store.read()] == [
            ("accuracy", "train", 1, 2.0),
            ("accuracy", "train", 2, 4.0),
            ("loss", "dev", 2, 9.0),
            ("loss", "train", 1, 1.0),
            ("loss", "train", 2, 3.0),
        ]
    with contextlib.closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT count(*) FROM series").fetchone() == (3,)


def test_a_write_that_fails_leaves_nothing_and_later_ones_are_right(path: Path) -> None:
    """The series of a failed write are rolled back with it, and must not be remembered."""

    def breaking() -> Iterator[Record]:
        yield record(1, 1.0, name="first")
        yield record(1, 1.0, name="second")
        raise ValueError("the source ended badly")

    with Store(path) as store:
        with pytest.raises(ValueError, match="ended badly"):
            store.write(breaking())
        assert store.read() == []
        store.write([record(1, 2.0, name="second")])
        store.write([record(1, 3.0, name="first")])
        assert [(r.name, r.value) for r in store.read()] == [("first", 3.0), ("second", 2.0)]


def test_delete_after(path: Path) -> None:
    with Store(path) as store:
        store.write(record(step, 1.0, trial=trial) for step in range(10) for trial in (0, 1))
        assert store.delete_after(6) == 6
        assert {r.step for r in store.read()} == set(range(7))
        assert store.delete_after(6) == 0
        assert store.delete_after(-1) == 14
        store.write([record(3, 5.0)])
        assert store.read() == [record(3, 5.0)]


def test_events(path: Path) -> None:
    before = time.time()
    with Store(path) as store:
        store.add_event(0, "started", seed=1, note="first")
        store.add_event(7, "interrupted")
        store.add_event(7, "resumed", checkpoint="step-7", best=None)
        store.delete_after(0)
        with pytest.raises(ValueError, match="not JSON compliant"):
            store.add_event(8, "finished", loss=math.nan)
    with Store(path, read_only=True) as store:
        events = store.events()
        assert [(e["step"], e["kind"]) for e in events] == [(0, "started"), (7, "interrupted"), (7, "resumed")]
        assert all(before - 1 <= e["time"] <= time.time() + 1 for e in events)
        assert events[0]["seed"] == 1
        assert store.events("resumed") == [events[2]]
        assert store.events("absent") == []


def test_the_view_is_for_a_person_with_a_sql_prompt(path: Path) -> None:
    with Store(path) as store:
        store.write([record(10, 0.5)])
    with contextlib.closing(sqlite3.connect(path)) as raw:
        rows = raw.execute("SELECT trial, step, epoch, split, layer, name, value FROM records").fetchall()
    assert rows == [(0, 10, 1, "train", "", "loss", 0.5)]


WRITER = """
import sys
from pathlib import Path
from caviar.core.records import Record
from caviar.core.store import Store
with Store(Path(sys.argv[1])) as store:
    for step in range(200):
        store.write([Record(0, step, 1, "train", "", name, float(step)) for name in ("a", "b")])
        print(step, flush=True)
        if step == 100:
            sys.stdin.readline()
"""


def test_it_is_read_while_another_process_writes(path: Path) -> None:
    """What the writer has said it wrote is there for a reader, and never half of one write."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    try:
        for line in writer.stdout:
            if int(line) % 25 == 0:
                with Store(path, read_only=True) as reader:
                    found = reader.read()
                steps = {name: {r.step for r in found if r.name == name} for name in ("a", "b")}
                assert steps["a"] == steps["b"] >= set(range(int(line) + 1))
            if int(line) == 100:
                with Store(path, read_only=True) as reader:
                    assert len(reader.read()) == 202
                    writer.communicate("go on\n", timeout=300)
                    assert len(reader.read()) == 400, "an open reader sees what came later"
                break
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    assert writer.returncode == 0


KILLED = """
import os, signal, sys
from pathlib import Path
from caviar.core.records import Record
from caviar.core.store import Store
store = Store(Path(sys.argv[1]))
store.write([Record(0, step, 1, "train", "", "loss", 0.5) for step in range(1000)])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_loses_nothing_that_was_written(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -9
    with Store(path, read_only=True) as store:
        assert len(store.read()) == 1000
    with Store(path) as store:
        store.write([record(1000, 0.25)])
        assert len(store.read()) == 1001


@pytest.mark.parametrize("read_only", [True, False])
def test_a_newer_version_is_refused_by_name_and_left_alone(path: Path, read_only: bool) -> None:
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.execute(f"PRAGMA user_version = {STORE + 1}")
    before = path.read_bytes()
    with pytest.raises(InputError, match=rf"this record store has format version {STORE + 1}.*Upgrade caviar"):
        Store(path, read_only=read_only)
    assert path.read_bytes() == before


def test_an_absent_store_is_an_input_error_and_is_not_created(path: Path) -> None:
    with pytest.raises(InputError, match="there is no record store here"):
        Store(path, read_only=True)
    assert not path.exists()
    path.mkdir()
    with pytest.raises(InputError, match="there is no record store here"):
        Store(path, read_only=True)


def test_another_database_is_not_taken_for_a_store(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE mine (a)")
    with pytest.raises(InputError, match="not a caviar record store: its format version is 0"):
        Store(path, read_only=True)


@pytest.mark.parametrize("read_only", [True, False])
def test_what_is_no_database_is_refused(path: Path, read_only: bool) -> None:
    path.write_bytes(b"This is a text file, and a long one.\n" * 200)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"records\.sqlite: not a record store, or a damaged one"):
        Store(path, read_only=read_only)
    assert path.read_bytes() == before


def test_a_store_cut_short_is_refused_not_half_read(path: Path) -> None:
    with Store(path) as store:
        store.write(record(step, 1.0, name=f"n{step}") for step in range(5000))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2 + 17)
    with pytest.raises(InputError, match="damaged"), Store(path, read_only=True) as store:
        store.read()


def test_a_store_overwritten_in_the_middle_is_refused(path: Path) -> None:
    with Store(path) as store:
        store.write(record(step, 1.0, name=f"n{step}") for step in range(5000))
    content = bytearray(path.read_bytes())
    content[8192:-4096] = b"\xff" * (len(content) - 8192 - 4096)
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"), Store(path, read_only=True) as store:
        store.read()


def test_reading_only_does_not_write(path: Path) -> None:
    with Store(path) as store:
        store.write([record(1, 1.0)])
    with Store(path, read_only=True) as store, pytest.raises(RunError, match="records cannot be written"):
        store.write([record(2, 1.0)])
    with Store(path, read_only=True) as store, pytest.raises(RunError, match="readonly"):
        store.add_event(1, "started")


def test_a_full_disk_is_a_run_error(path: Path) -> None:
    with Store(path) as store:
        store.write([record(1, 1.0)])
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(RunError, match=r"records\.sqlite: records cannot be written \(database or disk is full\)"):
            store.write(record(step, 1.0) for step in range(100_000))
        assert store.read() == [record(1, 1.0)]


def test_a_store_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be opened \(unable to open database file\)"):
        Store(tmp_path / "absent" / "records.sqlite")


@contextlib.contextmanager
def without_root() -> Iterator[None]:
    """For a while, nobody in particular: root may write anywhere, so a read-only folder would not be one."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(NOBODY)
    except OSError:
        pytest.skip("this process may not give up root's rights")
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        folder.chmod(0o755)


def test_a_read_only_folder_can_be_read(open_folder: Path) -> None:
    path = open_folder / "records.sqlite"
    with Store(path) as store:
        store.write([record(1, math.nan), record(2, 0.5)])
        store.add_event(1, "started")
    open_folder.chmod(0o555)
    with without_root():
        with pytest.raises(OSError, match="ermission"):
            (open_folder / "probe").write_bytes(b"")
        with Store(path, read_only=True) as store:
            assert [r.step for r in store.read()] == [1, 2]
            assert [e["kind"] for e in store.events()] == ["started"]
    assert [file.name for file in open_folder.iterdir()] == ["records.sqlite"]


def test_a_read_only_folder_refuses_a_writer_in_words(open_folder: Path) -> None:
    open_folder.chmod(0o555)
    with without_root(), pytest.raises(InputError, match="the record store cannot be opened"):
        Store(open_folder / "records.sqlite")


def test_a_folder_with_odd_letters(tmp_path: Path) -> None:
    path = tmp_path / "a #1 100%?ü" / "records.sqlite"
    path.parent.mkdir()
    with Store(path) as store:
        store.write([record(1, 1.0)])
        with Store(path, read_only=True) as reader:
            assert reader.read() == [record(1, 1.0)]


def test_an_empty_file_and_a_store_without_its_tables_are_named_for_what_they_are(path: Path) -> None:
    path.touch()
    with pytest.raises(InputError, match="the record store is empty"):
        Store(path, read_only=True)
    with Store(path) as store:
        store.write([record(1, 1.0)])
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.execute("DROP TABLE points")
        raw.commit()
    with (
        Store(path, read_only=True) as store,
        pytest.raises(InputError, match=r"damaged \(no such table: main\.points"),
    ):
        store.read()
