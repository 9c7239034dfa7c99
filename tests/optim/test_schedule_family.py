"""Every schedule against torch's schedulers or its closed form, for members, in a recipe, and in range."""

import math
import warnings
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.optim import lr_scheduler

from caviar.core.errors import InputError
from caviar.optim import (
    Plateau,
    build_momentum_schedule,
    build_schedule,
    preview,
    preview_table,
    schedules,
    set_momentum,
    sgd,
    sparkline,
)
from caviar.optim.schedule_settings import (
    CosineRestartsSettings,
    OneCycleSettings,
    PiecewiseSettings,
    PlateauSettings,
    ScheduleSettings,
    StaircaseSettings,
    StepSettings,
)
from caviar.optim.schedules import Schedule
from caviar.optim.settings import SCHEDULES

KINDS: list[Any] = list(get_args(get_args(ScheduleSettings)[0]))
BASE = 0.3

Scheduler = Callable[[torch.optim.Optimizer], Any]

WITNESSES: list[tuple[str, Schedule, Scheduler]] = [
    ("constant", schedules.constant(BASE), lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
    ("step", schedules.step_decay(BASE, 7, 0.3), lambda o: lr_scheduler.StepLR(o, 7, 0.3)),
    ("staircase", schedules.staircase(BASE, [3, 11, 30], 0.5), lambda o: lr_scheduler.MultiStepLR(o, [3, 11, 30], 0.5)),
    ("exponential", schedules.exponential(BASE, 0.05), lambda o: lr_scheduler.ExponentialLR(o, math.exp(-0.05))),
    ("rate", schedules.exponential_rate(BASE, 0.95), lambda o: lr_scheduler.ExponentialLR(o, 0.95)),
    (
        "linear",
        schedules.linear(BASE, 41, 0.1),
        lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.1, total_iters=40),
    ),
    ("polynomial", schedules.polynomial(BASE, 41, 0.9), lambda o: lr_scheduler.PolynomialLR(o, 40, 0.9)),
    (
        "restarts",
        schedules.cosine_restarts(BASE, 5, 2, 0.1),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5, 2, eta_min=0.1 * BASE),
    ),
    (
        "equal restarts",
        schedules.cosine_restarts(BASE, 5, 1),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5, 1),
    ),
    (
        "warm-up",
        schedules.warmup(schedules.step_decay(BASE, 4, 0.5), 10, 0.2),
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.2, total_iters=10), lr_scheduler.StepLR(o, 4, 0.5)], [10]
        ),
    ),
]


def torch_values(scheduler: Scheduler, count: int, name: str = "lr") -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE, momentum=0.9)
    values = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = scheduler(optimizer)
        for _ in range(count):
            values.append(float(optimizer.param_groups[0][name]))
            made.step()
    return values


@pytest.mark.parametrize(("name", "schedule", "witness"), WITNESSES, ids=[row[0] for row in WITNESSES])
def test_equal_to_torch(name: str, schedule: Schedule, witness: Scheduler) -> None:
    assert [schedule(step) for step in range(45)] == pytest.approx(torch_values(witness, 45), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("shape", "anneal"), [("cosine", "cos"), ("linear", "linear")])
@pytest.mark.parametrize("total", [20, 50, 101])
def test_one_cycle_is_torchs_for_rate_and_momentum(shape: Any, anneal: Any, total: int) -> None:
    def witness(optimizer: torch.optim.Optimizer) -> Any:
        options: dict[str, Any] = {"base_momentum": 0.8, "max_momentum": 0.95, "div_factor": 20, "final_div_factor": 50}
        return lr_scheduler.OneCycleLR(optimizer, BASE, total, pct_start=0.25, anneal_strategy=anneal, **options)

    rate = schedules.one_cycle(BASE, total, 0.25, 20, 50, shape)
    momentum = schedules.one_cycle_momentum(0.95, 0.8, total, 0.25, shape)
    assert [rate(step) for step in range(total)] == pytest.approx(torch_values(witness, total)[:total], rel=1e-9)
    expected = torch_values(witness, total, "momentum")
    assert [momentum(step) for step in range(total)] == pytest.approx(expected, rel=1e-9)


