"""The healthy set-ups of benchmarks/diagnosis.py: plain ones, and ones that are unusual but fine."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diagnosis_changes import search
from diagnosis_data import Data
from diagnosis_faults import SetUp
from diagnosis_works import BASES, Work, adam, adamw, build_optimizer, conv, cosine, mlp, sgd, train
from torch import Tensor, nn
from torch.nn import functional


class _Nobody:
    """Hears, and says nothing."""

    def step(self, *_: Any) -> None:
        """Pass."""

    def evaluate(self, *_: Any, **__: Any) -> None:
        """Pass."""


def _healthy(what: str, base: str, change: Callable[[Work], Any]) -> SetUp:
    def build(folder: Path) -> Work:
        work = BASES[base](folder)
        changed = change(work)
        return changed if isinstance(changed, Work) else work

    return SetUp(f"{what}, {base}", build)


def _set(**values: Any) -> Callable[[Work], Work]:
    return lambda work: replace(work, **values)


def _model(build: Callable[[], nn.Module], **values: Any) -> Callable[[Work], Work]:
    return lambda work: replace(work, model=build(), **values)


def _warm_up(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / (0.1 * steps)) * cosine(step, steps)


def _one_cycle(step: int, steps: int) -> float:
    at = step / steps
    return 0.04 + 0.96 * at / 0.3 if at < 0.3 else max(1e-3, (1 - at) / 0.7)


def _dropped(rate: float) -> Callable[[Work], None]:
    def apply(work: Work) -> None:
        for layer in work.model.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = rate

    return apply


def _some(rows: int) -> Callable[[Data], Data]:
    return lambda data: replace(data, train=(data.train[0][:rows], data.train[1][:rows]))


def _imbalanced(work: Work) -> Work:
    """One in ten is a 3."""
    data = work.data
    pairs = [(x, (y == 3).long()) for x, y in (data.train, data.dev)]
    return replace(work, data=replace(data, train=pairs[0], dev=pairs[1], classes=2), model=mlp([64, 64, 2]))


def _transferred(work: Work) -> Work:
    """Learned on digits moved by 3, then all but the head frozen."""
    labels = (work.data.train[1] + 3) % 10
    first = replace(work, data=replace(work.data, train=(work.data.train[0], labels)), epochs=10)
    train(first, build_optimizer(first), _Nobody())
    for parameter in work.model.parameters():
        parameter.requires_grad_(False)
    work.model[-1] = nn.Linear(work.model[-1].in_features, 10)  # type: ignore[index, operator]
    return replace(work, epochs=15)


def _fine_tuned(work: Work) -> Work:
    """Learned before; goes on at a small rate."""
    first = replace(work, epochs=8)
    train(first, build_optimizer(first), _Nobody())
    return replace(work, optimizer=adam(2e-4), epochs=6)


def _binary(work: Work) -> Work:
    """One logit for two classes."""
    pairs = [(x, y.float()) for x, y in (work.data.train, work.data.dev)]
    model = nn.Sequential(*mlp([116, 64, 32, 1]), nn.Flatten(0))
    data = replace(work.data, train=pairs[0], dev=pairs[1])
    return replace(work, data=data, model=model, loss=nn.BCEWithLogitsLoss())


class _Attention(nn.Module):
    """A transformer block over the eight rows of a digit."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.place = nn.Parameter(0.02 * torch.randn(8, 32))
        self.block = nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True, norm_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        out: Tensor = self.head(self.block(self.embed(x.reshape(len(x), 8, 8)) + self.place).mean(1))
        return out


class _Recurrent(nn.Module):
    """An LSTM over the eight rows of a digit."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 48, batch_first=True)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        out: Tensor = self.head(self.rnn(x.reshape(len(x), 8, 8))[0][:, -1])
        return out


class _Residual(nn.Module):
    """x + f(x), where f begins at 0."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        nn.init.zeros_(self.inside[3].weight)

    def forward(self, x: Tensor) -> Tensor:
        """Add."""
        return x + self.inside(x)  # type: ignore[no-any-return]


def _residual() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 48), *(_Residual() for _ in range(5)), nn.LayerNorm(48), nn.Linear(48, 10))


