"""What each command prints: words for a person, one JSON object with --json, nothing with --quiet."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Caviar
from tests.workflow.small import NO, YES, table

JSON_PAGE = Path(__file__).resolve().parents[2] / "docs" / "json.md"


def paths(value: Any, above: str = "") -> set[str]:
    """The keys of an object as the documentation writes them: metrics.classes[].recall."""
    if isinstance(value, list):
        return set().union(*(paths(entry, f"{above}[]") for entry in value), {f"{above}[]"} if value else set())
    if not isinstance(value, dict):
        return set()
    inside = {f"{above}.{key}".lstrip("."): entry for key, entry in value.items()}
    return set(inside).union(*(paths(entry, name) for name, entry in inside.items()))


def documented(kind: str) -> tuple[set[str], set[str]]:
    """The keys that docs/json.md lists for a kind of object, and those under which anything may stand."""
    page = JSON_PAGE.read_text(encoding="utf-8")
    section = re.search(rf"^## `caviar {kind}`\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert section, f"docs/json.md has no section on {kind}"
    text = section[1]
    for name in re.findall(r"\(see \[([\w ]+)\]", text):
        shared = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
        assert shared, name
        for prefix in re.findall(rf"^\| `([^`]+)` \|[^\n]*\(see \[{name}\]", text, re.MULTILINE):
            rows = re.findall(r"^\| `.*", shared[1], re.MULTILINE)
            text += "\n".join(re.sub(r"`([^`|]+)`(?=[^|]*\|)", rf"`{prefix}.\1`", row, count=9) for row in rows) + "\n"
    cells = re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE)
    keys = {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)}
    free = {key.removesuffix(".*") for key in keys if key.endswith(".*")}
    return {key.removesuffix(".*") for key in keys}, free


def check_documented(value: dict[str, Any]) -> None:
    kind = value["format"].removeprefix("caviar ")
    keys, free = documented(kind)
    found = {re.sub(r"\[\]$", "", path) for path in paths(value)}
    unknown = {path for path in found if path not in keys and not any(path.startswith(f"{top}.") for top in free)}
    assert not unknown, f"docs/json.md does not tell of {sorted(unknown)}"


COMMANDS = {
    "train table": ["train", "t.csv", "--target", "label", "--epochs", "1", "--seed", "3"],
    "train prices": ["train", "prices.csv", "--target", "price", "--epochs", "1"],
    "train resume": ["train", "--resume", "runs/table"],
    "recipe": ["recipe", "t.csv", "--target", "label"],
    "names": ["recipe", "--list"],
    "check": ["check", "t.csv", "--target", "label"],
    "find-lr": ["find-lr", "t.csv", "--target", "label", "--rates", "5", "--steps", "10", "--seeds", "1"],
    "evaluate table": ["evaluate", "runs/table/bundle", "test.csv"],
    "evaluate prices": ["evaluate", "runs/prices", "prices.csv"],
    "evaluate arrays": ["evaluate", "runs/arrays/bundle", "xy.npz"],
    "evaluate pictures": ["evaluate", "runs/pictures/bundle", "pictures"],
    "predict table": ["predict", "runs/table/bundle", "test.csv"],
    "predict to a file": ["predict", "runs/table/bundle", "test.csv", "--output", "p.csv"],
    "predict prices": ["predict", "runs/prices/bundle", "prices.csv"],
    "predict pictures": ["predict", "runs/pictures/bundle", "pictures/dark/000.png"],
    "diagnose": ["diagnose", "runs/table"],
    "explain": ["explain", "LR003"],
    "explain all": ["explain"],
    "runs": ["runs"],
    "runs of none": ["runs", "--runs-dir", "nowhere"],
}


@pytest.fixture
def in_trained(caviar: Caviar, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Caviar:
    """The command line in the folder of trained runs; new runs go elsewhere."""
    monkeypatch.chdir(trained)

    def run(*arguments: Any) -> Any:
        new = arguments[0] == "train" and "--resume" not in arguments
        return caviar(*arguments, *(["--runs-dir", tmp_path / "runs"] if new else []))

    return run


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_json_is_one_documented_object_on_stdout(in_trained: Caviar, command: list[str]) -> None:
    done = in_trained(*command, "--json")
    assert done.code == 0, done.err
    value = done.json
    assert value["format"] in (f"caviar {command[0]}", f"caviar {' '.join(command)}")
    assert value["version"] == 1
    check_documented(value)
    quiet = in_trained(*command, "--json", "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    assert paths(quiet.json) == paths(value)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_quiet_prints_nothing_but_what_was_asked_for(in_trained: Caviar, command: list[str]) -> None:
    done = in_trained(*command, "--quiet")
    assert (done.code, done.err) == (0, "")
    asked = command[0] == "recipe" or (command[0] == "predict" and "--output" not in command)
    assert bool(done.out) is asked


def test_training_in_words(in_trained: Caviar) -> None:
    done = in_trained("train", "t.csv", "--target", "label", "--epochs", "1", "--name", "first")
    for words in ("Test split, 24 rows", "accuracy", "95% interval", "Baseline: always", "recall", YES, NO, "Next:"):
        assert words in done.out, words
    for words in ("layer", "parameters", "Classification, 2 classes; 72 train, 24 dev, 24 test rows", "1 epoch"):
        assert words in done.err, words
    command = next(line.split() for line in done.out.splitlines() if line.startswith("  caviar predict"))
    assert Path(command[2]).is_dir()
    assert max(len(line) for line in done.err.splitlines() if not line.startswith("note:")) <= 80
    quantities = in_trained("train", "prices.csv", "--target", "price", "--epochs", "1", "--json")
    for words in ("r2", "rmse", "mae", "always the training mean"):
        assert words in quantities.err, words


def test_evaluation_equals_what_training_reports(in_trained: Caviar, tmp_path: Path) -> None:
    for source, target in (("t.csv", "label"), ("prices.csv", "price")):
        command = ["train", source, "--target", target, "--epochs", "1", "--test", source, "--seed", "5", "--json"]
        trained = in_trained(*command, "--name", target).json
        report = in_trained("evaluate", tmp_path / "runs" / target / "bundle", source, "--json").json
        own = {key: value for key, value in trained["metrics"].items() if key not in ("split", "best_epoch")}
        assert report["metrics"] == own


def test_predictions_in_a_file_on_stdout_and_in_json(in_trained: Caviar, tmp_path: Path) -> None:
    printed = in_trained("predict", "runs/table/bundle", "test.csv")
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert list(rows[0]) == ["row_id", "prediction", f"probability_{NO}", f"probability_{YES}"]
    assert len(rows) == 60
    written = in_trained("predict", "runs/table", "test.csv", "-o", tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text(encoding="utf-8") == printed.out
    assert written.out == f"60 predictions are in {tmp_path / 'p.csv'}.\n"
    given = in_trained("predict", "runs/table", "test.csv", "--json").json
    assert [row["prediction"] for row in given["predictions"]] == [row["prediction"] for row in rows]
    assert "predictions" not in in_trained("predict", "runs/table", "test.csv", "-o", tmp_path / "p.csv", "--json").json


def test_notices_of_predictions_go_to_stderr(in_trained: Caviar, tmp_path: Path) -> None:
    table(30).drop("label").with_columns(extra=1).with_columns(
        city=table(30)["city"].replace("Bern", "Rīga")
    ).write_csv(tmp_path / "new.csv")
    done = in_trained("predict", "runs/table", tmp_path / "new.csv")
    assert "note: 1 column is not used, as training did not have it: 'extra'." in done.err.splitlines()
    assert re.search(r"note: column 'city': \d+ rows with a category without a slot", done.err)
    value = in_trained("predict", "runs/table", tmp_path / "new.csv", "--json").json
    assert value["unseen"]["city"] > 0
    assert len(value["notices"]) == 2


def test_the_list_of_runs(in_trained: Caviar, trained: Path) -> None:
    done = in_trained("runs")
    lines = done.out.splitlines()
    assert lines[0].split() == ["run", "status", "epoch", "metric", "dev", "test", "started", "source"]
    assert [line.split()[:3] for line in lines[1:]] == [
        [name, "finished", "1/1"] for name in ("table", "prices", "arrays", "pictures")
    ]
    listed = in_trained("runs", "--json").json["runs"]
    assert [entry["path"] for entry in listed] == [f"runs/{entry['name']}" for entry in listed]
    assert listed[0]["metrics"]["accuracy"]["value"] > 0
    empty = in_trained("runs", "--runs-dir", "nowhere")
    assert (empty.code, empty.out) == (0, "There are no runs in nowhere/. Start one: caviar train sample:digits\n")


def test_a_damaged_run_does_not_hide_the_others(caviar: Caviar, trained: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(trained / "runs", tmp_path / "runs")
    (tmp_path / "runs" / "table" / "run.json").write_text("{")
    done = caviar("runs")
    assert done.code == 0
    assert re.search(r"^table +damaged.*run\.json", done.out, re.MULTILINE)
    assert re.search(r"^prices +finished", done.out, re.MULTILINE)
    check_documented(caviar("runs", "--json").json)


def test_errors_are_json_as_well(caviar: Caviar) -> None:
    done = caviar("train", "absent.csv", "--target", "y", "--json")
    assert done.code == 2
    value = done.json
    check_documented(value)
    assert (value["format"], value["exit_code"]) == ("caviar error", 2)
    assert value["error"] in done.err
    usage = caviar("train", "--epoch", "3", "--json")
    assert usage.code == 2
    assert "--epochs" in usage.err
    assert usage.json["exit_code"] == 2


def test_names_from_data_are_printed_as_they_are(caviar: Caviar, tmp_path: Path) -> None:
    """Not taken for the markup of the library that prints."""
    names = {YES: "[bold]a[/bold]", NO: ":smile: [/]"}
    table().with_columns(label=table()["label"].replace(names)).write_csv(tmp_path / "t.csv")
    done = caviar("train", "t.csv", "--target", "label", "--epochs", "1")
    assert done.code == 0
    assert "[bold]a[/bold]" in done.out
    assert ":smile: [/]" in done.out


def test_the_recipe_in_json_is_the_recipe(in_trained: Caviar) -> None:
    value = in_trained("recipe", "t.csv", "--target", "label", "--json").json
    assert value["recipe"]["data"]["target"] == "label"
    assert value["toml"] == in_trained("recipe", "t.csv", "--target", "label").out
    chosen = [value["recipe"][section] for section in ("split", "model", "loss", "optimizer", "training", "device")]
    assert '"auto"' not in json.dumps(chosen)
