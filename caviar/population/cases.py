"""Small networks that between them hold every kind of layer that members can be stacked by."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

CLASSES = 5
BATCH = 12


class Case(NamedTuple):
    """A network to hold the population to its contract. shape: of one example; integers: inputs are words below 7."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    integers: bool = False


class Residual(nn.Module):
    """Adds, multiplies, joins and reshapes signals."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.ones(8))
        self.output = nn.Linear(16, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.first(inputs)) * self.scale + inputs
        branch = functional.gelu(self.second(hidden)) + hidden
        joined = torch.cat([branch[:, :8], hidden.view(hidden.size(0), -1)], dim=1)
        outputs: Tensor = self.output(joined)
        return outputs


class Conditional(nn.Module):
    """Control flow that depends on data, which no trace can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.output = nn.Linear(8, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.first(inputs))
        if bool(hidden.mean() > 0):
            hidden = hidden * 2
        outputs: Tensor = self.output(hidden)
        return outputs


class Attention(nn.Module):
    """One block of self-attention over four places."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.output = nn.Linear(8, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        places = inputs.view(-1, 2, 4)
        mixed, _ = self.attention(places, places, places)
        outputs: Tensor = self.output(self.norm(mixed + places).flatten(1))
        return outputs


class Transformer(nn.Module):
    """An encoder block over two places, with dropout in its layers and inside its attention."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(4, 2, 8, 0.2, batch_first=True)
        self.output = nn.Linear(8, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.output(self.block(inputs.view(-1, 2, 4)).flatten(1))
        return outputs


class Recurrent(nn.Module):
    """An LSTM over four places."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(2, 6, batch_first=True)
        self.output = nn.Linear(6, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.output(self.recurrent(inputs.view(-1, 4, 2))[0][:, -1])
        return outputs


def _tied() -> nn.Module:
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Linear(8, CLASSES))


def _mlp(*between: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(8, 9), *(make() for make in between), nn.Linear(9, CLASSES))


def _conv(*between: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), *(make() for make in between), nn.Flatten(), nn.LazyLinear(CLASSES)
    )


def _picture(*between: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        module = _conv(*between)()
        module.eval()(torch.zeros(2, 2, 6, 6))
        return module.train()

    return make


ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Softplus, nn.Tanh, nn.Sigmoid, nn.PReLU,
    nn.Hardswish, nn.Mish,
)  # fmt: skip

CASES: tuple[Case, ...] = (
    *(Case(f"linear, {kind.__name__}", _mlp(kind), (8,)) for kind in ACTIVATIONS),
    Case(
        "three linear layers",
        lambda: nn.Sequential(nn.Linear(8, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, CLASSES)),
        (8,),
    ),
    Case("linear without bias", lambda: nn.Sequential(nn.Linear(8, 9, bias=False), nn.ReLU(), nn.Linear(9, 5)), (8,)),
    Case("batch norm 1d", _mlp(lambda: nn.BatchNorm1d(9), nn.ReLU), (8,)),
    Case("layer norm", _mlp(lambda: nn.LayerNorm(9), nn.ReLU), (8,)),
    Case("rms norm", _mlp(lambda: nn.RMSNorm(9), nn.ReLU), (8,)),
    Case("dropout", _mlp(nn.ReLU, lambda: nn.Dropout(0.3)), (8,)),
    Case("conv 2d, batch norm, pool", _picture(lambda: nn.BatchNorm2d(4), nn.ReLU, lambda: nn.MaxPool2d(2)), (2, 6, 6)),
    Case("conv 2d in groups", _picture(lambda: nn.Conv2d(4, 8, 3, groups=2), nn.ReLU), (2, 6, 6)),
    Case("conv 2d, strided", _picture(lambda: nn.Conv2d(4, 4, 3, stride=2), lambda: nn.AvgPool2d(2)), (2, 6, 6)),
    Case("group norm", _picture(lambda: nn.GroupNorm(2, 4), nn.ReLU), (2, 6, 6)),
    Case("instance norm", _picture(lambda: nn.InstanceNorm2d(4, affine=True), nn.ReLU), (2, 6, 6)),
    Case("dropout 2d", _picture(nn.ReLU, lambda: nn.Dropout2d(0.3)), (2, 6, 6)),
    Case(
        "conv 1d",
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(8, CLASSES)),
        (2, 6),
    ),
    Case("embedding", lambda: nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, CLASSES)), (3,), True),
    Case("residual and joined", Residual, (8,)),
    Case("attention", Attention, (8,)),
    Case("transformer block with dropout", Transformer, (8,)),
    Case("recurrent", Recurrent, (8,)),
    Case("tied weights", _tied, (8,)),
    Case("weight norm", lambda: nn.Sequential(weight_norm(nn.Linear(8, 9)), nn.ReLU(), nn.Linear(9, CLASSES)), (8,)),
    Case("control flow", Conditional, (8,)),
)


def batch_of(case: Case, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of one batch."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, CLASSES, (BATCH,), generator=generator)
    if case.integers:
        return torch.randint(0, 7, (BATCH, *case.shape), generator=generator), targets
    return torch.randn(BATCH, *case.shape, generator=generator, dtype=torch.float64).to(dtype), targets
