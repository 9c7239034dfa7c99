"""Set-ups with one planted bug each, and the code of the check that must find it."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.diagnose.healthy import (
    Attention,
    Case,
    Recurrent,
    adam,
    ce,
    conv,
    digits,
    halves,
    mlp,
    parts,
    pictures,
    sample,
    sgd,
    transferred,
    with_optimizer,
)

Pair = tuple[Tensor, Tensor]


class Wrapped(nn.Module):
    """A network whose forward is a function of it and the inputs."""

    def __init__(self, inner: nn.Module, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.function = inner, forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.inner, x)


class WrongSquare(torch.autograd.Function):
    """x^2 with the gradient x instead of 2x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * x


class Unscaled(nn.Module):
    """Dropout that forgets to scale what it keeps."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x) < 0.5) if self.training else x


class WrongNorm(nn.Module):
    """Normalises by the batch while training, and by nothing when evaluating."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / x.std(0) if self.training else x


def initialised(model: nn.Sequential, init: Callable[[Tensor], Any]) -> nn.Sequential:
    for parameter in model.parameters():
        with torch.no_grad():
            init(parameter)
    return model


def changed(data: Pair, inputs: Callable[[Tensor], Tensor] = lambda x: x, targets: Any = None) -> Pair:
    return inputs(data[0].clone()), data[1] if targets is None else targets(data[1].clone())


def some_nan(x: Tensor) -> Tensor:
    x[17] = math.nan
    return x


def one_large(x: Tensor) -> Tensor:
    return x * torch.where(torch.arange(64) == 20, 1e4, 1.0)


def one_in_fifty(y: Tensor) -> Tensor:
    return (torch.arange(len(y)) % 50 == 0).long()


def normed(**options: Any) -> nn.Sequential:
    norm = nn.BatchNorm1d(32, **options)
    return nn.Sequential(nn.Linear(64, 32, bias=False), norm, nn.ReLU(), nn.Linear(32, 10))


def half_held() -> Case:
    model = mlp([64, 64, 10])
    return Case(model, digits(), ce, {"optimizer": adam(model[0].parameters())})


def some_far(x: Tensor) -> Tensor:
    x[::200] *= 400
    return x


def raw_digits() -> Pair:
    inputs, targets = pictures()
    low, high = inputs.amin(), inputs.amax()
    return ((inputs - low) / (high - low) * 255).flatten(1), targets


def wrapped_pictures() -> Pair:
    """Smooth pictures whose eight-bit pixels were moved by half the range."""
    inputs, targets = pictures()
    smooth = functional.interpolate(inputs, size=(24, 24), mode="bicubic")
    pixels = ((smooth - smooth.amin()) / (smooth.amax() - smooth.amin()) * 200 + 20).to(torch.uint8)
    return ((pixels + 128).float() / 255 - 0.5) / 0.3, targets


def overlapping() -> Case:
    train, dev = parts(digits())
    inputs, targets = train[0].clone(), train[1].clone()
    inputs[:300], targets[:300] = dev[0][:300], dev[1][:300]
    return Case(mlp([64, 64, 10]), (inputs, targets), ce, {"dev": dev})


def elsewhere() -> Case:
    train, dev = parts(digits())
    return Case(mlp([64, 64, 10]), train, ce, {"dev": (dev[0] * 0.5 + 2, dev[1])})


def other_classes() -> Case:
    inputs, targets = digits()
    order = targets.argsort(stable=True)
    train, dev = parts((inputs[order], targets[order]))
    return Case(mlp([64, 64, 10]), train, ce, {"dev": dev})


def stale_optimizer() -> Case:
    model = mlp([64, 64, 10])
    optimizer = torch.optim.Adam(model.parameters())
    model[-1] = nn.Linear(64, 10)
    return Case(model, digits(), ce, {"optimizer": optimizer})


def frozen_fresh() -> Case:
    model = mlp([64, 64, 64, 10])
    model[2].weight.requires_grad_(False)
    return Case(model, digits(), ce)


def frozen_after_transfer() -> Case:
    model = transferred()
    model[-1].requires_grad_(False)
    model[0].requires_grad_(True)
    return Case(model, digits(), ce)


