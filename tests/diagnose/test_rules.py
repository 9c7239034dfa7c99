"""One list, one battery: every rule on the story that it is for, and on healthy ones."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caviar.core.findings import Finding
from caviar.diagnose.engine import diagnose
from caviar.diagnose.facts import Facts, LayerFacts
from caviar.diagnose.pages import pages
from caviar.diagnose.rules import CROSS_RULES, RULES
from caviar.diagnose.story import Story
from tests.diagnose.stories import EPOCHS, FACTS, LOOKS, PER_EPOCH, STEPS, healthy, records, story

Change = Callable[[int, float], float]
ENDS = [epoch * PER_EPOCH for epoch in EPOCHS]
LOSS, RATIO = "batch_loss", ("update_ratio", "train", "")
FLAT: Change = lambda step, value: 2.3 + 0.01 * math.sin(step)  # noqa: E731
STUCK = {LOSS: FLAT, "evaluated_loss": 2.3, ("loss", "dev", ""): 2.3, ("accuracy", "dev", ""): 0.1}
TANH = {"hidden": (LayerFacts("ra", "Tanh"), LayerFacts("rb", "Tanh"))}
NORMS = {"norms": (LayerFacts("n", "BatchNorm1d"),)}


def until(step: int, first: float, then: float) -> Change:
    return lambda s, _: first if s <= step else then


def always(value: float) -> dict[int, float]:
    """A curve that is the same at every look."""
    return dict.fromkeys(LOOKS, value)


CASES: dict[str, tuple[Mapping[Any, Any], Mapping[str, Any]]] = {
    "NUM001": ({LOSS: lambda s, v: math.nan if s > 500 else v}, {}),
    "NUM002": ({"input_nonfinite": 0.01}, {}),
    "NUM003": ({"output_form": 1.0, LOSS: lambda s, v: max(v, 1.5)}, {}),
    "NUM004": ({"output_form": 2.0}, {}),
    "NUM005": ({LOSS: lambda s, v: v - 0.01 * s}, {}),
    "NUM006": ({"output_std": 1e5}, {}),
    "NUM007": ({("target_broadcast", "train", ""): always(1.0)}, {}),
    "DATA001": ({**STUCK, "accuracy": 0.1, ("accuracy", "train", ""): 0.6}, {}),
    "DATA002": ({"input_std": 60.0}, {}),
    "DATA003": ({"input_min": 0.0, "input_mean": 0.5, "input_std": 0.3}, {}),
    "DATA004": ({("input_shift_mean", "dev", ""): {0: 0.8}}, {}),
    "DATA005": ({}, {"dev_shares": (0.55, *(0.05,) * 9)}),
    "DATA006": ({
        "classes_never_predicted": 1.0, ("first_never_predicted", "dev", ""): dict.fromkeys(ENDS, 3.0),
        ("never_predicted_share", "dev", ""): dict.fromkeys(ENDS, 0.1),
    }, {}),
    "DATA007": ({"most_predicted_share": 1.0, "largest_class_share": 0.9, "balanced_accuracy": 0.1}, {}),
    "DATA008": ({
        ("accuracy", "dev", ""): lambda s, v: 0.9 - 0.2 * max(0, s - 300) / 700,
        ("accuracy", "train", ""): lambda s, v: 0.6 + 0.4 * s / 1000,
    }, {}),
    "DATA009": ({"input_constant": 0.8}, {}),
    "DATA010": ({("input_jumps", "train", ""): always(0.07)}, {}),
    "DATA011": ({LOSS: lambda s, v: 60.0 if s in (500, 600, 700, 800) else v}, {}),
    "DATA012": ({LOSS: lambda s, v: 1e5 * v}, {"task": "regression", "loss": "mean_squared_error"}),
    "DATA013": ({}, {"num_dev": 10}),
    "DATA014": ({LOSS: lambda s, v: max(v, 1.2)}, {"augmented": True}),
    "INIT001": ({LOSS: lambda s, v: 12.0 if s < 4 else v}, {}),
    "INIT002": ({("unit_spread", "", "b"): 0.0}, {}),
    "INIT003": ({LOSS: lambda s, v: 2.3 + 0.01 * math.sin(s) if s < 500 else 0.5}, {}),
    "INIT004": ({("activation_std", "train", "rc"): 1e-3}, {}),
    "INIT005": ({("dead", "train", "ra"): 0.9}, {}),
    "INIT006": ({("saturated", "train", "ra"): always(0.8)}, TANH),
    "INIT007": ({("initial_gain", "", "b"): {1: 20.0}}, {}),
    "GRAD001": ({("gradient_norm", "train", "a"): 1e-6}, {}),
    "GRAD002": ({("gradient_norm", "train", "a"): 1e4}, {}),
    "GRAD003": ({("no_gradient", "train", ""): 0.3, ("no_gradient", "train", "b"): always(1.0)}, {}),
    "GRAD004": ({("dead", "train", "rb"): until(50, 0.1, 0.97)}, {}),
    "GRAD005": ({("saturated", "train", "ra"): always(0.8)}, TANH),
    "GRAD006": ({("leftover_gradient", "train", ""): always(2.0)}, {}),
    "GRAD007": ({("not_held", "train", ""): 1.0}, {}),
    "GRAD008": ({("frozen", "train", ""): 0.4, ("frozen", "train", "b"): always(1.0)}, {}),
    "GRAD009": ({("gradient_norm", "train", ""): 7.0}, {"clip_norm": 1.0}),
    "GRAD010": ({("gradient_norm", "train", ""): lambda s, v: math.exp(s / 100), **STUCK}, {}),
    "GRAD011": ({RATIO: 0.0}, {}),
    "GRAD012": ({"output_spread": 0.0}, {}),
    "GRAD013": ({("gradient_norm", "train", ""): until(8, 1.0, 0.0)}, {}),
    "LR001": ({RATIO: 1e-6, LOSS: lambda s, v: 2.35 - 1e-5 * s}, {}),
    "LR002": ({RATIO: 0.2, **STUCK}, {}),
    "LR003": ({LOSS: lambda s, v: 2.3 * 1.05**s}, {}),
    "LR004": ({LOSS: lambda s, v: 40.0 if 50 < s < 80 else 2.3}, {}),
    "LR005": ({("loss", "train", ""): lambda s, v: 1.0 + 0.5 * (s // PER_EPOCH % 2)}, {}),
    "LR006": ({("update_ratio", "train", "b"): 0.5}, {}),
    "LR007": ({("update_ratio", "train", "b"): 1e-7}, {}),
    "LR008": ({LOSS: lambda s, v: max(2.3 - 0.005 * s, 1.0), "learning_rate": 0.05}, {}),
    "LR009": ({"learning_rate": until(300, 0.05, 1e-5), LOSS: lambda s, v: 2.3 - 0.004 * min(s, 300)}, {}),
    "LR010": ({"momentum": 0.999}, {}),
    "LR011": ({LOSS: lambda s, v: 5.0 if s > 500 else v}, {}),
    "LR012": ({LOSS: lambda s, v: 2.3 - 0.0015 * s, ("loss", "dev", ""): lambda s, v: 2.3 - 0.0015 * s}, {}),
    "LR013": ({LOSS: lambda s, v: 5.0 if 3 < s < 20 else v}, {}),
    "LR014": ({LOSS: lambda s, v: 2.3 * 1.001**s}, {}),
    "FIT001": ({("accuracy", "dev", ""): 0.55, ("accuracy", "train", ""): 1.0}, {}),
    "FIT002": ({**STUCK}, {}),
    "FIT003": ({("accuracy", "train", ""): 0.6}, {}),
    "FIT004": ({**STUCK}, {}),
    "FIT005": ({("accuracy", "dev", ""): 0.8}, {}),
    "FIT006": ({("loss", "train", ""): lambda s, v: 2.3 - 0.002 * s}, {"epochs": 100, "patience": 2}),
    "FIT007": ({("loss", "dev", ""): lambda s, v: v if s < 400 else 0.4 + s / 1000}, {}),
    "FIT008": ({("loss", "dev", ""): lambda s, v: v if s < 200 else 1 + s / 1000}, {}),
    "FIT009": ({("accuracy", "dev", ""): lambda s, v: 0.9 - 0.2 * (s // PER_EPOCH % 2)}, {}),
    "NORM001": ({
        ("evaluation_mode", "train", ""): always(1.0), ("model_training", "train", ""): always(0.0),
    }, {}),
    "NORM002": ({
        ("norm_mean_lag", "train", "n"): always(4.0), ("norm_variance_lag", "train", "n"): always(2.0),
    }, NORMS),
    "NORM003": ({}, {**NORMS, "batch_size": 2}),
    "NORM004": ({"evaluated_loss": 2.5}, NORMS),
    "NORM005": ({
        ("frozen_norms", "train", ""): always(1.0), ("model_training", "train", ""): always(1.0),
    }, NORMS),
    "REG001": ({("weight_norm", "", ""): lambda s, v: 12 * math.exp(-s / 100), "weight_decay": 1.0, **STUCK}, {}),
    "REG002": ({"weight_decay": 10.0, **STUCK}, {}),
    "REG003": ({**STUCK}, {"dropout": 0.9}),
    "REG004": ({("weight_norm", "", ""): lambda s, v: 12 + s}, {}),
    "PERF001": ({"data_wait": 0.8}, {}),
    "PERF002": ({"noise_scale": 1e5}, {}),
    "PERF003": ({"noise_scale": 1.0}, {}),
    "PERF004": ({"examples_per_second": lambda s, v: v / (1 + s / 500)}, {}),
    "PERF005": ({"memory": lambda s, v: v * (1 + s / 500)}, {}),
}  # fmt: skip


def found(told: Story) -> list[Finding]:
    return list(diagnose({0: told}).findings)


def codes(told: Story) -> set[str]:
    return {finding.code for finding in found(told)}


def test_every_rule_has_a_case_and_a_page() -> None:
    assert CASES.keys() == RULES.keys()
    assert RULES.keys() | CROSS_RULES.keys() <= pages().keys()
    assert len(RULES) + len(CROSS_RULES) >= 40


@pytest.mark.parametrize("code", CASES)
def test_a_rule_sees_what_it_is_for(code: str) -> None:
    curves, facts = CASES[code]
    assert code not in codes(story()) - {"LR014"}  # which names the shape of good curves as well
    matching = [finding for finding in found(story(curves, facts)) if finding.code == code]
    assert matching, f"{code} stays silent"
    for finding in matching:
        assert 0.5 <= finding.confidence <= 1
        assert finding.numbers
        assert finding.title
        assert finding.remedies
        assert all(isinstance(value, float) for value in finding.numbers.values())
        assert not finding.message[0].islower()
        assert finding.message.endswith((".", "?"))


@pytest.mark.parametrize(
    ("change", "ratio", "shape"),
    [
        (lambda s, v: 2.3 * 1.001**s, 2e-3, "very high"),
        (lambda s, v: math.nan if s > 900 else v, 2e-3, "very high"),
        (lambda s, v: 1.2 + 1.1 * math.exp(-s / 20), 0.03, "high"),
        (lambda s, v: 1.2 + 1.1 * math.exp(-s / 20), 1e-3, "good"),  # small steps: something else keeps it there
        (lambda s, v: 2.3 - 5e-4 * s, 1e-4, "low"),
        (lambda s, v: v, 2e-3, "good"),
        (lambda s, v: 2.3 - 1e-5 * s, 2e-3, ""),
    ],
)
def test_the_four_shapes_of_a_loss_curve_are_told_apart(change: Change, ratio: float, shape: str) -> None:
    matching = [f for f in found(story({LOSS: change, RATIO: ratio})) if f.code == "LR014"]
    assert [f.severity for f in matching] == ["info"] * bool(shape)
    assert all(f" that is {shape}: " in f.message for f in matching)


@pytest.mark.parametrize(("spread", "told"), [(1.0, False), (0.0, True), (None, True)])
def test_a_layer_of_zeros_is_fine_where_inputs_pass_by_it(spread: float | None, told: bool) -> None:
    curves = {("initial_gain", "", "b"): {1: 0.0}, "output_spread": spread}
    assert ("INIT007" in codes(story(curves))) == told
    assert "INIT007" in codes(story({("initial_gain", "", "b"): {1: 0.001}}))  # small, and not meant


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s, v: 2.3 - 4e-4 * s, True),  # as fast at the end as at the start
        (lambda s, v: 2.3 - 3e-5 * s, False),  # hardly at all: the rate is too low
        (lambda s, v: 1.9 + 0.4 * math.exp(-s / 200), False),
        (lambda s, v: 1.0 + 1.0 * (s > 100) - 5e-4 * s, False),  # ends above its start
    ],
)
def test_a_loss_that_falls_to_the_end_is_told_from_one_that_has_flattened_out(change: Change, told: bool) -> None:
    assert ("LR012" in codes(story({LOSS: change, ("loss", "dev", ""): change}))) == told


@pytest.mark.parametrize(
    ("kept", "told"), [(lambda s: s - 1, True), (lambda s: s % 50, False), (lambda s: min(s, 32), False)]
)
def test_losses_that_are_kept_are_counted_over_epochs(kept: Callable[[int], int], told: bool) -> None:
    curve = {step: float(kept(step)) for step in LOOKS}
    assert ("PERF005" in codes(story({("losses_kept", "train", ""): curve}))) == told


@pytest.mark.parametrize(("fresh", "severity"), [({1: 1.0}, "warning"), ({1: 0.0}, "info"), (None, "warning")])
def test_frozen_layers_behind_others_are_fine_where_they_have_learned(
    fresh: Mapping[int, float] | None, severity: str
) -> None:
    curves: dict[Any, Any] = {("frozen", "train", ""): 0.4, ("frozen", "train", "b"): always(1.0)}
    if fresh is not None:
        curves["looks_fresh", "", "b"] = fresh
    told = [f for f in found(story(curves, {"own_network": False})) if f.code == "GRAD008"]
    assert [f.severity for f in told] == [severity]


def test_nothing_is_found_in_a_healthy_run() -> None:
    assert [finding for finding in found(story()) if finding.severity != "info"] == []


@pytest.mark.parametrize(
    ("curves", "facts"),
    [
        ({"learning_rate": lambda s, v: 0.05 * min(1, s / 200), LOSS: lambda s, v: 2.35 if s < 60 else v}, {}),
        ({LOSS: lambda s, v: v + 0.4, "evaluated_loss": 0.2}, {"dropout": 0.6}),
        ({LOSS: lambda s, v: v + 0.9}, {"label_smoothing": 0.2}),
        ({"learning_rate": lambda s, v: 0.3 * (1 - abs(s - 300) / 700), RATIO: 0.02}, {}),
        ({("accuracy", "dev", ""): 0.85, ("accuracy", "train", ""): 1.0}, {"num_dev": 400, "num_train": 100}),
        ({"input_min": 0.0, "input_mean": 0.45, "input_std": 0.25}, {}),
        ({"weight_decay": 0.1}, {"optimizer": "adamw"}),
        ({("frozen", "train", ""): 0.9, ("frozen", "train", "a"): always(1.0)}, {"own_network": False}),
        ({"most_predicted_share": 0.9, "largest_class_share": 0.85, "balanced_accuracy": 0.7}, {}),
    ],
    ids=["warm-up", "dropout", "smoothing", "one cycle", "tiny data", "pictures", "decay", "fine-tuning", "imbalance"],
)
def test_unusual_but_fine(curves: Mapping[Any, Any], facts: Mapping[str, Any]) -> None:
    assert [f"{f.code}: {f.message}" for f in found(story(curves, facts)) if f.severity != "info"] == []


def test_the_cause_comes_first_and_explains_the_rest() -> None:
    curves, facts = CASES["LR003"]
    first, *others = found(story({**curves, RATIO: 0.5, "output_std": 1e6}, facts))
    assert first.code == "LR003"
    assert {f.consequence_of for f in others if f.code in ("NUM006", "LR004", "LR006")} == {"LR003"}


def test_rules_without_records_stay_silent_and_say_why() -> None:
    for told in (Story(), Story(Facts(task="classification", num_classes=3))):
        diagnosis = diagnose({0: told})
        assert not diagnosis.findings
        assert {silent.code for silent in diagnosis.silent} >= RULES.keys() - {"DATA013"}
        assert all(silent.reason for silent in diagnosis.silent)
    assert diagnose({}).findings == ()


def test_a_run_of_one_epoch_or_still_going_is_not_blamed() -> None:
    one = {key: {s: v for s, v in points.items() if s <= PER_EPOCH} for key, points in healthy().items()}
    told = Story(FACTS)
    told.add(records({key: points for key, points in one.items() if points}))
    assert [f.code for f in found(told) if f.severity != "info"] == []
    for code in ("LR012", "FIT002", "FIT005", "FIT006", "FIT008"):
        curves, facts = CASES[code]
        assert code not in codes(story(curves, facts, finished=False))


def members(**changes: Any) -> dict[int, Story]:
    rates = [0.001, 0.003, 0.01, 0.03, 0.1]
    found = {}
    for member, rate in enumerate(rates):
        score = changes.get("score", lambda m: 0.8 + 0.03 * m)(member)
        bad = member in changes.get("bad", ())
        last: Change = lambda s, v, bad=bad, m=member: math.nan if bad and s == STEPS else v + 0.001 * m  # type: ignore[misc]  # noqa: E731
        if changes.get("copies"):
            last = lambda s, v: v  # noqa: E731
        told = story({"learning_rate": rate, ("accuracy", "dev", ""): score, LOSS: last})
        found[member] = told
    return found


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("SEARCH001", {}),
        ("SEARCH002", {"bad": (3, 4)}),
        ("SEARCH003", {"score": lambda m: 0.8 + 0.001 * m}),
        ("SEARCH004", {"copies": True}),
    ],
)
def test_members_are_compared(code: str, changes: dict[str, Any]) -> None:
    told = members(**changes)
    (finding,) = [f for f in diagnose(told).findings if f.code == code]
    assert finding.member is None
    calm = members(score=lambda m: 0.95 - 0.05 * abs(m - 2))
    assert code not in {f.code for f in diagnose(calm).findings}


def test_a_lead_at_the_edge_that_dev_cannot_see_is_none() -> None:
    near = members(score=lambda m: 0.9 + 0.001 * m)
    clear = members(score=lambda m: 0.8 + 0.03 * m)
    assert "SEARCH001" not in {f.code for f in diagnose(near).findings}
    assert "SEARCH001" in {f.code for f in diagnose(clear).findings}


WILD = np.array([0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e-30, 1e30, 3.0, -200.0])


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_no_rule_breaks_on_any_records(seed: int) -> None:
    draw = np.random.default_rng(seed)
    curves = {}
    for key, points in healthy().items():
        kind = draw.integers(4)
        if kind == 0:
            continue
        steps = list(points) if kind == 1 else list(points)[: draw.integers(1, 7)]
        curves[key] = {step: float(draw.choice(WILD)) if kind == 3 else points[step] for step in steps}
    told = Story(FACTS if seed % 2 else Facts(), finished=seed % 3 > 0)
    told.add(records(curves))
    for silent in diagnose({0: told, 1: told}).silent:
        assert "failed on these records" not in silent.reason, silent
