"""Checks that train for a moment, on machines that are too slow for it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import caviar
from caviar.diagnose import checks_brief
from caviar.diagnose.checks import CHECKS
from caviar.diagnose.checks_brief import Clock, adam, learn
from caviar.diagnose.checks_setup import Batch, Setup
from tests.diagnose.healthy import digits, mlp, parts


class Ticks:
    """A clock that is over after so many looks at it."""

    def __init__(self, looks: int) -> None:
        self._left = looks

    @property
    def is_over(self) -> bool:
        self._left -= 1
        return self._left < 0


@pytest.mark.parametrize("looks", [0, 1, 12, 40])
def test_a_slow_machine_raises_no_false_alarm(looks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("checks_tiny", "checks_learning", "checks_rate"):
        monkeypatch.setattr(f"caviar.diagnose.{module}.Clock", lambda seconds: Ticks(looks))
    torch.manual_seed(0)
    model = mlp([64, 32, 10])
    train, dev = parts(digits())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    report = caviar.check(model, train, nn.CrossEntropyLoss(), dev=dev, optimizer=optimizer, progress=False)
    assert report.ok, report.failed
    tiny = next(result for result in report.results if result.code == "FIT101")
    assert tiny.status == "skipped"
    assert "no time" in tiny.words


def test_out_of_time_at_a_later_rate_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rate learns nothing in all its steps; at the second one time is up."""
    monkeypatch.setattr("caviar.diagnose.checks_tiny.STEPS", 5)
    monkeypatch.setattr("caviar.diagnose.checks_tiny.LOOK", 5)
    monkeypatch.setattr("caviar.diagnose.checks_tiny.Clock", lambda seconds: Ticks(6))
    others = [check.code for check in CHECKS if check.code != "FIT101"]
    report = caviar.check(mlp([64, 16, 10]), digits(), nn.CrossEntropyLoss(), mute=others, progress=False)
    (result,) = report.results
    assert result.status == "skipped", result.words


def test_learning_ends_with_the_clock() -> None:
    batch = Batch(*digits())
    setup = Setup(mlp([64, 16, 10]), nn.CrossEntropyLoss(), batch)

    def steps(clock: Any) -> tuple[int, bool]:
        model = setup.fresh(training=True)
        brief = learn(model, setup, batch, adam(model, 1e-3), steps=9, batch_size=8, clock=clock)
        return len(brief.losses), brief.out_of_time

    assert steps(Ticks(4)) == (4, True)
    assert steps(Ticks(9)) == (9, False)


def test_the_clock_counts_this_process_and_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # of the endless time that other tests have
    now = {"process_time": 5.0, "monotonic": 70.0}
    stand_in = SimpleNamespace(process_time=lambda: now["process_time"], monotonic=lambda: now["monotonic"])
    monkeypatch.setattr(checks_brief, "time", stand_in)
    threads = torch.get_num_threads()
    clock = Clock(2.0)
    now["process_time"] += 2.0 * threads
    now["monotonic"] += 6.0
    assert not clock.is_over
    now["process_time"] += 0.1
    assert clock.is_over
    now["process_time"] -= 1.0
    assert not clock.is_over
    now["monotonic"] += 0.1
    assert clock.is_over
