"""Set-ups of benchmarks/diagnosis.py: data, network, loss, optimiser and a loop as people write them."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diagnosis_data import Data, load
from torch import Tensor, nn
from torch.nn import functional

Loss = Callable[[Any, Tensor], Tensor]
Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


@dataclass
class Work:
    """Everything that a training run consists of; a fault changes one thing of it.

    optimizer: builds the optimiser; it is called before `late`, which may change the model once more.
    zero_grad, step, training: whether the loop does what it should. schedule: factor of the rate at (step, steps).
    penalty: added to the loss. clip: limit of the gradient's norm. wait: seconds that a batch takes to arrive.
    keep: hold on to every loss with its graph. members: of a search, what each of them changes in the work; its seed.
    """

    data: Data
    model: nn.Module
    loss: Loss
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    batch_size: int
    epochs: int
    late: Callable[[nn.Module], None] | None = None
    augment: Augment | None = None
    penalty: Callable[[nn.Module], Tensor] | None = None
    schedule: Callable[[int, int], float] | None = None
    clip: float | None = None
    zero_grad: bool = True
    step: bool = True
    training: bool = True
    drop_last: bool = True
    wait: float = 0.0
    keep: bool = False
    kept: list[Tensor] = field(default_factory=list)
    members: "tuple[tuple[Callable[[Work], Any], int], ...]" = ()


def build_optimizer(work: Work) -> torch.optim.Optimizer:
    """Return the optimiser as the loop would hold it."""
    optimizer = work.optimizer([each for each in work.model.parameters() if each.requires_grad])
    if work.late is not None:
        work.late(work.model)
    return optimizer


def train(work: Work, optimizer: torch.optim.Optimizer, watch: Any) -> dict[str, float]:
    """Train as a person would write it, telling `watch` two things; return the last dev figures."""
    (inputs, targets), total = work.data.train, 0
    steps = work.epochs * max(1, len(inputs) // work.batch_size)
    rates = [group["lr"] for group in optimizer.param_groups]
    generator = torch.Generator().manual_seed(1)
    figures: dict[str, Any] = {}
    for _ in range(work.epochs):
        work.model.train(work.training)
        for rows in _batches(len(inputs), work, generator):
            if work.schedule is not None:
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * work.schedule(total, steps)
            x, y = inputs[rows], targets[rows]
            if work.wait:
                time.sleep(work.wait)
            if work.augment is not None:
                x, y = work.augment(x, y, generator)
            if work.zero_grad:
                optimizer.zero_grad()
            loss = work.loss(work.model(x), y)
            if work.penalty is not None:
                loss = loss + work.penalty(work.model)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            if work.clip is not None:
                nn.utils.clip_grad_norm_(work.model.parameters(), work.clip)
            if work.step:
                optimizer.step()
            if work.keep:
                work.kept.append(loss + 0.0 * sum(p.clone().sum() for p in work.model.parameters()))
            watch.step(loss, (x, y))
            total += 1
        spread = torch.linspace(0, len(inputs) - 1, min(500, len(inputs))).long()
        watch.evaluate("train", **_evaluate(work, (inputs[spread], targets[spread])))
        figures = _evaluate(work, work.data.dev)
        watch.evaluate("dev", **figures)
    return {name: value for name, value in figures.items() if name != "confusion"}


def _batches(rows: int, work: Work, generator: torch.Generator) -> Iterable[Tensor]:
    order = torch.randperm(rows, generator=generator)
    parts = order.split(work.batch_size)
    return parts[:-1] if work.drop_last and len(parts) > 1 and len(parts[-1]) < work.batch_size else parts


@torch.no_grad()
def _evaluate(work: Work, pair: tuple[Tensor, Tensor]) -> dict[str, Any]:
    was = work.model.training
    work.model.eval()
    outputs = [work.model(part) for part in pair[0].split(250)]
    work.model.train(was)
    joined, targets = torch.cat(outputs), pair[1]
    loss = float(work.loss(joined, targets))
    if work.data.classes:
        right = joined.argmax(1) if joined.dim() > 1 and joined.shape[1] > 1 else (joined.flatten() > 0).long()
        truth, classes = targets.long().flatten(), work.data.classes
        confusion = torch.bincount(truth * classes + right, minlength=classes**2).view(classes, classes)
        return {"loss": loss, "accuracy": float((right == truth).float().mean()), "confusion": confusion}
    error = (joined.flatten() - targets.flatten()).square().mean()
    return {"loss": loss, "r2": float(1 - error / targets.var(correction=0))}


def mlp(
    widths: list[int], activation: Callable[[], nn.Module] = nn.ReLU, norm: str = "", dropout: float = 0.0
) -> nn.Sequential:
    """Linear, norm, activation, dropout for each hidden width, then a linear output."""
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(widths[:-1]):
        layers.append(nn.Linear(fan_in, fan_out, bias=norm != "batch"))
        layers += {"batch": [nn.BatchNorm1d(fan_out)], "layer": [nn.LayerNorm(fan_out)]}.get(norm, [])
        layers.append(activation())
        layers += [nn.Dropout(dropout)] if dropout else []
    model = nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
    return he(model) if activation is nn.ReLU else model


def conv(
    channels: list[int], size: int, classes: int, norm: str = "batch", dropout: float = 0.0, activation: Any = nn.ReLU
) -> nn.Sequential:
    """Blocks of conv 3x3, norm, activation, pool; then a linear output."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(channels):
        layers.append(nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=norm != "batch"))
        layers += {"batch": [nn.BatchNorm2d(fan_out)], "group": [nn.GroupNorm(4, fan_out)]}.get(norm, [])
        layers += [activation(), nn.MaxPool2d(2)]
        size //= 2
    layers += [nn.Flatten(), *([nn.Dropout(dropout)] if dropout else [])]
    return he(nn.Sequential(*layers, nn.Linear(channels[-1] * size * size, classes)))


