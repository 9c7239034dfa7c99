"""caviar diagnose on a run of many members: in words, as JSON, of one trial, and with wrong input."""

from tests.cli.conftest import Caviar
from tests.cli.test_cli_output import check_documented

RATES = "population.learning_rate=[1e-7, 0.05, 1e-7, 1e7]"
OPTIONS = ["--epochs", "8", "--name", "many", "--members", "4"]
SETTINGS = ["--set", "training.batch_size=8", "--set", "optimizer.name=sgd", "--set", RATES]


def test_findings_of_many_members(caviar: Caviar) -> None:
    trained = caviar("train", "sample:iris", *OPTIONS, *SETTINGS, "--json")
    assert trained.code == 0, trained.err
    low = next(finding for finding in trained.json["findings"] if finding["code"] == "LR001")
    assert low["members"] == [0, 2]

    done = caviar("diagnose", "runs/many")
    assert done.code == 0, done.err
    assert "of findings in 4 trials from" in done.out
    assert "warning LR001 in 2 of 4 trials (0 and 2): Learning rate far too low" in done.out
    assert "Worst in trial " in done.out
    assert "--set optimizer.learning_rate" not in done.out
    assert "--trial N" in done.out
    assert "Silent:" in caviar("diagnose", "runs/many", "--verbose").out

    found = caviar("diagnose", "runs/many", "--json").json
    check_documented(found)
    assert found["members"] == 4
    assert next(group for group in found["groups"] if group["code"] == "LR001")["members"] == [0, 2]
    assert {finding["member"] for finding in found["findings"] if finding["code"] == "LR001"} == {0, 2}

    one = caviar("diagnose", "runs/many", "--trial", "2", "--json").json
    check_documented(one)
    assert (one["trial"], "groups" in one) == (2, False)
    assert {finding["member"] for finding in one["findings"]} == {2}
    assert caviar("diagnose", "runs/many", "--fail-on", "warning").code == 1
    assert caviar("diagnose", "runs/many", "--trial", "1", "--fail-on", "error").code == 0

    absent = caviar("diagnose", "runs/many", "--trial", "9")
    assert (absent.code, "no records of trial 9. There are records of trials 0 to 3" in absent.err) == (2, True)
    assert "--prove is for runs of one model" in caviar("diagnose", "runs/many", "--prove").err
