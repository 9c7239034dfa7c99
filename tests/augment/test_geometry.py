"""Resampling against slicing, Pillow, SciPy and closed forms; parameters in their ranges."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from caviar.augment import (
    Geometry,
    draw_geometry,
    random_lens,
    random_perspective,
    random_rotation,
    random_scale_crop,
    random_shear,
    random_stretch,
    random_translation,
    warp,
)
from caviar.core.errors import InputError
from tests.augment.batches import noise, seeded, smooth

ZERO, ONE = torch.zeros(6), torch.ones(6)
IDENTITIES = {
    "nothing": Geometry(),
    "rotation": Geometry(angle=ZERO),
    "translation": Geometry(shift_x=ZERO, shift_y=ZERO),
    "lens": Geometry(lens=ZERO),
    "perspective": Geometry(tilt_x=ZERO, tilt_y=ZERO),
    "stretch": Geometry(stretch_x=ONE, stretch_y=ONE),
    "shear": Geometry(shear_x=ZERO, shear_y=ZERO),
    "zoom": Geometry(zoom=ONE, offset_x=ZERO, offset_y=ZERO),
    "all": Geometry(ZERO, ZERO, ZERO, ONE, ONE, ZERO, ZERO, ZERO, ZERO, ZERO, ONE, ZERO, ZERO),
    "full turn": Geometry(angle=360 * ONE),
}


@pytest.mark.parametrize("case", IDENTITIES)
@pytest.mark.parametrize("fill", ["zero", "edge", "reflect"])
def test_identities(case, fill):
    assert warp(noise(), IDENTITIES[case], fill=fill).equal(noise())
    values = noise(dtype=torch.float32)
    torch.testing.assert_close(warp(values, IDENTITIES[case], fill=fill), values, atol=1e-5, rtol=0)
    exact = noise(dtype=torch.float64)
    torch.testing.assert_close(warp(exact, IDENTITIES[case], fill=fill), exact, atol=1e-6, rtol=0)


@given(st.integers(-8, 8), st.integers(-9, 9))
def test_translation_by_whole_pixels_equals_slicing(x, y):
    pictures = noise()
    out = warp(pictures, Geometry(shift_x=ONE * x, shift_y=ONE * y))
    expected = np.zeros(pictures.shape, np.uint8)
    height, width = pictures.shape[2:]
    expected[:, :, max(y, 0) : height + min(y, 0), max(x, 0) : width + min(x, 0)] = (
        pictures[:, :, max(-y, 0) : height - max(y, 0), max(-x, 0) : width - max(x, 0)].numpy()
        if abs(y) < height and abs(x) < width
        else 0
    )
    np.testing.assert_array_equal(out.numpy(), expected)


def test_quarter_turns_are_counter_clockwise():
    pictures = noise(4, 3, 8, 8)
    out = warp(pictures, Geometry(angle=torch.tensor([90.0, 180.0, 270.0, -90.0])))
    for number, turns in enumerate([1, 2, 3, 3]):
        assert out[number].equal(pictures[number].rot90(turns, dims=(1, 2)))


@pytest.mark.parametrize("angle", [7.0, -31.0, 118.0])
def test_rotation_equals_pillow_and_scipy(angle):
    pictures = (smooth() * 255).round().to(torch.uint8)
    out = warp(pictures, Geometry(angle=torch.full((4,), angle))).permute(0, 2, 3, 1).numpy()
    inner = np.hypot(*np.mgrid[-31.5:32, -31.5:32]) < 30
    for mine, picture in zip(out, pictures.permute(0, 2, 3, 1).numpy(), strict=True):
        pillow = np.asarray(Image.fromarray(picture).rotate(angle, Image.Resampling.BILINEAR))
        assert np.abs(mine.astype(int) - pillow)[inner].max() <= 1
        scipy_too = scipy.ndimage.rotate(picture.astype(float), angle, reshape=False, order=1)
        assert np.abs(mine - scipy_too)[inner].max() <= 0.51


def test_everything_at_once_equals_scipy_at_the_points_of_the_formula():
    picture = smooth(1)[:, :, :48]
    one = torch.ones(1)
    geometry = Geometry(
        3.5 * one, -2.25 * one, 20 * one, 1.1 * one, 0.9 * one, 8 * one, -5 * one, 0.1 * one, 0.1 * one, -0.05 * one,
        1.3 * one, 2 * one, -1 * one,
    )  # fmt: skip
    y, x = np.mgrid[-23.5:24, -31.5:32]
    radius = math.hypot(48, 64) / 2
    x, y = (x + 2) / 1.3 - 3.5, (y - 1) / 1.3 + 2.25
    depth = 1 + (0.1 * x - 0.05 * y) / radius
    x, y = x / depth, y / depth
    turn, p, q = math.radians(20), math.tan(math.radians(8)), math.tan(math.radians(-5))
    forward = (
        np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        @ np.array([[1, p], [q, 1]])
        @ np.diag([1.1, 0.9])
    )
    x, y = np.einsum("ij,jhw->ihw", np.linalg.inv(forward), np.stack([x, y]))
    grown = 1 + 0.1 * (x**2 + y**2) / radius**2
    places = np.stack([y * grown + 23.5, x * grown + 31.5])
    expected = [scipy.ndimage.map_coordinates(c.numpy(), places, order=1, mode="nearest") for c in picture[0]]
    out = warp(picture, geometry, fill="edge")
    np.testing.assert_allclose(out[0], expected, atol=1e-4)


def test_barrel_and_pincushion():
    picture = torch.zeros(2, 1, 65, 65)
    picture[:, :, :, 52] = 1
    out = warp(picture, Geometry(lens=torch.tensor([0.3, -0.3])))
    top, middle = out[:, 0, 2].argmax(dim=1), out[:, 0, 32].argmax(dim=1)
    assert top[0] < middle[0]  # a straight line bulges outwards in its middle
    assert top[1] > middle[1]


def test_perspective_enlarges_what_is_nearer():
    picture = smooth(1)
    out = warp(picture, Geometry(tilt_x=torch.tensor([0.3])))
    rows = (out[0].sum(dim=0) > 0).sum(dim=0)  # the farther side is lower, with black above and below
    assert rows[-1] == 64
    assert rows[0] < 64


def test_zoom_shows_a_window():
    picture = smooth(1)
    out = warp(picture, Geometry(zoom=torch.tensor([2.0])))
    torch.testing.assert_close(out[:, :, 1::2, 1::2].mean(), picture[:, :, 16:48, 16:48].mean(), atol=0.01, rtol=0)
    small = warp(picture, Geometry(), size=(20, 30))
    torch.testing.assert_close(small, picture[:, :, 22:42, 17:47], atol=1e-5, rtol=0)


LIMITS = st.fixed_dictionaries(
    {
        "translate": st.floats(0, 0.99),
        "rotate": st.floats(0, 180),
        "stretch": st.floats(1, 4),
        "shear": st.floats(0, 44),
        "lens": st.floats(0, 0.3),
        "perspective": st.floats(0, 0.4),
        "zoom": st.tuples(st.floats(1, 3), st.floats(3, 9)),
    }
)


@given(limits=LIMITS, seed=st.integers(0, 2**32), fill=st.sampled_from(["zero", "edge", "reflect"]))
def test_parameters_stay_in_their_ranges_and_pictures_stay_pictures(limits, seed, fill):
    pictures = noise(8, dtype=torch.float32)
    found = draw_geometry(pictures, seeded(seed), **limits)
    bounds = {
        "shift_x": limits["translate"] * 7,
        "shift_y": limits["translate"] * 9,
        "angle": limits["rotate"],
        "shear_x": limits["shear"],
        "shear_y": limits["shear"],
        "lens": limits["lens"],
        "tilt_x": limits["perspective"],
        "tilt_y": limits["perspective"],
    }
    for name, bound in bounds.items():
        value = getattr(found, name)
        assert (value is None) == (bound == 0)
        assert value is None or value.abs().max() <= bound * (1 + 1e-6)
    for value in (found.stretch_x, found.stretch_y):
        assert value is None or bool((value.log().abs() <= math.log(limits["stretch"]) + 1e-6).all())
    assert bool(((found.zoom >= limits["zoom"][0] - 1e-4) & (found.zoom <= limits["zoom"][1] + 1e-4)).all())
    assert bool((found.offset_x.abs() <= (found.zoom - 1) * 7 / 2 + 1e-4).all())
    out = warp(pictures, found, fill=fill)
    assert out.shape == pictures.shape
    assert out.isfinite().all()
    assert out.min() >= 0
    assert out.max() <= 1


RANDOM = {
    "translation": lambda pictures, generator: random_translation(pictures, generator, 0.3),
    "rotation": lambda pictures, generator: random_rotation(pictures, generator, 40),
    "stretch": lambda pictures, generator: random_stretch(pictures, generator, 1.5),
    "shear": lambda pictures, generator: random_shear(pictures, generator, 20),
    "lens": lambda pictures, generator: random_lens(pictures, generator, 0.3),
    "perspective": lambda pictures, generator: random_perspective(pictures, generator, 0.3),
    "scale_crop": lambda pictures, generator: random_scale_crop(pictures, generator, (9, 20), (8, 6)),
}


@pytest.mark.parametrize("name", RANDOM)
def test_seeded_and_each_picture_by_itself(name):
    pictures, change = noise(), RANDOM[name]
    out = change(pictures, seeded(3))
    assert out.equal(change(pictures, seeded(3)))
    assert not out.equal(change(pictures, seeded(4)))
    same = change(pictures[:1].expand(6, -1, -1, -1), seeded(3))
    assert len({row.numpy().tobytes() for row in same}) > 1
    others = pictures.clone()
    others[1:] = 0
    assert change(others, seeded(3))[0].equal(out[0])
    assert change(pictures[:0], seeded(3)).shape[0] == 0


def test_scale_crop_stays_inside_and_has_the_size():
    white = torch.full((200, 3, 20, 30), 255, dtype=torch.uint8)
    out = random_scale_crop(white, seeded(), (12, 40), (12, 10))
    assert out.shape == (200, 3, 12, 10)
    assert out.min() == 255
    ramp = torch.linspace(0, 1, 64).expand(500, 1, 64, 64)
    widths = random_scale_crop(ramp, seeded(), (32, 64), (32, 32))
    span = (widths[:, 0, 0, -1] - widths[:, 0, 0, 0]) * 63 / 31  # pixels of the picture for one of the window
    assert span.min() >= 1 - 1e-3
    assert span.max() <= 2 + 1e-3
    assert span.std() > 0.2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random_rotation(noise(), seeded(), -1), "degrees is -1"),
        (lambda: random_shear(noise(), seeded(), 45), "degrees is 45"),
        (lambda: random_stretch(noise(), seeded(), 0.5), "factor is 0.5"),
        (lambda: random_lens(noise(), seeded(), 0.4), "strength is 0.4"),
        (lambda: random_perspective(noise(), seeded(), math.nan), "tilt is nan"),
        (lambda: random_translation(noise(), seeded(), True), "share is True"),
        (lambda: random_translation(noise(), seeded(), 0.1, "black"), "unknown fill 'black'"),
        (lambda: random_scale_crop(noise(), seeded(), (5, 9), (8, 6)), r"short_side\[0\] is 5"),
        (lambda: random_scale_crop(noise(), seeded(), (9, 8), (8, 6)), r"short_side is \(9, 8\)"),
        (lambda: draw_geometry(noise(), seeded(), rotate=-1), "rotate is -1"),
        (lambda: draw_geometry(noise(), seeded(), zoom=(0.5, 1)), r"zoom\[0\] is 0.5"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
