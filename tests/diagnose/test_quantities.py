"""Every quantity a second time, with bare autograd and NumPy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from caviar.core.observer import EpochFacts, Moment
from caviar.core.records import Record
from caviar.diagnose.quantities import QUANTITIES, Schedule, Smoother, Watcher
from caviar.diagnose.quantities.classes import read_confusion
from caviar.diagnose.quantities.inputs import Moments, moments_of, shift_between
from caviar.diagnose.quantities.updates import NoiseScale
from caviar.nn.statistics import activation_statistics

BATCH = 16


def net(*middle: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), *(middle or (nn.ReLU(),)), nn.Linear(8, 3))


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randn(BATCH, 6, generator=draw), torch.randint(0, 3, (BATCH,), generator=draw)) for _ in range(count)
    ]


def train(model: nn.Module, steps: int = 3, every: Any = 1, optimizer: Any = None, **changes: Any) -> list[Record]:
    """A loop as caviar's own is, with a watcher."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = Watcher(model, optimizer, Schedule(every), **changes)
    for step, (inputs, labels) in enumerate(batches(steps), start=1):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        if watcher.looking:
            watcher.on_gradients()
        optimizer.step()
        watcher.on_step(Moment(step, 1, step, steps), loss.detach())
    found = watcher.drain()
    watcher.close()
    assert {record.name for record in found} <= QUANTITIES.keys()
    return found


def value(records: list[Record], name: str, step: int, layer: str = "") -> float:
    (found,) = [r.value for r in records if (r.name, r.step, r.layer) == (name, step, layer)]
    return found


def test_norms_and_ratios_are_those_of_bare_autograd() -> None:
    records, witness = train(net(), 2), net()
    for step, (inputs, labels) in enumerate(batches(2), start=1):
        loss = nn.functional.cross_entropy(witness(inputs), labels)
        gradients = torch.autograd.grad(loss, list(witness.parameters()))
        old = [p.detach().clone() for p in witness.parameters()]
        with torch.no_grad():
            for p, g in zip(witness.parameters(), gradients, strict=True):
                p -= 0.1 * g
        whole = torch.cat([g.flatten() for g in gradients]).double().norm().item()
        assert value(records, "gradient_norm", step) == pytest.approx(whole, rel=1e-5)
        for name, i in (("0", 0), ("2", 2)):
            size = list(witness.parameters())[i].double().norm().item()
            moved = (list(witness.parameters())[i] - old[i]).double().norm().item()
            assert value(records, "gradient_norm", step, name) == pytest.approx(gradients[i].norm().item(), rel=1e-5)
            assert value(records, "weight_norm", step, name) == pytest.approx(size, rel=1e-5)
            assert value(records, "update_ratio", step, name) == pytest.approx(moved / size, rel=1e-4)
        if step == 2:
            flat = torch.cat([g.flatten() for g in gradients])
            cosine = torch.dot(flat, previous) / flat.norm() / previous.norm()  # noqa: F821
            assert value(records, "gradient_cosine", 2) == pytest.approx(cosine.item(), abs=1e-5)
        previous = torch.cat([g.flatten() for g in gradients])  # noqa: F841


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.ReLU(inplace=True)])
def test_activations_are_those_of_the_statistics_on_one_batch(activation: nn.Module) -> None:
    model = net(activation)
    with torch.no_grad():
        model[0].bias[:3] = -50.0
        model[0].bias[3] = 50.0
    (inputs, _), *_ = batches(1)
    (expected,) = [s for s in activation_statistics(model, inputs) if s.name == "1"]
    records = train(model, 1)
    assert value(records, "activation_mean", 1, "1") == pytest.approx(expected.mean, rel=1e-5)
    assert value(records, "activation_std", 1, "1") == pytest.approx(expected.std, rel=1e-4)
    if isinstance(activation, nn.ReLU):
        assert value(records, "dead", 1, "1") == expected.dead == 3 / 8
    if isinstance(activation, nn.Tanh | nn.Sigmoid):
        assert value(records, "saturated", 1, "1") == pytest.approx(expected.saturated)


