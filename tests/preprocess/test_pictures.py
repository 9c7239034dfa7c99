"""Pictures: exact statistics, layout without a copy, any size of blocks."""

import json

import numpy as np
import pytest
import torch

from caviar.core.errors import InputError
from caviar.preprocess import fit_pictures, pictures, rebuild
from caviar.preprocess.settings import PreprocessSettings

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, size=(700, 9, 7, 3)).astype(np.uint8)
PICTURES[..., 1] //= 3


def fit(values=PICTURES, block=None, mode="channel_zscore"):
    block = block or len(values)
    return fit_pictures(
        lambda: (values[i : i + block] for i in range(0, len(values), block)), PreprocessSettings(pictures=mode)
    )


def expected(values, mode="channel_zscore", train=PICTURES):
    p = values.astype(np.float64) / 255
    mean, std = (train / 255.0).mean(axis=(0, 1, 2)), (train / 255.0).std(axis=(0, 1, 2))
    out = {"channel_zscore": (p - mean) / std, "channel_mean": p - mean, "none": p}[mode]
    return out.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("mode", ["channel_zscore", "channel_mean", "none"])
def test_equals_numpy(mode):
    out = fit(mode=mode)(torch.from_numpy(PICTURES))
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out, expected(PICTURES, mode), atol=1e-6)


def test_result_is_channels_last_without_a_copy():
    out = fit()(torch.from_numpy(PICTURES))
    assert out.shape == (700, 3, 9, 7)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("large", [10, 1 << 20])
@pytest.mark.parametrize("block", [1, 255, 256, 257, 700])
def test_block_size_does_not_matter_at_all(block, large, monkeypatch):
    monkeypatch.setattr(pictures, "LARGE_PICTURE", large)
    one, two = fit(), fit(block=block)
    assert one.scale.equal(two.scale)
    assert one.shift.equal(two.shift)


def test_sums_of_the_largest_bytes_are_exact():
    values = np.full((1000, 4, 4, 1), 255, dtype=np.uint8)
    values[0, 0, 0, 0] = 254
    found = pictures._Sums(1)
    found.update(values)
    assert found.total.tolist() == [255 * 16_000 - 1]
    assert found.squares.tolist() == [255**2 * 15_999 + 254**2]


def test_constant_channel_and_grey():
    values = np.full((5, 3, 3, 1), 77, dtype=np.uint8)
    out = fit(values)(torch.from_numpy(PICTURES[..., :1]))
    assert out.eq(0).all()
    assert fit(values, mode="channel_mean")(torch.from_numpy(values)).abs().max() < 1e-6


def test_tensors_and_read_only_maps(tmp_path):
    np.save(tmp_path / "p.npy", PICTURES)
    mapped = np.load(tmp_path / "p.npy", mmap_mode="r")
    assert fit(mapped, block=100).scale.equal(fit().scale)
    assert fit(torch.from_numpy(PICTURES), block=100).scale.equal(fit().scale)


def test_pictures_of_different_sizes():
    blocks = [PICTURES[:3, :5], PICTURES[3:]]
    module = fit_pictures(lambda: blocks, PreprocessSettings())
    flat = np.concatenate([b.reshape(-1, 3) for b in blocks]) / 255
    np.testing.assert_allclose(module.scale * 255, 1 / flat.std(axis=0), rtol=1e-6)
    np.testing.assert_allclose(-module.shift / module.scale / 255, flat.mean(axis=0), rtol=1e-6)


def test_only_training_pictures_are_fitted():
    spoiled = PICTURES.copy()
    spoiled[400:] = 0
    assert fit(spoiled[:400]).scale.equal(fit(PICTURES[:400]).scale)
    assert not fit(spoiled).scale.equal(fit(PICTURES).scale)


@pytest.mark.parametrize("mode", ["channel_zscore", "channel_mean", "none"])
def test_rebuild_is_byte_identical(mode):
    module = fit(mode=mode)
    again = rebuild(json.loads(json.dumps(module.config())), module.state_dict())
    pixels = torch.from_numpy(PICTURES[:9])
    assert again(pixels).numpy().tobytes() == module(pixels).numpy().tobytes()


def test_forward_exports():
    module = fit()
    pixels = torch.from_numpy(PICTURES)
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(module, (pixels[:5],), dynamic_shapes=({0: rows},)).module()
    assert program(pixels).equal(module(pixels))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], "no training pictures"),
        ([PICTURES[:0]], "no training pictures"),
        ([PICTURES.astype(float)], "uint8"),
        ([PICTURES[0]], "uint8"),
        ([PICTURES, PICTURES[..., :1]], "1 channels among pictures with 3"),
    ],
)
def test_refused(blocks, message):
    with pytest.raises(InputError, match=message):
        fit_pictures(lambda: blocks, PreprocessSettings())


def test_mean_image_is_the_mean_of_each_place():
    pixels = RNG.integers(0, 256, (30, 4, 5, 3), dtype=np.uint8)
    module = fit_pictures(lambda: [pixels[:7], pixels[7:]], PreprocessSettings(pictures="mean_image"))
    expected = (pixels / 255 - (pixels / 255).mean(axis=0)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(module(torch.from_numpy(pixels)), expected, atol=1e-6)
    again = rebuild(json.loads(json.dumps(module.config())), module.state_dict())
    assert again(torch.from_numpy(pixels)).equal(module(torch.from_numpy(pixels)))
    with pytest.raises(InputError, match="no mean image"):
        module(torch.from_numpy(pixels[:, :3]))
    with pytest.raises(InputError, match="one size"):
        fit_pictures(lambda: [pixels, pixels[:, :3]], PreprocessSettings(pictures="mean_image"))
    with pytest.raises(InputError, match="a size belongs to mean_image"):
        rebuild({"kind": "pictures", "mode": "mean_image", "channels": 3}, module.state_dict())


@pytest.mark.parametrize("mode", ["channel_zscore", "channel_mean", "mean_image", "none"])
def test_pixels_come_back(mode):
    module = fit(mode=mode)
    raw = torch.from_numpy(PICTURES)
    back = module.inverse(module(raw))
    assert back.round().to(torch.uint8).equal(raw)
    torch.testing.assert_close(back, raw.float(), atol=1e-3, rtol=0)


def test_a_constant_channel_comes_back_as_nothing():
    flat = PICTURES.copy()
    flat[..., 2] = 77
    module = fit(flat)
    back = module.inverse(module(torch.from_numpy(flat)))
    assert torch.isfinite(back).all()
    assert back[..., 2].eq(0).all()
    np.testing.assert_allclose(back[..., :2], flat[..., :2], atol=1e-3)
