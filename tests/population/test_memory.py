"""What a population takes, against counts by hand."""

import gc
import platform
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from caviar.population import Layout, Population, Step, memory
from caviar.population.memory import Live, Memory, describe_memory, fitting, predict_memory, step_bytes
from caviar.population.side_by_side import share_freed_memory

BATCH, FEATURES, UNITS, CLASSES, MEMBERS = 10, 6, 8, 3, 4


def population(rule: str | dict[str, Any]) -> Population:
    net = nn.Sequential(nn.Linear(FEATURES, UNITS), nn.Tanh(), nn.Linear(UNITS, CLASSES))
    return Population(net, members=MEMBERS, optimizer=rule)


def test_counts_by_hand() -> None:
    weights = 4 * (FEATURES * UNITS + UNITS + UNITS * CLASSES + CLASSES)
    inputs, targets = torch.zeros(1000, FEATURES)[:BATCH], torch.zeros(BATCH, dtype=torch.int64)
    cohort = population("adamw").cohort
    found = predict_memory(cohort, Layout("stacked", MEMBERS), inputs, targets)
    assert found.weights == found.gradients == MEMBERS * weights
    assert found.optimizer == 2 * MEMBERS * weights
    # tanh's outputs, the log probabilities that cross entropy keeps, and at most as much again going back
    expected = 4 * (BATCH * UNITS + BATCH * CLASSES)
    assert expected <= step_bytes(cohort, inputs, targets) <= 2 * expected + 64
    assert found.activations == MEMBERS * step_bytes(cohort, inputs, targets)
    singles = predict_memory(cohort, Layout("singles", MEMBERS), inputs, targets)
    assert singles.activations == step_bytes(cohort, inputs, targets)
    for momentum, slots in ((0.9, 1), (0.0, 0)):
        cohort = population({"name": "sgd", "momentum": momentum}).cohort
        found = predict_memory(cohort, Layout("stacked", MEMBERS), inputs, targets)
        assert found.optimizer == slots * MEMBERS * weights


def test_what_does_not_fit_is_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = population("adamw").cohort
    inputs, targets = torch.zeros(BATCH, FEATURES), torch.zeros(BATCH, dtype=torch.int64)
    whole = Layout("stacked", MEMBERS)
    assert fitting(cohort, [whole], inputs, targets) == [whole]
    wanted = predict_memory(cohort, whole._replace(size=2), inputs, targets).total
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(wanted / memory.SHARE) + 1)
    assert fitting(cohort, [whole], inputs, targets) == [whole._replace(size=2)]


def test_said_in_words() -> None:
    words = describe_memory(Memory(3 << 30, 2 << 20, 5 << 10, 100))
    assert "weights 3.0 GB" in words
    assert "gradients 2.0 MB" in words
    assert "optimiser 5.0 kB" in words
    assert "activations 100 bytes" in words


def test_what_an_executor_holds_is_held_once() -> None:
    members = population("adamw")
    for layout in (Layout("singles", MEMBERS), Layout("stacked", MEMBERS), Layout("chain", MEMBERS)):
        copy = members.select(range(MEMBERS))
        kept = weakref.ref(copy.cohort.weights["0.weight"].untyped_storage())
        step = Step(torch.randn(BATCH, FEATURES), torch.zeros(BATCH, dtype=torch.int64))
        copy.prepare([step], layout)
        copy.take(step)
        gc.collect()
        assert kept() is None, f"{layout.kind} keeps the weights that it was made with"
        assert copy.cohort.weights["0.weight"].is_meta
        assert copy.select([1]).cohort.weights["0.weight"].shape == (1, UNITS, FEATURES)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a malloc that cannot be told")
def test_threads_share_what_they_free() -> None:
    assert share_freed_memory()


def test_the_most_that_is_held_at_once() -> None:
    known = torch.zeros(100)
    with Live([known]) as live:
        first = known + 1
        second = first * 2
        assert live.most == 800
        del first
        third = second + 1
        second.add_(third)
        view = third.view(10, 10)
        assert live.most == 800
        assert float(view.sum()) > 0
    assert live.most <= 808