def test_units_of_a_picture_are_channels() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    model(torch.zeros(1, 1, 6, 6))
    with torch.no_grad():
        model[0].bias[:] = torch.tensor([-100.0, 5.0, 5.0, 5.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = Watcher(model, optimizer, Schedule(1))
    model(torch.rand(5, 1, 6, 6)).sum().backward()
    watcher.on_gradients()
    optimizer.step()
    watcher.on_step(Moment(1, 1, 1, 1), torch.zeros(()))
    records = watcher.drain()
    watcher.close()
    assert value(records, "dead", 1, "1") == 0.25
    assert not [r for r in records if r.name == "input_jumps"]


def test_networks_that_call_functions_are_watched_where_their_layers_begin() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = self.second(torch.relu(self.first(inputs)))
            return found

    model = Functional()
    with torch.no_grad():
        model.first.bias[:2] = -50.0
    assert value(train(model, 1), "dead", 1, "second") == 0.25


def test_norms_tell_how_far_the_batch_was_from_what_they_remember() -> None:
    records = train(net(nn.BatchNorm1d(8), nn.ReLU()), 1)
    witness, (inputs, _) = net(), batches(1)[0]
    hidden = witness[0](inputs).detach().double()
    lag = hidden.mean(0).abs() / math.sqrt(1 + 1e-5)
    ratio = ((hidden.var(0) + 1e-5) / (1 + 1e-5)).log().abs()
    assert value(records, "norm_mean_lag", 1, "1") == pytest.approx(lag.mean().item(), rel=1e-4)
    assert value(records, "norm_variance_lag", 1, "1") == pytest.approx(ratio.mean().item(), rel=1e-3)


def test_inputs_and_outputs_are_those_of_numpy() -> None:
    records, (inputs, _) = train(net(), 1), batches(1)[0]
    x, y = inputs.numpy().astype(np.float64), net()(inputs).detach().numpy().astype(np.float64)
    assert value(records, "input_mean", 1) == pytest.approx(x.mean(), abs=1e-6)
    assert value(records, "input_std", 1) == pytest.approx(x.std(), rel=1e-5)
    assert value(records, "input_max", 1) == pytest.approx(x.max())
    stds = x.std(0)
    assert value(records, "input_scale_ratio", 1) == pytest.approx(stds.max() / stds.min(), rel=1e-4)
    assert value(records, "output_std", 1) == pytest.approx(y.std(), rel=1e-4)
    assert value(records, "output_spread", 1) == pytest.approx(np.sqrt(y.var(0).mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("last", "form"),
    [(nn.Identity(), 0), (nn.Softmax(1), 1), (nn.Softmax(0), 2), (nn.LogSoftmax(1), 3), (nn.LogSoftmax(0), 4)],
)
def test_the_form_of_outputs_is_seen(last: nn.Module, form: int) -> None:
    assert value(train(nn.Sequential(net(), last), 1), "output_form", 1) == form


def test_layers_that_do_not_learn_are_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused, self.frozen = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(3, 3)
            self.frozen.requires_grad_(False)

        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = self.frozen(self.used(inputs))
            return found

    model = Odd()
    records = train(model, 1, optimizer=torch.optim.SGD([*model.unused.parameters()], lr=0.1))
    assert value(records, "no_gradient", 1, "unused") == 1
    assert value(records, "frozen", 1, "frozen") == 1
    assert value(records, "not_held", 1, "used") == 1
    assert value(records, "frozen", 1) == pytest.approx(12 / (21 + 21 + 12))
    assert 0.5 < value(records, "weight_bound", 1, "frozen") <= 1.0
    assert not [r for r in records if r.layer == "used" and r.name in ("frozen", "no_gradient")]


@pytest.mark.parametrize("how", ["uniform", "normal", "learned", "NaN"])
def test_frozen_layers_are_told_by_whether_they_look_fresh(how: str) -> None:
    torch.manual_seed(1)
    frozen = nn.Linear(40, 30)
    with torch.no_grad():
        if how != "uniform":
            nn.init.kaiming_normal_(frozen.weight)
        if how == "learned":
            frozen.weight += 0.3 * torch.outer(torch.randn(30), torch.randn(40))
        if how == "NaN":
            frozen.weight[3, 3] = math.nan
    model = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), frozen.requires_grad_(False), nn.Linear(30, 3))
    records = train(model, 3)
    assert value(records, "looks_fresh", 1, "2") == (how in ("uniform", "normal"))
    assert [(r.layer, r.step) for r in records if r.name == "looks_fresh"] == [("2", 1)]


def test_equal_units_and_modes_are_seen() -> None:
    model = net(nn.ReLU(), nn.Dropout(0.5))
    nn.init.constant_(model[0].weight, 0.3)
    model.eval()
    records = train(model, 1)
    assert value(records, "unit_spread", 1, "0") == pytest.approx(0.0, abs=1e-6)
    assert value(records, "unit_spread", 1, "3") > 0.5
    assert value(records, "evaluation_mode", 1) == 1.0
    assert value(records, "model_training", 1) == 0.0


def test_training_is_the_same_byte_for_byte_and_nothing_stays_behind() -> None:
    def run(watched: bool) -> nn.Module:
        torch.manual_seed(5)
        model = net(nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.3))
        torch.manual_seed(5)
        if watched:
            train(model, 12, 2, everything=True)
        else:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for inputs, labels in batches(12):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
        return model

    watched, plain = run(True), run(False)
    for a, b in zip(watched.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for module in watched.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_evaluations_between_steps_are_not_taken_for_training() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = Watcher(model, optimizer, Schedule(1))
    with torch.no_grad():
        model(torch.full((4, 6), 100.0))
    model(torch.full((4, 6), 50.0))
    (inputs, labels), *_ = batches(1)
    nn.functional.cross_entropy(model(inputs), labels).backward()
    watcher.on_gradients()
    optimizer.step()
    watcher.on_step(Moment(1, 1, 1, 1), torch.zeros(()))
    records = watcher.drain()
    watcher.close()
    assert value(records, "input_max", 1) == pytest.approx(inputs.max().item())


def test_looks_come_when_the_schedule_says() -> None:
    steps = sorted({r.step for r in train(net(), 60, 20) if r.name == "update_ratio"})
    assert steps == [1, 2, 4, 8, 16, 20, 40, 60]
    pairs = sorted({r.step for r in train(net(), 60, 20) if r.name == "gradient_cosine"})
    assert pairs == [2, 3, 5, 9, 17, 21, 41]


@given(st.integers(0, 5000), st.one_of(st.just("log"), st.integers(1, 300)), st.booleans())
def test_the_next_look_is_always_ahead(step: int, every: Any, early: bool) -> None:
    schedule = Schedule(every, early)
    following = schedule.next_after(step)
    assert following > step
    if every != "log":
        assert following - step <= every
        assert following % every == 0 or (early and schedule.is_early(following))


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40))
def test_the_smoothed_loss_is_a_weighted_mean(values: list[float]) -> None:
    smoother = Smoother(0.9)
    found = [smoother.add(v) for v in values][-1]
    weights = [0.9 ** (len(values) - 1 - i) for i in range(len(values))]
    assert found == pytest.approx(np.average(values, weights=weights), abs=1e-9)