def he(model: nn.Sequential) -> nn.Sequential:
    """He's initial weights inside; small ones at the output."""
    layers = [layer for layer in model if isinstance(layer, nn.Linear | nn.Conv2d)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    nn.init.normal_(layers[-1].weight, std=0.3 * layers[-1].weight[0].numel() ** -0.5)
    return model


def adam(rate: float = 1e-3, **options: Any) -> Any:
    """Return what builds Adam."""
    return lambda parameters: torch.optim.Adam(parameters, lr=rate, **options)


def adamw(rate: float = 1e-3, **options: Any) -> Any:
    """Return what builds AdamW."""
    return lambda parameters: torch.optim.AdamW(parameters, lr=rate, **options)


def sgd(rate: float, momentum: float = 0.9, **options: Any) -> Any:
    """Return what builds gradient descent with momentum."""
    return lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=momentum, **options)


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of a column against targets without one."""
    return functional.mse_loss(outputs.squeeze(-1), targets)


def flip_and_shift(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The usual augmentation of small pictures."""
    flipped = torch.where(torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5, x.flip(-1), x)
    dy, dx = (int(torch.randint(-3, 4, (), generator=generator)) for _ in range(2))
    return functional.pad(flipped, (4, 4, 4, 4))[..., 4 + dy : 36 + dy, 4 + dx : 36 + dx], y


def cosine(step: int, steps: int) -> float:
    """Fall along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


CE: Loss = nn.CrossEntropyLoss()


def _pictures(data: Data) -> Data:
    pairs = [(x.reshape(-1, 1, 8, 8), y) for x, y in (data.train, data.dev)]
    return Data(pairs[0], pairs[1], data.classes, data.raw)


def digits_mlp(folder: Path) -> Work:
    """64-100-10 on digits, Adam."""
    return Work(load("digits", folder), mlp([64, 100, 10]), CE, adam(), 32, 25)


def digits_deep(folder: Path) -> Work:
    """Four hidden layers with batch norm on digits, Adam."""
    return Work(load("digits", folder), mlp([64, 64, 64, 64, 64, 10], norm="batch"), CE, adam(), 32, 20)


def digits_conv(folder: Path) -> Work:
    """Two blocks on digits, momentum."""
    return Work(_pictures(load("digits", folder)), conv([1, 16, 32], 8, 10), CE, sgd(0.05), 32, 12, schedule=cosine)


def adult_mlp(folder: Path) -> Work:
    """116-64-32-2 on adult, Adam."""
    return Work(load("adult", folder), mlp([116, 64, 32, 2], dropout=0.2), CE, adam(), 64, 6)


def adult_deep(folder: Path) -> Work:
    """Four hidden layers with batch norm and dropout on adult, AdamW."""
    model = mlp([116, 64, 64, 64, 64, 2], norm="batch", dropout=0.3)
    return Work(load("adult", folder), model, CE, adamw(), 64, 6, schedule=cosine)


def california_mlp(folder: Path) -> Work:
    """15-64-64-1 on california, Adam."""
    return Work(load("california", folder), mlp([15, 64, 64, 1]), squared, adam(), 64, 12)


def california_deep(folder: Path) -> Work:
    """Five hidden layers on california, momentum."""
    return Work(
        load("california", folder), mlp([15, 64, 64, 64, 64, 64, 1]), squared, sgd(0.01), 64, 12, schedule=cosine
    )


def cifar_conv(folder: Path) -> Work:
    """Three blocks with batch norm on CIFAR-10, momentum, augmented."""
    model = conv([3, 16, 32, 64], 32, 10, dropout=0.2)
    rule = sgd(0.05, weight_decay=5e-4)
    return Work(load("cifar", folder), model, CE, rule, 50, 7, schedule=cosine, augment=flip_and_shift)


def cifar_plain(folder: Path) -> Work:
    """Three blocks without norm on CIFAR-10, Adam, augmented."""
    model = conv([3, 16, 32, 32], 32, 10, norm="", dropout=0.2)
    return Work(load("cifar", folder), model, CE, adam(), 50, 7, augment=flip_and_shift)


BASES: dict[str, Callable[[Path], Work]] = {
    "digits mlp": digits_mlp,
    "digits deep": digits_deep,
    "digits conv": digits_conv,
    "adult mlp": adult_mlp,
    "adult deep": adult_deep,
    "california mlp": california_mlp,
    "california deep": california_deep,
    "cifar conv": cifar_conv,
    "cifar plain": cifar_plain,
}
