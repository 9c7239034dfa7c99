"""What users may give a population: the same in every form, and refused in words where it cannot be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from caviar import InputError, Population

INPUTS, TARGETS = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def trained(
    inputs: Any = INPUTS, targets: Any = TARGETS, source: Any = net, members: Any = 2, **options: Any
) -> Tensor:
    population = Population(source, members, **options)
    population.step(inputs, targets)
    losses = population.losses()
    population.close()
    return losses


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(inputs), inputs


@pytest.mark.parametrize("form", [list, tuple, np.array, torch.tensor, lambda v: torch.tensor(v, requires_grad=True)])
def test_numbers_in_any_form(form: Callable[[list[float]], Any]) -> None:
    options = {"executor": "singles"}
    assert torch.equal(trained(hyperparameters={"learning_rate": form([0.1, 0.2])}, **options), trained(**options))
    assert torch.equal(trained(seeds=[3, 4], **options), trained(seeds=np.array([3, 4]), **options))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "half a member": ({"members": 2.5}, "members must be a whole number, but 2.5 arrived"),
    "members in words": ({"members": "3"}, "members must be a whole number"),
    "no numbers": ({"hyperparameters": {"learning_rate": None}}, "is a NoneType that holds no numbers"),
    "words": ({"hyperparameters": {"learning_rate": ["a", "b"]}}, "is a list that holds no numbers"),
    "no dict": ({"hyperparameters": [0.1, 0.2]}, "hyperparameters must be a dict"),
    "a gain": ({"hyperparameters": {"init_gain": [1, 2]}}, "a module brings its own initial weights"),
    "seed": ({"seed": 1.5}, "seed must be a whole number"),
    "seeds": ({"seeds": 3}, "seeds is an int; give a list"),
    "seeds in words": ({"seeds": ["a", "b"]}, "a seed must be a whole number"),
    "array": ({"inputs": INPUTS.numpy()}, "inputs must be one tensor .*, but a ndarray arrived"),
    "several inputs": ({"inputs": {"x": INPUTS}}, "inputs must be one tensor .*, but a dict arrived"),
    "target array": ({"targets": TARGETS.numpy()}, "targets must be one tensor"),
    "several outputs": ({"source": Pair}, "the forward of Pair returns a tuple"),
    "no one loss": ({"targets": torch.ones(12, 3), "loss": "mean_squared_error", "executor": "singles"}, "one loss"),
    "smoothing": (
        {
            "source": lambda: nn.Linear(8, 1),
            "targets": torch.ones(12),
            "loss": "mean_squared_error",
            "hyperparameters": {"label_smoothing": [0.0, 0.1]},
        },
        "members differ in label_smoothing, which the loss mean_squared_error does not have",
    ),
    "a loss of many": ({"loss": lambda outputs, targets: outputs}, r"the loss gave shape \(12, 3\)"),
    "a loss of none": ({"loss": lambda outputs, targets: 1.0}, "the loss gave a float"),
    "own loss, smoothing": (
        {"loss": functional.cross_entropy, "hyperparameters": {"label_smoothing": [0.0, 0.1]}},
        "a loss of your own is not told",
    ),
}


@pytest.mark.parametrize(("options", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        trained(**options)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"weights": -torch.ones(2, 12)}, "weights must be finite and at least 0"),
        ({"weights": torch.full((2, 12), float("nan"))}, "weights must be finite"),
        ({"weights": np.ones((2, 12))}, "weights must be a tensor"),
        ({"weights": torch.ones(2, 12, dtype=torch.bool)}, r"weights\.float\(\)"),
        ({"learning_rate": [0.1, 0.2]}, "learning_rate of a step must be a number or a tensor"),
        ({"learning_rate": torch.ones(3)}, r"shape \(3,\) arrived"),
        ({"learning_rate": -1.0}, "learning_rate must be at least 0"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1"),
    ],
)
def test_a_step_that_cannot_be_leaves_the_members_as_they_are(step: dict[str, Any], words: str) -> None:
    population = Population(net, 2)
    with pytest.raises(InputError, match=words):
        population.step(INPUTS, TARGETS, **step)
    population.step(INPUTS, TARGETS)
    assert population.losses().shape == (1, 2)
    population.close()


@pytest.mark.parametrize("executor", ["singles", "stacked"])
@pytest.mark.parametrize("loss", [functional.cross_entropy, nn.CrossEntropyLoss()], ids=["function", "module"])
def test_a_loss_of_ones_own(loss: Any, executor: str) -> None:
    torch.testing.assert_close(trained(loss=loss, executor=executor), trained(executor=executor))
    labels = functional.one_hot(TARGETS, 3).float()
    found = trained(targets=labels, loss=functional.binary_cross_entropy_with_logits, executor=executor)
    outputs = Population(net, 2).outputs(INPUTS)
    expected = torch.stack([functional.binary_cross_entropy_with_logits(each, labels) for each in outputs])
    torch.testing.assert_close(found[0], expected)


def test_a_loss_of_ones_own_has_no_chain_and_no_weights() -> None:
    with pytest.raises(InputError, match="the loss is one of your own"):
        trained(loss=functional.cross_entropy, executor="chain")
    population = Population(net, 2, loss=functional.cross_entropy, executor="singles")
    with pytest.raises(InputError, match="not told the examples' weights"):
        population.step(INPUTS, TARGETS, torch.ones(2, 12))
    population.close()


def test_members_by_number(tmp_path: Path) -> None:
    population = Population(net, 3)
    assert len(population.select(torch.tensor([0, 2]))) == 2  # type: ignore[arg-type]
    assert torch.equal(population.member(np.int64(1))[0].weight, population.member(1)[0].weight)  # type: ignore[index,arg-type]
    for wrong in ([], 1, [0.5]):
        with pytest.raises(InputError, match="member"):
            population.select(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a member must be a whole number"):
        population.member(1.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="another architecture"):
        population.refill(1, nn.Linear(8, 3))
    with pytest.raises(InputError, match="cannot be written there"):
        population.save(tmp_path / "none" / "p")
