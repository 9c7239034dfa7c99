"""Bad input from the command line: exit code 2, a message that says where and what to do, and nothing left behind."""

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from tests.cli.conftest import Caviar
from tests.workflow.small import table, write_pictures

Make = Callable[[Path], list[Any]]
LINES = ["a,b,label", *(f"{i * 0.5},{i % 7},{'yes' if i % 3 else 'no'}" for i in range(40))]


def csv_file(content: str | bytes | None = None, name: str = "t.csv", target: str = "label") -> Make:
    """Write a file, and train on it."""

    def make(folder: Path) -> list[Any]:
        data = "\n".join(LINES) + "\n" if content is None else content
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
        return [name, "--target", target]

    return make


def with_line(number: int, line: str) -> str:
    """The small table with line `number` (the header is line 1) replaced."""
    return "\n".join([*LINES[: number - 1], line, *LINES[number:]]) + "\n"


def with_labels(labels: list[str]) -> str:
    return "\n".join(["a,label", *(f"{row},{label}" for row, label in enumerate(labels))]) + "\n"


def framed(change: Callable[[pl.DataFrame], pl.DataFrame], target: str = "label") -> Make:
    def make(folder: Path) -> list[Any]:
        change(table()).write_csv(folder / "t.csv")
        return ["t.csv", "--target", target]

    return make


