"""Every mode and every fault of one picture, against NumPy's arithmetic."""

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from caviar.data.decode import BadPicture, Misfit, Plan, decode, open_header, pillow_rules, read_file

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (12, 16), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (12, 16), dtype=np.uint8)


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def plan(channels: int = 3, **changes: Any) -> Plan:
    return Plan(12, 16, channels, 10_000)._replace(**changes)


def pixels(data: bytes, wish: Plan) -> NDArray[np.int64]:
    with pillow_rules():
        decoded = decode(data, wish)
    return np.frombuffer(decoded, np.uint8).reshape(wish.height, wish.width, wish.channels).astype(int)


def test_rgb_and_grey_pass_through() -> None:
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(NOISE)), plan()), NOISE)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(GREY)), plan(1))[..., 0], GREY)


def test_grey_becomes_three_equal_channels() -> None:
    found = pixels(encoded(Image.fromarray(GREY)), plan(3))
    np.testing.assert_array_equal(found, np.repeat(GREY[..., None], 3, axis=2))


def test_colour_becomes_luma() -> None:
    found = pixels(encoded(Image.fromarray(NOISE)), plan(1))[..., 0]
    assert np.abs(found - NOISE @ np.array([0.299, 0.587, 0.114])).max() <= 1


def test_one_bit() -> None:
    bits = GREY > 127
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(bits)), plan(1))[..., 0], bits * 255)


def test_sixteen_bit_grey_is_divided_by_257() -> None:
    values = RNG.integers(0, 65536, (12, 16)).astype(np.uint16)
    for form in ("PNG", "TIFF"):
        found = pixels(encoded(Image.fromarray(values), form), plan(1))[..., 0]
        np.testing.assert_array_equal(found, np.rint(values / 257))
    as_rgb = pixels(encoded(Image.fromarray(values)), plan(3))
    np.testing.assert_array_equal(as_rgb[..., 2], np.rint(values / 257))


def test_integer_and_float_greys() -> None:
    whole = RNG.integers(0, 65536, (12, 16)).astype(np.int32)
    np.testing.assert_array_equal(
        pixels(encoded(Image.fromarray(whole), "TIFF"), plan(1))[..., 0], np.rint(whole / 257)
    )
    unit = RNG.random((12, 16)).astype(np.float32)
    found = pixels(encoded(Image.fromarray(unit), "TIFF"), plan(1))[..., 0]
    assert np.abs(found - 255 * unit).max() <= 0.5001


@pytest.mark.parametrize("bad", [np.full((12, 16), -1, np.int32), np.full((12, 16), 2.0, np.float32)])
def test_greys_outside_their_range_are_refused(bad: NDArray[Any]) -> None:
    with pytest.raises(BadPicture) as raised:
        pixels(encoded(Image.fromarray(bad), "TIFF"), plan(1))
    assert "outside 0 to" in raised.value.reason


def test_nan_greys_are_refused() -> None:
    with pytest.raises(BadPicture):
        pixels(encoded(Image.fromarray(np.full((12, 16), np.nan, np.float32)), "TIFF"), plan(1))


def test_cmyk_by_the_plain_formula() -> None:
    inks = RNG.integers(0, 256, (12, 16, 4), dtype=np.uint8)
    found = pixels(encoded(Image.frombytes("CMYK", (16, 12), inks.tobytes()), "TIFF"), plan())
    wanted = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:].astype(float)) / 255
    assert np.abs(found - wanted).max() <= 1


def test_cmyk_jpeg_is_not_inverted() -> None:
    white = Image.new("CMYK", (16, 12), (0, 0, 0, 0))
    assert pixels(encoded(white, "JPEG"), plan()).min() >= 250


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_on_white(mode: str) -> None:
    colours = NOISE if mode == "RGBA" else GREY[..., None]
    picture = Image.frombytes(mode, (16, 12), np.concatenate([colours, ALPHA[..., None]], axis=2).tobytes())
    channels = 3 if mode == "RGBA" else 1
    found = pixels(encoded(picture), plan(channels))
    cover = ALPHA[..., None] / 255
    assert np.abs(found - (colours * cover + 255 * (1 - cover))).max() <= 1


