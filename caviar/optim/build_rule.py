"""From settings to a rule of caviar's own, whose hyperparameters may differ between members."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from caviar.core.errors import unknown_name
from caviar.optim import rules
from caviar.optim.lists import Number
from caviar.optim.optimizer import Optimizer
from caviar.optim.rules import Rule
from caviar.optim.second_order import Newton, lbfgs
from caviar.optim.settings import (
    AdaGradSettings,
    AdamSettings,
    AdamWSettings,
    LBFGSSettings,
    LionSettings,
    LookaheadSettings,
    MuonSettings,
    NAdamSettings,
    NewtonSettings,
    RAdamSettings,
    RangerSettings,
    RMSPropSettings,
    SGDSettings,
)
from caviar.optim.split import muon_groups

FirstOrder = (
    SGDSettings
    | AdamSettings
    | AdamWSettings
    | AdaGradSettings
    | RMSPropSettings
    | NAdamSettings
    | RAdamSettings
    | RangerSettings
    | LookaheadSettings
    | LionSettings
    | MuonSettings
)

RULES: dict[type[Any], Any] = {
    SGDSettings: rules.sgd_rule,
    AdamSettings: rules.adam_rule,
    AdamWSettings: rules.adamw_rule,
    AdaGradSettings: rules.adagrad_rule,
    RMSPropSettings: rules.rmsprop_rule,
    NAdamSettings: rules.nadam_rule,
    RAdamSettings: rules.radam_rule,
    RangerSettings: rules.ranger_rule,
    LionSettings: rules.lion_rule,
}
"""Settings -> the rule that takes arguments of the same names."""

INSIDE = {kind.model_fields["name"].default: kind for kind in RULES}


def rule_of(settings: FirstOrder, values: Mapping[str, Any] | None = None) -> Rule:
    """Return the rule that the settings describe; `values` take the place of settings, as [members] tensors may.

    Muon's rule is that for hidden weights. Raises InputError for a value that the settings do not have.
    """
    given = {name: getattr(settings, name) for name in type(settings).model_fields if name != "name"}
    for name in values or {}:
        if name not in given:
            raise unknown_name(f"setting of {settings.name}", name, given)
    given |= values or {}
    if given["learning_rate"] == "auto":
        raise ValueError("optimizer.learning_rate must be resolved before the optimiser is built")
    if isinstance(settings, LookaheadSettings):
        inner = INSIDE[settings.rule](learning_rate=1.0)
        outer = {name: given.pop(name) for name in ("period", "alpha")}
        del given["rule"]
        return rules.lookahead(rule_of(inner, given), **outer)
    if isinstance(settings, MuonSettings):
        del given["betas"]
        return rules.muon_rule(**given, match_adamw=True)
    rule: Rule = RULES[type(settings)](**given)
    return rule


def build_muon(settings: MuonSettings, model: nn.Module, values: Mapping[str, Number] | None = None) -> Optimizer:
    """Return Muon for the hidden weights of a model and AdamW, at the same rate, for all else."""
    given: dict[str, Any] = {"learning_rate": settings.learning_rate, "betas": settings.betas, **(values or {})}
    rest = rules.adamw_rule(given["learning_rate"], given["betas"])
    decay = given.get("weight_decay", settings.weight_decay)
    hidden = rule_of(settings, {name: value for name, value in (values or {}).items() if name != "betas"})
    return Optimizer(muon_groups(model, hidden, rest, decay), hidden)


def build_second_order(settings: LBFGSSettings | NewtonSettings, params: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return L-BFGS or Newton, which take all parameters as one group."""
    options = settings.model_dump(exclude={"name"})
    return lbfgs(params, **options) if isinstance(settings, LBFGSSettings) else Newton(params, **options)
