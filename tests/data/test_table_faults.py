"""Every bad table is refused with a message that names where, what and the remedy."""

import gzip
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import polars as pl
import pytest

from caviar.core.errors import InputError
from caviar.data.settings import DataSettings, SplitSettings
from caviar.data.tables import open_table, read_frame


def rows(number: int = 12) -> str:
    return "".join(f"{i * 0.5 + (i % 3)},{'red' if i % 2 else 'blue'},{i % 2}\n" for i in range(number))


GOOD = "size,colour,label\n" + rows()


class Bad(NamedTuple):
    name: str
    content: str | bytes
    words: tuple[str, ...]
    settings: Mapping[str, object] = MappingProxyType({})
    file: str = "bad.csv"


TEXT = [
    Bad("empty", "", ("bad.csv", "empty")),
    Bad("blank_lines", "\n\n \n", ("bad.csv", "empty")),
    Bad("header_only", "size,colour,label\n", ("bad.csv", "header", "no rows")),
    Bad("header_without_newline", "size,colour,label", ("bad.csv", "no rows")),
    Bad("blank_first_line", "\n" + GOOD, ("bad.csv", "line 1", "blank")),
    Bad("too_many_fields", GOOD + "1,red,0,9\n", ("bad.csv", "line 14", "4 fields", "3")),
    Bad("too_few_fields", GOOD + "1,red\n" + rows(3), ("bad.csv", "line 14", "2 fields", "3")),
    Bad("too_few_on_first_row", "size,colour,label\n1,red\n" + rows(), ("bad.csv", "line 2", "2 fields")),
    Bad(
        "several_ragged",
        GOOD + "1,red\n" + rows(3) + "1\n" + "2,blue,1,7\n",
        ("bad.csv", "line 14", "lines 18, 19", "2 fields"),
    ),
    Bad("short_where_last_is_sometimes_empty", "a,label,b\n" + "1,x,\n2,y,3\n" * 5 + "4,x\n", ("line 12", "2 fields")),
    Bad("short_row_with_quotes", 'a,b,label\n"1,5",2,x\n' * 1 + "3,4\n" + "5,6,x\n" * 3, ("line 3", "2 fields")),
    Bad("short_after_quoted_newline", 'a,b,label\n"one\ntwo",2,x\n3,4\n5,6,x\n', ("line 4", "2 fields")),
    Bad("duplicate_names", "a,b,a\n1,2,3\n", ("bad.csv", "line 1", "'a'", "columns 1 and 3")),
    Bad("blank_name", "a,,label\n1,2,3\n", ("bad.csv", "line 1", "column 2", "blank name")),
    Bad("index_name", ",a,label\n0,2,3\n", ("column 1", "blank name", "index=False")),
    Bad("unclosed_quote", 'a,label\n1,x\n2,"y\n3,z\n4,z\n', ("bad.csv", "line 3", "not closed")),
    Bad("unclosed_quote_then_quoted", 'a,label\n1,x\n2,"y\n3,"z"\n4,z\n', ("bad.csv", "line 3", "not closed")),
    Bad("stray_quote", 'a,label\n1,x\n2,5" pipe\n3,z\n', ("bad.csv", "line 3", "quote")),
    Bad("nul", b"a,label\n1,x\n2,y\0\n3,x\n", ("bad.csv", "line 3", "NUL", "offset 15")),
    Bad("nul_in_number", b"a,label\n1,x\n\0002,y\n3,x\n", ("line 3", "NUL", "offset 12")),
    Bad("latin1_value", "a,label\n1,caf\xe9\n".encode("latin-1"), ("line 2", "0xE9", "offset 13", "data.encoding")),
    Bad("latin1_header", "\xe9,label\n1,x\n".encode("latin-1"), ("line 1", "0xE9", "offset 0", "data.encoding")),
    Bad("latin1_number", b"a,label\n1,x\n2\xe9,y\n", ("line 3", "0xE9", "offset 13")),
    Bad("not_cp1252", b"a,label\n1,x\n2,\x81\n", ("line 3", "0x81", "offset 14"), {"encoding": "cp1252"}),
    Bad("unknown_encoding", GOOD, ("data.encoding", "'latin_9x'", "latin-1"), {"encoding": "latin_9x"}),
    Bad("utf16_without_mark", GOOD.encode("utf-16-le"), ("bad.csv", "NUL", "utf-16-le")),
    Bad("semicolons", GOOD.replace(",", ";"), ("bad.csv", 'data.delimiter=";"')),
    Bad("tabs", GOOD.replace(",", "\t"), ("bad.csv", 'data.delimiter="\\t"')),
    Bad("bars", GOOD.replace(",", "|"), ("bad.csv", 'data.delimiter="|"')),
    Bad("decimal_commas_and_semicolons", "a;b;label\n1,5;2;x\n2,5;3;y\n", ("bad.csv", 'data.delimiter=";"')),
    Bad("comma_in_header_semicolons", "size, in m;label\n1;x\n2;y\n3;x\n", ("bad.csv", 'data.delimiter=";"')),
    Bad("commas_in_tsv", GOOD, ("bad.tsv", 'data.delimiter=","'), {}, "bad.tsv"),
    Bad("wrong_delimiter_set", GOOD, ("bad.csv", 'data.delimiter=","'), {"delimiter": ";"}),
    Bad("long_delimiter", GOOD, ("data.delimiter", "'::'"), {"delimiter": "::"}),
    Bad("carriage_returns", GOOD.replace("\n", "\r"), ("bad.csv", "carriage return")),
    Bad("parquet_named_csv", b"PAR1 something PAR1", ("bad.csv", "Parquet")),
    Bad("gzip_named_csv", gzip.compress(GOOD.encode()), ("bad.csv", "gzip")),
    Bad("cut_gzip", gzip.compress(GOOD.encode() * 50)[:-20], ("bad.csv.gz", "gzip", "cut short"), {}, "bad.csv.gz"),
    Bad("fake_gzip", GOOD, ("bad.csv.gz", "gzip"), {}, "bad.csv.gz"),
    Bad("fake_parquet", GOOD, ("bad.parquet", "not a Parquet file"), {}, "bad.parquet"),
    Bad("hollow_parquet", b"PAR1" + bytes(64) + b"PAR1", ("bad.parquet", "damaged"), {}, "bad.parquet"),
    Bad("excel", b"PK\x03\x04", ("bad.xlsx", ".csv", ".parquet", "CSV"), {}, "bad.xlsx"),
    Bad("pickle", b"\x80\x04", ("bad.pkl", "Pickle"), {}, "bad.pkl"),
]

