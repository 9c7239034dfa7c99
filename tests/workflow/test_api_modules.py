"""A network of one's own: trained as a copy, checked before the run, stored without code."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import caviar
from tests.workflow.small import QUICK, arrays, quantities, table, write_pictures


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Noisy(nn.Module):
    """Draws random numbers in training, and keeps a count that is a buffer."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(4, outputs), nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(self.dropout(inputs))


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def is_as(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_the_callers_module_and_torch_are_left_as_they_were(training: bool) -> None:
    module = Noisy().train(training)
    seen: list[int] = []
    hook = module.register_forward_hook(lambda *_: seen.append(1))
    module.linear.bias.requires_grad_(False)
    before, state, threads = copied(module), torch.get_rng_state(), torch.get_num_threads()
    inputs, labels = arrays()
    run = caviar.train(inputs, labels, model=module, settings={"device.threads": 2}, **QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert is_as(module, before)
    assert module.training is training
    assert [*module._forward_hooks] == [hook.id]
    assert module.linear.weight.grad is None
    assert not is_as(run.model, before)
    assert torch.equal(run.model.linear.bias, before["linear.bias"]), "what is frozen stays"


def test_a_module_of_ones_own_is_loaded_with_its_module_only() -> None:
    inputs, labels = arrays()
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    run = caviar.train(inputs, labels, model=module, **QUICK)
    with pytest.raises(caviar.InputError, match=r"Sequential, which caviar cannot build.*model=\.\.\."):
        caviar.load(run.path)
    expected = run.bundle.predict(inputs).probabilities
    again = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    found = caviar.load(run.path / "bundle", model=again).predict(inputs).probabilities
    assert np.array_equal(found, expected)
    with pytest.raises(caviar.InputError):
        caviar.load(run.path, model=nn.Linear(4, 3))


FITTING = {
    "table": lambda tmp_path: (table(), "label", nn.Linear(9, 2)),
    "integers": lambda tmp_path: (
        np.random.default_rng(0).integers(0, 5, (60, 3)),
        np.arange(60) % 2,
        nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 2)),
    ),
    "channels first": lambda tmp_path: (
        np.random.default_rng(0).normal(size=(40, 3, 8, 8)),
        np.arange(40) % 2,
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)),
    ),
    "pictures": lambda tmp_path: (
        write_pictures(tmp_path / "pictures"),
        None,
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 2)),
    ),
    "numbers": lambda tmp_path: (*quantities(), nn.Linear(4, 1)),
    "numbers, flat": lambda tmp_path: (*quantities(), nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))),
}


@pytest.mark.parametrize("make", FITTING.values(), ids=FITTING)
def test_modules_for_every_kind_of_data(make: Any, tmp_path: Path) -> None:
    data, target, module = make(tmp_path)
    run = caviar.train(data, target, model=module, **QUICK)
    assert len(run.bundle.predict(data)) > 0
    assert run.recipe.model.name == "given"


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Linear(5, 3), r"Linear cannot take a batch of shape \(2, 4\)"),
        (nn.Linear(4, 2), r"needs \(2, 3\).*Give its last layer 3 outputs"),
        (nn.Sequential(nn.Linear(4, 8), nn.Linear(9, 3)), r"layer '1' \(Linear\)"),
        (nn.LSTM(4, 3), "one tensor only"),
        (nn.LazyLinear(3), "lazy layers"),
    ],
    ids=["inputs", "outputs", "inside", "tuple", "lazy"],
)
def test_a_module_that_does_not_fit_is_refused_before_anything_is_written(
    module: nn.Module, words: str, tmp_path: Path
) -> None:
    with pytest.raises(caviar.InputError, match=words):
        caviar.train(*arrays(), model=module, **QUICK)
    assert not (tmp_path / "runs").exists()


def test_whole_numbers_for_a_module_that_computes_with_them(tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).integers(0, 9, (40, 4))
    labels = np.arange(40) % 2
    with pytest.raises(caviar.InputError, match=r"whole numbers \(torch\.int64\).*preprocess\.numeric"):
        caviar.train(inputs, labels, model=nn.Linear(4, 2), **QUICK)
    run = caviar.train(inputs, labels, model=nn.Linear(4, 2), settings={"preprocess.numeric": "zscore"}, **QUICK)
    assert len(run.bundle.predict(inputs.astype(float))) == 40


def test_inputs_that_the_network_cannot_take_later() -> None:
    tokens = np.random.default_rng(0).integers(0, 5, (60, 3))
    module = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 2))
    run = caviar.train(tokens, np.arange(60) % 2, model=module, **QUICK)
    for rows in (tokens + 5, tokens.astype(float)):
        with pytest.raises(caviar.InputError, match=r"the network cannot take these inputs .*type and range"):
            run.bundle.predict(rows)


@pytest.mark.parametrize("model", ["mlp", nn.Linear, lambda inputs: inputs])
def test_what_is_no_module(model: Any, tmp_path: Path) -> None:
    with pytest.raises(caviar.InputError, match=r"is no torch\.nn\.Module"):
        caviar.train(*arrays(), model=model, **QUICK)


def test_a_module_that_cannot_be_copied_is_refused(tmp_path: Path) -> None:
    module = nn.Linear(4, 3)
    module.stream = (number for number in range(3))  # type: ignore[assignment]
    with pytest.raises(caviar.InputError, match="Linear: it cannot be copied"):
        caviar.train(*arrays(), model=module, **QUICK)


def test_bundle_predictions_are_those_of_the_network_applied_by_hand() -> None:
    inputs, labels = arrays()
    module = nn.Linear(4, 3)
    run = caviar.train(inputs, labels, model=module, settings={"preprocess.numeric": "none"}, **QUICK)
    with torch.no_grad():
        by_hand = torch.softmax(run.model(torch.from_numpy(inputs)), dim=1).numpy()
    predictions = run.bundle.predict(inputs)
    assert np.allclose(predictions.probabilities, by_hand, atol=1e-6)
    assert predictions.values.tolist() == [str(number) for number in by_hand.argmax(axis=1)]


def test_compiling_changes_nothing_but_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the compiler, which takes half a minute: what it gives back is what trains."""
    compiled: list[nn.Module] = []

    def stand_in(module: nn.Module) -> Any:
        compiled.append(module)
        return lambda inputs: module(inputs)

    monkeypatch.setenv("CXX", "c++")
    monkeypatch.setattr(torch, "compile", stand_in)
    inputs, labels = arrays()
    run = caviar.train(inputs, labels, settings={"device.compile": True}, **QUICK)
    plain = caviar.train(inputs, labels, **QUICK)
    assert len(compiled) == 1
    assert torch.equal(run.model.output.weight, plain.model.output.weight)


def test_brain_float_training_and_evaluation_in_float32() -> None:
    inputs, labels = arrays(300)
    run = caviar.train(inputs, labels, epochs=20, progress=False, settings={"device.precision": "bf16"})
    plain = caviar.train(inputs, labels, epochs=20, progress=False)
    assert all(value.dtype != torch.bfloat16 for value in run.model.state_dict().values())
    assert run.metrics["accuracy"]["value"] > 0.7
    assert not torch.equal(run.model.output.weight, plain.model.output.weight)
    assert np.allclose(run.bundle.predict(inputs).probabilities, plain.bundle.predict(inputs).probabilities, atol=0.1)
