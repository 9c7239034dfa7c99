"""From the bytes of picture files to pixels: what a decoding process runs.

This module needs Pillow and the standard library only (NumPy for 16-bit pictures), so that a process running it starts
in a few hundredths of a second: `python decode.py`, the plan as one line of JSON on standard input, then one line a
chunk of files; each is answered by one line on standard output.

How every picture becomes RGB or grey, eight bits a channel:

- 1, L: grey as it is (0 and 255 for 1). 16-bit grey (I;16, and I with values 0 to 65535): round(value / 257).
  F: values 0 to 1, round(255 value). Other ranges are refused.
- P: through its palette. CMYK and YCCK: R = (255 - C)(255 - K) / 255 and so on, without colour profiles.
  YCbCr, HSV: Pillow's conversion. 16-bit colour: the high byte of each value, as Pillow reads it.
- Transparency (LA, RGBA, PA, a transparent colour): composited on white.
- Grey from colour: 0.299 R + 0.587 G + 0.114 B. Colour from grey: three equal channels.
- EXIF rotation and mirroring are applied first. Animations and files of several pages are refused.
- Another size: the shorter side relative to the goal is scaled (bicubic, antialiased), then the centre is cut out.
"""

import hashlib
import io
import json
import os
import struct
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from PIL import Image, ImageFile, UnidentifiedImageError

GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
# Never EPS: Pillow would run Ghostscript on it.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA", "ICO")
MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP")
READ_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0)
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Plan(NamedTuple):
    """What every picture becomes.

    own_size: height and width are a guess from some pictures; one of another size is a `Misfit`.
    own_mode: one channel is a guess; a colour picture is a `Misfit`.
    """

    height: int
    width: int
    channels: int
    max_pixels: int
    own_size: bool = False
    own_mode: bool = False

    @property
    def row_bytes(self) -> int:
        """Bytes of one decoded picture."""
        return self.height * self.width * self.channels


class BadPicture(Exception):  # noqa: N818 (it says what the picture is, as a fact in a report)
    """Why a file cannot be used, as the end of a sentence that begins with its name, and the remedy."""

    def __init__(self, reason: str, remedy: str = "Replace the file, or delete it.") -> None:
        super().__init__(reason, remedy)
        self.reason = reason
        self.remedy = remedy


class Misfit(Exception):  # noqa: N818 (not an error: the plan was a guess and has to change)
    """A picture that is fine but differs from a guessed plan: `what` is size or mode."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


@contextmanager
def pillow_rules() -> Iterator[None]:
    """Silence Pillow's warnings, and let our own pixel cap stand in for its own; restored afterwards."""
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def read_file(path: str, max_pixels: int) -> bytes:
    """Read a picture file whole; raises `BadPicture` when it is unreadable, empty or far too long to be a picture."""
    limit = 8 * max_pixels + (1 << 20)  # eight bytes a pixel: the widest format there is, without any compression
    try:
        descriptor = os.open(path, READ_FLAGS)  # for small files half the time of open() goes into its wrapping
        try:
            size = os.fstat(descriptor).st_size
            if size > limit:
                raise BadPicture(
                    f"has {size:,} bytes, more than data.max_pixels = {max_pixels:,} pixels can need",
                    "Shrink it, or raise data.max_pixels.",
                )
            data = _read_all(descriptor, size)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise BadPicture(f"cannot be read ({error.strerror})", "Check the file and its permissions.") from error
    if not data:
        raise BadPicture("is empty (0 bytes)")
    return data


def _read_all(descriptor: int, size: int) -> bytes:
    data = os.read(descriptor, size)
    while len(data) < size and (more := os.read(descriptor, size - len(data))):
        data += more
    return data


def open_header(data: bytes, max_pixels: int) -> Image.Image:
    """Open a picture without decoding it; raises `BadPicture` when it is none, or larger than `max_pixels`."""
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if data.startswith(MAGIC) or data[4:8] == b"ftyp":
            raise BadPicture("is cut short or damaged") from None
        raise BadPicture(f"is not a picture (it starts with {data[:8]!r})") from None
    except Exception as error:
        raise _undecodable(error, data) from error
    width, height = picture.size
    if width * height > max_pixels:
        raise BadPicture(
            f"has {width:,} x {height:,} = {width * height:,} pixels, more than data.max_pixels = {max_pixels:,}",
            "Shrink it, or raise data.max_pixels.",
        )
    return picture


def decode(data: bytes, plan: Plan) -> bytes:
    """Decode one picture as `plan` says into (height, width, channels); raises `BadPicture` or `Misfit`."""
    picture = open_header(data, plan.max_pixels)
    if plan.own_mode and picture.mode not in GREY_MODES:
        raise Misfit("mode")
    try:
        if picture.format != "MPO" and getattr(picture, "is_animated", False):
            raise BadPicture(
                f"is animated or has several pages ({getattr(picture, 'n_frames', 2)} of them)",
                "Save the one that shows the class as a picture of its own, or delete the file.",
            )
        _shrink_while_decoding(picture, plan)
        picture.load()
        picture = upright(picture)
        if plan.own_size and picture.size != (plan.width, plan.height):
            raise Misfit("size")
        picture = _resize(flatten(picture, plan.channels), plan)
        _refuse_cut(data)
        return picture.tobytes()
    except (BadPicture, Misfit):
        raise
    except Exception as error:
        raise _undecodable(error, data) from error


