"""Nets, batches and members trained by hand, for tests of chains."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from caviar.nn import build_regularizer
from caviar.nn.mlp import MLP
from caviar.nn.settings import CrossEntropySettings, MeanSquaredErrorSettings, RegularizationSettings
from caviar.optim import build_optimizer
from caviar.optim.settings import (
    AdamSettings,
    AdamWSettings,
    LookaheadSettings,
    NAdamSettings,
    RMSPropSettings,
    SGDSettings,
)
from caviar.population.chain import Chain, build_chain
from caviar.population.cohort import Cohort, Step
from caviar.population.modules import stack_weights
from caviar.population.rules import member_penalties, member_rule

LIMITS = {torch.float32: 1e-6, torch.float64: 1e-13}
INPUTS, CLASSES, BATCH = 12, 5, 19
HAS_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")
ONEDNN = [False, pytest.param(True, marks=pytest.mark.skipif(not HAS_ONEDNN, reason="torch without oneDNN"))]


def net(*layers: nn.Module, outputs: int = CLASSES, inputs: int = INPUTS, width: int = 9) -> nn.Module:
    """Linear, the layers, linear, ReLU, linear."""
    return nn.Sequential(
        nn.Linear(inputs, width), *layers, nn.Linear(width, 7), nn.ReLU(), nn.Linear(7, outputs)
    )  # fmt: skip


def cohort_of(
    make: Callable[[], nn.Module], members: int, dtype: torch.dtype = torch.float32, **options: Any
) -> Cohort:
    torch.manual_seed(4)
    modules = [make().to(dtype) for _ in range(members)]
    for module in modules:
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.data.normal_(0.5, 0.3)
    chosen: dict[str, Any] = {
        "optimizer": SGDSettings(learning_rate=0.05),
        "loss": CrossEntropySettings(),
        "draws": tuple(torch.Generator().manual_seed(100 + member) for member in range(members)),
        **options,
    }
    return Cohort(copy.deepcopy(modules[0]), stack_weights(modules), **chosen)


def step_of(size: int = BATCH, seed: int = 0, dtype: torch.dtype = torch.float32, **more: Any) -> Step:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, INPUTS, generator=generator, dtype=torch.float64).to(dtype)
    return Step(inputs, torch.randint(0, CLASSES, (size,), generator=generator), **more)


def chain_of(cohort: Cohort, example: Tensor, *, onednn: bool = False) -> Chain:
    own = replace(cohort, draws=tuple(torch.Generator().set_state(g.get_state()) for g in cohort.draws))
    chain = build_chain(own, example, onednn=onednn)
    assert isinstance(chain, Chain), chain
    return chain


class Drawn(nn.Module):
    """What torch.nn.Dropout does, from a generator of one's own."""

    def __init__(self, rate: float, generator: torch.Generator) -> None:
        super().__init__()
        self.rate, self.generator = rate, generator

    def forward(self, inputs: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return inputs
        noise = torch.empty(inputs.shape, dtype=inputs.dtype).bernoulli_(1 - self.rate, generator=self.generator)
        return inputs * noise.div_(1 - self.rate)


class Ordinary:
    """One member, trained as one would by hand."""

    def __init__(self, cohort: Cohort, member: int) -> None:
        self.member = member
        self.module = copy.deepcopy(cohort.template)
        self.module.load_state_dict({name: tensor[member] for name, tensor in cohort.weights.items()})
        generator = torch.Generator().set_state(cohort.draws[member].get_state())
        for parent in list(self.module.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.Dropout):
                    rate = self._own(cohort, "dropout", child.p)
                    setattr(parent, name, Drawn(rate, generator))
        self.optimizer = build_optimizer(member_rule(cohort, member), self.module)
        self.regularizer = build_regularizer(member_penalties(cohort, member), self.module)
        self.clip_norm = cohort.clip_norm
        if "clip_norm" in cohort.values:
            self.clip_norm = float(cohort.values["clip_norm"][member])
        self.smoothing = self._own(cohort, "label_smoothing", getattr(cohort.loss, "label_smoothing", 0.0))
        self.cohort = cohort

    def _own(self, cohort: Cohort, name: str, otherwise: float) -> float:
        return float(cohort.values[name][self.member]) if name in cohort.values else otherwise

    def step(self, step: Step) -> Tensor:
        if step.weights is not None and not step.weights[self.member].any():
            return torch.zeros(())
        for group in self.optimizer.param_groups:
            for key, value in (("lr", step.learning_rate), ("momentum", step.momentum)):
                if value is not None:
                    group[key] = float(value[self.member]) if isinstance(value, Tensor) else value
        self.optimizer.zero_grad()
        loss = self._loss(self.module(step.inputs), step)
        loss.backward()
        if self.regularizer is not None:
            self.regularizer.add_gradients()
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm)
        self.optimizer.step()
        if self.regularizer is not None:
            self.regularizer.constrain()
        return loss.detach()

    def _loss(self, outputs: Tensor, step: Step) -> Tensor:
        own = None if step.weights is None else step.weights[self.member]
        if isinstance(self.cohort.loss, MeanSquaredErrorSettings):
            values = (outputs[:, 0] - step.targets).square()
            return values.mean() if own is None else (values * own).sum() / own.sum()
        classes = self.cohort.class_weights
        options: dict[str, Any] = {
            "weight": None if classes is None else classes.to(outputs),
            "label_smoothing": self.smoothing,
        }
        if own is None:
            return functional.cross_entropy(outputs, step.targets, **options)
        values = functional.cross_entropy(outputs, step.targets, reduction="none", **options)
        counted = own if classes is None else own * classes.to(outputs)[step.targets]
        return (values * own).sum() / counted.sum()

    def state(self) -> dict[str, Tensor]:
        found = {f"model/{name}": tensor for name, tensor in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            for slot, tensor in self.optimizer.state[parameter].items():
                if slot != "step":
                    found[f"optimizer/{name}/{slot}"] = tensor
        return found


def worst_difference(chain: Chain, ordinary: list[Ordinary]) -> float:
    """The largest relative L2 difference of any tensor of any member."""
    state = chain.state()
    worst = 0.0
    for index, single in enumerate(ordinary):
        expected = single.state()
        assert expected.keys() <= state.keys(), expected.keys() - state.keys()
        for name, tensor in expected.items():
            difference = (state[name][index].double() - tensor.double()).norm()
            size = tensor.double().norm()
            if name.startswith("optimizer/"):
                # Around a batch norm most of a gradient cancels, of a bias in front of it all; what rounding leaves is
                # as far from the truth in torch as it is here (measured: 2e-6 of the gradient, in float32).
                difference, size = difference / 10, size + 1e-2
            worst = max(worst, float(difference / size.clamp_min(1e-30)))
    return worst


def check(cohort: Cohort, steps: list[Step], *, onednn: bool = False) -> None:
    """Take single steps from equal states: losses and all that is remembered must agree."""
    dtype = steps[0].inputs.dtype
    chain = chain_of(cohort, steps[0].inputs, onednn=onednn)
    ordinary = [Ordinary(cohort, member) for member in range(len(cohort))]
    for step in steps:
        chain.step(step)
        expected = torch.stack([single.step(step) for single in ordinary]).to(dtype)
        assert torch.allclose(chain.losses()[-1], expected, rtol=10 * LIMITS[dtype], atol=10 * LIMITS[dtype])
        assert worst_difference(chain, ordinary) <= LIMITS[dtype]
        for single in ordinary:
            single.module.eval()
        outputs = torch.stack([single.module(step.inputs).detach() for single in ordinary])
        for single in ordinary:
            single.module.train()
        assert (chain.outputs(step.inputs) - outputs).norm() <= 10 * LIMITS[dtype] * outputs.norm()
        _carry_over(chain, ordinary)


def _carry_over(chain: Chain, ordinary: list[Ordinary]) -> None:
    """Put the ordinary members' state into the chain, so that the next step starts from equal states again."""
    state = chain.state()
    for index, single in enumerate(ordinary):
        for name, tensor in single.state().items():
            state[name][index] = tensor
    chain.load(state)


ACTIVATIONS = {
    "relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(0.1), "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid(), "elu": nn.ELU(0.7),
    "selu": nn.SELU(), "gelu": nn.GELU(), "gelu_tanh": nn.GELU("tanh"), "silu": nn.SiLU(), "softplus": nn.Softplus(2.0),
    "relu6": nn.ReLU6(), "hardtanh": nn.Hardtanh(-0.3, 0.4), "identity": nn.Identity(),
}  # fmt: skip
MIXED = {
    "norm": [nn.BatchNorm1d(9), nn.ReLU()],
    "norm_alone": [nn.BatchNorm1d(9, affine=False, momentum=0.3, eps=1e-3)],
    "norm_behind": [nn.Tanh(), nn.BatchNorm1d(9)],
    "dropout": [nn.ReLU(), nn.Dropout(0.3)],
    "dropout_before": [nn.Dropout(0.4), nn.GELU()],
    "dropout_norm": [nn.BatchNorm1d(9), nn.SiLU(), nn.Dropout(0.3)],
    "no_bias": [nn.ReLU(), nn.Linear(9, 9, bias=False), nn.Tanh()],
}
SHAPES = {
    "first_without_bias": lambda: nn.Sequential(nn.Linear(INPUTS, 8, bias=False), nn.ReLU(), nn.Linear(8, CLASSES)),
    "wide": lambda: nn.Sequential(nn.Linear(INPUTS, 32), nn.ReLU(), nn.Linear(32, CLASSES)),
    "one_layer": lambda: nn.Sequential(nn.Linear(INPUTS, CLASSES)),
    "narrow": lambda: net(nn.ReLU(), width=2),
    "norm_first": lambda: nn.Sequential(nn.BatchNorm1d(INPUTS), nn.Linear(INPUTS, CLASSES)),
    "dropout_first": lambda: nn.Sequential(nn.Dropout(0.2), nn.ReLU(), nn.Linear(INPUTS, CLASSES)),
    "mlp": lambda: MLP(INPUTS, [8, 6], CLASSES, norm="batch", dropout=0.2),
    "mlp_plain": lambda: MLP(INPUTS, [], CLASSES),
}
MAKERS: dict[str, Callable[[], nn.Module]] = {
    **{name: (lambda layer=layer: net(copy.deepcopy(layer))) for name, layer in ACTIVATIONS.items()},
    **{name: (lambda layers=layers: net(*copy.deepcopy(layers))) for name, layers in MIXED.items()},
    **SHAPES,
}  # type: ignore[dict-item]


class Written(nn.Module):
    """A net written out in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(INPUTS, 6), nn.Linear(6, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(functional.relu(self.first(torch.flatten(inputs, 1))).tanh())


SPREAD = torch.tensor([0.01, 0.05, 0.2], dtype=torch.float64)
RULES: dict[str, dict[str, Any]] = {
    "momentum": {"optimizer": SGDSettings(learning_rate=0.05, momentum=0.5)},
    "no_momentum": {"optimizer": SGDSettings(learning_rate=0.05, momentum=0)},
    "in_velocity": {"optimizer": SGDSettings(learning_rate=0.05, rate_in_velocity=True, weight_decay=0.1)},
    "decay": {"optimizer": SGDSettings(learning_rate=0.05, weight_decay=0.1)},
    "decay_alone": {"optimizer": SGDSettings(learning_rate=0.05, momentum=0, weight_decay=0.1)},
    "rates": {"values": {"learning_rate": SPREAD}},
    "rates_alone": {"optimizer": SGDSettings(learning_rate=1, momentum=0), "values": {"learning_rate": SPREAD}},
    "momenta": {"values": {"momentum": torch.tensor([0.0, 0.5, 0.99]).double()}},
    "decays": {"values": {"weight_decay": torch.tensor([0.0, 0.1, 0.3]).double()}},
    "decays_alone": {"optimizer": SGDSettings(learning_rate=0.1, momentum=0), "values": {"weight_decay": SPREAD}},
    "all": {"values": {"learning_rate": SPREAD, "momentum": SPREAD + 0.5, "weight_decay": SPREAD * 2}},
    "dropout": {"values": {"dropout": torch.tensor([0.0, 0.3, 0.7]).double()}},
    "smoothing": {"loss": CrossEntropySettings(label_smoothing=0.2)},
    "smoothings": {"values": {"label_smoothing": SPREAD * 3}},
    "classes": {"class_weights": torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0])},
    "classes_smoothings": {
        "class_weights": torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0]),
        "values": {"label_smoothing": SPREAD * 3},
    },
    "nesterov": {"optimizer": SGDSettings(learning_rate=0.05, nesterov=True, weight_decay=0.1)},
    "nesterovs": {
        "optimizer": SGDSettings(learning_rate=0.05, nesterov=True),
        "values": {"learning_rate": SPREAD, "momentum": SPREAD + 0.5, "weight_decay": SPREAD * 2},
    },
    "adam": {"optimizer": AdamSettings(learning_rate=0.01, eps=1e-3)},
    "adamw": {"optimizer": AdamWSettings(learning_rate=0.01, weight_decay=0.1, eps=1e-3)},
    "adamws": {
        "optimizer": AdamWSettings(learning_rate=0.01, eps=1e-3),
        "values": {"learning_rate": SPREAD / 10, "beta1": SPREAD + 0.6, "weight_decay": SPREAD},
    },
    "rmsprop": {"optimizer": RMSPropSettings(learning_rate=0.01, momentum=0.5, eps=1e-3)},
    "nadam": {"optimizer": NAdamSettings(learning_rate=0.01, eps=1e-3)},
    "lookahead": {"optimizer": LookaheadSettings(learning_rate=0.01, rule="sgd", period=2)},
    "penalties": {"regularization": RegularizationSettings(l1=0.01, l2=0.1, max_norm=0.6)},
    "penalties_varied": {"values": {"l1": SPREAD / 5, "l2": SPREAD, "max_norm": SPREAD + 0.5}},
    "clip_norm": {"clip_norm": 0.1},
    "clip_norms": {"values": {"clip_norm": SPREAD}, "optimizer": AdamWSettings(learning_rate=0.01, eps=1e-3)},
}
