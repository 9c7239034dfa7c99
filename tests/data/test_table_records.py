"""The block-wise scans of text tables agree with Python's csv module, wherever blocks happen to end."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from caviar.core.errors import InputError
from caviar.data import digests, table_faults, table_records
from caviar.data.digests import sha256_of
from caviar.data.settings import DataSettings
from caviar.data.table_faults import check_fields, check_quotes, guess_delimiter
from caviar.data.table_records import check_utf8, line_of_row, plain_text, records, row_fields, scan_text

fields = st.one_of(
    st.sampled_from(["", "a", "12.5", 'say "x"', "a,b", "two\nlines", "\r\n", '"']), st.text('ab," é', max_size=4)
)
tables = st.lists(st.lists(fields, min_size=2, max_size=4), min_size=1, max_size=12)
many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(table: list[list[str]], end: str, finished: bool) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end).writerows(table)
    return text.getvalue() if finished else text.getvalue().removesuffix(end)


@given(table=tables, end=st.sampled_from(["\n", "\r\n"]), finished=st.booleans(), block=st.integers(1, 40))
@example(table=[["a", "b"], ["", ""]], end="\n", finished=False, block=3)
@many
def test_records_are_those_of_the_csv_module(
    table: list[list[str]], end: str, finished: bool, block: int, tmp_path: Path
) -> None:
    path = tmp_path / "table.csv"
    text = written(table, end, finished)
    path.write_bytes(text.encode())
    chunks = list(records(path, block))
    assert [int(n) for chunk in chunks for n in chunk.fields(ord(","))] == [len(row) for row in table]
    assert not any(chunk.blank().any() for chunk in chunks)
    reader = csv.reader(io.StringIO(text, newline=""))
    before, lines = 1, []
    for _ in reader:
        lines.append(before)
        before = reader.line_num + 1
    if "\r\n" not in "".join(map("".join, table)):
        assert [int(line) for chunk in chunks for line in chunk.lines] == lines
    for row in range(len(table) - 1):
        assert row_fields(path, row, ",") == [field.strip() for field in table[row + 1]]


@given(
    lines=st.lists(st.sampled_from(["", "\r", "a,b", "a,", "a,\r", ",", "x\r"]), max_size=12), block=st.integers(1, 9)
)
@many
def test_scan_counts_what_a_plain_loop_counts(lines: list[str], block: int, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes("".join(line + "\n" for line in lines).encode())
    whole = table_records.SCAN_BLOCK
    try:
        table_records.SCAN_BLOCK = block
        facts = scan_text(path, ",")
    finally:
        table_records.SCAN_BLOCK = whole
    assert facts.lines == len(lines)
    assert facts.blank == sum(line in ("", "\r") for line in lines)
    assert facts.open_ends == sum(line.removesuffix("\r").endswith(",") for line in lines)


def test_scan_of_an_unfinished_line_and_of_faults(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b'a,"b"\n1,')
    assert scan_text(path, ",") == table_records.TextFacts(lines=2, blank=0, open_ends=1, quotes=2, nul=None)
    path.write_bytes(b"a,b\n1,\x002\n")
    assert scan_text(path, ",").nul == (6, 2)


@given(table=tables, block=st.integers(1, 30))
@many
def test_well_formed_quotes_pass(table: list[list[str]], block: int, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(written(table, "\n", finished=True).encode())
    whole = table_faults.BLOCK
    try:
        table_faults.BLOCK = block
        check_quotes(path, "table.csv", ",")
    finally:
        table_faults.BLOCK = whole


@pytest.mark.parametrize("block", [1, 2, 3, 5, 8, 1 << 20])
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('a,b\n1,"x\n2,y\n', 2),
        ('a,b\n1,"x\n2,"y"\n', 2),
        ('a,b\n1,"x""\n2,y\n', 2),
        ('a,b\n"p\nq",x\n2,"y\n', 4),
        ('a,b\n1,"x"y\n', 2),
        ('a,b\n1,x\n2,5"\n3,z\n', 3),
    ],
)
def test_broken_quotes_are_named_by_line(
    text: str, line: int, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_faults, "BLOCK", block)
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=f"table.csv, line {line}:"):
        check_quotes(path, "table.csv", ",")


def test_ragged_lines_are_counted_in_full(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b\n" + "1\n" * 7 + "\n1,2\n")
    with pytest.raises(InputError, match=r"line 2: 1 field, .* 2 fields \(also lines 3, 4, 5, 6; 7 lines in all\)"):
        check_fields(path, "table.csv", ",", 2)


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 20])
def test_offset_of_a_byte_that_is_not_utf8(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_records, "BLOCK", block)
    path = tmp_path / "table.csv"
    for head in ("a,b\nü,€\n", "a\n\n"):
        path.write_bytes(head.encode() + b"1,\xff\n")
        offset, line = len(head.encode()) + 2, head.count("\n") + 1
        with pytest.raises(InputError, match=f"line {line}: byte 0xFF at offset {offset} is not utf-8"):
            check_utf8(path, "table.csv")
    path.write_bytes("a,b\nü,€".encode()[:-1])
    with pytest.raises(InputError, match="line 2: byte 0xE2 at offset 7"):
        check_utf8(path, "table.csv")


def test_lines_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('a,b\n\n"x\ny",1\n\n2,3\n4,5')
    assert [line_of_row(path, row) for row in range(3)] == [3, 6, 7]


def test_temporary_text_goes_with_the_block(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes("a,b\n1,ü\n".encode("utf-16"))
    with plain_text(path, DataSettings()) as plain:
        assert plain.read_text() == "a,b\n1,ü\n"
    assert not plain.exists()
    path.write_bytes(b"a,b\n")
    with plain_text(path, DataSettings()) as plain:
        assert plain == path


@pytest.mark.parametrize(
    ("text", "current", "guess"),
    [
        ("a;b\n1;2\n", ",", ";"),
        ("a,b\n1,2\n", ",", None),
        ("a\tb\n1\t2\n", ",", "\t"),
        ("one column\n12\n13\n", ",", None),
        ("a,b;c\n1,5;2\n", ",", None),
        ("a|b|c;d\n1|2|3;4\n", ",", "|"),
        ("", ",", None),
    ],
)
def test_guessed_delimiter(text: str, current: str, guess: str | None, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    assert guess_delimiter(path, current) == guess


def test_digests_are_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(path: Path) -> str:
        calls.append(path)
        return sha256_of(path)

    monkeypatch.setattr(digests, "sha256_of", counted)
    monkeypatch.setattr(digests, "REMEMBERED_SIZE", 0)
    path = tmp_path / "table.csv"
    path.write_text("one")
    assert digests.content_digest(path) == digests.content_digest(path) == sha256_of(path)
    assert len(calls) == 2, "a file written a moment ago is not trusted"
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**12))
    first = digests.content_digest(path)
    assert digests.content_digest(path) == first
    assert len(calls) == 3
    path.write_text("two")
    assert digests.content_digest(path) == sha256_of(path) != first
    assert digests.combined_digest([first]) == first
    assert digests.combined_digest([first, first]) not in (first, digests.combined_digest([first]))
