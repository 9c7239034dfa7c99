"""Reading findings from runs that are stored: whole, short, cut short, damaged, still going."""

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from caviar.core.errors import InputError
from caviar.diagnose.rules import CROSS_RULES, RULES
from caviar.workflow.diagnose import RunDiagnosis, diagnose_run
from tests.workflow.faulty import cli, iris

ONLY_FINISHED = {"LR012", "LR014", "FIT002", "FIT005", "FIT006", "FIT008"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    settings = {"training.batch_size": 4, "watch.every": 1, "model.norm": "none"}
    return Path(iris(folder, epochs=6, settings=settings).folder.path)


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "it"))


def change_store(run: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(run / "records.sqlite")) as store:
        for statement in statements:
            store.execute(statement)
        store.commit()


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def reasons(found: RunDiagnosis) -> dict[str, str]:
    return {silent.code: silent.reason for silent in found.diagnosis.silent}


def test_a_whole_run_is_read_with_its_facts(run: Path) -> None:
    found = diagnose_run(run)
    assert found.status == "finished"
    assert found.num_records > 500
    assert found.diagnosis.findings  # the shape of its curve, at least
    assert not ONLY_FINISHED & {code for code, why in reasons(found).items() if "come to their end" in why}


def test_a_run_of_one_epoch_is_not_blamed(tmp_path: Path) -> None:
    found = diagnose_run(iris(tmp_path, epochs=1).folder.path)
    assert not found.diagnosis.at_least("warning")
    assert any("it takes" in why for why in reasons(found).values())


def test_a_run_that_goes_on_and_one_that_was_killed_are_judged_by_what_there_is(run: Path) -> None:
    change_json(run / "run.json", status="running")
    with FileLock(run / "lock"):
        assert diagnose_run(run).status == "running"
    found = diagnose_run(run)
    assert found.status == "stopped"
    assert {code for code, why in reasons(found).items() if "come to their end" in why} == ONLY_FINISHED


@pytest.mark.parametrize(
    "where",
    [
        "name = 'batch_loss'",
        "name LIKE '%loss%'",
        "name = 'update_ratio'",
        "split = 'dev'",
        "split = 'train'",
        "layer <> ''",
        "name IN ('learning_rate', 'weight_norm', 'gradient_norm')",
        "1 = 1",
    ],
)
def test_rules_that_lack_quantities_stay_silent_and_say_what_they_lack(run: Path, where: str) -> None:
    before = reasons(diagnose_run(run))
    chosen = f"SELECT id FROM series WHERE {where}"
    change_store(run, f"DELETE FROM points WHERE series IN ({chosen})", f"DELETE FROM series WHERE {where}")
    found = diagnose_run(run)
    assert not found.diagnosis.at_least("warning")
    after = reasons(found)
    assert after.keys() > before.keys() or where == "1 = 1"
    assert not [why for why in after.values() if "failed on these records" in why]


def test_records_cut_short_are_read_as_far_as_they_go(run: Path) -> None:
    for last in (40, 20, 3, 1):
        change_store(run, f"DELETE FROM points WHERE step > {last}")
        found = diagnose_run(run)
        assert not found.diagnosis.at_least("warning")
        assert not [why for why in reasons(found).values() if "failed on these records" in why]


@pytest.mark.parametrize("value", ["NULL", "9e999", "-9e999", "'words'"])
def test_values_that_are_no_numbers_break_nothing(run: Path, value: str) -> None:
    change_store(run, f"UPDATE points SET value = {value} WHERE step % 3 = 0")
    found = diagnose_run(run)
    assert len(found.diagnosis.findings) + len(found.diagnosis.silent) > 0


@pytest.mark.parametrize(
    "facts",
    ["{", "[1]", '{"version": 1}', '{"version": 1, "layers": [[1, 2, 3, 4, 5, 6]], "epochs": "x"}',
     '{"version": 1, "train_shares": ["a", null], "layers": null, "batch_size": "32"}', None],
)  # fmt: skip
def test_facts_that_are_damaged_or_gone_are_done_without(run: Path, facts: str | None) -> None:
    path = run / "facts.json"
    path.unlink() if facts is None else path.write_text(facts)
    assert diagnose_run(run).diagnosis.silent
    (run / "recipe.toml").unlink()
    assert diagnose_run(run).recipe is None


def test_facts_of_a_newer_caviar_are_refused(run: Path) -> None:
    change_json(run / "facts.json", version=99)
    with pytest.raises(InputError, match="written by a newer caviar"):
        diagnose_run(run)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no record store here"),
        (lambda path: path.write_bytes(b""), "the record store is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "damaged"),
        (lambda path: path.write_bytes(b"words " * 2000), "not a record store"),
    ],
)
def test_a_store_that_cannot_be_read_is_an_input_error(
    run: Path, damage: Callable[[Path], Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run / "records.sqlite")
    code, _, said = cli(capsys, "diagnose", run)
    assert code == 2
    assert message in said
    assert "records.sqlite" in said


def test_verbose_tells_why_rules_are_silent_and_fail_on_sets_the_exit_code(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said, _ = cli(capsys, "diagnose", run, "--verbose", "--fail-on", "warning")
    assert code == 0
    silent = reasons(diagnose_run(run))
    assert all(f"  {code}: {why}" in said for code, why in silent.items())
    assert f"by {len(RULES) + len(CROSS_RULES) - len(silent)} rules; {len(silent)} stayed silent" in said
    change_store(run, "UPDATE points SET value = NULL WHERE series IN "
                      "(SELECT id FROM series WHERE name = 'batch_loss') AND step > 30")  # fmt: skip
    assert cli(capsys, "diagnose", run, "--fail-on", "error", "--quiet")[0] == 1
    code, said, _ = cli(capsys, "diagnose", run, "--json")
    found = json.loads(said)
    assert (code, found["worst"], found["findings"][0]["code"]) == (0, "error", "NUM001")
