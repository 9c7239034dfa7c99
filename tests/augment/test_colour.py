"""Colours against Pillow and closed forms."""

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from caviar.augment import adjust_colour, random_colour
from caviar.core.errors import InputError
from tests.augment.batches import noise, seeded

LUMA = torch.tensor([0.299, 0.587, 0.114])
PILLOW = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast, "saturation": ImageEnhance.Color}


@pytest.mark.parametrize("name", PILLOW)
@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
def test_equal_to_pillow(name, factor):
    pictures = noise(5, 3, 20, 20)
    out = adjust_colour(pictures, **{name: torch.full((5,), factor)})
    for mine, picture in zip(out, pictures, strict=True):
        image = Image.fromarray(picture.permute(1, 2, 0).numpy())
        expected = np.asarray(PILLOW[name](image).enhance(factor)).transpose(2, 0, 1).astype(int)
        assert np.abs(mine.numpy() - expected).max() <= 1  # Pillow rounds its grey first


def test_hue_turns_about_grey_and_keeps_it():
    pictures = noise(4, dtype=torch.float64) * 0.2 + 0.4
    turn = torch.tensor([0.0, 0.1, -0.3, 0.5])
    out = adjust_colour(pictures, hue=turn)
    torch.testing.assert_close(out[0], pictures[0], atol=1e-6, rtol=0)
    luma = LUMA.double().view(1, 3, 1, 1)
    torch.testing.assert_close((out * luma).sum(dim=1), (pictures * luma).sum(dim=1))
    back = adjust_colour(out, hue=-turn)
    torch.testing.assert_close(back, pictures, atol=1e-9, rtol=0)
    red = torch.tensor([0.5, 0.45, 0.45], dtype=torch.float64).view(1, 3, 1, 1)
    turned = adjust_colour(red, hue=torch.tensor([1 / 3])).flatten().tolist()
    before, after = colorsys.rgb_to_hsv(*red.flatten().tolist())[0], colorsys.rgb_to_hsv(*turned)[0]
    assert min((after - before) % 1, (before - after) % 1) == pytest.approx(1 / 3, abs=0.08)


def test_all_at_once_equals_one_after_another():
    pictures = noise(3, dtype=torch.float64) * 0.1 + 0.45  # nothing is cut off on the way
    by = {
        "brightness": torch.tensor([0.9, 1.0, 1.1], dtype=torch.float64),
        "contrast": torch.tensor([1.2, 0.7, 1.0], dtype=torch.float64),
        "saturation": torch.tensor([0.2, 1.3, 1.5], dtype=torch.float64),
        "hue": torch.tensor([0.1, -0.2, 0.4], dtype=torch.float64),
    }
    steps = pictures
    for name, value in by.items():
        steps = adjust_colour(steps, **{name: value})
    torch.testing.assert_close(adjust_colour(pictures, **by), steps, atol=1e-12, rtol=0)


@given(
    limits=st.fixed_dictionaries(
        {
            "brightness": st.floats(0, 1),
            "contrast": st.floats(0, 1),
            "saturation": st.floats(0, 1),
            "hue": st.floats(0, 0.5),
        }
    ),
    seed=st.integers(0, 2**32),
    channels=st.sampled_from([1, 2, 3, 4]),
    dtype=st.sampled_from([torch.uint8, torch.float32]),
)
def test_pictures_stay_pictures(limits, seed, channels, dtype):
    pictures = noise(5, channels, dtype=dtype)
    out = random_colour(pictures, seeded(seed), **limits)
    assert out.dtype == dtype
    assert out.shape == pictures.shape
    assert out.equal(random_colour(pictures, seeded(seed), **limits))
    if dtype == torch.float32:
        assert out.min() >= 0
        assert out.max() <= 1


def test_factors_are_drawn_for_each_picture_within_their_range():
    grey = torch.full((3000, 3, 1, 1), 0.5)
    out = random_colour(grey, seeded(), brightness=0.4)[:, 0].flatten() / 0.5
    assert out.min() >= 0.6
    assert out.max() <= 1.4
    assert out.mean() == pytest.approx(1, abs=0.02)
    assert out.std() == pytest.approx(0.8 / 12**0.5, abs=0.02)
    assert random_colour(grey, seeded()).equal(grey)
    others = noise(4)
    others[1:] = 0
    assert random_colour(others, seeded(), contrast=0.5)[0].equal(random_colour(noise(4), seeded(), contrast=0.5)[0])


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("inf"), "0.5"])
def test_bad_limits_are_named(name, value):
    with pytest.raises(InputError, match=f"{name} is"):
        random_colour(noise(), seeded(), **{name: value})
