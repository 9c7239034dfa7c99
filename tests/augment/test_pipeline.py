"""All augmentations by their settings: seeded, each picture by itself, in their type; and the sheet that shows them."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from caviar.augment import (
    AUGMENTATIONS,
    AugmentSettings,
    augment,
    build_augment,
    check_settings,
    is_none,
    mixes_labels,
    picture_sheet,
    random_crop,
    warp,
)
from caviar.augment.geometry import draw_geometry
from caviar.core.errors import InputError
from tests.augment.batches import noise, seeded

STRONG = {
    "flip": 0.5,
    "crop_padding": 2,
    "scale_crop": (1.0, 2.0),
    "translate": 0.3,
    "rotate": 40.0,
    "stretch": 1.5,
    "shear": 20.0,
    "lens": 0.3,
    "perspective": 0.3,
    "brightness": 0.5,
    "contrast": 0.5,
    "saturation": 0.5,
    "hue": 0.3,
    "erase": 0.8,
    "mixup": 1.0,
    "cutmix": 1.0,
}
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def test_every_augmentation_is_listed():
    assert set(AUGMENTATIONS) == set(STRONG) == set(AugmentSettings.model_fields) - {"fill", "geometry"}


def test_none_by_default():
    assert is_none(AugmentSettings())
    assert is_none(AugmentSettings(fill="reflect", geometry=0.5))
    pictures = noise()
    out, labels = build_augment(AugmentSettings(), 3)(pictures, LABELS, seeded())
    assert out is pictures
    assert labels is LABELS


@pytest.mark.parametrize("name", STRONG)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_each_alone(name, dtype):
    settings = AugmentSettings(**{name: STRONG[name]})
    assert not is_none(settings)
    change = build_augment(settings, 3)
    pictures = noise(dtype=dtype)
    before = pictures.clone()
    out, labels = change(pictures, LABELS, seeded(2))
    assert pictures.equal(before)  # the stored pictures are never written to
    assert out.dtype == dtype
    assert out.shape == pictures.shape
    assert not out.equal(pictures)
    again, same = change(pictures, LABELS, seeded(2))
    assert out.equal(again)
    assert labels.equal(same)
    assert not out.equal(change(pictures, LABELS, seeded(3))[0])
    assert mixes_labels(settings) == (labels.shape == (6, 3))
    if not mixes_labels(settings):
        others = pictures.clone()
        others[1:] = 0
        assert augment(others, seeded(2), settings)[0].equal(out[0])


@given(
    chosen=st.lists(st.sampled_from(sorted(STRONG)), unique=True),
    fill=st.sampled_from(["zero", "edge", "reflect"]),
    share=st.floats(0, 1),
    channels=st.sampled_from([1, 3]),
    count=st.integers(0, 6),
    seed=st.integers(0, 2**32),
)
def test_any_of_them_together(chosen, fill, share, channels, count, seed):
    settings = AugmentSettings(**{name: STRONG[name] for name in chosen}, fill=fill, geometry=share)
    change = build_augment(settings, 3)
    pictures = noise(channels=channels, dtype=torch.float32)[:count]
    out, labels = change(pictures, LABELS[:count], seeded(seed))
    assert out.shape == pictures.shape
    assert out.isfinite().all()
    assert not len(out) or (out.min() >= 0 and out.max() <= 1)
    if mixes_labels(settings):
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(count))


def test_geometry_touches_its_share_and_leaves_the_rest_alone():
    pictures = noise(1).expand(2000, -1, -1, -1)
    out = augment(pictures, seeded(), AugmentSettings(rotate=90.0, geometry=0.3))
    touched = (out != pictures).flatten(1).any(dim=1)
    assert touched.float().mean() == pytest.approx(0.3, abs=0.04)


def test_parts_are_those_of_the_plain_functions():
    pictures = noise(dtype=torch.float32)
    settings = AugmentSettings(flip=0.5, crop_padding=2, fill="reflect")
    plain = random_crop(pictures, seeded(), padding=2, fill="reflect", flip_probability=0.5)
    assert augment(pictures, seeded(), settings).equal(plain)
    generator = seeded()
    torch.rand(6, generator=generator)
    plain = warp(pictures, draw_geometry(pictures, generator, rotate=20, lens=0.1))
    assert augment(pictures, seeded(), AugmentSettings(rotate=20.0, lens=0.1)).equal(plain)


def test_mixup_and_cutmix_take_turns():
    change = build_augment(AugmentSettings(mixup=1.0, cutmix=1.0))
    pictures = (torch.arange(6.0) / 6).view(6, 1, 1, 1).expand(6, 1, 8, 8)
    kinds = set()
    for seed in range(30):
        out, _ = change(pictures, torch.zeros(6), seeded(seed))
        kinds.add(bool((out.amax(dim=(1, 2, 3)) - out.amin(dim=(1, 2, 3)) > 0.01).any()))
    assert kinds == {True, False}


def test_numbers_are_mixed_as_they_are():
    _, labels = build_augment(AugmentSettings(mixup=1.0))(noise(), torch.arange(6.0), seeded())
    assert labels.shape == (6,)
    assert 0 <= labels.min() <= labels.max() <= 5


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(InputError, match=r"augment\.scale_crop"):
        check_settings(AugmentSettings(scale_crop=(2.0, 1.0)), 32, 32)
    with pytest.raises(InputError, match=r"augment\.crop_padding is 8"):
        check_settings(AugmentSettings(crop_padding=8, fill="reflect"), 8, 32)
    check_settings(AugmentSettings(crop_padding=8), 8, 32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_sheet(tmp_path, channels, dtype):
    pictures = noise(3, channels, 20, 16, dtype=dtype)
    path = picture_sheet(pictures, tmp_path / "sheet.png", columns=5)
    first = path.read_bytes()
    assert picture_sheet(pictures, path, columns=5).read_bytes() == first
    with Image.open(path) as sheet:
        assert sheet.width > 5 * 80
        assert len(sheet.getcolors(1 << 24)) > 100


def test_bad_sheets_are_named(tmp_path):
    with pytest.raises(InputError, match="at least one column and one picture"):
        picture_sheet(noise()[:0], tmp_path / "sheet.png")
    with pytest.raises(InputError, match="one or three channels"):
        picture_sheet(noise(channels=2), tmp_path / "sheet.png")
    with pytest.raises(InputError, match="cannot be written"):
        picture_sheet(noise(), tmp_path / "no" / "sheet.png")
    with pytest.raises(InputError, match="cannot be written"):
        picture_sheet(noise(), tmp_path / "sheet.picture")


def test_settings_do_not_wait_for_torch():
    code = "import sys, caviar.augment.settings; print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
