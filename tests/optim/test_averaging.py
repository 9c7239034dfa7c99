"""When weights are averaged in a run, and which runs are too short for it."""

import pytest
import torch
from torch import nn

from caviar.core.errors import InputError
from caviar.optim import Averaging, build_averaging
from caviar.optim.average_settings import EMASettings, NoAverageSettings, SWASettings


def net() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(2, 1)


def updates(averaging: Averaging | None, total_steps: int) -> list[int]:
    """The steps after which something was averaged."""
    assert averaging is not None
    model, found = net(), []
    for step in range(1, total_steps + 1):
        before = averaging.average.num_updates
        averaging.after_step(model, step)
        found += [step] * (averaging.average.num_updates - before)
    assert averaging.begun == bool(found)
    return found


def test_none_is_nothing() -> None:
    assert build_averaging(NoAverageSettings(), net(), 3, 5) is None


@pytest.mark.parametrize(
    ("settings", "epochs", "expected"),
    [
        (EMASettings(), 2, list(range(1, 11))),
        (EMASettings(every=3), 2, [3, 6, 9]),
        (SWASettings(), 8, [35, 40]),
        (SWASettings(start=0), 3, [5, 10, 15]),
        (SWASettings(start=2, every=2), 7, [20, 30]),
        (SWASettings(start=0.75), 1, [5]),
        (SWASettings(start=0.5), 3, [10, 15]),
    ],
)
def test_when(settings: EMASettings | SWASettings, epochs: int, expected: list[int]) -> None:
    assert updates(build_averaging(settings, net(), epochs, 5), epochs * 5) == expected


@pytest.mark.parametrize(("settings", "epochs"), [(SWASettings(start=4), 4), (SWASettings(start=2, every=3), 4)])
def test_runs_that_end_before_the_first_average_are_refused(settings: SWASettings, epochs: int) -> None:
    with pytest.raises(InputError, match=rf"average\.start is {settings.start} .* training has {epochs} epochs"):
        build_averaging(settings, net(), epochs, 5)
