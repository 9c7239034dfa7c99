"""caviar diagnose --prove: table, JSON and wrong input."""

from tests.cli.conftest import Caviar
from tests.cli.test_cli_output import check_documented


def test_a_proof_is_shown_and_printed_as_json(caviar: Caviar) -> None:
    slow = ["--set", "optimizer.name=sgd", "--set", "optimizer.learning_rate=1e-5"]
    assert caviar("train", "sample:digits", "--epochs", "3", "--name", "slow", *slow).code == 0
    done = caviar("diagnose", "runs/slow", "--prove", "--seeds", "1", "--code", "LR001")
    assert done.code == 0, done.err
    assert "Proof of LR001" in done.out
    assert "(nothing changed)" in done.out
    assert "Take: --set optimizer.learning_rate=" in done.out
    given = caviar("diagnose", "runs/slow", "--prove", "--seeds", "1", "--code", "LR001", "--json")
    check_documented(given.json)
    assert given.json["proof"]["winner"]


def test_wrong_input(caviar: Caviar) -> None:
    assert caviar("train", "sample:iris", "--epochs", "1", "--name", "it", "--set", "watch.findings=none").code == 0
    assert "is for --prove" in caviar("diagnose", "runs/it", "--seeds", "2").err
    assert caviar("diagnose", "runs/it", "--prove", "--code", "LR999").code == 2