def knows_the_answers() -> Case:
    """A network that finds the label in the last column and adds it to its logits."""
    inputs, targets = digits()
    labelled = torch.cat([inputs, targets.float().unsqueeze(1)], 1)

    def forward(inner: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = inner(x[:, :64]) + 3 * functional.one_hot(x[:, 64].long(), 10)
        return out

    return Case(Wrapped(mlp([64, 64, 10]), forward), (labelled, targets), ce)


def leaky_column() -> Case:
    inputs, targets = sample("diabetes")
    return Case(
        nn.Sequential(nn.Linear(11, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0)),
        (torch.cat([inputs, 2 * targets.unsqueeze(1) - 1], 1), targets),
        functional.mse_loss,
    )


def two_halves(inner: Any, x: Tensor) -> Tensor:
    """Cuts one half of the first layer off."""
    out: Tensor = inner[2](inner[1](inner[0](x).detach()))
    return out


def with_penalty(penalty: Callable[[nn.Module], Tensor]) -> Case:
    return Case(mlp([64, 64, 10]), digits(), ce, {"penalty": penalty})


def squares(model: nn.Module) -> Tensor:
    return torch.stack([each.square().sum() for each in model.parameters()]).sum()


def turned(x: Tensor, y: Tensor, generator: torch.Generator) -> Pair:
    return x[:, torch.randperm(64, generator=generator)], y


def column_regression(loss: Callable[..., Tensor]) -> Case:
    return Case(mlp([10, 32, 1]), sample("diabetes"), loss)


DATA: dict[str, tuple[str, Callable[[], Case]]] = {
    "nan in a row": ("NUM002", lambda: Case(mlp([64, 64, 10]), changed(digits(), some_nan), ce)),
    "nan in a target": (
        "NUM002",
        lambda: Case(mlp([10, 32, 1]), changed(sample("diabetes"), targets=some_nan), functional.mse_loss),
    ),
    "a few far away": ("DATA011", lambda: Case(mlp([64, 64, 10]), changed(digits(), some_far), ce)),
    "pixels to 255": ("DATA002", lambda: Case(mlp([64, 64, 10]), raw_digits(), ce)),
    "one raw column": (
        "DATA002",
        lambda: Case(mlp([64, 64, 10]), changed(digits(), one_large), ce),
    ),
    "not centred": ("DATA002", lambda: Case(mlp([64, 64, 10]), changed(digits(), lambda x: x / 20 + 1), ce)),
    "divided twice": ("DATA002", lambda: Case(conv(), changed(pictures(), lambda x: x / 255), ce)),
    "all the same": ("DATA002", lambda: Case(mlp([64, 64, 10]), changed(digits(), torch.ones_like), ce)),
    "overflow": ("DATA010", lambda: Case(conv_24(), wrapped_pictures(), ce)),
    "raw target": (
        "DATA012",
        lambda: Case(
            mlp([10, 32, 1]), changed(sample("diabetes"), targets=lambda y: (y * 1e5 + 2e5).unsqueeze(1)), nn.MSELoss()
        ),
    ),
    "one class": ("DATA101", lambda: Case(mlp([64, 64, 10]), changed(digits(), targets=torch.zeros_like), ce)),
    "most classes missing": (
        "DATA101",
        lambda: Case(mlp([64, 64, 10]), changed(digits(), targets=lambda y: y // 5), ce),
    ),
    "rare class": (
        "DATA102",
        lambda: Case(mlp([64, 64, 2]), changed(digits(), targets=one_in_fifty), ce),
    ),
    "dev in train": ("DATA103", overlapping),
    "target among the inputs": ("DATA104", leaky_column),
    "label among the inputs": (
        "DATA104",
        lambda: Case(
            mlp([65, 64, 10]), (torch.cat([digits()[0], digits()[1].float().unsqueeze(1) / 10], 1), digits()[1]), ce
        ),
    ),
    "dev from elsewhere": ("DATA004", elsewhere),
    "dev of other classes": ("DATA005", other_classes),
}  # fmt: skip


def conv_24() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 121, 10))


LOSS: dict[str, tuple[str, Callable[[], Case]]] = {
    "large last layer": (
        "INIT001",
        lambda: Case(initialised(mlp([64, 64, 10]), lambda p: p.mul_(20)), digits(), ce),
    ),
    "log of 0": (
        "NUM001",
        lambda: Case(mlp([64, 64, 10]), digits(), lambda z, y: -(0 * z).log().gather(1, y[:, None]).mean()),
    ),
    "softmax twice": ("NUM003", lambda: Case(nn.Sequential(*mlp([64, 64, 10]), nn.Softmax(1)), digits(), ce)),
    "softmax over the batch": (
        "NUM004",
        lambda: Case(nn.Sequential(*mlp([64, 64, 10]), nn.Softmax(0)), digits(), ce),
    ),
    "relu before the loss": ("NUM003", lambda: Case(nn.Sequential(*mlp([64, 64, 10]), nn.ReLU()), digits(), ce)),
    "sigmoid before softmax": (
        "NUM003",
        lambda: Case(nn.Sequential(*mlp([64, 64, 10]), nn.Sigmoid()), digits(), ce),
    ),
    "sigmoid twice": (
        "NUM003",
        lambda: Case(
            nn.Sequential(*mlp([64, 64, 1]), nn.Sigmoid(), nn.Flatten(0)), halves(), nn.BCEWithLogitsLoss()
        ),
    ),
    "no log softmax": ("NUM101", lambda: Case(mlp([64, 64, 10]), digits(), nn.NLLLoss())),
    "softmax without log": (
        "NUM101",
        lambda: Case(nn.Sequential(*mlp([64, 64, 10]), nn.Softmax(1)), digits(), nn.NLLLoss()),
    ),
    "bounded regression": (
        "NUM101",
        lambda: Case(nn.Sequential(*mlp([10, 32, 1]), nn.Sigmoid(), nn.Flatten(0)), sample("diabetes"), nn.MSELoss()),
    ),
    "broadcast": ("NUM007", lambda: column_regression(functional.mse_loss)),
    "broadcast by hand": ("NUM007", lambda: column_regression(lambda z, y: (z - y).square().mean())),
    "penalty without gradient": ("REG101", lambda: with_penalty(lambda m: 1e-3 * squares(m).detach())),
    "penalty with a wrong sign": ("REG101", lambda: with_penalty(lambda m: -1e-3 * squares(m))),
    "penalty that falls": ("REG101", lambda: with_penalty(lambda m: 1 / squares(m))),
    "penalty that drowns": ("REG002", lambda: with_penalty(lambda m: 10.0 * squares(m))),
}  # fmt: skip

MODEL: dict[str, tuple[str, Callable[[], Case]]] = {
    "tiny weights": (
        "INIT004",
        lambda: Case(initialised(mlp([64, 64, 64, 10]), lambda p: p.mul_(0.01)), digits(), ce),
    ),
    "huge weights": (
        "INIT004",
        lambda: Case(initialised(mlp([64, 64, 64, 10]), lambda p: p.mul_(50)), digits(), ce),
    ),
    "sigmoids ten deep": ("GRAD001", lambda: Case(mlp([64] + [32] * 10 + [10], nn.Sigmoid), digits(), ce)),
    "exploding": (
        "GRAD002",
        lambda: Case(initialised(mlp([64] + [32] * 10 + [10]), lambda p: p.mul_(16)), digits(), ce),
    ),
    "dead units": (
        "INIT005",
        lambda: Case(initialised(mlp([64, 64, 10]), lambda p: p.sub_(5) if p.dim() == 1 else p), digits(), ce),
    ),
    "saturated tanh": (
        "INIT006",
        lambda: Case(initialised(mlp([64, 64, 64, 10], nn.Tanh), lambda p: p.normal_()), digits(), ce),
    ),
    "zero weights": ("INIT002", lambda: Case(initialised(mlp([64, 64, 10]), nn.init.zeros_), digits(), ce)),
    "constant weights": (
        "INIT002",
        lambda: Case(initialised(mlp([64, 64, 10]), lambda p: nn.init.constant_(p, 0.02)), digits(), ce),
    ),
    "wrong backward": (
        "GRAD101",
        lambda: Case(Wrapped(mlp([64, 64, 10]), lambda m, x: m[2](WrongSquare.apply(m[0](x)))), digits(), ce),
    ),
    "detached half": (
        "GRAD101",
        lambda: Case(
            Wrapped(mlp([64, 64, 10]), lambda m, x: m[2](m[1](m[0](x)) + 2 * m[1](m[0](x)).detach())), digits(), ce
        ),
    ),
    "detached": ("GRAD003", lambda: Case(Wrapped(mlp([64, 64, 10]), two_halves), digits(), ce)),
    "unused": (
        "GRAD003",
        lambda: Case(Wrapped(mlp([64, 64, 64, 10]), lambda m, x: m[4](m[1](m[0](x)))), digits(), ce),
    ),
    "nothing trainable": ("GRAD003", lambda: Case(mlp([64, 64, 10]).requires_grad_(False), digits(), ce)),
    "frozen": ("GRAD008", frozen_fresh),
    "head frozen": ("GRAD008", frozen_after_transfer),
    "optimizer holds old weights": ("GRAD007", stale_optimizer),
    "optimizer lacks the rest": (
        "GRAD007",
        half_held,
    ),
    "softmax over examples": (
        "NORM101",
        lambda: Case(Wrapped(mlp([64, 64, 10]), lambda m, x: m[2](m[0](x).softmax(0))), digits(), ce),
    ),
    "attention over examples": (
        "NORM101",
        lambda: Case(
            Wrapped(
                nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16, 0.0), nn.Linear(64, 10)]),
                lambda m, x: m[1](m[0](x.reshape(len(x), 8, 8)).flatten(1)),
            ),
            digits(),
            ce,
        ),
    ),
    "view mixes the batch": (
        "NORM101",
        lambda: Case(Wrapped(mlp([64, 64, 10]), lambda m, x: m(x.T.reshape(len(x), 64))), digits(), ce),
    ),
    "batch norm without averages": (
        "NORM101",
        lambda: Case(
            normed(track_running_stats=False),
            digits(),
            ce,
        ),
    ),
    "dropout never off": (
        "NORM102",
        lambda: Case(Wrapped(mlp([64, 64, 10]), lambda m, x: m(functional.dropout(x, 0.3))), digits(), ce),
    ),
    "dropout without scale": (
        "NORM004",
        lambda: Case(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), Unscaled(), nn.Linear(64, 10)), digits(), ce),
    ),
    "norm in training only": (
        "NORM004",
        lambda: Case(nn.Sequential(nn.Linear(64, 64), WrongNorm(), nn.ReLU(), nn.Linear(64, 10)), digits(), ce),
    ),
    "momentum the wrong way round": (
        "NORM002",
        lambda: Case(
            normed(momentum=0.99),
            digits(),
            ce,
        ),
    ),
    "bias before batch norm": (
        "NORM103",
        lambda: Case(
            nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)),
            pictures(),
            ce,
        ),
    ),
    "dropout before batch norm": (
        "NORM104",
        lambda: Case(
            nn.Sequential(
                nn.Linear(64, 32, bias=False), nn.Dropout(0.5), nn.ReLU(), nn.BatchNorm1d(32), nn.Linear(32, 10)
            ),
            digits(),
            ce,
        ),
    ),
    "batches of two": ("NORM003", lambda: Case(mlp([64, 64, 10], norm=True), digits(), ce, {"batch_size": 2})),
    "averages that stand still": ("NORM002", lambda: Case(normed(momentum=1e-4), digits(), ce)),
    "decay that takes all": (
        "REG001",
        lambda: with_optimizer(Case(mlp([64, 64, 10]), digits(), ce), torch.optim.AdamW, lr=1e-3, weight_decay=100.0),
    ),
    "decay of sgd": (
        "REG001",
        lambda: with_optimizer(Case(mlp([64, 64, 10]), digits(), ce), sgd, lr=0.1, momentum=0.9, weight_decay=0.1),
    ),
    "momentum for ever": (
        "LR010",
        lambda: with_optimizer(Case(mlp([64, 64, 10]), digits(), ce), sgd, lr=0.01, momentum=0.999),
    ),
    "first beta for ever": (
        "LR010",
        lambda: with_optimizer(Case(mlp([64, 64, 10]), digits(), ce), adam, lr=1e-3, betas=(0.999, 0.999)),
    ),
    "batch of one": (
        "NORM003",
        lambda: Case(mlp([64, 64, 10], norm=True), (digits()[0][:1281], digits()[1][:1281]), ce, {"batch_size": 64}),
    ),
}  # fmt: skip

