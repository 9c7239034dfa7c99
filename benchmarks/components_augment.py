"""Time caviar's augmentation against plain indexing and against Kornia's pipeline, on one core.

    python benchmarks/components_augment.py [--rounds N] [--json]

Batches of 256 pictures of 32 x 32, three channels. All sides take turns within a round; a ratio is taken within a round
and the median over the rounds counts. Kornia is asked for the same random changes with its own pipeline, and left out
where it is not installed. Exit code 1 when a target is missed.
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from caviar.augment import AugmentSettings, augment, random_crop

BATCH, SIDE, PADDING, REPEATS = 256, 32, 4, 20
LEAST_SPEED = 10_000
"""Pictures of 32 x 32 a second for flip plus crop on one core."""
WARPS = AugmentSettings(flip=0.5, crop_padding=4, translate=0.1, rotate=15.0, stretch=1.2, shear=10.0)
COLOURS = AugmentSettings(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1)
Work = Callable[[], object]


def measure(rounds: int = 7) -> list[dict[str, Any]]:
    """Return one row a comparison: name, pictures a second of both, ratio of times, range, limit, whether it is met."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_row(*each, rounds) for each in _comparisons()]
    finally:
        torch.set_num_threads(threads)


def _comparisons() -> list[tuple[str, Work, Work]]:
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(0, 256, (BATCH, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
    pixels = stored.permute(0, 3, 1, 2)
    floats = (pixels / 255).contiguous()

    def flip_and_crop(pictures: Tensor) -> Work:
        return lambda: random_crop(pictures, generator, padding=PADDING, flip_probability=0.5)

    found: list[tuple[str, Work, Work]] = [
        ("flip and crop of bytes, against plain indexing", flip_and_crop(pixels), lambda: plain(stored, generator)),
    ]
    if find_spec("kornia") is None:
        return found
    kornia = _kornia()
    pairs: list[tuple[str, Work, str]] = [
        ("flip and crop", flip_and_crop(floats), "flip and crop"),
        ("flip, crop, one affine resampling", lambda: augment(floats, generator, WARPS), "warps"),
        ("colours", lambda: augment(floats, generator, COLOURS), "colours"),
    ]
    for name, ours, theirs in pairs:
        pipeline = kornia[theirs]
        found.append((f"{name} of floats, against Kornia", ours, lambda pipeline=pipeline: pipeline(floats)))
    return found


def plain(stored: Tensor, generator: torch.Generator) -> Tensor:
    """Flip and crop as one index expression over padded bytes (n, height, width, channels)."""
    padded = functional.pad(stored, (0, 0, PADDING, PADDING, PADDING, PADDING))
    count = len(stored)
    top, left = (torch.randint(0, 2 * PADDING + 1, (count, 1), generator=generator) for _ in range(2))
    steps = torch.arange(SIDE)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    rows, columns = top + steps, left + torch.where(mirrored, SIDE - 1 - steps, steps)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _kornia() -> dict[str, Callable[[Tensor], Tensor]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import kornia.augmentation as k
    crop = [k.RandomHorizontalFlip(p=0.5), k.RandomCrop((SIDE, SIDE), padding=PADDING, p=1.0)]
    affine = k.RandomAffine(15.0, translate=(0.1, 0.1), scale=(0.83, 1.2, 0.83, 1.2), shear=(-10, 10, -10, 10), p=1.0)
    return {
        "flip and crop": k.AugmentationSequential(*crop, data_keys=["input"]),
        "warps": k.AugmentationSequential(*crop, affine, data_keys=["input"]),
        "colours": k.AugmentationSequential(k.ColorJiggle(0.2, 0.2, 0.2, 0.1, p=1.0), data_keys=["input"]),
    }


def _row(name: str, ours: Work, theirs: Work, rounds: int) -> dict[str, Any]:
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for spent, work in zip(seconds, (ours, theirs), strict=True):
            start = time.perf_counter()
            for _ in range(REPEATS):
                work()
            if number:  # the first round warms up
                spent.append((time.perf_counter() - start) / (REPEATS * BATCH))
    ratios = [a / b for a, b in zip(*seconds, strict=True)]
    speed, other = (1 / statistics.median(spent) for spent in seconds)
    middle = statistics.median(ratios)
    fast_enough = speed >= LEAST_SPEED or not name.startswith("flip and crop")
    return {
        "name": name,
        "ours": speed,
        "theirs": other,
        "unit": "pictures/s",
        "ratio": middle,
        "lowest": min(ratios),
        "highest": max(ratios),
        "limit": 1.0,
        "met": middle <= 1.0 and fast_enough,
    }


def main() -> int:
    """Measure, print what came out, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    arguments = parser.parse_args()
    rows = measure(arguments.rounds)
    if arguments.json:
        print(json.dumps(rows, indent=2))
    for row in () if arguments.json else rows:
        print(
            f"{row['name']}: {row['ours']:,.0f} : {row['theirs']:,.0f} pictures/s, time ratio {row['ratio']:.3f} "
            f"({row['lowest']:.2f} to {row['highest']:.2f}), at most {row['limit']:.2f}: "
            f"{'met' if row['met'] else 'missed'}"
        )
    if find_spec("kornia") is None:
        print("Kornia is not installed (pip install kornia), so it was left out.", file=sys.stderr)
    return 0 if all(row["met"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