def _undecodable(error: Exception, data: bytes) -> BadPicture:
    text = str(error) or type(error).__name__
    riff_cut = data.startswith(b"RIFF") and len(data) < 8 + int.from_bytes(data[4:8], "little")
    if "truncated" in text.lower() or isinstance(error, EOFError) or riff_cut:
        return BadPicture("is cut short")
    if isinstance(error, IndexError | struct.error):
        return BadPicture("is cut short or damaged")
    return BadPicture(f"cannot be decoded ({text})")


def _refuse_cut(data: bytes) -> None:
    """Refuse files whose end mark is missing: decoders fill in what is lacking at the very end."""
    if data.startswith(b"\xff\xd8"):
        whole = data.endswith(b"\xff\xd9") or data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    elif data.startswith(b"\x89PNG"):
        whole = b"IEND\xaeB`\x82" in data[-65536:] or b"IEND\xaeB`\x82" in data
    elif data.startswith(b"GIF8"):
        whole = b"\x3b" in data[-4096:]
    else:
        whole = True
    if not whole:
        raise BadPicture("is cut short")


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; a broken EXIF block does not make a picture unusable."""
    if picture.format == "JPEG" and "exif" not in picture.info and "xmp" not in picture.info:
        return 1
    with suppress(Exception):
        return int(picture.getexif().get(ORIENTATION, 1))
    return 1


def upright(picture: Image.Image) -> Image.Image:
    """Apply the EXIF rotation or mirroring of a loaded picture."""
    turn = TURNS.get(_orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def _shrink_while_decoding(picture: Image.Image, plan: Plan) -> None:
    """Let the JPEG decoder halve a large photo by itself, to no less than twice the size that is needed."""
    if plan.own_size or picture.format not in ("JPEG", "MPO"):
        return
    width, height = picture.size
    if _orientation(picture) >= 5:
        width, height = height, width
    scale = 2 * max(plan.width / width, plan.height / height)
    if scale <= 0.5:
        picture.draft(None, (int(picture.size[0] * scale), int(picture.size[1] * scale)))


def flatten(picture: Image.Image, channels: int) -> Image.Image:
    """Bring any mode to L (one channel) or RGB (three), by the rules at the top of this module."""
    goal = "L" if channels == 1 else "RGB"
    mode = picture.mode
    if mode.startswith("I") or mode == "F":
        picture = _eight_bit(picture)
    elif mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        picture = _on_white(picture)
    if picture.mode == "P":
        picture = picture.convert("RGB")
    return picture if picture.mode == goal else picture.convert(goal)


def _on_white(picture: Image.Image) -> Image.Image:
    grey = picture.mode in GREY_MODES
    if picture.mode not in ("LA", "RGBA"):
        picture = picture.convert("LA" if grey else "RGBA")
    ground = Image.new("L" if grey else "RGB", picture.size, "white")
    ground.paste(picture.convert(ground.mode), mask=picture.getchannel("A"))
    return ground


def _eight_bit(picture: Image.Image) -> Image.Image:
    import numpy as np

    values = np.asarray(picture)
    top = 1.0 if picture.mode == "F" else 65535
    lowest, highest = values.min(), values.max()
    if not (lowest >= 0 and highest <= top):
        raise BadPicture(
            f"holds grey values from {lowest} to {highest}, outside 0 to {top:g}", "Convert it to 8 or 16 bits."
        )
    scaled = np.rint(values * 255.0) if picture.mode == "F" else (values.astype(np.int64) + 128) // 257
    return Image.fromarray(scaled.astype(np.uint8))


def _resize(picture: Image.Image, plan: Plan) -> Image.Image:
    width, height = picture.size
    if (width, height) == (plan.width, plan.height):
        return picture
    scale = max(plan.width / width, plan.height / height)
    wide, high = min(width, plan.width / scale), min(height, plan.height / scale)
    left, top = (width - wide) / 2, (height - high) / 2
    box = (left, top, left + wide, top + high)
    return picture.resize((plan.width, plan.height), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def decode_chunk(paths: list[str], plan: Plan, target: int, first: int) -> dict[str, Any]:
    """Decode `paths` into the open file `target`, as rows `first` and on, and report as plain JSON values.

    digests: of the files' content, joined; pixels: digest of the rows written; bad: [position, reason, remedy];
    misfit: size, mode or null.
    """
    report: dict[str, Any] = {"misfit": None, "bad": []}
    rows, digests = [], []
    for position, path in enumerate(paths):
        try:
            data = read_file(path, plan.max_pixels)
            digests.append(hashlib.blake2b(data, digest_size=16).hexdigest())
            rows.append(decode(data, plan))
        except Misfit as misfit:
            return report | {"misfit": misfit.what}
        except BadPicture as bad:
            report["bad"].append([position, bad.reason, bad.remedy])
    if report["bad"]:
        return report
    block = b"".join(rows)
    _write_at(target, block, first * plan.row_bytes)
    pixels_digest = hashlib.blake2b(block, digest_size=16).hexdigest()
    return report | {"digests": "".join(digests), "pixels": pixels_digest}


def _write_at(target: int, block: bytes, offset: int) -> None:
    view = memoryview(block)
    while view:
        written = os.pwrite(target, view, offset)
        view, offset = view[written:], offset + written


def main() -> None:
    """Serve chunks until standard input ends, which it also does when the process that asked is gone."""
    first_line = json.loads(sys.stdin.readline())
    plan = Plan(**first_line["plan"])
    target = os.open(first_line["target"], os.O_WRONLY)
    with pillow_rules():
        for line in sys.stdin:
            job = json.loads(line)
            try:
                report = decode_chunk(job["paths"], plan, target, job["first"])
            except OSError as error:
                report = {"failed": error.strerror or str(error)}
            sys.stdout.write(json.dumps(report) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
