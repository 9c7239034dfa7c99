"""Flips and crops move whole pixels: every one is compared with slicing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from caviar.augment import crop, flip, random_crop, random_flip
from caviar.core.errors import InputError
from tests.augment.batches import noise, seeded

MODES = {"zero": "constant", "edge": "edge", "reflect": "reflect"}


def layouts(pictures):
    return [pictures, pictures.contiguous(), pictures.transpose(2, 3).contiguous().transpose(2, 3)]


def test_flip_twice_is_the_identity():
    pictures = noise()
    which = torch.tensor([True, False, True, True, False, True])
    once = flip(pictures, which)
    assert once[0].equal(pictures[0].flip(2))
    assert once[1].equal(pictures[1])
    assert flip(once, which).equal(pictures)


@given(
    fill=st.sampled_from(sorted(MODES)),
    padding=st.integers(0, 6),
    size=st.tuples(st.integers(1, 9), st.integers(1, 7)),
    channels=st.integers(1, 4),
    layout=st.integers(0, 2),
    dtype=st.sampled_from([torch.uint8, torch.float32, torch.float64]),
    mirrored=st.booleans(),
    data=st.data(),
)
def test_crops_equal_slices_of_the_padded_picture(fill, padding, size, channels, layout, dtype, mirrored, data):
    pictures = layouts(noise(5, channels, dtype=dtype))[layout]
    top = torch.tensor(data.draw(st.lists(st.integers(0, 9 + 2 * padding - size[0]), min_size=5, max_size=5)))
    left = torch.tensor(data.draw(st.lists(st.integers(0, 7 + 2 * padding - size[1]), min_size=5, max_size=5)))
    mirror = torch.tensor([True, False, True, False, True]) if mirrored else None
    out = crop(pictures, top, left, size, padding=padding, fill=fill, mirror=mirror)
    assert out.dtype == dtype
    assert out.shape == (5, channels, *size)
    width = ((0, 0), (padding, padding), (padding, padding))
    for number in range(5):
        padded = np.pad(pictures[number].numpy(), width, mode=MODES[fill])
        expected = padded[:, top[number] : top[number] + size[0], left[number] : left[number] + size[1]]
        if mirrored and number % 2 == 0:
            expected = expected[:, :, ::-1]
        np.testing.assert_array_equal(out[number].numpy(), expected)


def test_every_place_is_as_likely_and_all_are_reached():
    picture = torch.arange(5 * 5, dtype=torch.uint8).view(1, 1, 5, 5).expand(9000, 1, 5, 5)
    corners = random_crop(picture, seeded(), (3, 3))[:, 0, 0, 0]
    found, counts = corners.unique(return_counts=True)
    assert found.tolist() == [0, 1, 2, 5, 6, 7, 10, 11, 12]
    assert counts.min() > 900


def test_share_of_flips():
    pictures = noise(1).expand(4000, -1, -1, -1)
    flipped = (random_flip(pictures, seeded(), 0.3) != pictures).flatten(1).any(dim=1)
    assert flipped.float().mean() == pytest.approx(0.3, abs=0.03)
    assert random_flip(noise(), seeded(), 0).equal(noise())
    assert random_flip(noise(), seeded(), 1).equal(noise().flip(3))
    both = random_crop(pictures, seeded(), flip_probability=0.3)
    assert (both != pictures).flatten(1).any(dim=1).float().mean() == pytest.approx(0.3, abs=0.03)


def test_channels_last_stays_channels_last():
    out = random_crop(noise(8, 3, 32, 32), seeded(), padding=4)
    assert out.permute(0, 2, 3, 1).is_contiguous()
    assert random_crop(noise().contiguous(), seeded(), padding=2).is_contiguous()


def test_empty_batches_pass():
    assert random_crop(noise()[:0], seeded(), padding=2).shape == (0, 3, 9, 7)
    assert random_flip(noise()[:0], seeded()).shape == (0, 3, 9, 7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random_flip(noise(), seeded(), 1.5), "probability is 1.5"),
        (lambda: random_flip(noise()[0], seeded()), r"shape \(3, 9, 7\)"),
        (lambda: random_flip(noise().int(), seeded()), "int32"),
        (lambda: random_flip([1], seeded()), "list"),
        (lambda: random_crop(noise(), seeded(), padding=-1), "padding is -1"),
        (lambda: random_crop(noise(), seeded(), padding=7, fill="reflect"), "at most 6 pixels"),
        (lambda: random_crop(noise(), seeded(), (10, 7)), r"size is \(10, 7\)"),
        (lambda: random_crop(noise(), seeded(), (0, 7)), r"size is \(0, 7\)"),
        (lambda: random_crop(noise(), seeded(), padding=1, fill="mirror"), "unknown fill 'mirror'"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
