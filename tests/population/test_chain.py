"""A step of a chain against an ordinary PyTorch step of every member."""

import pytest
import torch
from torch import nn

from caviar.nn.settings import MeanSquaredErrorSettings
from caviar.optim.settings import (
    SGDSettings,
)
from caviar.population.cohort import Step
from tests.population.chain_cases import (
    BATCH,
    CLASSES,
    HAS_ONEDNN,
    LIMITS,
    MAKERS,
    RULES,
    SPREAD,
    Ordinary,
    Written,
    chain_of,
    check,
    cohort_of,
    net,
    step_of,
    worst_difference,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("name", MAKERS)
def test_a_step_is_an_ordinary_step_of_every_member(name: str, dtype: torch.dtype) -> None:
    cohort = cohort_of(MAKERS[name], 3, dtype)
    check(cohort, [step_of(size, seed, dtype) for seed, size in enumerate((BATCH, BATCH, 7))])


@pytest.mark.skipif(not HAS_ONEDNN, reason="torch without oneDNN")
@pytest.mark.parametrize("name", ["relu", "gelu", "norm", "dropout", "first_without_bias", "no_bias", "one_layer"])
def test_the_same_holds_with_products_by_onednn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caviar.population.chain_find.LARGE", 0)
    monkeypatch.setattr("caviar.population.chain_find.LARGE_FIRST", 0)
    check(cohort_of(MAKERS[name], 3), [step_of(size, seed) for seed, size in enumerate((BATCH, 32, 7))], onednn=True)


@pytest.mark.parametrize(("dtype", "group"), [(torch.float32, 1), (torch.float64, 100_000)], ids=str)
@pytest.mark.parametrize("name", RULES)
def test_hyperparameters_and_losses(name: str, group: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caviar.population.chain.GROUP_BYTES", group)
    cohort = cohort_of(lambda: net(nn.ReLU(), nn.Dropout(0.2)), 3, dtype, **RULES[name])
    check(cohort, [step_of(BATCH, seed, dtype) for seed in range(2)])


@pytest.mark.parametrize("optimizer", [SGDSettings(learning_rate=9.0), SGDSettings(learning_rate=9.0, momentum=0)])
def test_schedules_move_the_learning_rate_and_the_momentum(optimizer: SGDSettings) -> None:
    cohort = cohort_of(MAKERS["relu"], 3, optimizer=optimizer)
    steps = [step_of(seed=0, learning_rate=0.1), step_of(seed=1, learning_rate=SPREAD), step_of(seed=2)]
    if optimizer.momentum:
        steps += [step_of(seed=3, momentum=0.3), step_of(seed=4, momentum=SPREAD), step_of(seed=5)]
    check(cohort, steps)


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("rule", ["momentum", "no_momentum", "all", "classes_smoothings", "nesterov", "penalties"])
def test_weighted_examples(rule: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    weights = torch.rand(3, BATCH, generator=generator).to(dtype)
    folds = (weights > 0.4).to(dtype)
    absent = folds.clone()
    absent[1] = 0
    options = {"optimizer": SGDSettings(learning_rate=0.05, weight_decay=0.1), **RULES[rule]}
    cohort = cohort_of(lambda: net(nn.ReLU(), nn.Dropout(0.2)), 3, dtype, **options)
    check(
        cohort, [step_of(BATCH, seed, dtype, weights=w) for seed, w in enumerate((weights, folds, absent, None, folds))]
    )


def test_weighted_batch_norm_is_training_on_the_kept_rows() -> None:
    cohort = cohort_of(MAKERS["norm"], 2, torch.float64)
    folds = torch.ones(2, BATCH, dtype=torch.float64)
    folds[0, :4], folds[1, 9:] = 0, 0
    step = step_of(dtype=torch.float64, weights=folds)
    chain = chain_of(cohort, step.inputs)
    chain.step(step)
    ordinary = [Ordinary(cohort, member) for member in range(2)]
    for member, single in enumerate(ordinary):
        kept = folds[member] > 0
        single.step(Step(step.inputs[kept], step.targets[kept]))
    assert worst_difference(chain, ordinary) <= LIMITS[torch.float64]


UNMOVED = "model/0.bias"  # in front of a batch norm


def test_a_member_without_examples_keeps_its_statistics() -> None:
    cohort = cohort_of(MAKERS["norm"], 2)
    folds = torch.ones(2, BATCH)
    folds[1] = 0
    chain = chain_of(cohort, step_of().inputs)
    before = chain.state()
    chain.step(step_of(weights=folds))
    after = chain.state()
    assert all(torch.equal(before[name][1], after[name][1]) for name in before)
    assert not any(torch.equal(before[name][0], after[name][0]) for name in before if name not in ("draws", UNMOVED))
    assert chain.losses()[0, 1] == 0


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_a_batch_of_one(dtype: torch.dtype) -> None:
    cohort = cohort_of(lambda: net(nn.ReLU(), nn.Dropout(0.2)), 3, dtype)
    weights = torch.tensor([[0.5], [0.0], [2.0]], dtype=dtype)
    check(cohort, [step_of(BATCH, 0, dtype), step_of(1, 1, dtype), step_of(1, 2, dtype, weights=weights)])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_mean_squared_error(dtype: torch.dtype, weighted: bool) -> None:
    cohort = cohort_of(lambda: net(nn.Tanh(), outputs=1), 3, dtype, loss=MeanSquaredErrorSettings())
    weights = torch.rand(3, BATCH, generator=torch.Generator().manual_seed(1)).to(dtype) if weighted else None
    steps = [step_of(BATCH, seed, dtype, weights=weights) for seed in range(2)]
    check(cohort, [step._replace(targets=step.inputs[:, 3] * 2) for step in steps])


@pytest.mark.parametrize("rule", ["momentum", "smoothing", "classes"])
def test_soft_labels(rule: str) -> None:
    shares = torch.rand(BATCH, CLASSES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = step_of(dtype=torch.float64)._replace(targets=shares / shares.sum(dim=1, keepdim=True))
    check(cohort_of(MAKERS["relu"], 3, torch.float64, **RULES[rule]), [step, step])


def test_pictures_are_flattened() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, CLASSES))

    steps = [step_of(seed=seed) for seed in range(2)]
    check(cohort_of(make, 2), [step._replace(inputs=step.inputs.view(-1, 3, 2, 2)) for step in steps])


def test_functions_in_the_forward_are_layers() -> None:
    check(cohort_of(Written, 2), [step_of()])


def test_a_small_change_of_one_weight_is_seen() -> None:
    step = step_of()
    cohort = cohort_of(MAKERS["relu"], 2)
    ordinary = [Ordinary(cohort, member) for member in range(2)]
    cohort.weights["0.weight"][1, 2, 3] *= 1.001
    chain = chain_of(cohort, step.inputs)
    chain.step(step)
    for single in ordinary:
        single.step(step)
    assert worst_difference(chain, ordinary) > LIMITS[torch.float32]
