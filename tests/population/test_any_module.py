"""Modules that do unusual things: whoever trains a member, it is what an ordinary PyTorch step makes of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune, weight_norm

from caviar import InputError, Population
from caviar.population.modules import copy_template, tensors_of
from caviar.population.population import member_draws

CLASSES, MEMBERS = 3, 3


class Two(nn.Module):
    """Two linear layers; what lies between them differs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def between(self, hidden: Tensor) -> Tensor:
        return hidden

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.second(self.between(self.first(inputs)))
        return outputs


class Tied(Two):
    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Linear(8, 8)
        self.middle.weight = self.first.weight

    def between(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.middle(torch.tanh(hidden)))


class OwnScale(Two):
    """A buffer that no state dict holds, and that differs between members."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.randn(8), persistent=False)

    def between(self, hidden: Tensor) -> Tensor:
        return hidden * self.scale


class WithoutGradients(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = self.first(inputs)
        outputs: Tensor = self.second(torch.relu(hidden))
        return outputs


class InHalfPrecision(Two):
    def between(self, hidden: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            halved = functional.linear(hidden, self.first.weight)
        return halved.to(hidden.dtype)


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:  # noqa: ARG004
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return -gradient


class Reversal(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = Reversed.apply(inputs)
        return outputs


class Halving(Two):
    """Works in place on the batch, which is everybody's."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.mul_(0.5))


class Noted(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"note": 1}

    def set_extra_state(self, state: Any) -> None:
        """Nothing to do."""


class Counted(nn.Embedding):
    """Its gradients are divided by how often a word occurs."""

    def __init__(self) -> None:
        super().__init__(4, 4, scale_grad_by_freq=True)


class Attends(nn.Module):
    """Dropout of its layers and inside its attention, from one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(4, 2, 8, 0.2, batch_first=True)
        self.output = nn.Linear(8, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.output(self.block(inputs.view(-1, 2, 4)).flatten(1))
        return outputs


def chain(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), *between, nn.Linear(8, CLASSES))


def around(change: Callable[[nn.Module], object]) -> Callable[[], nn.Module]:
    """A chain whose first layer is changed in some way."""

    def make() -> nn.Module:
        module = chain(nn.ReLU())
        change(module[0])  # type: ignore[index]
        return module

    return make


MODULES: dict[str, Callable[[], nn.Module]] = {
    "tied": Tied,
    "buffer outside the state dict": OwnScale,
    "no gradients inside": WithoutGradients,
    "autocast inside": InHalfPrecision,
    "own backward in a layer": lambda: chain(Reversal()),
    "works in place on its inputs": Halving,
    "extra state": lambda: chain(Noted(8, 8), nn.ReLU()),
    "dropout inside attention": Attends,
    "weight norm": around(parametrizations.weight_norm),
    "spectral norm": around(parametrizations.spectral_norm),
    "orthogonal": around(parametrizations.orthogonal),
    "pruned": around(lambda layer: prune.random_unstructured(layer, "weight", 0.5)),
    "backward hook": lambda: chain(_hooked()),
    "counted embedding": lambda: nn.Sequential(Counted(), nn.Flatten(), nn.Linear(32, CLASSES)),
}


def _hooked() -> nn.Module:
    module = nn.ReLU()
    module.register_full_backward_hook(lambda layer, inputs, outputs: (2 * inputs[0],))  # type: ignore[operator]
    return module


@pytest.mark.parametrize("executor", ["singles", "stacked", "chain"])
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor", "ignore:Full backward hook")
def test_a_step_is_an_ordinary_step(name: str, executor: str) -> None:
    made: list[nn.Module] = []

    def make() -> nn.Module:
        made.append(MODULES[name]())
        return made[-1]

    torch.manual_seed(0)
    inputs = torch.randint(0, 4, (12, 8)) if name == "counted embedding" else torch.randn(12, 8)
    targets = torch.randint(0, CLASSES, (12,))
    kept = inputs.clone()
    optimizer = {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9}
    population = Population(make, MEMBERS, optimizer=optimizer, executor=executor, seed=4)
    before = [copy_template(module) for module in made]
    try:
        population.step(inputs, targets)
    except InputError:
        if executor == "singles":
            raise
        return
    assert torch.equal(inputs, kept), "the batch is the user's"
    for number, module in enumerate(before):
        for key, tensor in tensors_of(module).items():
            assert torch.equal(tensor, tensors_of(made[number])[key]), "the module is the user's"
        plain = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(member_draws(4, number).get_state())
            functional.cross_entropy(module(inputs.clone()), targets).backward()
        plain.step()
        found = {key: tensor.detach().double() for key, tensor in tensors_of(population.member(number)).items()}
        for key, tensor in tensors_of(module).items():
            expected = tensor.detach().double()
            assert float((found[key] - expected).norm()) <= 1e-6 * float(expected.norm()), key
    population.close()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_a_weight_that_a_hook_computes() -> None:
    module = around(weight_norm)()
    population = Population(module, 2)
    population.step(torch.ones(4, 8), torch.zeros(4, dtype=torch.int64))
    assert not torch.equal(population.member(1)[0].weight_v, module[0].weight_v)  # type: ignore[index]
    population.close()


@pytest.mark.parametrize("make", [lambda: nn.Sequential(nn.LazyLinear(3)), lambda: nn.LazyBatchNorm1d()])
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_weights_without_a_shape_are_refused(make: Callable[[], nn.Module]) -> None:
    for source in (make, make()):
        with pytest.raises(InputError, match=r"\(Lazy\w+\) has weights without a shape.*Call the module on a batch"):
            Population(source, 2)
