"""The line that lives while training: what it says, and that it fits."""

import io
import math
import re

import pytest
import torch
from rich.console import Console

from caviar.core.observer import EpochFacts, Moment
from caviar.workflow import observers
from caviar.workflow.observers import ProgressBar, duration, short_number
from caviar.workflow.show import notes_console, print_notes, reading_progress


def terminal(width: int) -> tuple[Console, io.StringIO]:
    screen = io.StringIO()
    return Console(file=screen, force_terminal=True, width=width, color_system=None, legacy_windows=False), screen


def facts(epoch: int, step: int, size: float = 1.0) -> EpochFacts:
    values = {("train", "loss"): 0.51239 * size, ("dev", "loss"): 0.61239 * size, ("dev", "accuracy"): 0.81239}
    return EpochFacts(epoch, step, 0.001, values, True)


def lines_of(screen: io.StringIO) -> list[str]:
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    return [line.rstrip() for line in re.split(r"[\r\n]", plain) if line.strip()]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("size", [1.0, 1e5, float("nan")])
def test_the_line_says_all_and_fits(width: int, size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "REFRESH_SECONDS", 0.0)
    console, screen = terminal(width)
    with ProgressBar(100, 1_000_000, 100, 0, console) as bar:
        for epoch in range(1, 100):
            bar.on_step(Moment(epoch * 10_000 - 5_000, epoch, 5_000, 10_000), torch.tensor(0.4 * size))
            bar.on_epoch(facts(epoch, epoch * 10_000, size))
            bar.on_save(epoch)
    lines = lines_of(screen)
    assert max(map(len, lines)) <= width
    last = lines[-1]
    for word in ("epoch 99/100", "/s", "left", "loss train", "validation"):
        assert word in last, last
    assert ("accuracy 0.8124" in last) is (width >= 100)
    if size == 1.0:
        assert "train 0.5124 validation 0.6124" in last


def test_a_resumed_bar_begins_where_the_run_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "REFRESH_SECONDS", 0.0)
    console, screen = terminal(80)
    with ProgressBar(10, 95, 10, 32, console) as bar:  # ten steps an epoch: two into the fourth epoch
        assert bar._bar.tasks[0].completed == 3 * 95 + 20
    assert "epoch 4/10" in lines_of(screen)[-1]


def test_without_a_terminal_there_are_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "PLAIN_SECONDS", -1.0)
    screen = io.StringIO()
    console = Console(file=screen, width=80)
    with ProgressBar(3, 95, 10, 0, console) as bar:
        for epoch in (1, 2, 3):
            bar.on_epoch(facts(epoch, epoch * 10))
    assert screen.getvalue().splitlines() == [
        f"epoch {epoch}/3  loss train 0.5124 validation 0.6124 accuracy 0.8124" for epoch in (1, 2, 3)
    ]
    monkeypatch.setattr(observers, "PLAIN_SECONDS", math.inf)
    quiet = io.StringIO()
    with ProgressBar(3, 95, 10, 0, Console(file=quiet)) as bar, reading_progress(Console(file=quiet)) as update:
        bar.on_epoch(facts(1, 10))
        update(1, 2)
    assert quiet.getvalue() == "", "nothing at all for a short run, not even an empty line"


def test_nothing_when_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    console = notes_console(quiet=True)
    with ProgressBar(3, 95, 10, 0, console) as bar:
        bar.on_epoch(facts(1, 10))
    print_notes(console, ["a note"])
    assert capfd.readouterr() == ("", "")


def test_notes_are_one_line_each_in_a_log_and_wrapped_on_a_terminal() -> None:
    note = "a path/that/is/rather/long.csv: " + "and many words " * 10
    screen = io.StringIO()
    print_notes(Console(file=screen, width=80, markup=False), [note, "[bold]as it is"])
    assert screen.getvalue() == f"note: {note}\nnote: [bold]as it is\n"
    console, shown = terminal(80)
    print_notes(console, [note])
    assert max(map(len, lines_of(shown))) <= 80


def test_spans_and_counts_are_short() -> None:
    assert [duration(s) for s in (0.4, 59.6, 754, 3723, 90_000)] == ["0:00", "1:00", "12:34", "1:02:03", "25:00:00"]
    numbers = (0.0, 987.4, 9876, 98_764, 999_999, 9_876_543)
    assert [short_number(n) for n in numbers] == ["0", "987", "9,876", "98.76k", "1000k", "9.877M"]