def test_closed_forms() -> None:
    in_time, in_root = schedules.inverse_time(0.2, 1.0, 10), schedules.inverse_sqrt(0.6, 10)
    assert [in_time(step) for step in (0, 9, 10, 20, 30)] == pytest.approx([0.2, 0.2, 0.1, 0.2 / 3, 0.05])
    assert [in_root(step) for step in (0, 10, 30, 80)] == pytest.approx([0.6, 0.6 / math.sqrt(2), 0.3, 0.2])
    assert schedules.inverse_time(0.2, 0.5, 10, whole_epochs=False)(5) == pytest.approx(0.2 / 1.25)
    stairs, smooth = schedules.exponential_rate(1.0, 0.95, 10), schedules.exponential(1.0, -math.log(0.95), 10)
    assert [stairs(step) for step in (0, 9, 10, 25)] == pytest.approx([1, 1, 0.95, 0.95**2])
    assert [smooth(step) for step in (0, 5, 10, 25)] == pytest.approx([1, 0.95**0.5, 0.95, 0.95**2.5])
    hand = schedules.piecewise(2.0, [3, 6], [1.0, 0.5, 0.1])
    assert [hand(step) for step in range(8)] == pytest.approx([2, 2, 2, 1, 1, 1, 0.2, 0.2])
    lines = schedules.piecewise(2.0, [4, 6], [0.0, 1.0, 0.5], interpolate=True)
    assert [lines(step) for step in range(8)] == pytest.approx([0, 0.5, 1, 1.5, 2, 1.5, 1, 1])
    steep = schedules.warmup(schedules.constant(1.0), 4, 0.0001, "exponential")
    assert [steep(step) for step in range(6)] == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1, 1])


def test_a_plateau_is_torchs() -> None:
    generator = torch.Generator().manual_seed(4)
    losses = (1 / (1 + torch.arange(60) / 10) + 0.05 * torch.rand(60, generator=generator)).tolist()
    for options in ({}, {"patience": 2, "cooldown": 3, "factor": 0.5}, {"patience": 0, "threshold": 0.05}):
        ours = Plateau(BASE, **options)  # type: ignore[arg-type]
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE)
        theirs = lr_scheduler.ReduceLROnPlateau(optimizer, eps=0.0, **options)  # type: ignore[arg-type]
        for epoch, loss in enumerate(losses):
            assert ours(epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
            before = ours.value()
            assert ours.observe(loss) == (ours.value() < before)
            theirs.step(loss)


def test_a_plateau_goes_on_from_its_state() -> None:
    losses = [1.0, 0.9, math.nan, 0.95, 0.94, 0.93, 0.95, 0.91, 0.9, 0.9, 0.9]
    whole = Plateau(1.0, patience=1, cooldown=1)
    values = [whole.observe(loss) or whole.value() for loss in losses]
    for cut in range(len(losses)):
        first, second = Plateau(1.0, patience=1, cooldown=1), Plateau(1.0, patience=1, cooldown=1)
        seen = [first.observe(loss) or first.value() for loss in losses[:cut]]
        second.load(first.state())
        assert seen + [second.observe(loss) or second.value() for loss in losses[cut:]] == values


def test_a_plateau_may_grow_have_a_floor_and_warm_up() -> None:
    plateau = Plateau(1.0, 0.1, 0, minimum=0.05, grows=True, rise=schedules.warmup(schedules.constant(1.0), 2, 0.5))
    assert [plateau(step) for step in range(3)] == [0.5, 0.75, 1.0]
    assert [plateau.observe(value) for value in (0.5, 0.6, 0.6, 0.5)] == [False, False, True, True]
    assert plateau.value(9) == 0.05


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_members_have_rates_of_their_own(kind: Any) -> None:
    rates = torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64)
    together = build_schedule(kind(warmup=0.1), rates, 50, 5)
    alone = [build_schedule(kind(warmup=0.1), float(rate), 50, 5) for rate in rates]
    for step in (0, 3, 5, 20, 49, 70):
        value = together(step)
        assert isinstance(value, torch.Tensor)
        assert value.tolist() == pytest.approx([each(step) for each in alone], rel=1e-12)


