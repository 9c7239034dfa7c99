"""benchmarks/drift.py in small: what it compares, and that it sees what is planted."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

FOLDER = str(Path(__file__).resolve().parents[2] / "benchmarks")


@pytest.fixture
def drift(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The benchmark's module, gone from the import system afterwards."""
    monkeypatch.syspath_prepend(FOLDER)
    yield import_module("drift")
    for name in ("drift", "cifar", "nets"):
        sys.modules.pop(name, None)


def test_members_drift_no_further_than_ordinary_runs(drift: ModuleType) -> None:
    told: list[None] = []
    result = drift.compare(drift.digits(), runs=3, steps=12, seed=0, told=lambda: told.append(None))
    rows = {row["name"]: row for row in result["rows"]}
    assert result["steps"] == [1, 10, 12]
    assert len(told) == 1 + 3 + 3 + 3
    assert all(rows[kind]["step_held"] for kind in ("singles", "stacked", "chain"))
    assert not any(row["step_held"] for row in result["rows"] if row["kind"] == "control")
    assert not rows["learning rate 100 times lower"]["spread_held"]
    assert result["moved"]["runs"] == 3
    assert 0 < result["moved"]["distance_largest"][1] < 1e-6
    assert set(result["missed"]) <= {"singles", "stacked", "chain"}, "three runs in twelve steps have hardly a spread"
    json.dumps(result)


def test_a_member_that_is_off_is_missed(drift: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    by_population = drift.by_population

    def wrong(work: Any, kind: str, steps: int, seed: int) -> object:
        if kind != "stacked":
            return "not asked for"
        return by_population(replace(work, learning_rate=0.1001), kind, steps, seed)

    monkeypatch.setattr(drift, "by_population", wrong)
    result = drift.compare(drift.digits(), runs=2, steps=1, seed=0)
    assert result["missed"] == ["stacked"]
    assert set(result["not_run"]) == {"singles", "chain"}


def test_one_weight_moves_by_one_unit(drift: ModuleType) -> None:
    work = drift.digits()
    before, after = (drift.make_net(work, 0, 0) for _ in range(2))
    drift.moved(after, 5)
    pairs = [(a != b).sum() for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert int(torch.stack(pairs).sum()) == 1
    largest = max(
        float((a - b).abs().max().detach()) for a, b in zip(before.parameters(), after.parameters(), strict=True)
    )
    assert 0 < largest < 1e-7
