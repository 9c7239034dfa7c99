"""Good tables are read as what they are, from every kind of source, and the notices say what is odd."""

import gzip
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caviar.core.columns import Column
from caviar.core.errors import InputError
from caviar.data.raw import RawData
from caviar.data.settings import DataSettings, SplitSettings
from caviar.data.tables import extra_columns, open_table, read_frame, target_values, typed_features

CSV = """size,colour,works,grade,label
1.5,red,true,3,yes
2,blue,False,4,no
,green,TRUE,NA,yes
 4 ,red,,5,no
NaN,, false ,-,yes
6e1,blue,true,?,no
"""


def opened(source: Any, target: str = "label", dev: Any = None, test: Any = None, **given: Any) -> RawData:
    return open_table(source, DataSettings(target=target, **given), SplitSettings(), dev, test)


def write(folder: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def check_small(raw: RawData) -> None:
    assert raw.kind == "table"
    assert raw.inputs.to_dict(as_series=False) == {
        "size": [1.5, 2.0, None, 4.0, None, 60.0],
        "colour": ["red", "blue", "green", "red", None, "blue"],
        "works": [True, False, True, None, False, True],
        "grade": [3.0, 4.0, None, 5.0, None, None],
    }
    assert raw.inputs.schema == {"size": pl.Float64, "colour": pl.String, "works": pl.Boolean, "grade": pl.Float64}
    assert [column.kind for column in raw.columns] == ["numeric", "categorical", "boolean", "numeric"]
    assert raw.task == "classification"
    assert raw.classes == ("no", "yes")
    assert raw.targets.dtype == np.int64
    assert raw.targets.tolist() == [1, 0, 1, 0, 1, 0]
    assert raw.parts == {"train": 6}
    assert raw.ignored == ()


def test_kinds_and_missing_values(tmp_path: Path) -> None:
    raw = opened(write(tmp_path, CSV))
    check_small(raw)
    assert raw.notices == ()
    assert raw.digest == hashlib.sha256((tmp_path / "table.csv").read_bytes()).hexdigest()[:32]
    assert len(raw) == 6


SPELLINGS = {
    "table.tsv": CSV.replace(",", "\t").encode(),
    "table.csv.gz": gzip.compress(CSV.encode()),
    "table.tsv.gz": gzip.compress(CSV.replace(",", "\t").encode()),
    "mark.csv": b"\xef\xbb\xbf" + CSV.encode(),
    "utf16.csv": CSV.encode("utf-16"),
    "utf16.csv.gz": gzip.compress(CSV.encode("utf-16")),
    "utf16be.csv": b"\xfe\xff" + CSV.encode("utf-16-be"),
    "windows.csv": CSV.replace("\n", "\r\n").encode(),
    "UPPER.CSV": CSV.encode(),
    "unfinished.csv": CSV.rstrip("\n").encode(),
    "blank_lines.csv": (CSV.replace("2,blue", "\n2,blue") + "\n\n").encode(),
    "windows_blank_lines.csv": (CSV.replace("2,blue", "\n2,blue") + "\n\n").replace("\n", "\r\n").encode(),
    "spaces.csv": CSV.replace(",", " , ").encode(),
    "quoted.csv": "\n".join(",".join(f'"{f}"' for f in line.split(",")) for line in CSV.splitlines()).encode(),
}


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("large", [False, True])
def test_every_spelling_of_one_table(name: str, large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if large:
        monkeypatch.setattr("caviar.data.table_files.MEGABYTE", 0)
    check_small(opened(write(tmp_path, SPELLINGS[name], name)))


def test_encoding_and_delimiter_settings(tmp_path: Path) -> None:
    text = "größe;label\n1;für\n2;gegen\n3;für\n4;gegen\n"
    raw = opened(write(tmp_path, text.encode("latin-1")), encoding="latin-1", delimiter=";")
    assert raw.classes == ("für", "gegen")
    assert raw.inputs.columns == ["größe"]
    assert opened(write(tmp_path, text.replace(";", "\t")), delimiter="\\t").classes == ("für", "gegen")


def test_markers_are_words_among_words(tmp_path: Path) -> None:
    raw = opened(write(tmp_path, "land,label\nNA,x\nDE,y\n?,x\nNA,y\n-,x\nnull,y\n"))
    assert raw.inputs["land"].to_list() == ["NA", "DE", "?", "NA", "-", "null"]


def test_a_type_that_shows_late(tmp_path: Path) -> None:
    """Types are first guessed from places spread over the file; what does not fit is read again."""
    rows = [f"{i % 50},{i % 50},{'true' if i % 3 else 'false'},{'xy'[i % 2]}" for i in range(200_000)]
    rows[123_456] = "NA,1.5,maybe,x"
    raw = opened(write(tmp_path, "a,b,c,label\n" + "\n".join(rows)))
    assert [column.kind for column in raw.columns] == ["numeric", "numeric", "categorical"]
    assert raw.inputs.row(123_456) == (None, 1.5, "maybe")
    assert raw.inputs["a"].null_count() == 1
    assert raw.inputs["a"].sum() == sum(i % 50 for i in range(200_000)) - 123_456 % 50


def test_quotes_and_newlines_inside_fields(tmp_path: Path) -> None:
    raw = opened(write(tmp_path, 'note,label\n"a, ""b""\nc",x\nsay "d" loud,y\n"",x\nplain,y\n'))
    assert raw.inputs["note"].to_list() == ['a, "b"\nc', 'say "d" loud', None, "plain"]


FRAMES = {
    "polars": lambda frame: frame,
    "lazy": lambda frame: frame.lazy(),
    "pandas": lambda frame: frame.to_pandas(),
    "arrow": lambda frame: frame.to_arrow(),
    "batch": lambda frame: frame.to_arrow().combine_chunks().to_batches()[0],
    "dict": lambda frame: frame.to_dict(as_series=False),
    "rows": lambda frame: frame.to_dicts(),
}
FRAME = pl.DataFrame(
    {
        "size": [1.5, 2.0, None, 4.0, float("nan"), 60.0],
        "colour": ["red", "blue", "green", "red", None, "blue"],
        "works": [True, False, True, None, False, True],
        "grade": [3, 4, None, 5, None, None],
        "label": ["yes", "no"] * 3,
    }
)


@pytest.mark.parametrize("make", FRAMES)
def test_every_make_of_frame(make: str) -> None:
    check_small(opened(FRAMES[make](FRAME)))


def test_frames_and_files_have_digests_of_their_content() -> None:
    raw = opened(FRAME)
    assert opened(pl.concat([FRAME[:2], FRAME[2:]], rechunk=False)).digest == raw.digest
    assert opened(FRAME.with_columns(size=pl.col("size") + 1)).digest != raw.digest
    assert opened(FRAME.with_columns(size=pl.col("size").fill_null(0))).digest != raw.digest
    assert opened(FRAME.with_columns(colour=pl.lit("x"))).digest != raw.digest
    assert opened(FRAME, test=FRAME).digest != raw.digest


def test_pandas_types() -> None:
    size = 24
    frame = pd.DataFrame(
        {
            "category": pd.Categorical(["b", "a", None, "b"] * 6, categories=["a", "b", "unused"]),
            "codes": pd.Categorical([1, 2, 2, 1] * 6),
            "nullable": pd.array([1, None, 3, 4] * 6, dtype="Int64"),
            "float32": np.tile(np.float32([1, np.nan, 2, 3]), 6),
            "flag": pd.array([True, None, False, True] * 6, dtype="boolean"),
            "text": pd.array(["p", None, "q", "p"] * 6, dtype="string"),
            "mixed": np.array([1, "one", 2.0, "two"] * 6, dtype=object),
            "numbers": np.array([1, 2.5, None, 4] * 6, dtype=object),
            "arrow": pd.array([1.5, None, 2.5, 1.5] * 6, dtype=pd.ArrowDtype(pa.float64())),
            7: range(100, 100 + 3 * size, 3),
            "label": [0, 1] * 12,
        },
        index=list("abcd") * 6,
    )
    raw = opened(frame)
    first = raw.inputs.head(4).to_dict(as_series=False)
    assert first == {
        "category": ["b", "a", None, "b"],
        "codes": [1.0, 2.0, 2.0, 1.0],
        "nullable": [1.0, None, 3.0, 4.0],
        "float32": [1.0, None, 2.0, 3.0],
        "flag": [True, None, False, True],
        "text": ["p", None, "q", "p"],
        "mixed": ["1", "one", "2", "two"],
        "numbers": [1.0, 2.5, None, 4.0],
        "arrow": [1.5, None, 2.5, 1.5],
        "7": [100.0, 103.0, 106.0, 109.0],
    }
    assert raw.classes == ("0", "1")


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pd.to_datetime(["2024-01-01", "2024-01-02"] * 3), ("'c'", "date")),
        (pd.to_datetime(["2024-01-01", "2024-01-02"] * 3).tz_localize("UTC"), ("'c'", "date")),
        (pd.to_timedelta([1, 2] * 3, unit="h"), ("'c'", "time")),
        ([[1], [2]] * 3, ("'c'", "row 1", "list")),
        ([1 + 2j, 2.0] * 3, ("'c'", "complex")),
        ([1.0, float("inf")] * 3, ("'c'", "row 2", "inf")),
        ([1.0, 1e300] * 3, ("'c'", "row 2", "1e+300", "32-bit")),
        (["a", b"b"] * 3, ("'c'", "row 2", "bytes")),
    ],
)
def test_pandas_columns_that_are_refused(column: Any, words: tuple[str, ...]) -> None:
    frame = pd.DataFrame({"c": column, "a": [1, 2, 3] * 2, "label": [0, 1] * 3})
    with pytest.raises(InputError) as caught:
        opened(frame)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert opened(frame, ignore=("c",)).inputs.columns == ["a"]