FIT: dict[str, tuple[str, Callable[[], Case]]] = {
    "two units": (
        "FIT101",
        lambda: Case(Wrapped(mlp([64, 64, 10]), lambda m, x: m(x.mean(1, keepdim=True).expand(-1, 64))), digits(), ce),
    ),
    "nothing learned": (
        "FIT101",
        lambda: Case(Wrapped(mlp([64, 64, 10]), lambda m, x: m(x * 0)), digits(), ce),
    ),
    "labels apart from inputs": (
        "DATA001",
        lambda: Case(mlp([64, 64, 10]), changed(digits(), targets=lambda y: y.roll(7)), ce),
    ),
    "targets sorted": (
        "DATA001",
        lambda: Case(
            mlp([10, 32, 1]), changed(sample("diabetes"), targets=lambda y: y.roll(1).unsqueeze(1)), nn.MSELoss()
        ),
    ),
    "answers known": ("DATA105", knows_the_answers),
    "augmentation turns all round": (
        "DATA014",
        lambda: Case(mlp([64, 64, 10]), digits(), ce, {"augment": turned}),
    ),
    "rate too high": ("LR002", lambda: with_optimizer(Case(mlp([64, 64, 10]), digits(), ce), adam, lr=3.0)),
    "rate too low": ("LR001", lambda: with_optimizer(Case(mlp([64, 64, 10]), digits(), ce), adam, lr=1e-6)),
    "sgd too high": ("LR002", lambda: with_optimizer(Case(conv(norm=False), pictures(), ce), sgd, lr=50.0)),
    "sgd too low": ("LR001", lambda: with_optimizer(Case(conv(norm=False), pictures(), ce), sgd, lr=1e-5)),
    "attention too high": ("LR002", lambda: with_optimizer(Case(Attention(), digits(), ce), adam, lr=1.0)),
    "lstm too low": ("LR001", lambda: with_optimizer(Case(Recurrent(), digits(), ce), adam, lr=1e-6)),
}  # fmt: skip

BROKEN = DATA | LOSS | MODEL | FIT