VARIED: list[tuple[str, Callable[[Any], Schedule], tuple[float, float, float]]] = [
    ("factor", lambda x: schedules.step_decay(BASE, 7, x), (0.1, 0.5, 1.0)),
    ("stairs", lambda x: schedules.staircase(BASE, [3, 11], x), (0.1, 0.5, 1.0)),
    ("k", lambda x: schedules.exponential(BASE, x, 3), (0.0, 0.1, 2.0)),
    ("rate", lambda x: schedules.exponential_rate(BASE, x, 3), (0.5, 0.95, 1.0)),
    ("decay_rate", lambda x: schedules.inverse_time(BASE, x, 3), (0.0, 0.5, 3.0)),
    ("final", lambda x: schedules.linear(BASE, 30, x), (0.0, 0.3, 1.0)),
    ("power", lambda x: schedules.polynomial(BASE, 30, x, 0.1), (0.5, 1.0, 3.0)),
    ("cosine", lambda x: schedules.cosine(BASE, 30, x), (0.0, 0.3, 1.0)),
    ("restarts", lambda x: schedules.cosine_restarts(BASE, 7, 2, x), (0.0, 0.3, 1.0)),
    ("start_divisor", lambda x: schedules.one_cycle(BASE, 30, 0.3, x), (1.0, 10.0, 25.0)),
    ("final_divisor", lambda x: schedules.one_cycle(BASE, 30, 0.3, 25.0, x, "linear"), (1.0, 10.0, 1e4)),
    ("low momentum", lambda x: schedules.one_cycle_momentum(0.95, x, 30), (0.0, 0.8, 0.9)),
    ("piecewise", lambda x: schedules.piecewise(BASE, [5, 20], [1.0, x, 0.0], interpolate=True), (0.0, 0.5, 2.0)),
    ("warm-up", lambda x: schedules.warmup(schedules.constant(BASE), 9, x), (0.0, 0.1, 1.0)),
    ("curved warm-up", lambda x: schedules.warmup(schedules.constant(BASE), 9, x, "exponential"), (0.01, 0.1, 1.0)),
]


@pytest.mark.parametrize(("make", "numbers"), [row[1:] for row in VARIED], ids=[row[0] for row in VARIED])
def test_members_have_other_numbers_of_their_own(make: Callable[[Any], Schedule], numbers: tuple[float, ...]) -> None:
    together, alone = make(torch.tensor(numbers, dtype=torch.float64)), [make(number) for number in numbers]
    for step in range(40):
        found = torch.as_tensor(together(step), dtype=torch.float64).expand(3).tolist()
        assert found == pytest.approx([each(step) for each in alone], rel=1e-12, abs=1e-300)


@given(
    st.sampled_from(KINDS),
    st.floats(1e-6, 10.0),
    st.integers(1, 400),
    st.integers(1, 50),
    st.one_of(st.just("none"), st.integers(1, 500), st.floats(0.01, 0.99)),
    st.sampled_from(["linear", "exponential"]),
)
def test_values_stay_in_range(kind: Any, rate: float, total: int, per_epoch: int, warmup: Any, shape: str) -> None:
    schedule = build_schedule(kind(warmup=warmup, warmup_kind=shape), rate, total, per_epoch)
    values = [schedule(step) for step in range(total + 5)]
    assert all(0 <= float(value) <= rate * (1 + 1e-9) for value in values)


def test_points_in_time_are_epochs_or_shares() -> None:
    stairs = build_schedule(StaircaseSettings(milestones=(2, 0.5), factor=0.1), 1.0, 60, 10)
    assert [round(float(stairs(step)), 6) for step in (19, 20, 29, 30)] == [1.0, 0.1, 0.1, 0.01]
    drops = build_schedule(StepSettings(every=2, factor=0.5), 1.0, 100, 10)
    assert [drops(step) for step in (19, 20, 40)] == [1.0, 0.5, 0.25]
    hand = build_schedule(PiecewiseSettings(boundaries=(0.5,), factors=(1.0, 0.2)), 1.0, 10, 1)
    assert [hand(step) for step in (4, 5)] == [1.0, 0.2]
    cycles = build_schedule(CosineRestartsSettings(period=0.2, multiplier=1), 1.0, 50, 1)
    assert [cycles(step) for step in (0, 10, 20)] == [1.0, 1.0, 1.0]
    tiny = build_schedule(StaircaseSettings(), 1.0, 1, 1)
    assert tiny(0) == 1.0


def test_one_cycle_may_move_momentum() -> None:
    assert build_momentum_schedule(OneCycleSettings(), 0.9, 100) is None
    momentum = build_momentum_schedule(OneCycleSettings(low_momentum=0.8, rise=0.5, warmup=10), 0.95, 110)
    assert momentum is not None
    assert [momentum(step) for step in (0, 10, 59, 109)] == pytest.approx([0.95, 0.95, 0.8, 0.95])
    optimizer = sgd([torch.zeros(2, requires_grad=True)], 0.1, 0.9)
    set_momentum(optimizer, 0.5)
    assert optimizer.param_groups[0]["momentum"] == 0.5
    adam = torch.optim.Adam([torch.zeros(2, requires_grad=True)])
    set_momentum(adam, 0.5)
    assert adam.param_groups[0]["betas"] == (0.5, 0.999)