def test_the_noise_scale_is_found_again() -> None:
    draw = np.random.default_rng(0)
    signal, sigma, batch = np.full(50, 0.3), 2.0, 10
    noise = NoiseScale()
    for _ in range(60):
        one, other = (signal + sigma / math.sqrt(batch) * draw.normal(size=50) for _ in range(2))
        found = noise.add(float(one @ other), float(np.linalg.norm(one)), float(np.linalg.norm(other)), batch)
    assert found == pytest.approx(50 * sigma**2 / float(signal @ signal), rel=0.6)
    assert noise.add(math.nan, 1.0, 1.0, batch) is None


def test_classes_never_predicted_are_counted() -> None:
    confusion = torch.tensor([[50, 0, 0], [20, 10, 0], [15, 5, 0]])
    found = {key.name: number for key, number in read_confusion(confusion).items()}
    assert found["classes_never_predicted"] == 1
    assert found["first_never_predicted"] == 2
    assert found["never_predicted_share"] == pytest.approx(0.2)
    assert found["balanced_accuracy"] == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert found["most_predicted_share"] == pytest.approx(0.85)


def test_a_shift_between_splits_is_measured_in_stds() -> None:
    draw = torch.Generator().manual_seed(0)
    train_inputs = torch.randn(400, 3, generator=draw)
    dev = torch.randn(400, 3, generator=draw)
    dev[:, 1] += 2
    first, other = moments_of(train_inputs), moments_of(dev)
    assert first is not None
    assert other is not None
    found = shift_between(first, other)
    assert found["input_shift"] == pytest.approx(2, abs=0.2)
    assert found["input_scale_shift"] < 0.15
    assert shift_between(first, Moments(5, torch.zeros(2), torch.ones(2))) == {}


def test_epochs_bring_classes_and_now_and_then_the_training_sample() -> None:
    model = net()
    calls = []

    def sample() -> dict[str, float]:
        calls.append(1)
        return {"loss": 0.2, "accuracy": 0.9}

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = Watcher(model, optimizer, Schedule(100), train_sample=sample, sample_size=20, batch_size=1)
    values = {("train", "loss"): 0.3, ("dev", "loss"): 0.5, ("dev", "accuracy"): 0.8}
    for epoch in (1, 2, 3):
        watcher.on_epoch(EpochFacts(epoch, 300 * epoch, 0.1, values, True, torch.eye(3, dtype=torch.int64)))
    records = watcher.drain()
    watcher.close()
    assert value(records, "gap", 900) == pytest.approx(0.1)
    assert value(records, "loss_gap", 900) == pytest.approx(0.3)
    assert len(calls) == 1
    assert len([r for r in records if r.name == "balanced_accuracy"]) == 3
