"""The suite of faults: large enough, over all families, every set-up on digits can be built, and judged fairly."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from caviar.core.findings import FAMILIES
from caviar.diagnose.pages import pages

FOLDER = str(Path(__file__).resolve().parents[2] / "benchmarks")
TRAINED = ("transferred", "fine-tuned", "low-rank")
"""Healthy set-ups that train while they are built."""


@pytest.fixture(scope="module")
def suite() -> Iterator[ModuleType]:
    before = set(sys.modules)
    sys.path.insert(0, FOLDER)
    try:
        yield import_module("diagnosis")
    finally:
        sys.path.remove(FOLDER)
        for name in [name for name in set(sys.modules) - before if name.startswith("diagnosis")]:
            del sys.modules[name]


def test_the_suite_is_as_large_as_promised_and_over_all_families(suite: ModuleType) -> None:
    faults = [setup for setup in suite.SETUPS.values() if setup.codes]
    healthy = [setup for setup in suite.SETUPS.values() if not setup.codes]
    assert len(faults) >= 80
    assert len(healthy) >= 40
    assert len(suite.SETUPS) == len(suite.FAULTS) + len(suite.HEALTHY)  # no name twice
    assert {suite.family(code) for setup in faults for code in setup.codes} == set(FAMILIES)
    assert {code for setup in faults for code in setup.codes} <= pages().keys()
    aside = sum(suite.is_aside(name) for name in suite.SETUPS)
    assert 0.4 < aside / len(suite.SETUPS) < 0.6


def test_every_set_up_on_digits_can_be_built_and_has_a_loss(suite: ModuleType, tmp_path: Path) -> None:
    built = 0
    for name, setup in suite.SETUPS.items():
        if not name.rpartition(", ")[2].startswith("digits") or name.startswith(TRAINED):
            continue
        work = setup.build(tmp_path)
        suite.build_optimizer(work)
        rows = slice(0, work.batch_size)
        loss = work.loss(work.model(work.data.train[0][rows]), work.data.train[1][rows])
        assert isinstance(loss, torch.Tensor), name
        built += 1
    assert built > 80


@pytest.mark.parametrize(
    ("codes", "checks", "findings", "code", "family"),
    [
        (["LR001"], [], [("LR001", "warning")], True, True),
        (["LR001"], ["LR001"], [], True, True),
        (["LR012"], [], [("LR012", "info")], True, True),
        (["LR001"], [], [("LR002", "warning")], False, True),
        (["LR001"], [], [("LR002", "info")], False, False),
        (["LR001"], ["DATA002"], [("FIT004", "error")], False, False),
        (["NUM001", "NUM002"], ["NUM002"], [], True, True),
    ],
)
def test_a_fault_is_judged_by_its_codes(
    suite: ModuleType, codes: list[str], checks: list[str], findings: list[Any], code: bool, family: bool
) -> None:
    result = {
        "codes": codes,
        "checks": [{"code": each} for each in checks],
        "findings": [{"code": each, "severity": severity, "consequence_of": ""} for each, severity in findings],
    }
    judged = suite.judge(result)
    assert (judged["code"], judged["family"]) == (code, family)
