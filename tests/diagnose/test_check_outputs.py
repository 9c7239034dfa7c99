"""What a loss expects, and what knowing nothing comes to: against closed forms."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from caviar import nn as caviar_nn
from caviar.diagnose.checks_outputs import (
    accuracy,
    constant_loss,
    floor_loss,
    loss_kind,
    neutral_loss,
)

ROWS = 200
generator = torch.Generator().manual_seed(0)
LABELS = torch.randint(0, 5, (ROWS,), generator=generator)
YES = (torch.rand(ROWS, 1, generator=generator) < 0.3).float()
NUMBERS = 3 * torch.randn(ROWS, 1, generator=generator) + 2
LOGITS = torch.randn(ROWS, 5, generator=generator)
SHARES = torch.randn(ROWS, 5, generator=generator).softmax(1)

KINDS: dict[str, tuple[str, Callable[[Any, Tensor], Tensor], Tensor, Tensor]] = {
    "cross entropy": ("logits", functional.cross_entropy, LOGITS, LABELS),
    "smoothed": ("logits", nn.CrossEntropyLoss(label_smoothing=0.2), LOGITS, LABELS),
    "weighted": ("logits", nn.CrossEntropyLoss(torch.tensor([1.0, 2, 3, 4, 5])), LOGITS, LABELS),
    "shares": ("logits", functional.cross_entropy, LOGITS, SHARES),
    "a lambda": ("logits", lambda z, y: -z.log_softmax(1).gather(1, y[:, None]).mean(), LOGITS, LABELS),
    "focal": (
        "logits",
        lambda z, y: (-((1 - z.softmax(1)) ** 2) * z.log_softmax(1)).gather(1, y[:, None]).mean(),
        LOGITS,
        LABELS,
    ),
    "ours": ("logits", caviar_nn.cross_entropy, LOGITS, LABELS),
    "hinge": ("margins", caviar_nn.hinge, LOGITS, LABELS),
    "torch's hinge": ("margins", nn.MultiMarginLoss(), LOGITS, LABELS),
    "one against the rest": ("sigmoids", caviar_nn.logistic, LOGITS, LABELS),
    "nll": ("log_probabilities", nn.NLLLoss(), LOGITS, LABELS),
    "log of p": ("probabilities", lambda p, y: -p.gather(1, y[:, None]).log().mean(), LOGITS, LABELS),
    "bce": ("probabilities", nn.BCELoss(), YES * 0, YES),
    "bce with logits": ("sigmoids", nn.BCEWithLogitsLoss(), YES * 0, YES),
    "bce with weight": ("sigmoids", nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)), YES * 0, YES),
    "squared": ("numbers", nn.MSELoss(), NUMBERS * 0, NUMBERS),
    "squared of 0 and 1": ("numbers", nn.MSELoss(), YES * 0, YES),
    "absolute": ("numbers", nn.L1Loss(), NUMBERS * 0, NUMBERS),
    "ours squared": ("numbers", caviar_nn.mean_squared_error, NUMBERS * 0, NUMBERS[:, 0]),
}


@pytest.mark.parametrize(("kind", "loss", "outputs", "targets"), KINDS.values(), ids=KINDS)
def test_kinds_of_losses(kind: str, loss: Callable[[Any, Tensor], Tensor], outputs: Tensor, targets: Tensor) -> None:
    assert loss_kind(loss, outputs, targets) == kind


def test_expected_values_of_the_lectures() -> None:
    entropy = -sum(
        share * math.log(share) for share in (torch.bincount(LABELS) / ROWS).tolist()
    )  # log C at equal odds, the entropy of the classes' shares at best
    assert neutral_loss(functional.cross_entropy, "logits", LOGITS, LABELS) == pytest.approx(math.log(5), rel=1e-6)
    assert constant_loss(functional.cross_entropy, "logits", LOGITS, LABELS)[0] == pytest.approx(entropy, rel=1e-4)
    assert neutral_loss(caviar_nn.hinge, "margins", LOGITS, LABELS) == pytest.approx(4.0)
    bce = nn.BCEWithLogitsLoss()
    assert neutral_loss(bce, "sigmoids", YES * 0, YES) == pytest.approx(math.log(2), rel=1e-6)
    assert neutral_loss(nn.NLLLoss(), "log_probabilities", LOGITS, LABELS) == pytest.approx(math.log(5), rel=1e-6)
    variance = float(NUMBERS.var(correction=0))
    least, output = constant_loss(nn.MSELoss(), "numbers", NUMBERS * 0, NUMBERS)
    assert least == pytest.approx(variance, rel=1e-5)
    assert float(output) == pytest.approx(float(NUMBERS.mean()), rel=1e-4)


def test_the_least_loss() -> None:
    assert floor_loss(functional.cross_entropy, "logits", LOGITS, LABELS) < 0.01
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.2)
    floor = -(0.84 * math.log(0.84) + 4 * 0.04 * math.log(0.04))
    assert floor_loss(smoothed, "logits", LOGITS, LABELS) == pytest.approx(floor, rel=1e-3)
    assert floor_loss(nn.MSELoss(), "numbers", NUMBERS * 0, NUMBERS) == 0.0
    assert floor_loss(nn.BCELoss(), "probabilities", YES * 0, YES) < 0.01


@given(st.lists(st.integers(1, 50), min_size=2, max_size=6))
def test_a_constant_output_comes_to_the_entropy_of_the_shares(counts: list[int]) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    outputs = torch.zeros(len(labels), len(counts))
    least, _ = constant_loss(functional.cross_entropy, "logits", outputs, labels)
    assert least == pytest.approx(float(-(shares * shares.log()).sum()), rel=1e-3)


def test_accuracy_by_kind() -> None:
    hits = functional.one_hot(LABELS, 5).float()
    assert accuracy("logits", hits, LABELS) == 1.0
    assert accuracy("logits", -hits, LABELS) == 0.0
    assert accuracy("sigmoids", 2 * YES - 1, YES) == 1.0
    assert accuracy("probabilities", YES, YES) == 1.0
    assert accuracy("logits", hits, hits) == 1.0
    assert accuracy("numbers", NUMBERS, NUMBERS) is None
