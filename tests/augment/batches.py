"""Batches of pictures for the tests."""

import numpy as np
import torch
from torch import Tensor


def noise(
    count: int = 6, channels: int = 3, height: int = 9, width: int = 7, dtype: torch.dtype = torch.uint8
) -> Tensor:
    """Random pictures (n, channels, height, width), channels last in memory as caviar stores them."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return pictures if dtype == torch.uint8 else (pictures / 255).to(dtype)


def smooth(count: int = 4, side: int = 64) -> Tensor:
    """Pictures of gentle waves, float32 (n, 3, side, side)."""
    steps = torch.linspace(0, 3, side)
    waves = [torch.sin(steps * a)[:, None] * torch.cos(steps * b)[None, :] for a, b in ((1, 2), (2, 1), (1.5, 0.5))]
    picture = (torch.stack(waves) + 1) / 2
    return torch.stack([picture.roll(7 * number, dims=2) for number in range(count)])


def seeded(seed: int = 0) -> torch.Generator:
    """A generator in a known state."""
    return torch.Generator().manual_seed(seed)
