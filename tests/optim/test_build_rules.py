"""From settings to optimisers: every name trains a net, defaults agree, Muon's split, values for members."""

from typing import Any, get_args

import pytest
import torch
from torch import nn

from caviar.core.errors import InputError
from caviar.optim import (
    Newton,
    Optimizer,
    build_optimizer,
    muon_groups,
    needs_closure,
    second_order_step,
    set_learning_rate,
)
from caviar.optim.build_rule import rule_of
from caviar.optim.rules import adamw_rule, muon_rule
from caviar.optim.settings import (
    OPTIMIZERS,
    AdamSettings,
    AdamWSettings,
    LBFGSSettings,
    LookaheadSettings,
    MuonSettings,
    NewtonSettings,
    OptimizerSettings,
    RAdamSettings,
    SGDSettings,
    default_learning_rate,
)

KINDS: list[Any] = list(get_args(get_args(OptimizerSettings)[0]))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)
    )


def resolved(kind: Any) -> Any:
    settings = kind()
    return settings.model_copy(update={"learning_rate": default_learning_rate(settings, own_network=True)})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_name_trains_a_net(kind: Any) -> None:
    model = net()
    optimizer = build_optimizer(resolved(kind), model)
    inputs = torch.randn(64, 4)
    labels = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()
    losses = []
    for _ in range(150):
        if needs_closure(optimizer):

            def forward() -> tuple[torch.Tensor, torch.Tensor]:
                outputs = model(inputs)
                return nn.functional.cross_entropy(outputs, labels), outputs

            losses.append(float(second_order_step(optimizer, forward)))
            continue
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    "settings",
    [
        SGDSettings(learning_rate=0.05, weight_decay=0.01),
        SGDSettings(learning_rate=0.05, nesterov=True),
        AdamSettings(learning_rate=0.01, weight_decay=0.01),
        AdamWSettings(learning_rate=0.01, weight_decay=0.1),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_ours_equals_torchs_fused_kernel(settings: Any, dtype: torch.dtype, tolerance: float) -> None:
    torchs, ours = net().to(dtype), net().to(dtype)
    first = build_optimizer(settings, torchs)
    assert first.param_groups[0]["fused"]
    groups = [{"params": [], "weight_decay": g["weight_decay"]} for g in first.param_groups]
    names = {parameter: name for name, parameter in torchs.named_parameters()}
    for group, like in zip(groups, first.param_groups, strict=True):
        group["params"] = [ours.get_parameter(names[parameter]) for parameter in like["params"]]
    second = Optimizer(groups, rule_of(settings))
    for step in range(50):
        for model, optimizer in ((torchs, first), (ours, second)):
            generator = torch.Generator().manual_seed(step)
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.grad = noise.to(dtype) + parameter.detach()
            optimizer.step()
    for a, b in zip(torchs.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_torchs_kernels_are_kept_where_torch_has_the_rule() -> None:
    assert isinstance(build_optimizer(AdamWSettings(learning_rate=0.1), net()), torch.optim.AdamW)
    assert isinstance(build_optimizer(SGDSettings(learning_rate=0.1), net()), torch.optim.SGD)
    for settings in (
        SGDSettings(learning_rate=0.1, rate_in_velocity=True),
        AdamSettings(learning_rate=0.1, bias_correction=False),
        RAdamSettings(learning_rate=0.1),
    ):
        assert isinstance(build_optimizer(settings, net()), Optimizer)
    assert isinstance(build_optimizer(LBFGSSettings(learning_rate=1.0), net()), torch.optim.LBFGS)
    assert isinstance(build_optimizer(NewtonSettings(learning_rate=1.0), net()), Newton)


def test_decay_reaches_weights_only_in_every_rule() -> None:
    for kind in KINDS:
        if "weight_decay" not in kind.model_fields:
            continue
        model = net()
        settings = resolved(kind).model_copy(update={"weight_decay": 0.3})
        optimizer = build_optimizer(settings, model)
        decays = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        assert len(decays) == len(list(model.parameters()))
        for name, parameter in model.named_parameters():
            assert decays[parameter] == (0.3 if name in ("0.weight", "3.weight", "5.weight") else 0.0), (kind, name)


def test_muon_takes_hidden_weights_and_leaves_the_rest_to_adamw() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Conv1d(4, 4, 3), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    names = {parameter: name for name, parameter in model.named_parameters()}
    hidden, weights, others = muon_groups(model, muon_rule(), adamw_rule(), 0.1)
    assert [names[p] for p in hidden["params"]] == ["2.weight"]
    assert [names[p] for p in weights["params"]] == ["0.weight", "1.weight", "4.weight"]
    assert [names[p] for p in others["params"]] == ["1.bias", "2.bias", "3.weight", "3.bias", "4.bias"]
    optimizer = build_optimizer(MuonSettings(learning_rate=0.01), net())
    assert getattr(optimizer, "rule_name", "") == "muon+adamw"
    set_learning_rate(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}
    with pytest.raises(InputError, match="no hidden weights"):
        muon_groups(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), muon_rule(), adamw_rule())


def test_settings_give_rules_with_values_for_members() -> None:
    rates = torch.tensor([0.1, 0.2])
    rule = rule_of(SGDSettings(), {"learning_rate": rates, "momentum": rates})
    assert rule.hyperparameters["lr"] is rates
    assert rule.hyperparameters["momentum"] is rates
    around = rule_of(LookaheadSettings(rule="rmsprop", weight_decay=0.1, period=7, alpha=0.3), {"learning_rate": rates})
    assert around.name == "lookahead(rmsprop)"
    assert around.hyperparameters["lr"] is rates
    assert around.hyperparameters["period"] == 7
    assert around.hyperparameters["weight_decay"] == 0.1
    with pytest.raises(InputError, match=r"unknown setting of sgd 'momentun'\. Did you mean 'momentum'"):
        rule_of(SGDSettings(), {"momentun": rates})
    with pytest.raises(ValueError, match="resolved"):
        rule_of(SGDSettings())


def test_the_list_of_names() -> None:
    assert set(OPTIMIZERS) >= {
        "sgd", "adagrad", "rmsprop", "adam", "adamw", "nadam", "radam", "lookahead", "ranger", "lion", "muon", "lbfgs",
        "newton",
    }  # fmt: skip
    assert all(line.endswith(".") and "\n" not in line for line in OPTIMIZERS.values())
