"""A sweep over learning rates as a picture: an SVG file, which every browser shows."""

import math
from pathlib import Path
from typing import Final

from torch import Tensor

from caviar.core.errors import InputError
from caviar.core.files import write_atomic
from caviar.optim.plot import BOTTOM, COLOURS, GRID, HEIGHT, INK, LEFT, RIGHT, TOP, WIDTH, svg_text
from caviar.workflow.learning_rates import Kind, LearningRates

TINTS: Final[dict[Kind, str]] = {
    "barely moves": "#eeeeee",
    "good": "#e3f4e1",
    "best": "#b7e2b1",
    "unstable": "#fdebc8",
    "explodes": "#f9d4d2",
}
LINES: Final = 4
"""Lines across the picture, at even steps of the loss."""


def write_plot(found: LearningRates, path: Path) -> None:
    """Write the picture. Raises InputError when the file cannot be written."""
    try:
        write_atomic(Path(path), draw(found).encode())
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}). Name another file.") from error


def draw(found: LearningRates) -> str:
    """Return the picture: loss at the end over the rate, lowest to highest of the seeds, the ranges behind it."""
    top = _top(found)
    low = min(0.0, _least(found.losses))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="13" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        svg_text(WIDTH / 2, 22, f"loss after {found.steps} steps at each learning rate", "middle", size=15),
        *_bands(found),
        *_axes(found, low, top),
        *_curve(found, low, top),
    ]
    if found.suggestion is not None:
        x = _x(found, found.suggestion)
        parts.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="{INK}" stroke-dasharray="4 3"/>')
        parts.append(svg_text(x + 5, HEIGHT - BOTTOM - 8, f"{found.suggestion:.2g}", "start"))
    return "\n".join([*parts, "</svg>", ""])


def _least(losses: Tensor) -> float:
    finite = losses[losses.isfinite()]
    return float(finite.min()) if len(finite) else 0.0


def _top(found: LearningRates) -> float:
    """A little above the untouched network: what explodes leaves the picture."""
    before = float(found.before[found.before.isfinite()].max()) if bool(found.before.isfinite().any()) else 1.0
    return before * 1.25 if before > 0 else max(1.0, abs(before))


def _x(found: LearningRates, rate: float) -> float:
    low, high = math.log(found.rates[0]), math.log(found.rates[-1])
    return LEFT + (WIDTH - LEFT - RIGHT) * (math.log(rate) - low) / (high - low)


def _y(value: float, low: float, top: float) -> float:
    share = (min(max(value, low), top) - low) / (top - low)
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def _bands(found: LearningRates) -> list[str]:
    parts = []
    half = math.sqrt(found.rates[1] / found.rates[0])
    for each in found.ranges:
        left = max(float(LEFT), _x(found, each.low / half))
        right = min(float(WIDTH - RIGHT), _x(found, each.high * half))
        size = f'width="{right - left:.1f}" height="{HEIGHT - TOP - BOTTOM}"'
        parts.append(f'<rect x="{left:.1f}" y="{TOP}" {size} fill="{TINTS[each.kind]}"/>')
        if right - left > 60:
            parts.append(svg_text((left + right) / 2, TOP + 14, each.kind, "middle"))
    return parts


def _axes(found: LearningRates, low: float, top: float) -> list[str]:
    foot = HEIGHT - BOTTOM
    parts = [f'<path d="M{LEFT} {TOP}V{foot}H{WIDTH - RIGHT}" stroke="{INK}" fill="none"/>']
    for number in range(LINES + 1):
        value = low + (top - low) * number / LINES
        y = _y(value, low, top)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{GRID}"/>')
        parts.append(svg_text(LEFT - 8, y + 4, f"{value:.3g}", "end"))
    for power in range(
        math.ceil(math.log10(found.rates[0]) - 1e-9), math.floor(math.log10(found.rates[-1]) + 1e-9) + 1
    ):
        x = _x(found, 10.0**power)
        parts.append(f'<path d="M{x:.1f} {foot}v5" stroke="{INK}"/>')
        parts.append(svg_text(x, foot + 20, f"{10.0**power:g}", "middle"))
    return [*parts, svg_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "learning rate", "middle")]


def _curve(found: LearningRates, low: float, top: float) -> list[str]:
    """A bar from the lowest to the highest loss of the seeds at each rate, and a line through their medians."""
    parts, points = [], []
    for rate, losses in zip(found.rates, found.losses.T, strict=True):
        finite = losses[losses.isfinite()]
        if not len(finite):
            continue
        x = _x(found, rate)
        ends = (_y(float(finite.min()), low, top), _y(float(finite.max()), low, top))
        parts.append(f'<path d="M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}" stroke="{COLOURS[0]}" stroke-width="2"/>')
        points.append(f"{x:.1f},{_y(float(finite.median()), low, top):.1f}")
    return [*parts, f'<polyline points="{" ".join(points)}" fill="none" stroke="{COLOURS[0]}" stroke-width="2"/>']
