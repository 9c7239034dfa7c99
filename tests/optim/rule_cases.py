"""One list of update rules; every test of the battery goes through all of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from caviar.optim import rules
from caviar.optim.rules import Rule

Witness = Callable[[list[Tensor]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Case:
    """A rule by its arguments; `members`: one more value for each argument that may differ between members.

    witness: torch's optimiser with the same arguments, None where torch has none (tests/reference then has formulas).
    quadratic, rosenbrock: learning rates with which the two valleys are descended, the second in `steps` steps.
    """

    name: str
    make: Callable[..., Rule]
    arguments: dict[str, Any]
    members: dict[str, Any]
    witness: Witness | None = None
    quadratic: float = 0.1
    rosenbrock: float = 0.02
    steps: int = 2500

    def rule(self, **changed: Any) -> Rule:
        return self.make(**{**self.arguments, **changed})


def _ranger(**arguments: Any) -> Rule:
    return rules.ranger_rule(**arguments)


def _lookahead_sgd(learning_rate: Any = 0.05, momentum: Any = 0.9, alpha: Any = 0.5) -> Rule:
    return rules.lookahead(rules.sgd_rule(learning_rate, momentum), 3, alpha)


def _lookahead_adamw(learning_rate: Any = 0.05, betas: Any = (0.9, 0.999), alpha: Any = 0.5) -> Rule:
    return rules.lookahead(rules.adamw_rule(learning_rate, betas), 5, alpha)


T = torch.optim
DECAY = {"weight_decay": 0.05}
RATE = {"learning_rate": 0.03}
BETAS = {"betas": (0.8, 0.95)}

CASES = [
    Case("sgd", rules.sgd_rule, {**RATE}, {"learning_rate": 0.05}, lambda p: T.SGD(p, 0.03), 0.1, 1e-3),
    Case(
        "sgd-decay", rules.sgd_rule, {**RATE, **DECAY}, {"weight_decay": 0.2},
        lambda p: T.SGD(p, 0.03, weight_decay=0.05), 0.1, 1e-3,
    ),
    Case(
        "momentum", rules.sgd_rule, {**RATE, **DECAY, "momentum": 0.9},
        {"learning_rate": 0.05, "momentum": 0.5, "weight_decay": 0.1},
        lambda p: T.SGD(p, 0.03, 0.9, weight_decay=0.05), 0.05, 2e-4,
    ),
    Case(
        "nesterov", rules.sgd_rule, {**RATE, **DECAY, "momentum": 0.9, "nesterov": True}, {"momentum": 0.5},
        lambda p: T.SGD(p, 0.03, 0.9, weight_decay=0.05, nesterov=True), 0.05, 2e-4,
    ),
    Case(
        "velocity", rules.sgd_rule, {**RATE, "momentum": 0.9, "rate_in_velocity": True},
        {"learning_rate": 0.05, "momentum": 0.5}, lambda p: T.SGD(p, 0.03, 0.9), 0.05, 2e-4,
    ),
    Case(
        "velocity-nesterov", rules.sgd_rule, {**RATE, **DECAY, "momentum": 0.9, "nesterov": True,
        "rate_in_velocity": True}, {"momentum": 0.5},
        lambda p: T.SGD(p, 0.03, 0.9, weight_decay=0.05, nesterov=True), 0.05, 2e-4,
    ),
    Case(
        "adagrad", rules.adagrad_rule, {**RATE, **DECAY}, {"learning_rate": 0.05, "eps": 1e-3, "weight_decay": 0.1},
        lambda p: T.Adagrad(p, 0.03, weight_decay=0.05), 0.5, 0.5,
    ),
    Case(
        "rmsprop", rules.rmsprop_rule, {**RATE, **DECAY, "decay": 0.9}, {"decay": 0.5, "eps": 1e-3},
        lambda p: T.RMSprop(p, 0.03, 0.9, weight_decay=0.05), 0.01, 3e-3,
    ),
    Case(
        "rmsprop-all", rules.rmsprop_rule, {**RATE, "momentum": 0.8, "centered": True},
        {"learning_rate": 0.05, "decay": 0.5, "momentum": 0.3, "eps": 1e-2},
        lambda p: T.RMSprop(p, 0.03, momentum=0.8, centered=True), 0.002, 2e-4,
    ),
    Case(
        "adam", rules.adam_rule, {**RATE, **BETAS, **DECAY},
        {"learning_rate": 0.05, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1},
        lambda p: T.Adam(p, 0.03, (0.8, 0.95), weight_decay=0.05),
    ),
    Case("adam-biased", rules.adam_rule, {**RATE, "bias_correction": False}, {"betas": (0.5, 0.9), "eps": 1e-3}),
    Case(
        "adamw", rules.adamw_rule, {**RATE, **BETAS, **DECAY}, {"betas": (0.5, 0.9), "weight_decay": 0.3},
        lambda p: T.AdamW(p, 0.03, (0.8, 0.95), weight_decay=0.05),
    ),
    Case(
        "nadam", rules.nadam_rule, {**RATE, **DECAY},
        {"learning_rate": 0.05, "betas": (0.5, 0.9), "momentum_decay": 0.01, "eps": 1e-3},
        lambda p: T.NAdam(p, 0.03, weight_decay=0.05),
    ),
    Case(
        "radam", rules.radam_rule, {**RATE, **BETAS, **DECAY},
        {"learning_rate": 0.05, "betas": (0.5, 0.7), "eps": 1e-3},
        lambda p: T.RAdam(p, 0.03, (0.8, 0.95), weight_decay=0.05), 0.1, 4e-3, 4000,
    ),
    Case(
        "ranger", _ranger, {**RATE, **BETAS, **DECAY}, {"betas": (0.5, 0.9), "alpha": 0.8, "weight_decay": 0.1},
        None, 0.1, 4e-3, 4000,
    ),
    Case("lion", rules.lion_rule, {**RATE, **DECAY}, {"learning_rate": 0.05, "betas": (0.5, 0.9)}, None, 0.01, 2e-3),
    Case("lookahead-sgd", _lookahead_sgd, {}, {"learning_rate": 0.01, "momentum": 0.5, "alpha": 0.8}, None, 0.05, 3e-4),
    Case("lookahead-adamw", _lookahead_adamw, {}, {"betas": (0.5, 0.9), "alpha": 0.8}),
    Case(
        "muon", rules.muon_rule, {**RATE, **DECAY}, {"learning_rate": 0.05, "momentum": 0.5, "weight_decay": 0.1},
        lambda p: T.Muon(p, 0.03, weight_decay=0.05), 0.02, 5e-3,
    ),
]  # fmt: skip