def parquet_cut(folder: Path) -> list[Any]:
    table().write_parquet(folder / "t.parquet")
    whole = (folder / "t.parquet").read_bytes()
    (folder / "t.parquet").write_bytes(whole[: len(whole) // 2])
    return ["t.parquet", "--target", "label"]


def gzip_cut(folder: Path) -> list[Any]:
    draw = np.random.default_rng(0)
    rows = "\n".join(["a,label", *(f"{draw.normal()},{i % 2}" for i in range(3000))]) + "\n"
    whole = gzip.compress(rows.encode())
    (folder / "t.csv.gz").write_bytes(whole[: len(whole) // 2])
    return ["t.csv.gz", "--target", "label"]


def unseen_class(folder: Path) -> list[Any]:
    csv_file()(folder)
    (folder / "test.csv").write_text("a,b,label\n1,2,yes\n1,2,maybe\n")
    return ["t.csv", "--target", "label", "--test", "test.csv"]


TABLES: dict[str, tuple[Make, list[str]]] = {
    "empty file": (csv_file(""), ["t.csv", "empty"]),
    "header only": (csv_file("a,b,label\n"), ["t.csv", "no rows"]),
    "ragged, short": (csv_file(with_line(5, "1,2")), ["t.csv", "line 5", "2", "3"]),
    "ragged, long": (csv_file(with_line(6, "1,2,yes,4")), ["t.csv", "line 6"]),
    "duplicate names": (csv_file(with_line(1, "a,a,label")), ["t.csv", "'a'"]),
    "blank name": (csv_file(with_line(1, "a,,label")), ["t.csv", "column 2"]),
    "unclosed quote": (csv_file(with_line(9, '1,"2,yes')), ["t.csv", "line 9", "quot"]),
    "NUL byte": (csv_file(with_line(4, "1,\0,yes")), ["t.csv", "line 4", "NUL"]),
    "wrong encoding": (csv_file(with_line(3, "1,2,é").encode("latin-1")), ["t.csv", "line 3", "0xE9", "data.encoding"]),
    "wrong delimiter": (csv_file("\n".join(LINES).replace(",", ";")), ["t.csv", "line 1", 'data.delimiter=";"']),
    "cut gzip": (gzip_cut, ["t.csv.gz", "cut"]),
    "cut Parquet": (parquet_cut, ["t.parquet", "cut short"]),
    "Excel": (csv_file(name="t.xlsx"), ["t.xlsx", "Save the sheet as CSV"]),
    "pickle": (csv_file(name="t.pkl"), ["t.pkl", "never loaded"]),
    "no target": (lambda folder: csv_file()(folder)[:1], ["t.csv", "--target", "a, b, label"]),
    "target absent": (csv_file(target="labels"), ["t.csv", "'labels'", "Did you mean 'label'?"]),
    "target empty": (csv_file(with_labels([""] * 30)), ["t.csv", "'label'", "empty"]),
    "target missing": (csv_file(with_line(8, "1,2,")), ["t.csv", "'label'", "line 8"]),
    "one class": (csv_file(with_labels(["yes"] * 30)), ["t.csv", "'label'", "'yes'"]),
    "class of one row": (csv_file(with_line(7, "1,2,maybe")), ["t.csv", "line 7", "'maybe'", "two"]),
    "infinity": (csv_file(with_line(3, "inf,2,yes")), ["t.csv", "line 3", "'a'", "inf"]),
    "beyond float32": (csv_file(with_line(3, "1e39,2,yes")), ["t.csv", "line 3", "'a'", "1e39"]),
    "text among numbers": (csv_file(with_line(12, "x1,2,yes")), ["t.csv", "line 12", "'a'", "'x1'"]),
    "dates": (
        framed(lambda f: f.with_columns(day=pl.date(2020, 1, 1))),
        ["t.csv", "line 2", "'day'", "date", "Convert"],
    ),
    "only constant columns": (framed(lambda f: f.select("label", a=pl.lit(1.0))), ["t.csv", "constant"]),
    "only id-like columns": (
        framed(lambda f: f.select("label", name=pl.int_range(pl.len()).cast(pl.String) + "x")),
        ["t.csv", "name"],
    ),
    "text as regression": (
        lambda folder: [*csv_file()(folder), "--set", "data.task=regression"],
        ["t.csv", "line 2", "'label'", "numbers"],
    ),
    "class unseen in training": (unseen_class, ["test.csv", "line 3", "'label'", "'maybe'"]),
    "ignored target": (lambda folder: [*csv_file()(folder), "--set", "data.ignore=['label']"], ["'label'", "target"]),
    "dev file without a column": (
        lambda folder: [*csv_file()(folder), "--dev", csv_file("a,label\n1,yes\n", "dev.csv")(folder)[0]],
        ["dev.csv", "'b'"],
    ),
    "dangling link": (lambda folder: [os.symlink("gone.csv", folder / "t.csv") or "t.csv", "--target", "a"], ["t.csv"]),
    "folder without pictures": (lambda folder: [(folder / "empty").mkdir() or "empty"], ["empty", "<class>"]),
}


def npy(inputs: Any, targets: Any, allow_pickle: bool = False) -> Make:
    def make(folder: Path) -> list[Any]:
        np.save(folder / "x.npy", inputs, allow_pickle=allow_pickle)
        np.save(folder / "y.npy", targets, allow_pickle=allow_pickle)
        return ["x.npy", "--target", "y.npy"]

    return make


X, Y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2

ARRAYS: dict[str, tuple[Make, list[str]]] = {
    "NaN": (npy(np.where(np.eye(40, 3) * np.arange(3) > 1, np.nan, X), Y), ["x.npy", "[2, 2]", "NaN"]),
    "infinity": (npy(np.where(np.eye(40, 3) * np.arange(3) > 1, np.inf, X), Y), ["x.npy", "[2, 2]", "inf"]),
    "beyond float32": (npy(np.where(np.eye(40, 3) * np.arange(3) > 1, 1e39, X), Y), ["x.npy", "1e+39"]),
    "pickled": (npy(np.array([{"a": 1}] * 40), Y, True), ["x.npy", "pickled", "never loaded"]),
    "pickled targets": (npy(X, np.array([{"a": 1}] * 40), True), ["y.npy", "pickled"]),
    "lengths": (npy(X, Y[:-1]), ["x.npy", "40", "39"]),
    "empty": (npy(X[:0], Y[:0]), ["x.npy", "empty"]),
    "one class": (npy(X, Y * 0), ["one class"]),
    "class of one row": (npy(X, (np.arange(40) == 7).astype(int)), ["'1'", "row 7"]),
    "one-hot targets": (npy(X, np.eye(2)[Y]), ["(40, 2)", "argmax"]),
    "text": (npy(np.full((40, 3), "a"), Y), ["x.npy", "text"]),
    "no targets": (lambda folder: npy(X, Y)(folder)[:1], ["x.npy", "target"]),
    "targets absent": (lambda folder: [npy(X, Y)(folder)[0], "--target", "z.npy"], ["z.npy"]),
}


def pictures(change: Callable[[Path], Any], *arguments: str) -> Make:
    def make(folder: Path) -> list[Any]:
        write_pictures(folder / "p", per_class=4)
        change(folder / "p")
        return ["p", *arguments]

    return make


def cut_short(root: Path) -> None:
    whole = (root / "dark" / "001.png").read_bytes()
    (root / "dark" / "001.png").write_bytes(whole[: len(whole) // 2])


def animated(root: Path) -> None:
    frames = [Image.new("RGB", (10, 10), (value, 0, 0)) for value in (0, 99)]
    frames[0].save(root / "dark" / "x.gif", save_all=True, append_images=frames[1:])


def loose(root: Path) -> None:
    for number, picture in enumerate(sorted(root.glob("*/*.png"))):
        picture.rename(root / f"{number}.png")
    for name in ("dark", "light"):
        (root / name).rmdir()


PICTURES: dict[str, tuple[Make, list[str]]] = {
    "cut short": (pictures(cut_short), ["dark/001.png", "cut short"]),
    "empty picture": (pictures(lambda root: (root / "dark" / "x.png").write_bytes(b"")), ["dark/x.png", "empty"]),
    "no picture": (pictures(lambda root: (root / "light" / "x.jpg").write_text("hello")), ["light/x.jpg", "not a"]),
    "animated": (pictures(animated), ["dark/x.gif", "animated"]),
    "pixel cap": (pictures(lambda root: None, "--set", "data.max_pixels=50"), ["p/dark/000.png", "max_pixels"]),
    "empty class": (pictures(lambda root: (root / "grey").mkdir()), ["p/grey", "no pictures"]),
    "class of one": (
        pictures(lambda root: [(root / "grey").mkdir(), os.link(root / "dark/000.png", root / "grey/0.png")]),
        ["grey/0.png", "'grey'"],
    ),
    "symlink loop": (pictures(lambda root: (root / "dark" / "loop").symlink_to(root)), ["dark/loop", "link"]),
    "dangling link": (pictures(lambda root: (root / "dark" / "x.png").symlink_to("gone")), ["dark/x.png", "link"]),
    "target for pictures": (pictures(lambda root: None, "--target", "dark"), ["target", "folder"]),
    "loose pictures": (pictures(loose), ["p: 8 pictures but no class folders"]),
}

SETTINGS: dict[str, tuple[list[str], list[str]]] = {
    "learning rate 0": (["--set", "optimizer.learning_rate=0"], ["optimizer.learning_rate", "greater than 0"]),
    "learning rate negative": (["--set", "optimizer.learning_rate=-1e-3"], ["optimizer.learning_rate", "-0.001"]),
    "learning rate NaN": (["--set", "optimizer.learning_rate=nan"], ["optimizer.learning_rate", "nan"]),
    "learning rate infinite": (["--set", "optimizer.learning_rate=inf"], ["optimizer.learning_rate", "inf"]),
    "learning rate text": (["--set", "optimizer.learning_rate=fast"], ["optimizer.learning_rate", "fast", "number"]),
    "batch size 0": (["--set", "training.batch_size=0"], ["training.batch_size", "at least 1"]),
    "batch size too large": (["--set", "training.batch_size=1000"], ["1000", "batch_size"]),
    "batch size 1 with batch norm": (
        ["--set", "training.batch_size=1", "--set", "model.norm=batch"],
        ["batch", "norm"],
    ),
    "dropout 1": (["--set", "model.dropout=1"], ["model.dropout", "below 1"]),
    "dropout negative": (["--set", "model.dropout=-0.1"], ["model.dropout", "-0.1"]),
    "zero epochs": (["--epochs", "0"], ["--epochs 0", "at least 1"]),
    "no width": (["--set", "model.widths=[0]"], ["model.widths", "entry 1"]),
    "unknown section": (["--set", "modle.name=mlp"], ["modle", "model"]),
    "unknown metric": (["--set", "training.metric=acuracy"], ["training.metric", "accuracy"]),
    "metric of the other task": (["--set", "training.metric=r2"], ["training.metric", "classification"]),
    "loss of the other task": (["--set", "loss.name=mean_squared_error"], ["mean_squared_error", "classification"]),
    "pictures' network for a table": (["--set", "model.name=convnet"], ["convnet", "mlp"]),
    "absent device": (["--device", "cuda:77"], ["cuda:77", "cpu"]),
    "unknown device": (["--device", "tpu"], ["tpu", "cpu"]),
    "shares above 1": (["--set", "split.test=1.5"], ["split.test", "1.5"]),
    "shares that leave nothing": (["--set", "split.test=0.6", "--set", "split.dev=0.6"], ["split.dev", "split.test"]),
    "nothing to split by": (["--set", "split.method=group"], ["split.group"]),
    "path trick": (["--name", "../out"], ["'../out'", "letters"]),
    "absolute name": (["--name", "/tmp/out"], ["'/tmp/out'"]),
    "hidden name": (["--name", ".out"], ["'.out'"]),
    "dot dot": (["--name", ".."], ["'..'"]),
    "empty name": (["--name", ""], ["''"]),
    "newline in the name": (["--name", "a\nb"], ["not allowed"]),
    "no module": (["--set", "model.name=given", "--set", "model.class_name=Net"], ["Net", "model="]),
}


UNUSED: dict[str, tuple[list[str], list[str]]] = {
    "target of a sample": (["sample:iris", "--target", "species"], ["sample:iris", "data.target (species)"]),
    "rows beside a sample": (["sample:iris", "--dev", "t.csv"], ["sample:iris", "data.dev"]),
    "task of a sample": (["sample:iris", "--set", "data.task=regression"], ["'classification'", "data.task"]),
    "kind of a sample": (["sample:iris", "--set", "data.kind=table"], ["'arrays'", "data.kind"]),
    "split column of arrays": (["sample:iris", "--set", "split.column=side"], ["split.column", "have none"]),
    "group of arrays": (["sample:iris", "--set", "split.group=who"], ["split.group", "have none"]),
    "ignored columns of arrays": (["sample:iris", "--set", "data.ignore=['a']"], ["data.ignore", "have none"]),
    "categories of arrays": (["sample:iris", "--set", "data.categorical=['a']"], ["data.categorical", "have none"]),
    "name of a resumed run": (["--resume", "runs/x", "--name", "y"], ["--name", "--resume"]),
}


def check_refused(caviar: Caviar, folder: Path, arguments: list[Any], words: list[str]) -> None:
    before = {path for path in folder.rglob("*") if "cache" not in path.parts}
    done = caviar("train", *arguments)
    assert done.code == 2, done
    assert done.out == ""
    assert "Traceback" not in done.err
    message = next(line for line in done.err.splitlines() if line.startswith("error: "))
    for word in words:
        assert word in done.err[done.err.index(message) :], f"{word!r} is not in: {message}"
    assert {path for path in folder.rglob("*") if "cache" not in path.parts} == before, "something was left behind"


@pytest.mark.parametrize(("make", "words"), TABLES.values(), ids=TABLES)
def test_bad_tables(caviar: Caviar, tmp_path: Path, make: Make, words: list[str]) -> None:
    check_refused(caviar, tmp_path, make(tmp_path), words)


@pytest.mark.parametrize(("make", "words"), ARRAYS.values(), ids=ARRAYS)
def test_bad_arrays(caviar: Caviar, tmp_path: Path, make: Make, words: list[str]) -> None:
    check_refused(caviar, tmp_path, make(tmp_path), words)


@pytest.mark.parametrize(("make", "words"), PICTURES.values(), ids=PICTURES)
def test_bad_pictures(caviar: Caviar, tmp_path: Path, make: Make, words: list[str]) -> None:
    check_refused(caviar, tmp_path, make(tmp_path), words)


@pytest.mark.parametrize(("arguments", "words"), SETTINGS.values(), ids=SETTINGS)
def test_bad_settings(caviar: Caviar, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    check_refused(caviar, tmp_path, [*csv_file()(tmp_path), *arguments], words)


@pytest.mark.parametrize(("arguments", "words"), UNUSED.values(), ids=UNUSED)
def test_what_would_have_no_effect_is_refused(
    caviar: Caviar, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    check_refused(caviar, tmp_path, arguments, words)


def test_a_bad_recipe_is_refused_by_file_line_and_column(caviar: Caviar, tmp_path: Path) -> None:
    csv_file()(tmp_path)
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        '[data]\nsource = "t.csv"\ntarget = "label"\n[optimizer]\n  learnig_rate = 1\n[training]\nepochs = 0\n'
    )
    check_refused(
        caviar,
        tmp_path,
        ["r.toml"],
        ["r.toml, line 5, column 3", "optimizer.learning_rate", "r.toml, line 7, column 10", "at least 1"],
    )
    recipe.write_text('version = 2\n[data]\nsource = "t.csv"\n')
    check_refused(caviar, tmp_path, ["r.toml"], ["r.toml", "newer caviar"])
    recipe.write_text("[data\n")
    check_refused(caviar, tmp_path, ["r.toml"], ["r.toml, line 1", "TOML"])
    recipe.write_text('[data]\nsource = "u.csv"\n')
    check_refused(caviar, tmp_path, ["r.toml"], ["u.csv", "t.csv"])


def test_a_run_folder_that_exists_or_cannot_be_made(caviar: Caviar, tmp_path: Path) -> None:
    arguments = csv_file()(tmp_path)
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    check_refused(caviar, tmp_path, [*arguments, "--name", "taken"], ["runs/taken", "--name"])
    (tmp_path / "file").write_text("")
    check_refused(caviar, tmp_path, [*arguments, "--runs-dir", "file"], ["file", "not a writable folder"])
    check_refused(caviar, tmp_path, ["--resume", "runs/taken"], ["runs/taken", "not a run folder"])


def wide(frame: pl.DataFrame) -> pl.DataFrame:
    return frame[:40].with_columns((pl.int_range(pl.len()) * (i + 1)).sin().alias(f"c{i}") for i in range(50))


WARNED: dict[str, tuple[Make, list[str]]] = {
    "constant column": (framed(lambda f: f.with_columns(same=pl.lit(3))), ["'same'"]),
    "id-like column": (framed(lambda f: f.with_row_index("number")), ["'number'"]),
    "repeated rows": (framed(lambda f: pl.concat([f, f[:9]])), ["repeat an earlier one"]),
    "more columns than rows": (framed(wide), ["more columns (54) than rows (40)"]),
}


@pytest.mark.parametrize(("make", "words"), WARNED.values(), ids=WARNED)
def test_what_deserves_a_warning_only(caviar: Caviar, tmp_path: Path, make: Make, words: list[str]) -> None:
    done = caviar("train", *make(tmp_path), "--epochs", "1", "--json")
    assert done.code == 0, done.err
    notes = [line for line in done.err.splitlines() if line.startswith("note: ")]
    assert [f"note: {notice}" for notice in done.json["notices"]] == notes
    for word in words:
        assert any(word in note for note in notes), notes
    log = next((tmp_path / "runs").glob("*/train.log")).read_text(encoding="utf-8")
    assert all(note in log for note in notes)


def test_what_a_rule_handles(caviar: Caviar, tmp_path: Path) -> None:
    """A last batch of one with batch norm, and pictures of every mode."""
    arguments = csv_file("\n".join([*LINES, "1,2,yes"]) + "\n")(tmp_path)  # 25 train rows of 41
    sizes = ("--set", "training.batch_size=8", "--set", "model.norm=batch", "--epochs", "1")
    assert caviar("train", *arguments, *sizes, "--quiet").code == 0
    root = write_pictures(tmp_path / "p", per_class=6)
    picture = Image.open(root / "dark" / "000.png")
    picture.convert("CMYK").save(root / "dark" / "cmyk.jpg")
    picture.convert("RGBA").save(root / "dark" / "alpha.png")
    Image.fromarray(np.full((10, 10), 9000, np.uint16)).save(root / "light" / "deep.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(root / "light" / "turned.jpg", exif=turned)
    assert caviar("train", root, "--epochs", "1", "--quiet").code == 0


def test_compiling_without_a_compiler(caviar: Caviar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    arguments = [*csv_file()(tmp_path), "--device", "cpu", "--set", "device.compile=true"]
    check_refused(caviar, tmp_path, arguments, ["device.compile", "compiler", "g++"])


def test_outputs_that_cannot_be_written(caviar: Caviar, trained: Path, tmp_path: Path) -> None:
    for output, words in (("absent/p.csv", "absent does not exist"), (".", "a folder")):
        done = caviar("predict", trained / "runs" / "table", trained / "test.csv", "--output", output)
        assert done.code == 2
        assert words in done.err


def test_a_bundle_that_is_damaged_or_none(caviar: Caviar, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "runs" / "table" / "bundle", tmp_path / "b")
    weights = tmp_path / "b" / "network.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    for command in ("predict", "evaluate"):
        done = caviar(command, "b", trained / "test.csv")
        assert done.code == 2
        assert "network.safetensors" in done.err
        assert "damaged" in done.err
    (tmp_path / "none").mkdir()
    assert "bundle.json" in caviar("predict", "none", trained / "test.csv").err
    assert "not the folder of a bundle" in caviar("predict", trained / "test.csv", trained / "test.csv").err


def test_a_file_for_a_folder_of_runs(caviar: Caviar, trained: Path) -> None:
    done = caviar("runs", "--runs-dir", trained / "test.csv")
    assert (done.code, done.out) == (2, "")
    assert "Give the folder that holds the runs" in done.err
