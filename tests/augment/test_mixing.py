"""Mixup and CutMix: labels follow pixels, losses follow labels. Erasing: within its ranges. Views: averages."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from caviar.augment import (
    average_predictions,
    cutmix,
    flip_views,
    mixup,
    random_erasing,
    soft_labels,
    ten_crop,
)
from caviar.core.errors import InputError
from tests.augment.batches import noise, seeded


def told_apart(count=50, side=12, dtype=torch.float64):
    """Picture i is all i / count, and its label is i / count: labels must follow pixels."""
    values = torch.arange(count, dtype=dtype) / count
    return values.view(-1, 1, 1, 1).expand(count, 3, side, side), values


@given(alpha=st.floats(0.05, 10), seed=st.integers(0, 2**32))
def test_mixup_mixes_labels_as_it_mixes_pixels(alpha, seed):
    pictures, labels = told_apart()
    mixed, targets = mixup(pictures, labels, seeded(seed), alpha)
    torch.testing.assert_close(mixed[:, 0, 0, 0], targets, atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed.amax(dim=(1, 2, 3)), mixed.amin(dim=(1, 2, 3)))
    assert targets.mean() <= labels.max()


@given(alpha=st.floats(0.05, 10), seed=st.integers(0, 2**32))
def test_cutmix_mixes_labels_by_the_pixels_shown(alpha, seed):
    pictures, labels = told_apart()
    mixed, targets = cutmix(pictures, labels, seeded(seed), alpha)
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), targets, atol=1e-6, rtol=0)
    for picture in mixed[:10, 0]:
        assert len(picture.unique()) <= 2


def test_shares_follow_the_beta_distribution():
    pictures = torch.zeros(20_000, 1, 1, 1)
    labels = torch.arange(20_000.0, dtype=torch.float64)
    partners = torch.eye(2)[torch.arange(20_000) % 2]
    _, targets = mixup(pictures, torch.cat([partners.double(), labels[:, None]], dim=1), seeded(), 0.4)
    share = targets[:, 0][(targets[:, 0] > 0) & (targets[:, 0] < 1)]
    moments = share.mean().item(), share.var().item()
    assert moments[0] == pytest.approx(0.5, abs=0.02)
    assert moments[1] == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)


def test_loss_of_soft_labels_is_the_mix_of_losses():
    logits = torch.randn(6, 4, generator=seeded(), dtype=torch.float64)
    labels = torch.tensor([0, 3, 2, 1, 1, 0])
    share = torch.tensor([0.3, 1.0, 0.0, 0.5, 0.9, 0.2], dtype=torch.float64)
    partner = torch.tensor([1, 2, 3, 4, 5, 0])
    soft = soft_labels(labels, 4).double()
    mixed = share[:, None] * soft + (1 - share[:, None]) * soft[partner]
    losses = functional.cross_entropy(logits, labels, reduction="none")
    others = functional.cross_entropy(logits, labels[partner], reduction="none")
    expected = (share * losses + (1 - share) * others).mean()
    torch.testing.assert_close(functional.cross_entropy(logits, mixed), expected)


@pytest.mark.parametrize("change", [mixup, cutmix])
def test_seeded_bytes_and_soft_rows(change):
    pictures, labels = noise(), soft_labels(torch.tensor([0, 1, 2, 0, 1, 2]), 3)
    out, targets = change(pictures, labels, seeded(5), 1.0)
    assert out.dtype == torch.uint8
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(6))
    again, same = change(pictures, labels, seeded(5), 1.0)
    assert out.equal(again)
    assert targets.equal(same)
    assert not out.equal(change(pictures, labels, seeded(6), 1.0)[0])
    single, alone = change(pictures[:1], labels[:1], seeded(), 1.0)
    assert single.equal(pictures[:1])
    torch.testing.assert_close(alone, labels[:1])


@pytest.mark.parametrize("change", [mixup, cutmix])
def test_bad_arguments_are_named(change):
    with pytest.raises(InputError, match=r"labels are torch\.int64"):
        change(noise(), torch.zeros(6, dtype=torch.int64), seeded())
    with pytest.raises(InputError, match=r"labels are .*shape \(5,\)"):
        change(noise(), torch.zeros(5), seeded())
    for alpha in (0, -1.0, math.nan, True, "1"):
        with pytest.raises(InputError, match="alpha is"):
            change(noise(), torch.zeros(6), seeded(), alpha)
    with pytest.raises(InputError, match="from 0 to 2"):
        soft_labels(torch.tensor([0, 3]), 3)
    with pytest.raises(InputError, match="go from -1"):
        soft_labels(torch.tensor([-1, 2]), 3)


@given(
    low=st.floats(0, 0.5),
    more=st.floats(0, 0.5),
    ratio=st.floats(1, 5),
    seed=st.integers(0, 2**32),
    fill=st.sampled_from(["mean", "zero"]),
)
def test_erasing_takes_one_rectangle_of_about_the_area(low, more, ratio, seed, fill):
    pictures = torch.rand(20, 3, 30, 40, generator=seeded(1)) * 0.5 + 0.4
    out = random_erasing(pictures, seeded(seed), 1.0, (low, low + more), ratio, fill)
    gone = (out != pictures).any(dim=1)
    for number in range(20):
        rows, columns = (gone[number].any(dim=axis).nonzero().flatten() for axis in (1, 0))
        box = gone[number, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.all()  # one whole rectangle and nothing else
        tall, wide = box.shape
        assert (tall - 1.01) * (wide - 1.01) <= (low + more) * 1200 + 1
        erased = out[number][:, gone[number]]
        expected = pictures[number].mean(dim=(1, 2)) if fill == "mean" else torch.zeros(3)
        torch.testing.assert_close(erased, expected[:, None].expand_as(erased))


def test_share_of_erased_pictures():
    pictures = noise(1).expand(3000, -1, -1, -1)
    changed = (random_erasing(pictures, seeded(), 0.25, (0.2, 0.3)) != pictures).flatten(1).any(dim=1)
    assert changed.float().mean() == pytest.approx(0.25, abs=0.03)
    assert random_erasing(noise(), seeded(), 0).equal(noise())
    with pytest.raises(InputError, match=r"area is \(0.5, 0.1\)"):
        random_erasing(noise(), seeded(), 1, (0.5, 0.1))
    with pytest.raises(InputError, match="unknown fill 'noise'"):
        random_erasing(noise(), seeded(), 1, fill="noise")


def test_views_and_their_average():
    pictures = noise(2, 3, 9, 8)
    one, two = flip_views(pictures)
    assert one.equal(pictures)
    assert two.flip(3).equal(pictures)
    views = ten_crop(pictures, (6, 5))
    assert len(views) == 10
    assert views[3].equal(pictures[:, :, 3:, 3:])
    assert views[4].equal(pictures[:, :, 1:7, 1:6])
    assert views[8].equal(views[3].flip(3))

    def predict(view):
        return view.double().mean(dim=(2, 3))

    found = average_predictions(predict, views)
    expected = np.mean([view.double().mean(dim=(2, 3)).numpy() for view in views], axis=0)
    np.testing.assert_allclose(found, expected)
    torch.testing.assert_close(average_predictions(predict, flip_views(pictures)), predict(pictures))
    with pytest.raises(InputError, match=r"size is \(10, 5\)"):
        ten_crop(pictures, (10, 5))
    with pytest.raises(InputError, match="no views"):
        average_predictions(predict, [])
