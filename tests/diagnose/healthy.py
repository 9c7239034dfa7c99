"""Set-ups with nothing wrong, on real data: networks of many kinds, losses, optimisers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from caviar.data.samples import open_sample

Build = Callable[[], nn.Module]


@dataclass
class Case:
    """What `caviar.check` is given."""

    model: nn.Module
    data: tuple[Tensor, Tensor]
    loss: Callable[[Any, Tensor], Tensor]
    options: dict[str, Any] = field(default_factory=dict)


def sample(name: str) -> tuple[Tensor, Tensor]:
    """Standardised inputs and targets of a sample, in random order."""
    raw = open_sample(name)
    inputs, targets = raw.inputs.float(), torch.from_numpy(raw.targets)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    std = inputs.std(0)
    inputs = (inputs - inputs.mean(0)) / torch.where(std > 0, std, 1.0)
    if raw.task == "regression":
        targets = ((targets - targets.mean()) / targets.std()).float()
    return inputs[order], targets[order]


def parts(data: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Four fifths for training, one for dev."""
    cut = len(data[0]) * 4 // 5
    return (data[0][:cut], data[1][:cut]), (data[0][cut:], data[1][cut:])


def digits() -> tuple[Tensor, Tensor]:
    return sample("digits")


def pictures() -> tuple[Tensor, Tensor]:
    """Digits as (rows, 1, 8, 8), each pixel from 0 to 1, standardised over all."""
    raw = open_sample("digits")
    inputs, targets = raw.inputs.float().reshape(-1, 1, 8, 8) / 16, torch.from_numpy(raw.targets)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    return ((inputs - inputs.mean()) / inputs.std())[order], targets[order]


def mlp(
    widths: list[int], activation: Callable[[], nn.Module] = nn.ReLU, norm: bool = False, dropout: float = 0.0
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths[:-1]):
        layers.append(nn.Linear(fan_in, fan_out, bias=not norm))
        layers += [nn.BatchNorm1d(fan_out)] if norm else []
        layers.append(activation())
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def conv(norm: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in ((1, 16), (16, 32)):
        layers.append(nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=not norm))
        layers += [nn.BatchNorm2d(fan_out)] if norm else []
        layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 4, 10))


class Residual(nn.Module):
    """x + f(x), with the last weight of f at 0."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        nn.init.zeros_(self.inside[3].weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x)


class Attention(nn.Module):
    """A transformer block over the eight rows of a digit."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.place = nn.Parameter(0.02 * torch.randn(8, 32))
        self.block = nn.TransformerEncoderLayer(32, 4, 64, dropout, batch_first=True, norm_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.block(self.embed(x.reshape(len(x), 8, 8)) + self.place).mean(1))
        return out


class Recurrent(nn.Module):
    """An LSTM or GRU over the eight rows of a digit."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.rnn = kind(8, 48, batch_first=True)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x.reshape(len(x), 8, 8))[0][:, -1])
        return out


class Tokens(nn.Module):
    """Next-pixel prediction: tokens (rows, length) -> logits (rows, classes, length)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(17, 16)
        self.rnn = nn.GRU(16, 48, batch_first=True)
        self.head = nn.Linear(48, 17)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(self.embed(x))[0]).transpose(1, 2)
        return out


def tokens() -> tuple[Tensor, Tensor]:
    raw = open_sample("digits").inputs.long()
    order = torch.randperm(len(raw), generator=torch.Generator().manual_seed(0))
    return raw[order][:, 16:39], raw[order][:, 17:40]


def masks() -> tuple[Tensor, Tensor]:
    """Which pixels of a digit are bright: one class a pixel."""
    inputs, _ = pictures()
    return inputs, (inputs[:, 0] > 0.5).long()


def with_optimizer(case: Case, build: Callable[..., torch.optim.Optimizer], **options: Any) -> Case:
    case.options["optimizer"] = build(case.model.parameters(), **options)
    return case


def selu() -> nn.Sequential:
    model = nn.Sequential(
        nn.Linear(64, 64), nn.SELU(), nn.AlphaDropout(0.1), nn.Linear(64, 64), nn.SELU(), nn.Linear(64, 10)
    )
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
    return model


def he() -> nn.Sequential:
    model = mlp([64, 64, 64, 10])
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return model


def transferred() -> nn.Sequential:
    """A network trained on other labels of the same digits, frozen, with a fresh last layer."""
    model, (inputs, labels) = mlp([64, 64, 64, 10]), digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(300):
        rows = slice(step * 64 % 1728, step * 64 % 1728 + 64)
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[rows]), (labels[rows] + 3) % 10).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model[-1] = nn.Linear(64, 10)
    return model


def halves() -> tuple[Tensor, Tensor]:
    inputs, labels = digits()
    return inputs, (labels >= 5).float()


def many_labels() -> tuple[Tensor, Tensor]:
    inputs, labels = digits()
    return inputs, torch.stack([labels >= 5, labels % 2 == 0, labels % 3 == 0], 1).float()


def imbalanced() -> tuple[Tensor, Tensor]:
    inputs, labels = digits()
    return inputs, (labels == 3).long()


ce = functional.cross_entropy
sgd, adam = torch.optim.SGD, torch.optim.Adam