def test_transparent_colour_of_a_palette_and_of_png_becomes_white() -> None:
    palette = Image.new("P", (16, 12), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((3, 2), 1)
    found = pixels(encoded(palette, transparency=0), plan())
    assert (found[2, 3] == [0, 0, 255]).all()
    assert (np.delete(found.reshape(-1, 3), 2 * 16 + 3, axis=0) == 255).all()
    keyed = Image.new("RGB", (16, 12), (1, 2, 3))
    assert (pixels(encoded(keyed, transparency=(1, 2, 3)), plan()) == 255).all()


def test_palette_gives_its_colours() -> None:
    palette = Image.fromarray(NOISE).quantize(200)
    np.testing.assert_array_equal(pixels(encoded(palette), plan()), np.asarray(palette.convert("RGB")))


def test_animations_and_pages_are_refused() -> None:
    frames = [Image.new("RGB", (16, 12), colour) for colour in ("red", "blue")]
    for form in ("GIF", "PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if form == "WEBP" else {}
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
        with pillow_rules(), pytest.raises(BadPicture, match=r"several pages \(2 of them\)"):
            decode(data, plan())
    with pillow_rules():
        assert decode(encoded(frames[0], "GIF"), plan()) == bytes([255, 0, 0]) * (16 * 12)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(form: str, orientation: int) -> None:
    turn = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }[orientation]
    blocks = np.kron(RNG.integers(0, 256, (2, 3), dtype=np.uint8), np.ones((16, 16), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.repeat(blocks[..., None], 3, axis=2)), form, exif=exif)
    wanted = turn(blocks)
    wish = plan(1, height=wanted.shape[0], width=wanted.shape[1], own_size=True)
    assert np.abs(pixels(data, wish)[..., 0] - wanted).max() <= 40
    assert np.abs(pixels(data, wish)[..., 0] - wanted).mean() <= 4


def test_resize_scales_the_shorter_side_and_cuts_the_centre() -> None:
    # 40 x 120: three squares, the middle one white; brought to a square it must be the middle one.
    squares = np.zeros((40, 120), np.uint8)
    squares[:, 40:80] = 255
    wish = plan(1, height=20, width=20)
    assert pixels(encoded(Image.fromarray(squares)), wish)[2:-2, 2:-2].min() > 250
    assert pixels(encoded(Image.fromarray(squares.T.copy())), wish)[2:-2, 2:-2].min() > 250


def test_resize_averages_where_it_shrinks() -> None:
    checkers = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    found = pixels(encoded(Image.fromarray(checkers)), plan(1, height=8, width=8))
    assert np.abs(found - 127.5).max() < 10


def test_large_jpeg_decoded_small_equals_the_long_way() -> None:
    smooth = np.kron(RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8), np.ones((128, 128, 1), np.uint8))
    data = encoded(Image.fromarray(smooth), "JPEG", quality=95)
    wish = plan(3, height=32, width=48, max_pixels=10**6)
    long_way = np.asarray(Image.fromarray(smooth).resize((48, 32), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(pixels(data, wish) - long_way).mean() < 3


def test_misfits_are_told() -> None:
    with pytest.raises(Misfit, match="size"):
        pixels(encoded(Image.fromarray(NOISE)), plan(3, width=17, own_size=True))
    with pytest.raises(Misfit, match="mode"):
        pixels(encoded(Image.fromarray(NOISE)), plan(1, own_mode=True))


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("WEBP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
    ],
)
def test_no_cut_file_gives_other_pixels(form: str, options: dict[str, Any]) -> None:
    """A file cut anywhere is refused, or (where only a trailer is lost) gives the very pixels of the whole file."""
    data = encoded(Image.fromarray(NOISE), form, **options)
    whole = pixels(data, plan())
    reasons = []
    for cut in range(len(data)):
        try:
            np.testing.assert_array_equal(pixels(data[:cut], plan()), whole)
        except BadPicture as bad:
            reasons.append(bad.reason)
    assert len(reasons) >= len(data) - 2
    assert all("cut short" in reason or "decoded" in reason for reason in reasons[20:])


def test_jpeg_without_its_end_mark_is_cut_short() -> None:
    data = encoded(Image.fromarray(NOISE), "JPEG")
    with pytest.raises(BadPicture) as raised:
        pixels(data[:-2], plan())
    assert raised.value.reason == "is cut short"
    pixels(data + b"\0" * 10, plan())  # padding after the end is harmless


def test_pixel_cap_is_checked_before_decoding() -> None:
    bomb = encoded(Image.new("1", (20_000, 20_000)))
    with pillow_rules(), pytest.raises(BadPicture) as raised:
        open_header(bomb, 50_000_000)
    assert "20,000 x 20,000 = 400,000,000 pixels" in raised.value.reason
    assert "data.max_pixels" in raised.value.remedy


def test_what_is_no_picture(tmp_path: Any) -> None:
    for content, reason in ((b"a letter", "is not a picture"), (b"\x89PNG\r\n\x1a\n rest", "cut short or damaged")):
        with pillow_rules(), pytest.raises(BadPicture) as raised:
            open_header(content, 100)
        assert reason in raised.value.reason
    (tmp_path / "none.jpg").touch()
    with pytest.raises(BadPicture) as raised:
        read_file(str(tmp_path / "none.jpg"), 100)
    assert "is empty (0 bytes)" in raised.value.reason


def test_postscript_is_never_run() -> None:
    with pillow_rules(), pytest.raises(BadPicture):
        open_header(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", 10_000)


def test_pillow_is_left_as_it_was() -> None:
    before = Image.MAX_IMAGE_PIXELS
    with pillow_rules():
        assert Image.MAX_IMAGE_PIXELS is None
    assert before == Image.MAX_IMAGE_PIXELS
