"""Schedules as a picture: an SVG file, which every browser shows."""

import math
from collections.abc import Callable, Mapping
from html import escape
from typing import NamedTuple

from caviar.optim.lists import Number
from caviar.optim.preview import preview

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 40, 52
NUM_POINTS = 800
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
GRID, INK = "#d8d8d8", "#333333"


class _Axes(NamedTuple):
    """From steps and values to places in the picture."""

    total_steps: int
    top: float

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / self.total_steps

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self.top


def plot_schedules(
    schedules: Mapping[str, Callable[[int], Number]], total_steps: int, steps_per_epoch: int = 1, *, title: str = ""
) -> str:
    """Return an SVG picture of schedules (name -> step -> value) over the steps 0 to total_steps - 1.

    The value axis begins at 0. With steps_per_epoch above 1 the time axis counts epochs. A schedule of [members] values
    gives a line for each member. Raises InputError when total_steps is below 1.
    """
    lines = _lines(schedules, total_steps)
    largest = max((value for points in lines.values() for _, value in points if math.isfinite(value)), default=0.0)
    axes = _Axes(total_steps, largest * 1.05 if largest > 0 else 1.0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="13" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        svg_text(WIDTH / 2, 22, title, "middle", size=15),
        *_value_axis(axes),
        *_time_axis(axes, steps_per_epoch),
    ]
    for number, points in enumerate(lines.values()):
        parts.append(_line(axes, points, COLOURS[number % len(COLOURS)]))
    if len(lines) > 1:
        parts += [_label(number, name) for number, name in enumerate(lines)]
    return "\n".join([*parts, "</svg>", ""])


def _lines(schedules: Mapping[str, Callable[[int], Number]], total_steps: int) -> dict[str, list[tuple[int, float]]]:
    lines = {}
    for name, schedule in schedules.items():
        points = preview(schedule, total_steps, NUM_POINTS)
        for member in range(len(points[0][1])):
            label = name if len(points[0][1]) == 1 else f"{name}, member {member}"
            lines[label] = [(step, values[member]) for step, values in points]
    return lines


def _value_axis(axes: _Axes) -> list[str]:
    parts = []
    for value in _ticks(axes.top):
        y = axes.y(value)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{GRID}"/>')
        parts.append(svg_text(LEFT - 8, y + 4, f"{value:.6g}", "end"))
    return parts


def _time_axis(axes: _Axes, steps_per_epoch: int) -> list[str]:
    foot = HEIGHT - BOTTOM
    parts = [f'<path d="M{LEFT} {TOP}V{foot}H{WIDTH - RIGHT}" stroke="{INK}" fill="none"/>']
    for tick in _ticks(axes.total_steps / steps_per_epoch):
        x = axes.x(tick * steps_per_epoch)
        parts.append(f'<path d="M{x:.1f} {foot}v5" stroke="{INK}"/>')
        parts.append(svg_text(x, foot + 20, f"{tick:.6g}", "middle"))
    name = "epochs" if steps_per_epoch > 1 else "steps"
    return [*parts, svg_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, name, "middle")]


def _ticks(top: float) -> list[float]:
    """Return some four to seven round numbers from 0 to `top`."""
    raw = top / 6
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999) * power
    return [round(index * step, 12) for index in range(int(top / step + 1e-9) + 1)]


def _line(axes: _Axes, points: list[tuple[int, float]], colour: str) -> str:
    """Return one course; runs of equal values are drawn by their ends."""
    places = [(axes.x(step), axes.y(value)) for step, value in points if math.isfinite(value)]
    inner = zip(places, places[1:], places[2:], strict=False)
    kept = [places[0], *(b for a, b, c in inner if not a[1] == b[1] == c[1]), *places[1:][-1:]]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in kept)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _label(number: int, name: str) -> str:
    y = TOP + 14 + 18 * number
    mark = f'<path d="M{WIDTH - RIGHT - 24} {y - 4}h24" stroke="{COLOURS[number % len(COLOURS)]}" stroke-width="2"/>'
    return mark + svg_text(WIDTH - RIGHT - 30, y, name, "end")


def svg_text(x: float, y: float, text: str, anchor: str, size: int = 13) -> str:
    """Return text for an SVG picture."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