class _ReZero(nn.Module):
    """x + a f(x), where the number a begins at 0 (Bachlechner et al., 2020)."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.share = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Add."""
        return x + self.share * self.inside(x)  # type: ignore[no-any-return]


class _ZeroNorm(nn.Module):
    """A convolutional residual block whose last batch norm begins at 0 (Goyal et al., 2017)."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.inside = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip
        nn.init.zeros_(self.inside[4].weight)

    def forward(self, x: Tensor) -> Tensor:
        """Add."""
        return (x + self.inside(x)).relu()  # type: ignore[no-any-return]


class _LowRank(nn.Module):
    """A frozen, trained layer and a low-rank change that begins at 0 (LoRA: Hu et al., 2021)."""

    def __init__(self, trained: nn.Linear, rank: int = 8) -> None:
        super().__init__()
        self.trained = trained.requires_grad_(False)
        self.down = nn.Linear(trained.in_features, rank, bias=False)
        self.up = nn.Linear(rank, trained.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Add."""
        return self.trained(x) + self.up(self.down(x))  # type: ignore[no-any-return]


def _adapted(work: Work) -> Work:
    """Learned on digits moved by 3; then low-rank layers beside, and a new head."""
    labels = (work.data.train[1] + 3) % 10
    first = replace(work, data=replace(work.data, train=(work.data.train[0], labels)), epochs=10)
    train(first, build_optimizer(first), _Nobody())
    layers = [_LowRank(layer) if isinstance(layer, nn.Linear) else layer for layer in work.model]  # type: ignore[attr-defined]
    layers[-1] = nn.Linear(100, 10)
    return replace(work, model=nn.Sequential(*layers), epochs=15, optimizer=adam(3e-3))


def _rezero() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 48), *(_ReZero() for _ in range(4)), nn.Linear(48, 10))


def _zero_norms() -> nn.Module:
    stem = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*stem, *(_ZeroNorm() for _ in range(3)), nn.Flatten(), nn.Linear(1024, 10))


def _selu() -> nn.Module:
    model = nn.Sequential(
        nn.Linear(64, 64), nn.SELU(), nn.Linear(64, 64), nn.SELU(), nn.AlphaDropout(0.05), nn.Linear(64, 10)
    )
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
    return model


def _l2(model: nn.Module) -> Tensor:
    return 1e-4 * torch.stack([each.square().sum() for each in model.parameters()]).sum()


