import json
import math

from caviar.core.findings import FAMILIES, Finding, Remedy, at_least


def test_a_finding_becomes_strict_json() -> None:
    remedy = Remedy("Divide the learning rate by 10.", {"optimizer.learning_rate": "/ 10"})
    finding = Finding("LR003", "Loss explodes", "error", 0.95, "It rose.", numbers={"a": math.inf}, remedies=(remedy,))
    value = json.loads(json.dumps(finding.to_dict(), allow_nan=False))
    assert value["family"] == "LR"
    assert value["numbers"] == {"a": "Infinity"}
    assert value["remedies"] == [{"do": remedy.do, "change": {"optimizer.learning_rate": "/ 10"}}]


def test_severities_are_ordered_and_families_named() -> None:
    assert at_least("error", "warning")
    assert at_least("warning", "warning")
    assert not at_least("info", "warning")
    assert set(FAMILIES) == {"DATA", "INIT", "GRAD", "LR", "FIT", "NORM", "REG", "NUM", "PERF", "SEARCH"}
