"""caviar verify population: what it says, and its exit codes."""

import json

import pytest
import torch

from caviar.population import verify
from caviar.population.cases import CASES
from tests.workflow.faulty import cli


@pytest.fixture(autouse=True)
def few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("three linear layers", "conv 1d")
    monkeypatch.setattr(verify, "CASES", tuple(case for case in CASES if case.name in names))
    monkeypatch.setattr(verify, "RULES", ("adam", "muon"))


def test_promises_that_hold(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = cli(capsys, "verify", "population")
    assert code == 0, out
    assert "Every promise held." in out
    words = " ".join(out.split())
    assert "not run by stacked, whose members run in another way" in words
    assert "(network, update rule): three linear layers, muon." in words
    assert "not run by chain" in words
    assert "Traceback" not in err


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = cli(capsys, "verify", "population", "--executor", "chain", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["what"], found["failed"]) == ("population", 0)
    assert found["checked"] == len(found["rows"])
    assert {row["executor"].split(",")[0] for row in found["rows"]} == {"chain"}
    assert any(row["reason"] for row in found["rows"])
    assert all(row["control"] > row["limit"] for row in found["rows"] if not row["reason"])


def test_a_promise_that_is_broken(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"sgd": lambda params, lr: torch.optim.SGD(params, lr=lr * 1.001, momentum=0.9)}
    monkeypatch.setattr(verify, "TORCH_RULES", wrong)
    code, out, _ = cli(capsys, "verify", "population", "--executor", "stacked")
    assert code == 1
    assert "FAILED equals a plain step, float32: three linear layers, sgd, stacked" in out
    assert "is more than 1e-06" in out
    assert "8 of" in out


def test_a_check_that_sees_nothing_fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_plant", lambda weights: None)
    code, out, _ = cli(capsys, "verify", "population", "--executor", "singles")
    assert code == 1
    assert "a planted change of 0.1% was not seen" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("populatoin",), "Did you mean 'population'"), (("population", "--executor", "stakced"), "stacked")],
)
def test_names_that_do_not_exist(arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = cli(capsys, "verify", *arguments)
    assert code == 2
    assert words in " ".join(err.split())
