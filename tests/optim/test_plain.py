"""The bare optimisers against torch's own, and what they spare."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from caviar.optim.plain import plain

RULES: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (SGD, {"lr": 0.1}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (Adam, {"lr": 0.01, "weight_decay": 0.01}),
    (AdamW, {"lr": 0.01, "betas": (0.8, 0.95)}),
]


def weights_after(rule: Any, options: dict[str, Any], kernel: dict[str, bool]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    optimizer = rule(net.parameters(), **options, **kernel)
    for _ in range(5):
        optimizer.zero_grad()
        net(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    return [parameter.detach() for parameter in net.parameters()]


@pytest.mark.parametrize("kernel", [{"fused": True}, {"foreach": True}, {}], ids=str)
@pytest.mark.parametrize(("rule", "options"), RULES, ids=lambda value: getattr(value, "__name__", None))
def test_steps_are_those_of_torch_to_the_last_bit(
    rule: type[Optimizer], options: dict[str, Any], kernel: dict[str, bool]
) -> None:
    for ours, theirs in zip(
        weights_after(plain(rule), options, kernel), weights_after(rule, options, kernel), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_it_is_the_rule_under_its_name() -> None:
    optimizer = plain(AdamW)([nn.Parameter(torch.ones(2))])
    assert isinstance(optimizer, AdamW)
    assert type(optimizer).__name__ == "AdamW"
    assert not optimizer.param_groups[0]["params"][0].grad_fn


def test_training_leaves_the_compilers_machinery_alone() -> None:
    code = """
import sys, torch
from caviar.nn import build_model
from caviar.nn.settings import ConvNetSettings
from caviar.optim import build_optimizer, clip_gradients
from caviar.optim.settings import AdamWSettings
from caviar.optim.state import load_optimizer_tensors, optimizer_tensors
net = build_model(ConvNetSettings(channels=(4,)), (3, 4, 4), 2, torch.Generator())
optimizer = build_optimizer(AdamWSettings(learning_rate=0.01), net)
net(torch.randn(2, 3, 4, 4)).sum().backward()
clip_gradients(list(net.parameters()), 1.0)
optimizer.step()
load_optimizer_tensors(optimizer, *optimizer_tensors(optimizer))
print(sorted({"torch._dynamo", "sympy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
