"""Whether weights look freshly drawn, or learned."""

import math
from typing import Final

import torch
from torch import Tensor

FRESH_ROWS: Final = 8
"""A weight of fewer rows or columns is too small to be called fresh or learned."""
MOST_ROWS: Final = 512
STANDS_OUT: Final = 1.1
"""A singular value so many times the largest of random weights has been learned."""
FITS: Final = 1.95
"""Largest distance of two distribution functions, times the root of the number of entries, that chance makes."""


def looks_fresh(weight: Tensor) -> bool:
    """Whether a weight looks drawn at random: uniform, normal or cut normal, and no direction that stands out.

    Training adds a few strong directions. The largest singular value of n rows of k random entries with standard
    deviation s is about s (sqrt(n) + sqrt(k)) (Marchenko and Pastur, 1967).
    """
    if weight.dim() < 2 or len(weight) < FRESH_ROWS or weight[0].numel() < FRESH_ROWS:
        return False
    rows = weight.flatten(1)[:MOST_ROWS, :MOST_ROWS].cpu().double()
    entries = rows.flatten().sort().values
    if not bool(torch.isfinite(entries).all()):
        return False
    if float(entries[0]) == float(entries[-1]):
        return True
    edge = float(entries.std()) * (math.sqrt(rows.shape[0]) + math.sqrt(rows.shape[1]))
    if float(torch.linalg.matrix_norm(rows, 2)) > STANDS_OUT * edge:
        return False
    size = float(torch.maximum(-entries[0], entries[-1])) * (1 + 1 / len(entries))
    normal = torch.special.ndtr((entries - entries.mean()) / entries.std())
    cut, low = torch.special.ndtr(2 * entries / size), float(torch.special.ndtr(torch.tensor(-2.0)))  # at two sigma
    return any(map(_fits, ((entries / size + 1) / 2, normal, (cut - low) / (1 - 2 * low))))


def _fits(shares: Tensor) -> bool:
    """Whether sorted numbers are uniform from 0 to 1, by the test of Kolmogorov and Smirnov at about 0.1%."""
    ranks = torch.arange(1, len(shares) + 1, dtype=torch.float64, device=shares.device) / len(shares)
    return float((ranks - shares).abs().max()) * math.sqrt(len(shares)) < FITS
