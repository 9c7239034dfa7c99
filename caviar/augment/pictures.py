"""What every augmentation takes: a batch of pictures, random numbers by name, and values back in the pictures' type.

Pictures are tensors (n, channels, height, width) on any device and in any memory layout: uint8 from 0 to 255, or
floating point from 0 to 1. What comes back has their type. Parameters are drawn on the generator's device (a CPU one
gives equal draws for every device) for the whole batch at once.
"""

import math
from typing import Any

import torch
from torch import Tensor

from caviar.core.errors import InputError


def check_pictures(pictures: Tensor) -> None:
    """Raise an InputError unless these are pictures (n, channels, height, width), uint8 or floating point."""
    if not isinstance(pictures, Tensor):
        raise InputError(f"pictures came as {type(pictures).__name__}; give a tensor (n, channels, height, width).")
    if pictures.dim() != 4 or 0 in pictures.shape[1:]:
        raise InputError(
            f"pictures have shape {tuple(pictures.shape)}; (n, channels, height, width) is needed, nothing but n 0."
        )
    if pictures.dtype != torch.uint8 and not pictures.is_floating_point():
        raise InputError(f"pictures are {pictures.dtype}; uint8 (0 to 255) or floating point (0 to 1) is needed.")


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Raise an InputError unless `value` is a number from `low` to `high`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and low <= value <= high):
        raise InputError(f"{name} is {value!r}; it must be a number from {low:g} to {high:g}.")


def check_range(name: str, value: Any, low: float, high: float) -> None:
    """Raise an InputError unless `value` is a pair of numbers from `low` to `high`, the first not above the second."""
    pair = isinstance(value, tuple | list) and len(value) == 2
    if pair:
        check_number(f"{name}[0]", value[0], low, high)
        check_number(f"{name}[1]", value[1], low, high)
    if not pair or value[0] > value[1]:
        raise InputError(f"{name} is {value!r}; it must be two numbers, the first not above the second.")


def draw(pictures: Tensor, generator: torch.Generator, low: float, high: float) -> Tensor:
    """Return one float32 number from [low, high] for each picture, on the pictures' device."""
    share = torch.rand(len(pictures), generator=generator, device=generator.device)
    return (low + (high - low) * share).to(pictures.device)


def chosen(pictures: Tensor, generator: torch.Generator, share: float) -> Tensor:
    """Return one bool for each picture, true with probability `share`, on the pictures' device."""
    return (torch.rand(len(pictures), generator=generator, device=generator.device) < share).to(pictures.device)


def each(values: Tensor) -> Tensor:
    """Give one value a picture (n,) the axes (n, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def to_unit(pictures: Tensor) -> Tensor:
    """Return the pictures as floating point from 0 to 1 (bytes as float32; half precision as float32 too)."""
    if pictures.dtype == torch.uint8:
        return pictures.to(torch.float32) / 255
    return pictures.to(torch.float32) if pictures.dtype in (torch.bfloat16, torch.float16) else pictures


def like(values: Tensor, pictures: Tensor) -> Tensor:
    """Bring values from 0 to 1 (beyond: cut off) back to the pictures' type."""
    if pictures.dtype == torch.uint8:
        return (values * 255).round_().clamp_(0, 255).to(torch.uint8)
    return values.clamp(0, 1).to(pictures.dtype)
