"""caviar recipe: the list of names, and what can be looked at before training."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from caviar.workflow.run import Run
from tests.cli.conftest import Caviar
from tests.cli.test_cli_output import check_documented

SHORT = ["--epochs", "4", "--set", "training.batch_size=128"]


def test_the_list_has_a_line_for_each_name(caviar: Caviar) -> None:
    done = caviar("recipe", "--list")
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    families = caviar("recipe", "--list", "--json").json["families"]
    for family in families:
        for name in family["names"]:
            shown = name["name"] if family["key"] else name["setting"].removesuffix("=VALUE")
            assert sum(line[:1] == [shown] for line in lines) >= 1, shown
    assert max(map(len, done.out.splitlines())) <= 120
    words = [name["setting"] for family in families for name in family["names"]]
    assert {"optimizer.name=lion", "average.name=swa", "augment.mixup=VALUE", "optimizer.nesterov=VALUE"} <= set(words)


def test_a_course_as_table_and_picture(caviar: Caviar, tmp_path: Path) -> None:
    arguments = ["recipe", "sample:digits", *SHORT, "--preview", "schedule", "--set", "schedule.name=linear"]
    value = caviar(*arguments, "--json").json
    check_documented(value)
    assert (value["schedule"], value["total_steps"], value["steps_per_epoch"]) == ("linear", 36, 9)
    rates = [point["learning_rate"] for point in value["points"]]
    np.testing.assert_allclose(rates, 0.003 * (1 - np.arange(36) / 35), atol=1e-12)
    assert value["points"][9] == {"step": 9, "epoch": 1.0, "learning_rate": rates[9]}
    done = caviar(*arguments, "--output", "course")
    assert "Learning rate, schedule linear: 36 steps, 9 an epoch" in done.out
    assert "course.svg" in done.out
    assert (tmp_path / "course.svg").read_text().startswith("<svg")
    assert done.out.splitlines()[-2].split()[0] == "35"


def test_the_course_of_a_run_is_the_one_it_takes(caviar: Caviar) -> None:
    settings = ["--set", "schedule.name=one_cycle", "--set", "schedule.warmup=5"]
    points = caviar("recipe", "sample:digits", *SHORT, *settings, "--preview", "schedule", "--json").json["points"]
    run = caviar("train", "sample:digits", *SHORT, *settings, "--json").json["run"]
    recorded = {r.step: r.value for r in Run.open(run).records(name="learning_rate")}
    assert recorded
    for step, value in recorded.items():
        assert value == points[step - 1]["learning_rate"]


def test_momentum_and_plateau_are_told_of(caviar: Caviar) -> None:
    moving = ["--set", "schedule.name=one_cycle", "--set", "schedule.low_momentum=0.8", "--preview", "schedule"]
    value = caviar("recipe", "sample:digits", *SHORT, *moving, "--json").json
    check_documented(value)
    assert min(point["momentum"] for point in value["points"]) == pytest.approx(0.8, abs=1e-3)
    waits = caviar("recipe", "sample:digits", *SHORT, "--set", "schedule.name=plateau", "--preview", "schedule")
    assert "waits for the dev metric" in waits.out


def test_a_sheet_of_what_the_recipe_does_to_pictures(caviar: Caviar, tmp_path: Path) -> None:
    arguments = ["recipe", "sample:digits-pictures", "--preview", "augment"]
    value = caviar(*arguments, "--set", "augment.rotate=20.0", "--set", "augment.erase=1.0", "--json").json
    check_documented(value)
    assert value["rows"] == ["as they are", "rotate 20", "erase 1", "all together"]
    assert value["output"] == "augment.png"
    sheet = np.asarray(Image.open(tmp_path / "augment.png").convert("L")).astype(int)
    tall = 102
    as_they_are, erased = sheet[6 : 6 + tall, 190:], sheet[6 + 2 * tall : 6 + 3 * tall, 190:]
    assert (as_they_are != erased).any()
    one = caviar(*arguments, "--set", "augment.flip=0.5", "--output", "sheet.png", "--json").json
    assert one["rows"] == ["as they are", "flip 0.5"]
    every = caviar(*arguments, "--output", "all.png", "--json").json
    assert len(every["rows"]) > 15


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample:digits", "--preview", "augment"], "augmentation is for pictures"),
        (["sample:digits", "--preview", "schedule", "--output", "course.png"], "Name it course.svg"),
        (["sample:digits", "--output", "course.svg"], "--output is for the picture of a --preview"),
        (["sample:digits", "--preview", "schedule", "--output", "nowhere/course.svg"], "the folder nowhere does not"),
        (["sample:digits", "--preview", "weather"], "weather"),
        (["sample:digits-pictures", "--preview", "augment", "--output", "."], "a folder"),
        (["--preview", "schedule"], "give a file"),
    ],
)
def test_what_cannot_be_shown_is_said(caviar: Caviar, arguments: list[str], words: str) -> None:
    done = caviar("recipe", *arguments)
    assert done.code == 2
    assert words in done.err
