"""All losses: against torch and float64, far out, in the members form, weighted."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional

from caviar.core.columns import Task
from caviar.core.errors import InputError
from caviar.nn import (
    LOSSES,
    balanced_class_weights,
    build_loss,
    class_log_probabilities,
    cross_entropy,
    hinge,
    huber,
    logistic,
    mean_squared_error,
    resolve_loss,
)
from caviar.nn.settings import (
    AutoLossSettings,
    CrossEntropySettings,
    HingeSettings,
    HuberSettings,
    LogisticSettings,
    LossSettings,
    MeanSquaredErrorSettings,
)

CLASS_LOSSES = ("cross_entropy", "hinge", "logistic")
VARIED: dict[str, tuple[str, tuple[float, float, float]]] = {
    "cross_entropy": ("label_smoothing", (0.0, 0.1, 0.6)),
    "hinge": ("margin", (0.5, 1.0, 3.0)),
    "huber": ("delta", (0.1, 1.0, 2.0)),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def example(name: str, *shape: int, seed: int = 0, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    """Outputs (*shape, classes or 1) and targets (*shape,) in float64."""
    if name in CLASS_LOSSES:
        outputs = torch.randn(*shape, 4, generator=seeded(seed), dtype=torch.float64)
        return scale * outputs, torch.randint(4, shape, generator=seeded(seed + 1))
    outputs = torch.randn(*shape, 1, generator=seeded(seed), dtype=torch.float64)
    return scale * outputs, torch.randn(*shape, generator=seeded(seed + 1), dtype=torch.float64)


# Witnesses.


@given(st.integers(2, 7), st.integers(1, 20), st.floats(0.1, 3), st.integers(0, 1000))
def test_hinge_is_torchs_margin_loss_times_classes(classes: int, batch: int, margin: float, seed: int) -> None:
    logits = torch.randn(batch, classes, generator=seeded(seed), dtype=torch.float64, requires_grad=True)
    targets = torch.randint(classes, (batch,), generator=seeded(seed + 1))
    expected = classes * functional.multi_margin_loss(logits, targets, margin=margin, reduction="none")
    torch.testing.assert_close(hinge(logits, targets, margin=margin, reduction="none"), expected)
    (ours,) = torch.autograd.grad(hinge(logits, targets, margin=margin), logits)
    (torchs,) = torch.autograd.grad(expected.mean(), logits)
    torch.testing.assert_close(ours, torchs)


def test_hinge_gradient_counts_violated_margins() -> None:
    logits = torch.tensor([[3.0, 2.5, 1.0, 2.2]], requires_grad=True)  # the first is right: two others are within 1
    hinge(logits, torch.tensor([0])).backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-2.0, 1.0, 0.0, 1.0]]


@given(st.integers(2, 6), st.integers(1, 20), st.integers(0, 1000))
def test_logistic_is_binary_cross_entropy_of_every_class(classes: int, batch: int, seed: int) -> None:
    logits = torch.randn(batch, classes, generator=seeded(seed), dtype=torch.float64)
    targets = torch.randint(classes, (batch,), generator=seeded(seed + 1))
    hot = functional.one_hot(targets, classes).double()
    expected = functional.binary_cross_entropy_with_logits(logits, hot, reduction="none").sum(1)
    torch.testing.assert_close(logistic(logits, targets, reduction="none"), expected)


@pytest.mark.parametrize("shape", [(20,), (20, 1)])
def test_logistic_with_one_output_is_logistic_regression(shape: tuple[int, ...]) -> None:
    logits = torch.randn(shape, generator=seeded(0), dtype=torch.float64)
    targets = torch.arange(20) % 2
    p = expit(logits.reshape(20).numpy())
    expected = -np.where(targets.numpy() == 1, np.log(p), np.log1p(-p))
    np.testing.assert_allclose(logistic(logits, targets, reduction="none").numpy(), expected, rtol=1e-10)


@given(st.floats(0.01, 10), st.integers(0, 1000))
def test_huber_is_torchs(delta: float, seed: int) -> None:
    outputs, targets = example("huber", 30, seed=seed)
    expected = functional.huber_loss(outputs.squeeze(1), targets, delta=delta, reduction="none")
    torch.testing.assert_close(huber(outputs, targets, delta=delta, reduction="none"), expected)
    torch.testing.assert_close(huber(outputs, targets, delta=delta), expected.mean())


@given(st.floats(0, 0.9), st.integers(0, 1000))
def test_weighted_and_smoothed_cross_entropy_is_torchs(smoothing: float, seed: int) -> None:
    logits, targets = example("cross_entropy", 25, seed=seed)
    weights = torch.rand(4, generator=seeded(seed), dtype=torch.float64) + 0.1
    options: dict[str, Any] = {"label_smoothing": smoothing}
    for reduction in ("none", "mean"):
        expected = functional.cross_entropy(logits, targets, weight=weights, reduction=reduction, **options)
        for ones in (None, torch.ones(25)):  # with example weights the loss is written out
            ours = cross_entropy(
                logits,
                targets,
                class_weights=weights,
                example_weights=ones,
                reduction=reduction,
                **options,  # type: ignore[arg-type]
            )
            torch.testing.assert_close(ours, expected)


# Far out.


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("written_out", [False, True])
def test_values_and_gradients_far_out_equal_float64(name: str, written_out: bool) -> None:
    if name in CLASS_LOSSES:
        rows = [[1e4, -1e4, 0.0], [-1e4, 1e4, 3.0], [1e4, 1e4, -1e4], [0.5, 0.25, -1.0], [-1e4, -1e4, -1e4]]
        outputs, targets = torch.tensor(rows * 3), torch.arange(3).repeat_interleave(5)
    else:
        outputs, targets = torch.tensor([[1e4], [-1e4], [0.5]]), torch.tensor([-1e4, 1e4, 0.25])
    options = {"example_weights": torch.ones(len(targets))} if written_out else {}
    found = []
    for dtype in (torch.float32, torch.float64):
        x = outputs.to(dtype).requires_grad_()
        y = targets if name in CLASS_LOSSES else targets.to(dtype)
        values = LOSSES[name](x, y, reduction="none", **options)
        (gradient,) = torch.autograd.grad(values.sum(), x)
        assert values.isfinite().all()
        assert gradient.isfinite().all()
        found.append((values.detach().double(), gradient.double()))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(name: str, dtype: torch.dtype) -> None:
    outputs, targets = example(name, 16)
    narrow = outputs.to(dtype)
    y = targets if name in CLASS_LOSSES else targets.float()
    loss = LOSSES[name](narrow, y)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, LOSSES[name](narrow.float(), y))


# Members and weights.


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_members_equal_separate_losses(name: str, shared: bool, reduction: str) -> None:
    outputs, targets = example(name, 3, 9)
    targets = targets[0] if shared else targets
    weights = torch.rand(3, 9, generator=seeded(5), dtype=torch.float64)
    key, numbers = VARIED.get(name, ("", (0.0, 0.0, 0.0)))
    options = {key: torch.tensor(numbers, dtype=torch.float64)} if key else {}
    for given_weights in (None, weights):
        together = LOSSES[name](outputs, targets, example_weights=given_weights, reduction=reduction, **options)
        assert together.shape == ((3,) if reduction == "mean" else (3, 9))
        for i in range(3):
            alone = LOSSES[name](
                outputs[i],
                targets if shared else targets[i],
                example_weights=None if given_weights is None else given_weights[i],
                reduction=reduction,
                **({key: numbers[i]} if key else {}),
            )
            torch.testing.assert_close(together[i], alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", LOSSES)
def test_weight_zero_is_as_if_the_example_were_not_there(name: str) -> None:
    outputs, targets = example(name, 12)
    kept = torch.arange(12) % 3 != 0
    x = outputs.requires_grad_()
    weighted = LOSSES[name](x, targets, example_weights=kept.double())
    (gradient,) = torch.autograd.grad(weighted, x)
    y = outputs.detach()[kept].requires_grad_()
    expected = LOSSES[name](y, targets[kept])
    (expected_gradient,) = torch.autograd.grad(expected, y)
    torch.testing.assert_close(weighted, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient[kept], expected_gradient, rtol=1e-12, atol=0)
    assert (gradient[~kept] == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_of_weight_zero_has_loss_and_gradient_zero(name: str) -> None:
    outputs, targets = example(name, 2, 5)
    x = outputs.requires_grad_()
    weights = torch.stack([torch.zeros(5), torch.ones(5)])
    losses = LOSSES[name](x, targets, example_weights=weights)
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    assert losses.detach()[0].item() == 0.0
    assert (gradient[0] == 0).all()
    torch.testing.assert_close(losses[1], LOSSES[name](x[1], targets[1]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_class_weights_count_examples_more_often(name: str) -> None:
    logits, targets = example(name, 10)
    weights = torch.tensor([1.0, 2.0, 3.0, 1.0])
    repeated = torch.arange(10).repeat_interleave(weights.long()[targets])
    for options in ({}, {"example_weights": torch.ones(10)}):
        ours = LOSSES[name](logits, targets, class_weights=weights, **options)
        torch.testing.assert_close(ours, LOSSES[name](logits[repeated], targets[repeated]), rtol=1e-12, atol=0)


@given(st.lists(st.integers(1, 50), min_size=2, max_size=6))
def test_balanced_weights_are_scikit_learns(counts: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
    np.testing.assert_allclose(balanced_class_weights(counts).numpy(), expected, rtol=1e-6)


def test_a_class_without_examples_weighs_nothing() -> None:
    assert balanced_class_weights([4, 0, 12]).tolist() == pytest.approx([2.0, 0.0, 2 / 3])


# Probabilities.


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_probabilities_add_up_and_keep_the_order(name: str) -> None:
    logits, _ = example(name, 20)
    probabilities = class_log_probabilities(logits, name).exp()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(20, dtype=torch.float64))
    assert torch.equal(probabilities.argmax(1), logits.argmax(1))
    expected = torch.sigmoid(logits) if name == "logistic" else logits.exp()
    torch.testing.assert_close(probabilities, expected / expected.sum(1, keepdim=True))
    assert class_log_probabilities(torch.tensor([[-1e4, -1e4, 1e4]]), name).isfinite().all()


# From settings.


@pytest.mark.parametrize(
    ("settings", "task", "loss"),
    [
        (CrossEntropySettings(label_smoothing=0.2), "classification", partial(cross_entropy, label_smoothing=0.2)),
        (AutoLossSettings(label_smoothing=0.2), "classification", partial(cross_entropy, label_smoothing=0.2)),
        (HingeSettings(margin=2.0), "classification", partial(hinge, margin=2.0)),
        (LogisticSettings(), "classification", logistic),
        (MeanSquaredErrorSettings(), "regression", mean_squared_error),
        (AutoLossSettings(), "regression", mean_squared_error),
        (HuberSettings(delta=0.3), "regression", partial(huber, delta=0.3)),
    ],
)
def test_settings_build_their_loss(settings: LossSettings, task: Task, loss: Callable[..., Tensor]) -> None:
    outputs, targets = example("hinge" if task == "classification" else "huber", 15)
    for reduction in ("mean", "none"):
        built = build_loss(settings, task, reduction)  # type: ignore[arg-type]
        assert torch.equal(built(outputs, targets), loss(outputs, targets, reduction=reduction))


@pytest.mark.parametrize("settings", [AutoLossSettings, CrossEntropySettings, HingeSettings, LogisticSettings])
def test_settings_carry_class_weights(settings: Any) -> None:
    logits, targets = example("hinge", 15)
    counts = [3, 1, 5, 6]
    balanced = build_loss(settings(class_weights="balanced"), "classification", class_counts=counts)
    listed = build_loss(
        settings(class_weights=tuple(balanced_class_weights(counts).tolist())), "classification", class_counts=counts
    )
    torch.testing.assert_close(balanced(logits, targets), listed(logits, targets))
    assert float(balanced(logits, targets)) != float(build_loss(settings(), "classification")(logits, targets))
    with pytest.raises(InputError, match=r"loss\.class_weights has 2 entries, but there are 4 classes"):
        resolve_loss(settings(class_weights=(1.0, 2.0)), "classification", 4)
    with pytest.raises(InputError, match="all 0"):
        resolve_loss(settings(class_weights=(0.0, 0.0)), "classification", 2)
    with pytest.raises(ValueError, match="counts"):
        build_loss(settings(class_weights="balanced"), "classification")


@pytest.mark.parametrize(
    ("settings", "task", "words"),
    [
        (HingeSettings(), "regression", "'hinge' does not fit a regression.*'huber'"),
        (HuberSettings(), "classification", "'huber' does not fit a classification.*'logistic'"),
        (AutoLossSettings(class_weights="balanced"), "regression", "class_weights = balanced"),
    ],
)
def test_what_does_not_fit_is_refused(settings: LossSettings, task: Task, words: str) -> None:
    with pytest.raises(InputError, match=words):
        resolve_loss(settings, task)


@pytest.mark.parametrize("name", LOSSES)
def test_shapes_that_do_not_fit_are_refused(name: str) -> None:
    outputs, targets = example(name, 6)
    with pytest.raises(InputError, match="do not fit"):
        LOSSES[name](outputs, targets[:5], example_weights=torch.ones(6))