HEALTHY: dict[str, Callable[[], Case]] = {
    "mlp": lambda: Case(mlp([64, 100, 10]), digits(), nn.CrossEntropyLoss()),
    "mlp deep": lambda: Case(mlp([64, 64, 64, 64, 64, 10]), digits(), ce),
    "mlp he": lambda: Case(he(), digits(), ce),
    "mlp tanh": lambda: Case(mlp([64, 64, 64, 10], nn.Tanh), digits(), ce),
    "mlp sigmoid": lambda: Case(mlp([64, 64, 10], nn.Sigmoid), digits(), ce),
    "mlp gelu dropout": lambda: Case(mlp([64, 128, 128, 10], nn.GELU, dropout=0.5), digits(), ce),
    "mlp batch norm": lambda: Case(mlp([64, 64, 64, 10], norm=True, dropout=0.3), digits(), ce, {"batch_size": 32}),
    "selu": lambda: Case(selu(), digits(), ce),
    "linear": lambda: Case(nn.Linear(64, 10), digits(), ce),
    "linear iris": lambda: Case(nn.Linear(4, 3), sample("iris"), ce),
    "small mlp wine": lambda: Case(mlp([13, 16, 3]), sample("wine"), ce),
    "linear regression": lambda: Case(
        nn.Sequential(nn.Linear(10, 1), nn.Flatten(0)), sample("diabetes"), functional.mse_loss
    ),
    "label smoothing": lambda: Case(mlp([64, 100, 10]), digits(), nn.CrossEntropyLoss(label_smoothing=0.1)),
    "class weights": lambda: Case(mlp([64, 100, 2]), imbalanced(), nn.CrossEntropyLoss(torch.tensor([1.0, 9.0]))),
    "imbalance": lambda: Case(mlp([64, 100, 2]), imbalanced(), ce),
    "log softmax": lambda: Case(nn.Sequential(*mlp([64, 100, 10]), nn.LogSoftmax(1)), digits(), nn.NLLLoss()),
    "log softmax twice": lambda: Case(nn.Sequential(*mlp([64, 100, 10]), nn.LogSoftmax(1)), digits(), ce),
    "hinge": lambda: Case(mlp([64, 100, 10]), digits(), nn.MultiMarginLoss()),
    "binary": lambda: Case(
        nn.Sequential(*mlp([30, 32, 1]), nn.Flatten(0)),
        (sample("breast_cancer")[0], sample("breast_cancer")[1].float()),
        nn.BCEWithLogitsLoss(),
    ),
    "binary halves weighted": lambda: Case(
        nn.Sequential(*mlp([64, 64, 1]), nn.Flatten(0)), halves(), nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0))
    ),
    "sigmoid and bce": lambda: Case(
        nn.Sequential(*mlp([64, 64, 1]), nn.Sigmoid(), nn.Flatten(0)), halves(), nn.BCELoss()
    ),
    "many labels": lambda: Case(mlp([64, 64, 3]), many_labels(), nn.BCEWithLogitsLoss()),
    "regression": lambda: Case(
        mlp([10, 64, 64, 1]), (sample("diabetes")[0], sample("diabetes")[1].unsqueeze(1)), nn.MSELoss()
    ),
    "regression l1": lambda: Case(
        mlp([10, 64, 1]), (sample("diabetes")[0], sample("diabetes")[1].unsqueeze(1)), nn.L1Loss()
    ),
    "regression huber": lambda: Case(
        mlp([10, 64, 1], nn.Tanh), (sample("diabetes")[0], sample("diabetes")[1].unsqueeze(1)), nn.HuberLoss()
    ),
    "autoencoder": lambda: Case(mlp([64, 32, 64]), (digits()[0], digits()[0]), nn.MSELoss()),
    "conv": lambda: Case(conv(), pictures(), ce),
    "conv without norm": lambda: Case(conv(norm=False), pictures(), ce),
    "conv masks": lambda: Case(
        nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 2, 3, padding=1)), masks(), ce
    ),
    "group norm": lambda: Case(
        nn.Sequential(nn.Conv2d(1, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10)),
        pictures(),
        ce,
    ),
    "residual": lambda: Case(
        nn.Sequential(nn.Linear(64, 32), *(Residual() for _ in range(6)), nn.LayerNorm(32), nn.Linear(32, 10)),
        digits(),
        ce,
    ),
    "attention": lambda: Case(Attention(), digits(), ce),
    "lstm": lambda: Case(Recurrent(), digits(), ce),
    "gru": lambda: Case(Recurrent(nn.GRU), digits(), ce),
    "tokens": lambda: Case(Tokens(), tokens(), ce),
    "frozen": lambda: Case(transferred(), digits(), ce),
    "adam": lambda: with_optimizer(Case(mlp([64, 100, 10]), digits(), ce), adam, lr=1e-3),
    "adam low": lambda: with_optimizer(Case(mlp([64, 100, 100, 10]), digits(), ce), adam, lr=1e-4),
    "adam high": lambda: with_optimizer(Case(mlp([64, 100, 10], norm=True), digits(), ce), adam, lr=1e-2),
    "sgd": lambda: with_optimizer(Case(mlp([64, 100, 10]), digits(), ce), sgd, lr=0.01),
    "sgd momentum": lambda: with_optimizer(Case(conv(), pictures(), ce), sgd, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda: with_optimizer(
        Case(Attention(), digits(), ce), torch.optim.AdamW, lr=3e-4, weight_decay=0.1
    ),
    "rmsprop regression": lambda: with_optimizer(
        Case(mlp([10, 64, 1]), (sample("diabetes")[0], sample("diabetes")[1].unsqueeze(1)), nn.MSELoss()),
        torch.optim.RMSprop,
        lr=1e-3,
    ),
}  # fmt: skip
