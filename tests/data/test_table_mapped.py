"""Mapped tables equal tables in memory, and their memory is the file's."""

import subprocess
import sys
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caviar.core.errors import InputError
from caviar.data import table_files
from caviar.data.settings import DataSettings, SplitSettings
from caviar.data.table_files import sink
from caviar.data.table_mapped import map_frame
from caviar.data.tables import open_table, read_frame, typed_features

rows = st.lists(
    st.tuples(
        st.none() | st.floats(allow_nan=False),
        st.none() | st.booleans(),
        st.none() | st.text(max_size=30),
        st.just("short"),
    ),
    max_size=40,
)
SCHEMA = {"number ü": pl.Float64(), "flag": pl.Boolean(), "text": pl.String(), "full": pl.String()}


@given(rows=rows, batch=st.integers(1, 20))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mapped_frame_equals_the_frame_written(rows: list[tuple[object, ...]], batch: int, tmp_path: Path) -> None:
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    path = tmp_path / "new.arrow"
    options = {"compression": "uncompressed", "compat_level": pl.CompatLevel.newest(), "record_batch_size": batch}
    frame.lazy().sink_ipc(path, **options)
    mapped = map_frame(path.rename(tmp_path / "table.arrow"), SCHEMA)
    assert mapped.equals(frame)
    assert mapped.schema == frame.schema
    assert mapped[3:9].sort("full", "number ü").equals(frame[3:9].sort("full", "number ü"))
    assert mapped.is_empty() or mapped.rechunk().equals(frame)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_mapped_pages_are_no_private_memory(tmp_path: Path) -> None:
    path = tmp_path / "table.arrow"
    numbers = pl.LazyFrame({"x": pl.arange(0, 4_000_000, eager=True).cast(pl.Float64)})
    sink(numbers.with_columns(c=pl.when(pl.col("x") > 9).then(pl.lit("some")).otherwise(pl.lit("other"))), path)
    assert path.stat().st_size > 90_000_000
    code = f"""
import re
from pathlib import Path
import polars as pl
from caviar.data.table_mapped import map_frame
def private():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
pl.DataFrame({{"x": [1.0], "c": ["a"]}}).select(pl.all().max())
before = private()
frame = map_frame(Path({str(path)!r}), {{"x": pl.Float64(), "c": pl.String()}})
assert frame.select(pl.all().max()).row(0) == (3_999_999.0, "some")
assert private() - before < 30, private() - before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "MEGABYTE", 0)


@pytest.mark.usefixtures("all_large")
def test_large_file_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b,label\n" + "1.5,NA,x\n2,3,y\n" * 4)
    first = open_table(path, DataSettings(target="label"), SplitSettings())
    assert first.inputs.to_dict(as_series=False) == {"a": [1.5, 2.0] * 4, "b": [None, 3.0] * 4}
    stream = table_files.TableFile.stream
    monkeypatch.setattr(table_files.TableFile, "stream", None)
    again = open_table(path, DataSettings(target="label"), SplitSettings())
    assert again.inputs.equals(first.inputs)
    assert again.notices == first.notices != ()
    assert again.digest == first.digest
    monkeypatch.setattr(table_files.TableFile, "stream", stream)
    assert open_table(path, DataSettings(target="label", ignore=("b",)), SplitSettings()).inputs.columns == ["a"]
    path.write_text("a,b,label\n" + "1.5,NA,x\n2,4,y\n" * 4)
    assert open_table(path, DataSettings(target="label"), SplitSettings()).inputs["b"].sum() == 16.0


@pytest.mark.usefixtures("all_large")
def test_large_files_equal_small_ones(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = shared_data / "adult_train.csv", shared_data / "adult_test.csv"
    parquet = tmp_path / "test.parquet"
    pl.read_csv(test).write_parquet(parquet)
    settings = DataSettings(target="income")
    large = open_table(train, settings, SplitSettings(), None, parquet)
    frame = typed_features(read_frame(test, settings, large.columns), large.columns, test)
    monkeypatch.undo()
    small = open_table(train, settings, SplitSettings(), None, test)
    assert large.inputs.equals(small.inputs)
    assert large.targets.tolist() == small.targets.tolist()
    assert large.notices == small.notices
    assert frame.equals(small.inputs[32_561:])


@pytest.mark.usefixtures("all_large")
def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file where a folder is needed")
    monkeypatch.setenv("CAVIAR_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "table.csv"
    path.write_text("a,label\n" + "1,x\n2,y\n" * 4)
    with pytest.raises(InputError, match=r"could not be converted.*CAVIAR_CACHE"):
        open_table(path, DataSettings(target="label"), SplitSettings())


@pytest.mark.usefixtures("all_large")
def test_large_rows_to_predict_may_hold_columns_of_other_types(tmp_path: Path) -> None:
    path = tmp_path / "new.parquet"
    frame = pl.DataFrame({"day": [date(2024, 1, 2)], "many": [[1, 2]], "a": [3]})
    frame.write_parquet(path)
    read = read_frame(path, DataSettings())
    assert read.to_dict(as_series=False) == {"day": ["2024-01-02"], "a": [3.0]}
