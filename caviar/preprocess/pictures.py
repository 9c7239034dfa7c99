"""Pictures: from uint8 pixels to float32, centred by channel or pixel, scaled. `fit_pictures` makes the module."""

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.core.settings import Settings
from caviar.preprocess.moments import inverse_std
from caviar.preprocess.settings import PreprocessSettings

Mode = Literal["channel_zscore", "channel_mean", "mean_image", "none"]
PictureBlocks = Callable[[], Iterable[NDArray[np.uint8] | Tensor]]

# Sums of this many squares of bytes stay below 2**24 (256 * 255**2), so float32 adds them exactly, in any order.
EXACT_ROWS = 256
LARGE_PICTURE = 1 << 20


class PictureState(Settings):
    """What a bundle's JSON says of fitted pictures; the numbers are in the buffers."""

    kind: Literal["pictures"] = "pictures"
    """what this is the state of"""
    mode: Mode
    """the setting preprocess.pictures"""
    channels: Annotated[int, Field(ge=1)]
    """channels of a picture"""
    size: tuple[Annotated[int, Field(ge=1, le=1 << 16)], Annotated[int, Field(ge=1, le=1 << 16)]] | None = None
    """height and width of the mean image; without one, pictures may be of any size"""

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        if (self.size is not None) != (self.mode == "mean_image"):
            raise ValueError("a size belongs to mean_image, and to nothing else")
        return self


class PicturePreprocess(nn.Module):
    """Turns uint8 pixels (n, height, width, channels) into float32 (n, channels, height, width).

    With p = pixel / 255, and mean and std those of the channel over all pixels of the training pictures,

        channel_zscore: (p - mean) / std,    channel_mean: p - mean,    none: p,

    and mean_image: p - mean, with mean the mean image: that of each value over the training pictures (Krizhevsky,
    Sutskever and Hinton, 2012). A constant channel becomes 0 under channel_zscore. The result is a view with
    channels-last strides of one pass over the pixels (`pixel * scale + shift`).

    Attributes:
        scale: (channels,) float32 buffer. shift: (channels,), or (height, width, channels) for mean_image.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, state: PictureState) -> None:
        super().__init__()
        self.state = state
        self.register_buffer("scale", torch.ones(state.channels))
        self.register_buffer("shift", torch.zeros(*(state.size or ()), state.channels))

    def forward(self, pixels: Tensor) -> Tensor:
        """Turn pixels (n, height, width, channels) uint8 into float32 (n, channels, height, width), channels last.

        Floating pixels from 0 to 255 will do as well.
        """
        count, height, width, channels = pixels.shape
        # Spread over a whole picture, the factors are a row as long as the data's: an inner loop over three is slow.
        scale = self.scale.repeat(height * width)
        shift = self.shift.repeat(height * width) if self.state.size is None else self._shift_of(height, width)
        rows = pixels.reshape(count, height * width * channels).to(torch.float32)
        return torch.addcmul(shift, rows, scale).view(count, height, width, channels).permute(0, 3, 1, 2)

    def inverse(self, pictures: Tensor) -> Tensor:
        """Return pixels (n, height, width, channels), float32 from 0 to 255, of what `forward` gave.

        To look at what a network sees: `inverse(pictures).round().clamp(0, 255).to(torch.uint8)`. A channel that was
        constant under channel_zscore has lost its value and comes back as 0.
        """
        last = pictures.permute(0, 2, 3, 1)
        shift = self.shift if self.state.size is None else self._shift_of(*last.shape[1:3]).view(last.shape[1:])
        return (last - shift) * torch.where(self.scale == 0, 0.0, 1 / self.scale)

    def _shift_of(self, height: int, width: int) -> Tensor:
        if (height, width) != self.state.size:
            raise InputError(f"pictures of size {(height, width)} have no mean image: it is of size {self.state.size}.")
        return self.shift.flatten()

    def config(self) -> dict[str, Any]:
        """Return everything but the buffers as JSON-able data for `caviar.preprocess.rebuild`."""
        return self.state.model_dump(mode="json")

    def extra_repr(self) -> str:
        """Say what is done with how many channels."""
        return f"{self.state.mode}, channels={self.state.channels}"


def fit_pictures(blocks: PictureBlocks, settings: PreprocessSettings) -> PicturePreprocess:
    """Fit the mean and deviation of each channel, or the mean image, on the training pictures: one pass, exact sums.

    Args:
        blocks: returns an iterator over the training pictures, and nothing else: uint8 (n, height, width, channels),
            of any n and, but for the channels, of any size (a mean image needs one size).
        settings: the section [preprocess].

    Raises:
        InputError: there are no pictures, blocks differ in type, number of channels or (mean_image) size, or the
            settings ask for a decorrelation.
    """
    if settings.decorrelate != "none":
        raise InputError(
            f"preprocess.decorrelate is {settings.decorrelate!r}, which is for tables and arrays; leave it out for "
            'pictures ("none").'
        )
    found: _Sums | _PixelSums | None = None
    for block in blocks():
        pixels = block.detach().cpu().numpy() if isinstance(block, Tensor) else np.asarray(block)
        if pixels.dtype != np.uint8 or pixels.ndim != 4:
            raise InputError(
                f"pictures must be uint8 (n, height, width, channels), but a block is {pixels.dtype} {pixels.shape}."
            )
        if found is None:
            found = _PixelSums(pixels.shape[1:]) if settings.pictures == "mean_image" else _Sums(pixels.shape[3])
        found.update(pixels)
    if found is None or found.count == 0:
        raise InputError("there are no training pictures to fit the preprocessing on.")
    if isinstance(found, _PixelSums):
        return _mean_image(found)
    module = PicturePreprocess(PictureState(mode=settings.pictures, channels=len(found.total)))
    scale, shift = _factors(settings.pictures, *found.mean_and_std())
    module.scale.copy_(torch.from_numpy(scale))
    module.shift.copy_(torch.from_numpy(shift))
    return module


class _PixelSums:
    """Sums of bytes by place in the picture, as whole numbers."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count = 0
        self.total = np.zeros(shape, dtype=np.int64)

    def update(self, pixels: NDArray[np.uint8]) -> None:
        if pixels.shape[1:] != self.total.shape:
            raise InputError(
                f"pictures of shape {pixels.shape[1:]} among pictures of shape {self.total.shape}: a mean image needs "
                'one size. Use preprocess.pictures = "channel_mean".'
            )
        self.total += pixels.sum(axis=0, dtype=np.int64)
        self.count += len(pixels)