VALUES = [
    Bad("no_target", GOOD, ("target", "--target", "size, colour, label"), {"target": "none"}),
    Bad("absent_target", GOOD, ("'lable'", "'label'", "size"), {"target": "lable"}),
    Bad("ignored_target", GOOD, ("data.ignore", "'label'"), {"ignore": ("label",)}),
    Bad("empty_target", "a,label\n1,\n2,\n3,\n", ("bad.csv", "'label'", "empty")),
    Bad("missing_targets", "a,label\n1,x\n2,\n3,x\n4,y\n5,\n6,y\n", ("'label'", "missing", "lines 3, 6")),
    Bad("missing_number_targets", "a,label\n1,0\n2,NA\n3,1\n4,0\n5,1\n", ("'label'", "missing", "line 3")),
    Bad("one_class", "a,label\n1,x\n2,x\n3,x\n", ("'label'", "'x'", "nothing to tell apart")),
    Bad("class_of_one_row", "a,label\n1,x\n2,x\n3,lonely\n4,y\n5,y\n", ("line 4", "'label'", "'lonely'", "single row")),
    Bad(
        "class_number_of_one_row", "a,label\n1,0\n2,0\n3,7\n4,1\n5,1\n6,1\n", ("line 4", "'7'", "single", "regression")
    ),
    Bad("constant_target", "a,label\n1,2.5\n2,2.5\n3,2.5\n", ("'label'", "2.5", "nothing to predict")),
    Bad(
        "text_for_regression",
        "a,label\n1,x\n2,y\n3,x\n",
        ("line 2", "'label'", "'x'", "regression"),
        {"task": "regression"},
    ),
    Bad(
        "nearly_all_classes",
        "a,label\n" + "".join(f"{i % 9},name{i}\n" for i in range(40)),
        ("'label'", "40 distinct", "classes"),
    ),
    Bad(
        "too_many_classes",
        "a,label\n" + "".join(f"{i % 7},{i % 1500}\n" for i in range(3000)),
        ("'label'", "1500 distinct", "1000", "regression"),
        {"task": "classification"},
    ),
    Bad("no_features", "label\nx\ny\nx\ny\n", ("bad.csv", "no column is left", "'label'")),
    Bad("unknown_ignore", GOOD, ("data.ignore", "'colours'", "'colour'"), {"ignore": ("colours",)}),
    Bad("unknown_categorical", GOOD, ("data.categorical", "'sise'", "'size'"), {"categorical": ("sise",)}),
    Bad("all_constant", "a,b,label\n" + "1,z,x\n1,z,y\n" * 4, ("a, b", "data.ignore")),
    Bad("infinity", "a,label\n1,x\n2,y\ninf,x\n3,y\n", ("line 4", "'a'", "inf", "infinite")),
    Bad("minus_infinity", "a,label\n1,x\n2,y\n-Infinity,x\n3,y\n", ("line 4", "'a'", "-Infinity")),
    Bad("beyond_double", "a,label\n1,x\n2,y\n1e400,x\n3,y\n", ("line 4", "'a'", "1e400", "32-bit")),
    Bad("beyond_float32", "a,label\n1,x\n2,y\n-1e39,x\n3,y\n", ("line 4", "'a'", "-1e39", "32-bit")),
    Bad("infinite_target", "a,label\n1,1.5\n2,2.5\n3,inf\n", ("line 4", "'label'", "inf")),
    Bad(
        "text_among_numbers",
        "a,label\n" + "".join(f"{i},{'xy'[i % 2]}\n" for i in range(30)) + "abc,x\n",
        ("line 32", "'a'", "'abc'", "data.categorical", "data.ignore"),
    ),
    Bad(
        "iso_dates",
        "day,label\n" + "2024-01-31,x\n2024-02-01,y\n" * 3,
        ("line 2", "'day'", "'2024-01-31'", "date", "ignore"),
    ),
    Bad("times", "day,label\n" + "12:30,x\n2:45:10,y\n" * 3, ("line 2", "'day'", "'12:30'", "time")),
    Bad("stamps", "day,label\n" + "2024-01-31T10:00:00Z,x\n2024-01-31 10:00:00.5,y\n" * 3, ("'day'", "date")),
    Bad("slashes", "day,label\n" + "31/01/2024,x\n1/2/99,y\n" * 3, ("line 2", "'day'", "date")),
    Bad("months", "day,label\n" + '"Jan 3, 2024",x\n4 February 2024,y\n' * 3, ("line 2", "'day'", "date")),
    Bad("dates_with_gaps", "day,label\n" + ",x\n2024-02-01,y\nNA,x\n" * 3, ("line 3", "'day'", "date")),
    Bad("decimal_comma", 'a,label\n"1,5",x\n"2,25",y\n"3,5",x\n"4,5",y\n', ("line 2", "'a'", "'1,5'", "decimal")),
]