def test_frames_that_are_refused() -> None:
    with pytest.raises(InputError, match="the column name 'a' stands twice"):
        opened(pd.DataFrame([[1, 2]] * 4, columns=["a", "a"]), target="a")
    with pytest.raises(InputError, match="no rows"):
        opened(pd.DataFrame({"a": [], "label": []}))
    with pytest.raises(InputError, match="set is not a table"):
        read_frame({1, 2}, DataSettings())
    with pytest.raises(InputError, match=r"the frame: there is no target column 'labels'.*'label'"):
        opened(FRAME, target="labels")


def test_pandas_and_pyarrow_are_optional() -> None:
    code = """
import sys
sys.modules["pyarrow"] = None
import polars
from caviar.data.tables import open_table
from caviar.data.settings import DataSettings, SplitSettings
settings = DataSettings(target="label"), SplitSettings()
frame = polars.DataFrame({"a": [1, 2, 4], "label": [0.5, 1.5, 2.5]})
assert open_table(frame, *settings).targets.tolist() == [0.5, 1.5, 2.5]
assert "pandas" not in sys.modules
import pandas
frame = pandas.DataFrame({"a": [1, 2, 4], "b": ["x", None, "y"], "label": [0.5, 1.5, 2.5]})
assert open_table(frame, *settings).inputs["b"].to_list() == ["x", None, "y"]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


TASKS = [
    (["b", "a", "c"], "auto", ("a", "b", "c")),
    ([True, False], "auto", ("false", "true")),
    ([2, 10, 1], "auto", ("1", "2", "10")),
    ([2.0, 10.0, 1.0], "auto", ("1", "2", "10")),
    ([0.5, 1.5], "auto", ()),
    ([0.5, 1.5, 10.5], "classification", ("0.5", "1.5", "10.5")),
    ([2, 10, 1], "regression", ()),
    (list(range(21)), "auto", ()),
    (list(range(20)), "auto", tuple(str(i) for i in range(20))),
]


@pytest.mark.parametrize(("values", "task", "classes"), TASKS)
def test_tasks(values: list[Any], task: str, classes: tuple[str, ...], tmp_path: Path) -> None:
    target = values * 4
    frame = pl.DataFrame({"a": [i % 7 for i in range(len(target))], "label": target})
    frame.write_csv(tmp_path / "table.csv")
    frame.write_parquet(tmp_path / "table.parquet")
    for source in (frame, tmp_path / "table.csv", tmp_path / "table.parquet"):
        raw = opened(source, task=task)
        assert raw.classes == classes
        if classes:
            text = [str(value).lower().removesuffix(".0") for value in target]
            assert [raw.classes[number] for number in raw.targets] == text
        else:
            assert raw.task == "regression"
            assert raw.targets.dtype == np.float64
            assert raw.targets.tolist() == target


def test_categorical_setting_reads_numbers_as_text(tmp_path: Path) -> None:
    path = write(tmp_path, "code,label\n007,0.5\n8,1.5\n3.0,2.5\n8,4.5\n")
    raw = opened(path, categorical=("code",))
    assert raw.columns == (Column("code", "categorical"),)
    assert raw.inputs["code"].to_list() == ["007", "8", "3", "8"]
    assert opened(path, target="code", categorical=("code",), task="regression").targets.tolist() == [
        7.0,
        8.0,
        3.0,
        8.0,
    ]


def test_notices(tmp_path: Path) -> None:
    rows = [f"{i},same,name{i},{i * 10 + 3},{i % 7},,{'xy'[i % 2]}" for i in range(30)]
    path = write(tmp_path, "row,constant,person,user_id,a,nothing,label\n" + "\n".join([*rows, *rows[-2:]]))
    raw = opened(path)
    # Two repeated rows make the numbering columns no longer distinct, yet nearly all names are.
    assert "repeat" in " ".join(opened(path, ignore=()).notices)
    path = write(tmp_path, "row,constant,person,user_id,a,nothing,label\n" + "\n".join(rows))
    raw = opened(path)
    assert raw.ignored == ("row", "constant", "person", "user_id", "nothing")
    assert [column.name for column in raw.columns] == ["a"]
    text = "\n".join(raw.notices)
    assert all(repr(name) in text for name in raw.ignored)
    assert "data.ignore" in text
    assert "16 rows repeat an earlier one" in text
    kept = opened(path, ignore=("a",))
    assert kept.ignored == ("a", "nothing")
    assert [column.name for column in kept.columns] == ["row", "constant", "person", "user_id"]
    assert "'constant'" in "\n".join(kept.notices)


def test_more_columns_than_rows_is_a_notice() -> None:
    generator = np.random.default_rng(0)
    frame = pl.DataFrame(generator.normal(size=(6, 9)), schema=[f"x{i}" for i in range(9)])
    raw = opened(frame.with_columns(label=pl.Series([0, 1] * 3)))
    assert "more columns (9) than rows (6)" in "\n".join(raw.notices)


def test_ordinary_integers_are_kept() -> None:
    generator = np.random.default_rng(0)
    frame = pl.DataFrame({"age": generator.integers(18, 90, 500), "weight": generator.permutation(50_000)[:500]})
    raw = opened(frame.with_columns(label=pl.Series(["x", "y"] * 250)))
    assert raw.ignored == ()


def test_files_of_their_own(tmp_path: Path, shared_data: Path) -> None:
    train, test = shared_data / "adult_train.csv", shared_data / "adult_test.csv"
    raw = opened(train, "income", test=test)
    assert raw.parts == {"train": 32_561, "test": 16_281}
    assert len(raw.inputs) == len(raw.targets) == 48_842
    assert raw.classes == ("<=50K", ">50K")
    assert np.bincount(raw.targets).tolist() == [24_720 + 12_435, 7_841 + 3_846]
    assert raw.inputs["workclass"].null_count() == 1_836 + 963
    assert sum(column.kind == "numeric" for column in raw.columns) == 6
    assert "24 rows repeat" in raw.notices[0]
    plain = pd.read_csv(test)
    assert raw.inputs["age"][32_561:].to_list() == plain["age"].tolist()


def test_california_is_a_regression(shared_data: Path) -> None:
    raw = opened(shared_data / "california_housing.csv", "median_house_value")
    assert raw.task == "regression"
    assert raw.targets.mean() == pytest.approx(206_856, abs=1)
    assert raw.inputs["total_bedrooms"].null_count() == 207
    assert raw.ignored == ()


def test_other_files_take_the_columns_and_types_of_training(tmp_path: Path) -> None:
    train = write(tmp_path, "a,code,flag,label\n1,A1,true,0\n2,007,false,1\n3,A1,true,0\n4,7,false,1\n", "train.csv")
    dev = write(tmp_path, "label,flag,code,a,extra\n1,0,007,NA,5\n0,1,3.0,2,6\n", "dev.csv")
    raw = opened(
        train,
        dev=dev,
        test=pl.DataFrame({"code": [7, 3], "a": ["1", " 2 "], "flag": ["TRUE", None], "label": [1.0, 0]}),
    )
    assert raw.parts == {"train": 4, "dev": 2, "test": 2}
    assert raw.inputs[4:].to_dict(as_series=False) == {
        "a": [None, 2.0, 1.0, 2.0],
        "code": ["007", "3", "7", "3"],
        "flag": [False, True, True, None],
    }
    assert raw.targets.tolist() == [0, 1, 0, 1, 1, 0, 1, 0]
    assert "extra" in "\n".join(raw.notices)


def test_split_and_group_columns_are_no_features(tmp_path: Path) -> None:
    path = write(tmp_path, "a,side,who,label\n1,train,12,0\n2,test,3,1\n3,dev,12,0\n4,train,3.0,1\n")
    raw = open_table(path, DataSettings(target="label"), SplitSettings(column="side", group="who"))
    assert [column.name for column in raw.columns] == ["a"]
    assert raw.split_column is not None
    assert raw.split_column.tolist() == ["train", "test", "dev", "train"]
    assert raw.groups is not None
    assert raw.groups.tolist() == [0, 1, 0, 1]
    assert raw.groups.dtype == np.int64


def test_typed_features_of_a_new_frame() -> None:
    columns = (Column("n", "numeric"), Column("b", "boolean"), Column("c", "categorical"))
    frame = pl.DataFrame({"c": [3, None], "more": [1, 2], "b": [1, 0], "n": [True, False]})
    typed = typed_features(frame, columns, "new.csv")
    assert typed.to_dict(as_series=False) == {"n": [1.0, 0.0], "b": [True, False], "c": ["3", None]}
    assert extra_columns(frame.columns, [column.name for column in columns]) == ("more",)
    for value in (3, 3.0, "3", " 3.0 ", "3"):
        assert typed_features(pl.DataFrame({"c": [value]}), columns[2:], "new")["c"].to_list() == ["3"]
    with pytest.raises(InputError, match=r"new: column 'c' is missing.*Did you mean 'C'"):
        typed_features(frame.rename({"c": "C"}), columns, "new")
    with pytest.raises(InputError, match=r"new, row 2 \(counting from 1\), column 'n': text 'x'"):
        typed_features(frame.with_columns(n=pl.Series(["1", "x"])), columns, "new")
    with pytest.raises(InputError, match=r"new, row 1.*column 'b': 2"):
        typed_features(frame.with_columns(b=pl.Series([2, 1])), columns, "new")
    with pytest.raises(InputError, match="column 'b': 'maybe'"):
        typed_features(frame.with_columns(b=pl.Series(["true", "maybe"])), columns, "new")
    with pytest.raises(InputError, match="column 'n': -inf"):
        typed_features(frame.with_columns(n=pl.Series([1.0, float("-inf")])), columns, "new")


def test_new_text_file_is_named_by_line(tmp_path: Path) -> None:
    path = write(tmp_path, "c,n\n007,1\n8,big\n")
    columns = (Column("n", "numeric"), Column("c", "categorical"))
    frame = read_frame(path, DataSettings(), columns)
    assert frame["c"].to_list() == ["007", "8"]
    with pytest.raises(InputError, match=r"table\.csv, line 3, column 'n': text 'big'"):
        typed_features(frame, columns, path)


def test_target_values() -> None:
    frame = pl.DataFrame({"y": [1.0, 2.0, 3.0], "t": ["1", "NA", "x"], "w": ["1", "2", " 3"]})
    assert target_values(frame, "y", "classification") == ["1", "2", "3"]
    assert list(target_values(frame, "w", "regression")) == [1.0, 2.0, 3.0]
    with pytest.raises(InputError, match=r"row 3.*'x' is text"):
        target_values(frame, "t", "regression")
    with pytest.raises(InputError, match="no target column 'z'"):
        target_values(frame, "z", "regression")


def test_targets_can_be_written_to() -> None:
    """PyTorch warns of arrays that cannot be written to."""
    raw = opened(FRAME.with_columns(label=pl.Series([1.5, 2.5, 3.5] * 2)))
    raw.targets[0] = 9.0
    assert raw.targets[0] == 9.0


names = st.text(st.characters(categories=("L", "N", "P", "Zs"), exclude_characters='"'), min_size=1, max_size=8).map(
    str.strip
)
numbers = st.one_of(st.none(), st.floats(-1e30, 1e30, allow_nan=False), st.integers(-(10**6), 10**6).map(float))
words = st.one_of(
    st.none(),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=9).map(
        lambda text: "w" + text.strip()
    ),
    st.sampled_from(['wsay "hi"', "wa,b", "wtwo\nlines", "wNA", "w;"]),
)


@st.composite
def tables(draw: st.DrawFn) -> pl.DataFrame:
    rows = draw(st.integers(4, 30))
    columns: dict[str, Any] = {"z": pl.Series([0.5] + [1.25] * (rows - 1))}
    for name in draw(st.lists(names.filter(lambda text: text and text not in ("z", "label")), max_size=4, unique=True)):
        kind = draw(st.sampled_from(["numbers", "words", "flags"]))
        values = {"numbers": numbers, "words": words, "flags": st.sampled_from([True, False, None])}[kind]
        dtype = {"numbers": pl.Float64, "words": pl.String, "flags": pl.Boolean}[kind]
        columns[name] = pl.Series(draw(st.lists(values, min_size=rows, max_size=rows)), dtype=dtype)
    columns["label"] = pl.Series([str(i % 2) + "c" for i in range(rows)])
    return pl.DataFrame(columns)


@given(table=tables(), separator=st.sampled_from([",", ";", "\t"]), end=st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=60, deadline=None)
def test_csv_round_trip(
    table: pl.DataFrame, separator: str, end: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("trip") / "table.csv"
    table.write_csv(path, separator=separator, line_terminator=end)
    raw = opened(path, delimiter=separator, ignore=())
    filled = [name for name in table.columns[:-1] if table[name].null_count() < table.height]
    assert raw.inputs.equals(table.select(filled))
    assert raw.inputs.schema == table.select(filled).schema
    direct = opened(table, ignore=())
    assert direct.inputs.equals(raw.inputs)
    assert direct.targets.tolist() == raw.targets.tolist()
    again = typed_features(read_frame(path, DataSettings(delimiter=separator), raw.columns), raw.columns, path)
    assert again.equals(raw.inputs)
