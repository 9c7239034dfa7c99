"""The picture of schedules, read back: every line stands where its values are."""

import xml.etree.ElementTree as ET

import pytest
import torch

from caviar.core.errors import InputError
from caviar.optim import plot_schedules
from caviar.optim.schedules import constant, cosine, staircase

SVG = "{http://www.w3.org/2000/svg}"


def lines_of(text: str) -> list[list[tuple[float, float]]]:
    root = ET.fromstring(text)
    lines = [line.attrib["points"].split() for line in root.iter(f"{SVG}polyline")]
    return [[(float(x), float(y)) for x, y in (point.split(",") for point in line)] for line in lines]


def words_of(text: str) -> list[str]:
    return [each.text or "" for each in ET.fromstring(text).iter(f"{SVG}text")]


def places(text: str) -> dict[float, float]:
    """Height in the picture -> value, from the labels of the value axis."""
    labels = [each for each in ET.fromstring(text).iter(f"{SVG}text") if each.attrib["text-anchor"] == "end"]
    return {float(each.attrib["y"]) - 4: float(each.text or "") for each in labels}


def test_values_are_where_the_axis_says() -> None:
    schedule = cosine(0.3, 101)
    text = plot_schedules({"cosine": schedule}, 101, title="a < b")
    (line,) = lines_of(text)
    assert len(line) == 101
    (low, zero), (high, value) = sorted(places(text).items(), reverse=True)[:: len(places(text)) - 1]
    assert zero == 0
    for step, (x, y) in enumerate(line):
        assert (low - y) / (low - high) * value == pytest.approx(schedule(step), abs=0.002)
        assert x == pytest.approx(line[0][0] + (line[-1][0] - line[0][0]) * step / 100, abs=0.15)
    assert "a < b" in words_of(text)
    assert "steps" in words_of(text)
    assert "cosine" not in words_of(text), "one line needs no name beside it"


def test_stairs_keep_their_corners_and_epochs_are_counted() -> None:
    text = plot_schedules({"rate": staircase(1.0, [40, 70])}, 100, 10)
    (line,) = lines_of(text)
    assert len(line) < 12
    steps = [round((x - line[0][0]) / (line[-1][0] - line[0][0]) * 99) for x, _ in line]
    assert {0, 39, 40, 69, 70, 99} <= set(steps)
    assert "epochs" in words_of(text)
    assert {"0", "2", "4", "6", "8", "10"} <= set(words_of(text))


def test_members_and_several_schedules_are_named() -> None:
    rates = torch.tensor([0.1, 0.2])
    text = plot_schedules({"members": cosine(rates, 50), "alone": constant(0.15)}, 50)
    assert len(lines_of(text)) == 3
    assert {"members, member 0", "members, member 1", "alone"} <= set(words_of(text))
    assert plot_schedules({"members": cosine(rates, 50)}, 50) == plot_schedules({"members": cosine(rates, 50)}, 50)


@pytest.mark.parametrize("value", [0.0, 1e-12, 1e12])
def test_any_size_of_rate_can_be_drawn(value: float) -> None:
    for steps in (1, 2, 1_000_000):
        (line,) = lines_of(plot_schedules({"rate": constant(value)}, steps))
        assert all(0 < y < 360 and 0 < x < 720 for x, y in line)


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(InputError, match="nothing to preview"):
        plot_schedules({"rate": constant(1.0)}, 0)
