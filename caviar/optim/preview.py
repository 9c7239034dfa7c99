"""Look at a schedule before training with it: as numbers, and as a line of text."""

from collections.abc import Callable, Sequence

from torch import Tensor

from caviar.core.errors import InputError
from caviar.optim.lists import Number

BLOCKS = "▁▂▃▄▅▆▇█"

Points = list[tuple[int, list[float]]]
"""(step, the value of each member) in the order of steps; one value where the schedule has no members."""


def preview(schedule: Callable[[int], Number], total_steps: int, num_points: int | None = None) -> Points:
    """Return the values at the steps 0 to total_steps - 1, or at num_points of them, evenly spread, ends included."""
    if total_steps < 1:
        raise InputError(f"total_steps is {total_steps}; there is nothing to preview below 1.")
    count = total_steps if num_points is None else max(1, min(num_points, total_steps))
    steps = [round(index * (total_steps - 1) / max(1, count - 1)) for index in range(count)]
    return [(step, _values(schedule(step))) for step in steps]


def preview_table(schedule: Callable[[int], Number], total_steps: int, num_rows: int = 20) -> str:
    """Return a table of text: step, and the value there (a column for each member)."""
    points = preview(schedule, total_steps, num_rows)
    width = max(len("step"), len(str(total_steps - 1)))
    members = len(points[0][1])
    names = ["value"] if members == 1 else [f"member {index}" for index in range(members)]
    lines = [f"{'step':>{width}}" + "".join(f"  {name:>12}" for name in names)]
    lines += [f"{step:>{width}}" + "".join(f"  {value:>12.6g}" for value in values) for step, values in points]
    return "\n".join(lines)


def sparkline(schedule: Callable[[int], Number], total_steps: int, width: int = 60) -> str:
    """Return the course as a line of blocks from 0 to the largest value, one line for each member."""
    columns = list(zip(*(values for _, values in preview(schedule, total_steps, width)), strict=True))
    top = max((value for column in columns for value in column), default=0.0)
    return "\n".join(_blocks(column, top) for column in columns)


def _blocks(values: Sequence[float], top: float) -> str:
    if top <= 0:
        return BLOCKS[0] * len(values)
    return "".join(BLOCKS[min(int(value / top * len(BLOCKS)), len(BLOCKS) - 1)] for value in values)


def _values(value: Number) -> list[float]:
    return value.reshape(-1).tolist() if isinstance(value, Tensor) else [float(value)]
