"""Soft labels, as mixup makes them, in every form of cross entropy; and what cannot be a loss is said."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from caviar.augment import soft_labels
from caviar.core.errors import InputError
from caviar.nn import LOSSES, balanced_class_weights, cross_entropy, hinge, huber, logistic, mean_squared_error

MEMBERS, BATCH, CLASSES = 3, 6, 4


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


LOGITS = 3 * torch.randn(MEMBERS, BATCH, CLASSES, generator=seeded(), dtype=torch.float64)
LABELS = torch.randint(CLASSES, (BATCH,), generator=seeded(1))
SOFT = torch.softmax(torch.randn(MEMBERS, BATCH, CLASSES, generator=seeded(2), dtype=torch.float64), -1)
WEIGHTS = torch.rand(CLASSES, generator=seeded(3), dtype=torch.float64)


def by_hand(logits: Tensor, soft: Tensor, smoothing: float, weights: Tensor | None) -> Tensor:
    """One value an example (batch,), from (batch, classes)."""
    q = (1 - smoothing) * soft + smoothing / CLASSES
    return -(q * torch.log_softmax(logits, -1) * (1 if weights is None else weights)).sum(-1)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "class weights"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_members_equal_torch_one_by_one(shared: bool, weights: Tensor | None, smoothing: float) -> None:
    soft = SOFT[0] if shared else SOFT
    together = cross_entropy(LOGITS, soft, label_smoothing=smoothing, class_weights=weights)
    for member in range(MEMBERS):
        own = SOFT[0] if shared else SOFT[member]
        witness = functional.cross_entropy(LOGITS[member], own, weight=weights, label_smoothing=smoothing)
        torch.testing.assert_close(together[member], witness)
        torch.testing.assert_close(by_hand(LOGITS[member], own, smoothing, weights).mean(), witness)


def test_members_have_smoothings_of_their_own() -> None:
    smoothing = torch.tensor([0.0, 0.1, 0.5], dtype=torch.float64)
    together = cross_entropy(LOGITS, SOFT, label_smoothing=smoothing, reduction="none")
    for member in range(MEMBERS):
        witness = by_hand(LOGITS[member], SOFT[member], float(smoothing[member]), None)
        torch.testing.assert_close(together[member], witness)


@pytest.mark.parametrize("members", [True, False])
def test_weighted_examples(members: bool) -> None:
    example_weights = torch.rand(BATCH, generator=seeded(4), dtype=torch.float64)
    logits, soft = (LOGITS, SOFT) if members else (LOGITS[0], SOFT[0])
    found = cross_entropy(logits, soft, example_weights=example_weights, class_weights=WEIGHTS)
    each = by_hand(logits, soft, 0.0, WEIGHTS)
    torch.testing.assert_close(found, (each * example_weights).sum(-1) / example_weights.sum())


def test_soft_labels_of_one_class_are_class_numbers() -> None:
    soft = soft_labels(LABELS, CLASSES)
    for logits in (LOGITS, LOGITS[0]):
        for more in ({}, {"label_smoothing": 0.3}, {"example_weights": torch.arange(BATCH)}):
            torch.testing.assert_close(cross_entropy(logits, soft, **more), cross_entropy(logits, LABELS, **more))


def test_the_mix_of_labels_has_the_mix_of_losses() -> None:
    share = 0.3
    mixed = share * soft_labels(LABELS, CLASSES) + (1 - share) * soft_labels(LABELS.flip(0), CLASSES)
    expected = share * cross_entropy(LOGITS, LABELS) + (1 - share) * cross_entropy(LOGITS, LABELS.flip(0))
    torch.testing.assert_close(cross_entropy(LOGITS, mixed), expected)


@pytest.mark.parametrize("form", [LOGITS[0], LOGITS], ids=["plain", "members"])
@pytest.mark.parametrize("name", ["cross_entropy", "hinge", "logistic"])
@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (torch.tensor([0, 1, 2, 3, 7, 0]), "targets go from 0 to 7, but with 4 classes they must be 0 to 3"),
        (torch.tensor([0, 1, -1, 3, 2, 0]), "targets go from -1 to 3"),
        (torch.tensor([0, 1, 2]), "do not fit"),
        (torch.tensor([0.0, 1.5, 2.0, 1.0, 1.0, 0.0]), "do not fit|must be whole"),
    ],
    ids=["too high", "negative", "too few", "floating"],
)
def test_labels_that_are_none(name: str, form: Tensor, targets: Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        LOSSES[name](form, targets)


@pytest.mark.parametrize("loss", [hinge, logistic])
def test_other_losses_take_no_soft_labels(loss: object) -> None:
    with pytest.raises(InputError, match="do not fit"):
        loss(LOGITS[0], SOFT[0])  # type: ignore[operator]


@pytest.mark.parametrize("name", LOSSES)
def test_an_empty_batch_has_no_mean(name: str) -> None:
    classes = name in ("cross_entropy", "hinge", "logistic")
    for shape in ((0,), (2, 0)):
        outputs = torch.zeros(*shape, 3 if classes else 1)
        targets = torch.zeros(0, dtype=torch.long if classes else torch.float32)
        with pytest.raises(InputError, match="the batch is empty"):
            LOSSES[name](outputs, targets)
        assert LOSSES[name](outputs, targets, reduction="none").shape == shape


@pytest.mark.parametrize("name", ["cross_entropy", "hinge", "logistic"])
def test_weights_that_do_not_fit(name: str) -> None:
    for logits in (LOGITS, LOGITS[0]):
        with pytest.raises(InputError, match=r"class_weights has shape \(3,\); give one weight for each of the 4"):
            LOSSES[name](logits, LABELS, class_weights=torch.ones(3))
        with pytest.raises(InputError, match=r"example_weights has shape \(3,\)"):
            LOSSES[name](logits, LABELS, example_weights=torch.ones(3))


@pytest.mark.parametrize("bad", [1.0, -0.1, float("nan")])
def test_smoothing_out_of_range(bad: float) -> None:
    for logits in (LOGITS, LOGITS[0]):
        with pytest.raises(InputError, match="label_smoothing must be at least 0 and below 1"):
            cross_entropy(logits, LABELS, label_smoothing=bad)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf"), float("nan")])
def test_margin_and_delta_out_of_range(bad: float) -> None:
    with pytest.raises(InputError, match="margin must be greater than 0"):
        hinge(LOGITS, LABELS, margin=bad)
    with pytest.raises(InputError, match="delta must be greater than 0"):
        huber(LOGITS[0, :, 0], LOGITS[1, :, 0], delta=bad)


def test_errors_of_another_kind_stay_what_they_are() -> None:
    with pytest.raises(InputError, match="do not fit"):
        mean_squared_error(LOGITS[0], LABELS.double())
    for counts in ([], [-1, 2], [0, 0]):
        with pytest.raises(InputError, match="counts is"):
            balanced_class_weights(counts)