HEALTHY: list[SetUp] = [
    _healthy("a search around a good rate", "digits mlp", search(0.03, 0.3, 1, 3, 30)),
    _healthy("a search around a good rate", "california mlp", search(0.01, 0.1, 1, 10, 300)),
    _healthy("five seeds", "adult mlp", search(1, 1, 1, 1, 1)),
    *(SetUp(f"as it is, {name}", build) for name, build in BASES.items()),
    _healthy("warm-up and cosine", "digits deep", _set(schedule=_warm_up)),
    _healthy("warm-up and cosine", "cifar conv", _set(schedule=_warm_up)),
    _healthy("one cycle", "digits mlp", _set(schedule=_one_cycle, optimizer=adam(5e-3))),
    _healthy("one cycle", "adult deep", _set(schedule=_one_cycle, optimizer=adamw(3e-3))),
    _healthy("high dropout", "adult deep", _dropped(0.5)),
    _healthy("high dropout", "digits mlp", _model(lambda: mlp([64, 256, 10], dropout=0.6), epochs=30)),
    _healthy("label smoothing", "digits deep", _set(loss=nn.CrossEntropyLoss(label_smoothing=0.1))),
    _healthy("label smoothing", "cifar conv", _set(loss=nn.CrossEntropyLoss(label_smoothing=0.1))),
    _healthy(
        "tiny data, small net",
        "digits mlp",
        lambda w: replace(w, data=_some(300)(w.data), model=mlp([64, 24, 10], dropout=0.3), batch_size=16, epochs=30),
    ),
    _healthy("one in ten", "digits mlp", _imbalanced),
    _healthy("class weights", "adult mlp", _set(loss=nn.CrossEntropyLoss(torch.tensor([0.66, 2.07])))),
    _healthy("no momentum", "digits mlp", _set(optimizer=sgd(0.1, 0.0))),
    _healthy("nesterov", "digits conv", _set(optimizer=sgd(0.05, 0.9, nesterov=True))),
    _healthy("momentum 0.95", "california deep", _set(optimizer=sgd(0.005, 0.95))),
    _healthy("rmsprop", "california mlp", _set(optimizer=lambda p: torch.optim.RMSprop(p, lr=1e-3), schedule=cosine)),
    _healthy("adamw, strong decay", "adult mlp", _set(optimizer=adamw(1e-3, weight_decay=0.1))),
    _healthy("a small penalty", "digits mlp", _set(penalty=_l2)),
    _healthy("clipped", "digits deep", _set(clip=1.0)),
    _healthy("clipped", "california deep", _set(clip=5.0)),
    _healthy("layer norm", "digits deep", _model(lambda: mlp([64, 64, 64, 64, 10], norm="layer"))),
    _healthy(
        "group norm",
        "cifar conv",
        _model(lambda: conv([3, 16, 32, 64], 32, 10, norm="group", dropout=0.2), optimizer=adam(2e-3)),
    ),
    _healthy("gelu", "adult deep", _model(lambda: mlp([116, 64, 64, 2], nn.GELU, dropout=0.3))),
    _healthy("tanh", "digits mlp", _model(lambda: mlp([64, 64, 64, 10], nn.Tanh))),
    _healthy("sigmoid, shallow", "digits mlp", _model(lambda: mlp([64, 64, 10], nn.Sigmoid), optimizer=adam(3e-3))),
    _healthy("selu", "digits mlp", _model(_selu)),
    _healthy("elu", "california mlp", _model(lambda: mlp([15, 64, 64, 1], nn.ELU))),
    _healthy("residual", "digits deep", _model(_residual)),
    _healthy("numbers at 0 before branches", "digits mlp", _model(_rezero)),
    _healthy("norms at 0 behind branches", "digits conv", _model(_zero_norms, augment=None)),
    _healthy("low-rank changes", "digits mlp", _adapted),
    _healthy("attention", "digits mlp", _model(_Attention, optimizer=adam(2e-3))),
    _healthy("lstm", "digits mlp", _model(_Recurrent, optimizer=adam(3e-3))),
    _healthy("softmax regression", "digits mlp", _model(lambda: nn.Linear(64, 10), optimizer=adam(3e-3))),
    _healthy("linear regression", "california mlp", _model(lambda: nn.Linear(15, 1), optimizer=adam(3e-3))),
    _healthy("absolute error", "california mlp", _set(loss=lambda z, y: functional.l1_loss(z.squeeze(-1), y))),
    _healthy("huber", "california deep", _set(loss=lambda z, y: functional.huber_loss(z.squeeze(-1), y))),
    _healthy("hinge", "digits mlp", _set(loss=nn.MultiMarginLoss())),
    _healthy(
        "log softmax and nll",
        "digits mlp",
        lambda w: replace(w, model=nn.Sequential(*w.model, nn.LogSoftmax(1)), loss=nn.NLLLoss()),
    ),  # type: ignore[misc]
    _healthy("one logit", "adult mlp", _binary),
    _healthy("large batches", "adult mlp", _set(batch_size=512, optimizer=adam(4e-3), epochs=12)),
    _healthy("small batches", "digits mlp", _set(batch_size=8, epochs=8)),
    _healthy("transferred, frozen", "digits mlp", _transferred),
    _healthy("fine-tuned", "digits conv", _fine_tuned),
    _healthy("zero last layer", "digits deep", lambda w: (nn.init.zeros_(w.model[-1].weight), w)[1]),  # type: ignore[index]
    _healthy(
        "xavier",
        "adult mlp",
        lambda w: [nn.init.xavier_uniform_(m.weight) for m in w.model if isinstance(m, nn.Linear)] and None,
    ),  # type: ignore[attr-defined]
    _healthy(
        "torch's own initial weights",
        "cifar plain",
        lambda w: [m.reset_parameters() for m in w.model if hasattr(m, "reset_parameters")] and None,
    ),  # type: ignore[attr-defined]
]