@pytest.mark.parametrize("bad", [*TEXT, *VALUES], ids=lambda bad: bad.name)
def test_refuses_by_name(bad: Bad, tmp_path: Path) -> None:
    path = tmp_path / bad.file
    path.write_bytes(bad.content.encode() if isinstance(bad.content, str) else bad.content)
    settings = DataSettings(**({"target": "label"} | dict(bad.settings)))
    with pytest.raises(InputError) as caught:
        open_table(path, settings, SplitSettings())
    message = str(caught.value)
    assert all(word in message for word in bad.words), message
    assert message.count("\n") == 0
    assert len(message) < 700


@pytest.mark.parametrize("bad", TEXT, ids=lambda bad: bad.name)
def test_prediction_input_is_refused_alike(bad: Bad, tmp_path: Path) -> None:
    path = tmp_path / bad.file
    path.write_bytes(bad.content.encode() if isinstance(bad.content, str) else bad.content)
    with pytest.raises(InputError) as caught:
        read_frame(path, DataSettings(**bad.settings))
    assert all(word in str(caught.value) for word in bad.words), str(caught.value)


@pytest.mark.parametrize("bad", TEXT, ids=lambda bad: bad.name)
def test_large_files_are_refused_alike(bad: Bad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caviar.data.table_files.MEGABYTE", 0)
    monkeypatch.setenv("CAVIAR_CACHE", str(tmp_path / "cache"))
    path = tmp_path / bad.file
    path.write_bytes(bad.content.encode() if isinstance(bad.content, str) else bad.content)
    with pytest.raises(InputError) as caught:
        open_table(path, DataSettings(**({"target": "label"} | dict(bad.settings))), SplitSettings())
    assert all(word in str(caught.value) for word in bad.words), str(caught.value)
    left = [found for found in (tmp_path / "cache").rglob("*") if found.is_file()]
    assert left == []


@pytest.mark.parametrize("cut", [5, 8, 40, 300])
def test_cut_parquet(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.parquet"
    pl.read_csv(GOOD.encode()).write_parquet(path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match=r"cut\.parquet.*cut short"):
        open_table(path, DataSettings(target="label"), SplitSettings())


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "bent.parquet"
    pl.read_csv(GOOD.encode()).write_parquet(path)
    content = bytearray(path.read_bytes())
    content[-200:-100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bent\.parquet.*damaged"):
        open_table(path, DataSettings(target="label"), SplitSettings())


def test_parquet_types(tmp_path: Path) -> None:
    import datetime

    path = tmp_path / "typed.parquet"
    settings = DataSettings(target="label")
    frame = pl.DataFrame(
        {"day": [datetime.date(2024, 1, i + 1) for i in range(4)], "a": [1, 2, 3, 4], "label": [0, 1, 0, 1]}
    )
    frame.write_parquet(path)
    with pytest.raises(InputError, match=r"typed\.parquet.*'day'.*2024-01-01.*date.*data\.ignore"):
        open_table(path, settings, SplitSettings())
    assert open_table(path, DataSettings(target="label", ignore=("day",)), SplitSettings()).inputs.columns == ["a"]
    frame.with_columns(pl.lit([1, 2]).alias("day")).write_parquet(path)
    with pytest.raises(InputError, match=r"typed\.parquet.*'day'.*List"):
        open_table(path, settings, SplitSettings())
    frame.head(0).write_parquet(path)
    with pytest.raises(InputError, match=r"typed\.parquet.*no rows"):
        open_table(path, settings, SplitSettings())


def _folder(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _near(path: Path) -> None:
    path.with_name("table.csv").write_text(GOOD)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_folder, ("tabel.csv", "folder")),
        (_loop, ("tabel.csv", "cannot be read")),
        (_near, ("no such file", "table.csv")),
    ],
)
def test_files_that_are_none(make: Callable[[Path], None], words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "tabel.csv"
    make(path)
    with pytest.raises(InputError) as caught:
        open_table(path, DataSettings(target="label"), SplitSettings())
    assert all(word in str(caught.value) for word in words)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent does not exist"):
        open_table(tmp_path / "absent" / "table.csv", DataSettings(target="label"), SplitSettings())


def test_fault_far_into_a_file_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    lines = [f"{i},{i * 2},{'yx'[i % 2]}" for i in range(60_000)]
    lines[51_234] = "7,x"
    path.write_text("a,b,label\n" + "\n".join(lines) + "\n")
    with pytest.raises(InputError, match="line 51236: 2 fields"):
        open_table(path, DataSettings(target="label"), SplitSettings())
    lines[51_234] = "7,abc,x"
    path.write_text("a,b,label\n" + "\n".join(lines) + "\n")
    with pytest.raises(InputError, match="line 51236, column 'b': text 'abc'"):
        open_table(path, DataSettings(target="label"), SplitSettings())
    lines[51_234] = "7,1e300,x"
    path.write_text("a,b,label\n" + "\n".join(lines) + "\n")
    with pytest.raises(InputError, match="line 51236, column 'b': 1e300"):
        open_table(path, DataSettings(target="label"), SplitSettings())


def test_lines_count_newlines_in_quotes_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines.csv"
    path.write_text('note,a,label\n"one\ntwo",1,x\n\n"three",2,y\n\n,inf,x\n"f",3,y\n')
    with pytest.raises(InputError, match="line 7, column 'a': inf"):
        open_table(path, DataSettings(target="label"), SplitSettings())


def test_unseen_class_and_missing_columns_in_other_files(tmp_path: Path) -> None:
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text(GOOD.replace(",0\n", ",no\n").replace(",1\n", ",yes\n"))
    test.write_text("colour,label,size\nred,yes,1\nred,maybe,2\n")
    settings = DataSettings(target="label")
    with pytest.raises(InputError, match=r"test\.csv, line 3, column 'label': class 'maybe' was never seen"):
        open_table(train, settings, SplitSettings(), None, test)
    test.write_text("color,label,size\nred,yes,1\n")
    with pytest.raises(InputError, match=r"test\.csv: column 'colour' is missing.*'color'"):
        open_table(train, settings, SplitSettings(), None, test)
    test.write_text("colour,label,size\nred,yes,big\n")
    with pytest.raises(InputError, match=r"test\.csv, line 2, column 'size': text 'big'"):
        open_table(train, settings, SplitSettings(), None, test)
    test.write_text("colour,label,size\nred,yes,1\nred,,2\n")
    with pytest.raises(InputError, match=r"test\.csv, column 'label': the target is missing in line 3"):
        open_table(train, settings, SplitSettings(), None, test)
    test.write_text("colour,label,size\nred,yes,1\nred,no,inf\n")
    with pytest.raises(InputError, match=r"test\.csv, line 3, column 'size': inf"):
        open_table(train, settings, SplitSettings(), test, None)


def test_split_columns_must_be_there_and_full(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,side,label\n1,train,0\n2,,1\n3,test,0\n4,train,1\n")
    settings = DataSettings(target="label")
    with pytest.raises(InputError, match=r"split\.column.*'sides'.*'side'"):
        open_table(path, settings, SplitSettings(column="sides"))
    with pytest.raises(InputError, match=r"'side' \(split\.column\): no value in line 3"):
        open_table(path, settings, SplitSettings(column="side"))
    with pytest.raises(InputError, match=r"split\.group names 'label'"):
        open_table(path, settings, SplitSettings(group="label"))