def test_previews() -> None:
    schedule = schedules.linear(1.0, 101)
    assert preview(schedule, 101, 5) == [(0, [1.0]), (25, [0.75]), (50, [0.5]), (75, [0.25]), (100, [0.0])]
    assert preview(schedule, 3) == [(0, [1.0]), (1, [0.99]), (2, [0.98])]
    assert preview_table(schedule, 101, 3).splitlines() == [
        "step         value", "   0             1", "  50           0.5", " 100             0",
    ]  # fmt: skip
    assert sparkline(schedule, 101, 8) == "█▇▆▅▄▃▂▁"
    stacked = schedules.linear(torch.tensor([1.0, 0.5]), 101)
    assert sparkline(stacked, 101, 3) == "█▅▁\n▅▃▁"
    assert "member 1" in preview_table(stacked, 10)
    assert sparkline(schedules.constant(0.0), 5, 3) == "▁▁▁"
    with pytest.raises(InputError, match="total_steps is 0"):
        preview(schedule, 0)


def test_the_list_of_names() -> None:
    assert set(SCHEDULES) == {kind.model_fields["name"].default for kind in KINDS}
    assert all(line.endswith(".") and "\n" not in line for line in SCHEDULES.values())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: schedules.constant(-0.1), "value must be at least 0"),
        (lambda: schedules.cosine(0.1, 0), "total_steps is 0"),
        (lambda: schedules.cosine(0.1, 10, 1.5), "final must be at least 0 and at most 1"),
        (lambda: schedules.step_decay(0.1, 0), "every is 0"),
        (lambda: schedules.step_decay(0.1, 5, 0.0), "factor must be greater than 0"),
        (lambda: schedules.staircase(0.1, [5, 5]), r"milestones is \(5, 5\)"),
        (lambda: schedules.exponential(0.1, -1.0), "k must be at least 0"),
        (lambda: schedules.exponential_rate(0.1, 1.1), "rate must be greater than 0 and at most 1"),
        (lambda: schedules.inverse_time(0.1, -1.0), "decay_rate must be"),
        (lambda: schedules.inverse_sqrt(0.1, 0), "steps_per_epoch is 0"),
        (lambda: schedules.cosine_restarts(0.1, 0), "period is 0"),
        (lambda: schedules.cosine_restarts(0.1, 5, 0), "multiplier is 0"),
        (lambda: schedules.polynomial(0.1, 5, 0.0), "power must be greater than 0"),
        (lambda: schedules.one_cycle(0.1, 5, 1.0), "rise must be greater than 0 and below 1"),
        (lambda: schedules.one_cycle(0.1, 5, shape="square"), "shape is 'square'"),  # type: ignore[arg-type]
        (lambda: schedules.one_cycle_momentum(1.0, 0.5, 5), "high must be"),
        (lambda: schedules.piecewise(0.1, [5], [1.0]), "one factor more"),
        (lambda: schedules.piecewise(0.1, [5], [1.0, -1.0]), r"factors\[1\] must be at least 0"),
        (lambda: schedules.warmup(schedules.constant(0.1), -1), "steps is -1"),
        (lambda: schedules.warmup(schedules.constant(0.1), 5, 0.0, "exponential"), "start must be greater than 0"),
        (lambda: schedules.warmup(schedules.constant(0.1), 5, 0.5, "slow"), "kind is 'slow'"),  # type: ignore[arg-type]
        (lambda: Plateau(0.1, factor=1.0), "factor must be greater than 0 and below 1"),
        (lambda: Plateau(0.1, patience=-1), "patience is -1"),
        (lambda: Plateau(torch.tensor([0.1, -0.1])), "-0.1 arrived for member 1"),
    ],
)
def test_bad_arguments_are_refused_by_name(make: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_bad_settings_are_refused() -> None:
    for change in ({"warmup": 1.5}, {"warmup": 0}, {"factor": 1.0}, {"warmup_kind": "slow"}):
        with pytest.raises(ValidationError):
            PlateauSettings(**change)  # type: ignore[arg-type]
