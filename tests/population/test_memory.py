"""What a population takes, against counts by hand."""

from typing import Any

import pytest
import torch
from torch import nn

from caviar.population import Layout, Population, memory
from caviar.population.memory import Memory, describe_memory, fitting, predict_memory, saved_bytes

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
    # tanh's outputs, and the log probabilities that cross entropy keeps with the sum of its weights
    expected = 4 * (BATCH * UNITS + BATCH * CLASSES)
    assert expected <= saved_bytes(cohort, inputs, targets) <= expected + 64
    assert found.activations == MEMBERS * saved_bytes(cohort, inputs, targets)
    singles = predict_memory(cohort, Layout("singles", MEMBERS), inputs, targets)
    assert singles.activations == saved_bytes(cohort, inputs, targets)
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
