"""A chain's step against ordinary PyTorch training of every member, and members that do not look at each other."""

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
from caviar.nn.settings import CrossEntropySettings, HuberSettings, MeanSquaredErrorSettings, RegularizationSettings
from caviar.optim import build_optimizer
from caviar.optim.settings import (
    AdamSettings,
    AdamWSettings,
    LookaheadSettings,
    MuonSettings,
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


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("name", MAKERS)
def test_a_step_is_an_ordinary_step_of_every_member(name: str, dtype: torch.dtype) -> None:
    cohort = cohort_of(MAKERS[name], 3, dtype)
    check(cohort, [step_of(size, seed, dtype) for seed, size in enumerate((BATCH, BATCH, 7))])


@pytest.mark.skipif(not HAS_ONEDNN, reason="torch without oneDNN")
@pytest.mark.parametrize("name", ["relu", "gelu", "norm", "dropout", "first_without_bias", "no_bias", "one_layer"])
def test_the_same_holds_with_products_by_onednn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caviar.population.chain_find.LARGE", 0)
    check(cohort_of(MAKERS[name], 3), [step_of(size, seed) for seed, size in enumerate((BATCH, 32, 7))], onednn=True)


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


class Written(nn.Module):
    """A net written out in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(INPUTS, 6), nn.Linear(6, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(functional.relu(self.first(torch.flatten(inputs, 1))).tanh())


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


VARIED = {
    "learning_rate": torch.linspace(0.01, 0.2, 16).double(),
    "momentum": torch.linspace(0.0, 0.95, 16).double(),
    "dropout": torch.linspace(0.0, 0.6, 16).double(),
    "label_smoothing": torch.linspace(0.0, 0.3, 16).double(),
}


def trained(cohort: Cohort, example: Tensor, steps: list[Step], start: int, end: int, *, onednn: bool) -> Chain:
    chain = chain_of(cohort.slice(start, end), example, onednn=onednn)
    for step in steps:
        chain.step(step.slice(start, end))
    return chain


@pytest.mark.parametrize("form", ["float32", "float64", *(["onednn"] if HAS_ONEDNN else [])])
@pytest.mark.parametrize("varied", [False, True])
@pytest.mark.parametrize("name", [*MAKERS, "regression"])
def test_a_member_does_not_depend_on_those_beside_it(
    name: str, varied: bool, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, onednn = torch.float64 if form == "float64" else torch.float32, form == "onednn"
    monkeypatch.setattr("caviar.population.chain_find.LARGE", 1500)
    regression = name == "regression"
    make = (lambda: net(nn.Tanh(), outputs=1)) if regression else MAKERS[name]
    options: dict[str, Any] = {"loss": MeanSquaredErrorSettings()} if regression else {}
    if varied:
        options["values"] = {n: v for n, v in VARIED.items() if n != "label_smoothing" or not regression}
    cohort = cohort_of(make, 16, dtype, **options)
    steps = [step_of(size, seed, dtype) for seed, size in enumerate((BATCH, BATCH, 8))]
    if "norm" not in name and name != "mlp":
        steps.append(step_of(1, 9, dtype))
    if regression:
        steps = [step._replace(targets=step.inputs[:, 0]) for step in steps]
    whole = trained(cohort, steps[0].inputs, steps, 0, 16, onednn=onednn)
    expected, losses, outputs = whole.state(), whole.losses(), whole.outputs(steps[0].inputs)
    for start, end in ((0, 1), (5, 6), (3, 5), (1, 4), (9, 16), (4, 12)):
        part = trained(cohort, steps[0].inputs, steps, start, end, onednn=onednn)
        for key, tensor in part.state().items():
            assert torch.equal(tensor, expected[key][start:end]), (key, start, end)
        assert torch.equal(part.losses(), losses[:, start:end])
        assert torch.equal(part.outputs(steps[0].inputs), outputs[start:end])


@pytest.mark.parametrize("onednn", ONEDNN)
def test_members_of_real_sizes_do_not_depend_on_those_beside_them(onednn: bool) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(301, 50), nn.ReLU(), nn.Linear(50, 130), nn.Sigmoid(), nn.Linear(130, 10))

    cohort = cohort_of(make, 16)
    generator = torch.Generator().manual_seed(1)
    steps = [
        Step(torch.randn(size, 301, generator=generator), torch.randint(0, 10, (size,), generator=generator))
        for size in (100, 100, 37)
    ]
    expected = trained(cohort, steps[0].inputs, steps, 0, 16, onednn=onednn).state()
    for start, end in ((0, 1), (7, 8), (3, 5), (1, 4), (9, 16), (4, 12)):
        for key, tensor in trained(cohort, steps[0].inputs, steps, start, end, onednn=onednn).state().items():
            assert torch.equal(tensor, expected[key][start:end]), (key, start, end)


@pytest.mark.parametrize("onednn", ONEDNN)
@pytest.mark.parametrize("name", ["relu", "dropout_norm"])
def test_a_member_that_is_no_number_leaves_the_others_alone(name: str, onednn: bool) -> None:
    cohort = cohort_of(MAKERS[name], 5)
    steps = [step_of(seed=seed) for seed in range(3)]
    expected = trained(cohort, steps[0].inputs, steps, 0, 5, onednn=onednn).state()
    cohort.weights["0.weight"][2] = torch.nan
    found = trained(cohort, steps[0].inputs, steps, 0, 5, onednn=onednn).state()
    others = [0, 1, 3, 4]
    assert all(torch.equal(found[key][others], expected[key][others]) for key in expected)
    assert found["model/0.weight"][2].isnan().all()


@pytest.mark.parametrize("name", ["relu", "dropout_norm"])
def test_a_chain_goes_on_from_a_state_as_if_it_had_never_stopped(name: str) -> None:
    cohort = cohort_of(MAKERS[name], 3)
    steps = [step_of(seed=seed) for seed in range(6)]
    chain = chain_of(cohort, steps[0].inputs)
    for step in steps[:3]:
        chain.step(step)
    state = chain.state()
    other = chain_of(cohort_of(MAKERS[name], 3), steps[0].inputs)
    other.load(state)
    kept = {key: tensor.clone() for key, tensor in state.items()}
    for step in steps[3:]:
        chain.step(step)
        other.step(step)
    assert all(torch.equal(tensor, kept[key]) for key, tensor in state.items())  # copies, not views
    first, second = chain.state(), other.state()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(chain.losses()[3:], other.losses())


def test_names_and_shapes_of_the_state_are_the_templates() -> None:
    cohort = cohort_of(MAKERS["mlp"], 3)
    chain = chain_of(cohort, step_of().inputs)
    state = chain.state()
    for name, tensor in cohort.weights.items():
        assert torch.equal(state[f"model/{name}"], tensor)
    for name, parameter in cohort.template.named_parameters():
        assert state[f"optimizer/{name}/momentum_buffer"].shape == (3, *parameter.shape)
    assert len(state) == len(cohort.weights) + len(list(cohort.template.parameters())) + 1


def test_losses_of_many_steps_and_closing() -> None:
    cohort = cohort_of(MAKERS["relu"], 2)
    chain = chain_of(cohort, step_of().inputs)
    assert chain.losses().shape == (0, 2)
    for _ in range(300):
        chain.step(step_of())
    losses = chain.losses()
    assert losses.shape == (300, 2)
    assert (losses[-1] < losses[0]).all()
    chain.close()
    chain.step(step_of(7))
    assert chain.losses().shape == (1, 2)


class Residual(Written):
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs).relu()
        return self.second(hidden + hidden.tanh())


def tied() -> nn.Module:
    layer = nn.Linear(INPUTS, INPUTS)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(INPUTS, CLASSES))


def frozen() -> nn.Module:
    module = net(nn.ReLU())
    module[0].weight.requires_grad_(False)  # type: ignore[union-attr, operator]
    return module


REASONS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "residual": (Residual, {}, "not a chain"),
    "convolution": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, CLASSES)),
        {},
        "0 (Conv2d) has no place",
    ),
    "prelu": (lambda: net(nn.PReLU()), {}, "PReLU"),
    "tied": (tied, {}, "twice"),
    "frozen": (frozen, {}, "0.weight is frozen"),
    "ends_otherwise": (lambda: nn.Sequential(nn.Linear(INPUTS, CLASSES), nn.ReLU()), {}, "last layer"),
    "layer_norm": (lambda: net(nn.LayerNorm(9)), {}, "LayerNorm"),
    "average": (lambda: net(nn.BatchNorm1d(9, momentum=None)), {}, "1 keeps other statistics"),
    "one_unit": (lambda: net(width=1), {}, "single input"),
    "muon": (MAKERS["relu"], {"optimizer": MuonSettings(learning_rate=0.1)}, "muon"),
    "huber": (MAKERS["relu"], {"loss": HuberSettings()}, "huber"),
    "autocast": (MAKERS["relu"], {"autocast": True}, "bfloat16"),
    "one_class": (lambda: net(outputs=1), {}, "two outputs"),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_is_no_chain_says_why(name: str) -> None:
    make, options, words = REASONS[name]
    reason = build_chain(cohort_of(make, 2, **options), step_of().inputs)
    assert isinstance(reason, str)
    assert words in reason


@pytest.mark.skipif(not HAS_ONEDNN, reason="torch without oneDNN")
def test_onednn_is_for_float32_only() -> None:
    cohort = cohort_of(MAKERS["relu"], 2, torch.float64)
    assert "float32" in str(build_chain(cohort, step_of(dtype=torch.float64).inputs, onednn=True))