def _mean_image(found: _PixelSums) -> PicturePreprocess:
    height, width, channels = found.total.shape
    module = PicturePreprocess(PictureState(mode="mean_image", channels=channels, size=(height, width)))
    module.scale.fill_(1 / 255)
    module.shift.copy_(torch.from_numpy(found.total / (-255.0 * found.count)))
    return module


class _Sums:
    """Sums of bytes and of their squares by channel, as whole numbers."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.total = np.zeros(channels, dtype=np.int64)
        self.squares = np.zeros(channels, dtype=np.int64)

    def update(self, pixels: NDArray[np.uint8]) -> None:
        count, height, width, channels = pixels.shape
        if channels != len(self.total):
            raise InputError(f"pictures with {channels} channels among pictures with {len(self.total)}.")
        large = height * width * channels > LARGE_PICTURE
        rows = pixels.reshape((count * height, -1) if large else (count, height * width * channels))
        for start in range(0, len(rows), EXACT_ROWS):
            part = rows[start : start + EXACT_ROWS].astype(np.float32)
            self.total += self._by_channel(part.sum(axis=0))
            self.squares += self._by_channel(np.einsum("ij,ij->j", part, part))
        self.count += count * height * width

    def _by_channel(self, sums: NDArray[np.float32]) -> NDArray[np.int64]:
        by_channel: NDArray[np.int64] = sums.astype(np.int64).reshape(-1, len(self.total)).sum(axis=0)
        return by_channel

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel in bytes (0 to 255); Python's whole numbers cannot overflow."""
        mean = [total / self.count for total in self.total.tolist()]
        scaled = [self.count * s - t * t for t, s in zip(self.total.tolist(), self.squares.tolist(), strict=True)]
        return mean, [math.sqrt(variance / self.count**2) for variance in scaled]


def _factors(mode: Mode, mean: list[float], std: list[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return scale and shift such that pixel * scale + shift is what `mode` says; the 255 cancels from the z-score."""
    centre = np.array(mean)
    scale = inverse_std(np.array(std)) if mode == "channel_zscore" else np.full(len(mean), 1 / 255)
    shift = np.zeros(len(mean)) if mode == "none" else -centre * scale
    return scale, shift
