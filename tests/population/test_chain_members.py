"""Members of a chain do not depend on each other, go on from their state, and say why they cannot be trained so."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from caviar.nn.settings import HuberSettings, MeanSquaredErrorSettings
from caviar.optim.settings import MuonSettings
from caviar.population.chain import Chain, build_chain
from caviar.population.cohort import Cohort, Step
from tests.population.chain_cases import (
    BATCH,
    CLASSES,
    HAS_ONEDNN,
    INPUTS,
    MAKERS,
    ONEDNN,
    RULES,
    Written,
    chain_of,
    cohort_of,
    net,
    step_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")


VARIED = {
    "learning_rate": torch.linspace(0.01, 0.2, 16).double(),
    "momentum": torch.linspace(0.0, 0.95, 16).double(),
    "dropout": torch.linspace(0.0, 0.6, 16).double(),
    "label_smoothing": torch.linspace(0.0, 0.3, 16).double(),
}


def trained(cohort: Cohort, example: Tensor, steps: list[Step], start: int, end: int, *, onednn: bool) -> Chain:
    chain = chain_of(cohort.slice(start, end), example, onednn=onednn)
    for step in steps:
        chain.step(step.slice(start, end))
    return chain


@pytest.mark.parametrize("form", ["float32", "float64", *(["onednn"] if HAS_ONEDNN else [])])
@pytest.mark.parametrize("varied", [False, True])
@pytest.mark.parametrize("name", [*MAKERS, "regression"])
def test_a_member_does_not_depend_on_those_beside_it(
    name: str, varied: bool, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, onednn = torch.float64 if form == "float64" else torch.float32, form == "onednn"
    monkeypatch.setattr("caviar.population.chain_find.LARGE", 1500)
    monkeypatch.setattr("caviar.population.chain_find.LARGE_FIRST", 0)
    regression = name == "regression"
    make = (lambda: net(nn.Tanh(), outputs=1)) if regression else MAKERS[name]
    options: dict[str, Any] = {"loss": MeanSquaredErrorSettings()} if regression else {}
    if varied:
        options["values"] = {n: v for n, v in VARIED.items() if n != "label_smoothing" or not regression}
    cohort = cohort_of(make, 16, dtype, **options)
    steps = [step_of(size, seed, dtype) for seed, size in enumerate((BATCH, BATCH, 8))]
    if "norm" not in name and name != "mlp":
        steps.append(step_of(1, 9, dtype))
    if regression:
        steps = [step._replace(targets=step.inputs[:, 0]) for step in steps]
    whole = trained(cohort, steps[0].inputs, steps, 0, 16, onednn=onednn)
    expected, losses, outputs = whole.state(), whole.losses(), whole.outputs(steps[0].inputs)
    for start, end in ((0, 1), (5, 6), (3, 5), (1, 4), (9, 16), (4, 12)):
        part = trained(cohort, steps[0].inputs, steps, start, end, onednn=onednn)
        for key, tensor in part.state().items():
            assert torch.equal(tensor, expected[key][start:end]), (key, start, end)
        assert torch.equal(part.losses(), losses[:, start:end])
        assert torch.equal(part.outputs(steps[0].inputs), outputs[start:end])


@pytest.mark.parametrize("onednn", ONEDNN)
def test_members_of_real_sizes_do_not_depend_on_those_beside_them(onednn: bool) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(301, 50), nn.ReLU(), nn.Linear(50, 130), nn.Sigmoid(), nn.Linear(130, 10))

    cohort = cohort_of(make, 16)
    generator = torch.Generator().manual_seed(1)
    steps = [
        Step(torch.randn(size, 301, generator=generator), torch.randint(0, 10, (size,), generator=generator))
        for size in (100, 100, 37)
    ]
    expected = trained(cohort, steps[0].inputs, steps, 0, 16, onednn=onednn).state()
    for start, end in ((0, 1), (7, 8), (3, 5), (1, 4), (9, 16), (4, 12)):
        for key, tensor in trained(cohort, steps[0].inputs, steps, start, end, onednn=onednn).state().items():
            assert torch.equal(tensor, expected[key][start:end]), (key, start, end)


@pytest.mark.parametrize("onednn", ONEDNN)
@pytest.mark.parametrize("name", ["relu", "dropout_norm"])
def test_a_member_that_is_no_number_leaves_the_others_alone(name: str, onednn: bool) -> None:
    cohort = cohort_of(MAKERS[name], 5)
    steps = [step_of(seed=seed) for seed in range(3)]
    expected = trained(cohort, steps[0].inputs, steps, 0, 5, onednn=onednn).state()
    cohort.weights["0.weight"][2] = torch.nan
    found = trained(cohort, steps[0].inputs, steps, 0, 5, onednn=onednn).state()
    others = [0, 1, 3, 4]
    assert all(torch.equal(found[key][others], expected[key][others]) for key in expected)
    assert found["model/0.weight"][2].isnan().all()


@pytest.mark.parametrize("rule", ["momentum", "no_momentum", "in_velocity", "nesterov", "adamws", "nadam", "lookahead"])
@pytest.mark.parametrize("name", ["relu", "dropout_norm"])
def test_a_chain_goes_on_from_a_state_as_if_it_had_never_stopped(name: str, rule: str) -> None:
    cohort = cohort_of(MAKERS[name], 3, **RULES[rule])
    steps = [step_of(seed=seed) for seed in range(6)]
    chain = chain_of(cohort, steps[0].inputs)
    for step in steps[:3]:
        chain.step(step)
    state = chain.state()
    other = chain_of(cohort_of(MAKERS[name], 3, **RULES[rule]), steps[0].inputs)
    other.step(steps[5])
    other.losses()
    other.load(state)
    kept = {key: tensor.clone() for key, tensor in state.items()}
    for step in steps[3:]:
        chain.step(step)
        other.step(step)
    assert all(torch.equal(tensor, kept[key]) for key, tensor in state.items())  # copies, not views
    first, second = chain.state(), other.state()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(chain.losses()[3:], other.losses())


def test_names_and_shapes_of_the_state_are_the_templates() -> None:
    cohort = cohort_of(MAKERS["mlp"], 3)
    chain = chain_of(cohort, step_of().inputs)
    state = chain.state()
    for name, tensor in cohort.weights.items():
        assert torch.equal(state[f"model/{name}"], tensor)
    for name, parameter in cohort.template.named_parameters():
        assert state[f"optimizer/{name}/momentum_buffer"].shape == (3, *parameter.shape)
    assert len(state) == len(cohort.weights) + len(list(cohort.template.parameters())) + 1


def test_losses_of_many_steps_and_closing() -> None:
    cohort = cohort_of(MAKERS["relu"], 2)
    chain = chain_of(cohort, step_of().inputs)
    assert chain.losses().shape == (0, 2)
    for _ in range(300):
        chain.step(step_of())
    losses = chain.losses()
    assert losses.shape == (300, 2)
    assert (losses[-1] < losses[0]).all()
    chain.close()
    chain.step(step_of(7))
    assert chain.losses().shape == (1, 2)


class Residual(Written):
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs).relu()
        return self.second(hidden + hidden.tanh())


def tied() -> nn.Module:
    layer = nn.Linear(INPUTS, INPUTS)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(INPUTS, CLASSES))


def frozen() -> nn.Module:
    module = net(nn.ReLU())
    module[0].weight.requires_grad_(False)  # type: ignore[union-attr, operator]
    return module


REASONS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "residual": (Residual, {}, "not a chain"),
    "convolution": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, CLASSES)),
        {},
        "0 (Conv2d) has no place",
    ),
    "prelu": (lambda: net(nn.PReLU()), {}, "PReLU"),
    "tied": (tied, {}, "twice"),
    "frozen": (frozen, {}, "0.weight is frozen"),
    "ends_otherwise": (lambda: nn.Sequential(nn.Linear(INPUTS, CLASSES), nn.ReLU()), {}, "last layer"),
    "layer_norm": (lambda: net(nn.LayerNorm(9)), {}, "LayerNorm"),
    "average": (lambda: net(nn.BatchNorm1d(9, momentum=None)), {}, "1 keeps other statistics"),
    "one_unit": (lambda: net(width=1), {}, "single input"),
    "muon": (MAKERS["relu"], {"optimizer": MuonSettings(learning_rate=0.1)}, "muon"),
    "huber": (MAKERS["relu"], {"loss": HuberSettings()}, "huber"),
    "autocast": (MAKERS["relu"], {"autocast": True}, "bfloat16"),
    "one_class": (lambda: net(outputs=1), {}, "two outputs"),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_is_no_chain_says_why(name: str) -> None:
    make, options, words = REASONS[name]
    reason = build_chain(cohort_of(make, 2, **options), step_of().inputs)
    assert isinstance(reason, str)
    assert words in reason


@pytest.mark.skipif(not HAS_ONEDNN, reason="torch without oneDNN")
def test_onednn_is_for_float32_only() -> None:
    cohort = cohort_of(MAKERS["relu"], 2, torch.float64)
    assert "float32" in str(build_chain(cohort, step_of(dtype=torch.float64).inputs, onednn=True))
