"""Which parameters decay, and which are hidden weights."""

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from caviar.core.errors import InputError
from caviar.optim.lists import Number
from caviar.optim.rules import Rule

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
TABLES = (nn.Embedding, nn.EmbeddingBag)


def muon_groups(model: nn.Module, hidden: Rule, rest: Rule, weight_decay: Number = 0.0) -> list[dict[str, Any]]:
    """Return parameter groups that give hidden weights to the rule `hidden` (Muon) and all else to `rest` (AdamW).

    Hidden weights have two or more axes and belong neither to the first nor to the last module that has such a weight,
    nor to a norm or an embedding (Jordan et al. 2024). Only weights decay, in both rules.
    Raises InputError when the model has no hidden weight.
    """
    weights = list(dict.fromkeys(_weights(model)))
    tables = {p for module in model.modules() if isinstance(module, TABLES) for p in module.parameters(recurse=False)}
    modules = list(dict.fromkeys(module for module, parameter in weights if parameter not in tables))
    inner = set(modules[1:-1])
    inside = list(dict.fromkeys(p for module, p in weights if module in inner))
    if not inside:
        raise InputError(
            f"{type(model).__name__} has no hidden weights (of two or more axes, between first and last layer), "
            "which are what Muon is for. Use adamw, or a deeper network."
        )
    decayed = [p for p in dict.fromkeys(p for _, p in weights) if p not in set(inside)]
    known = {*inside, *decayed}
    others = [p for p in model.parameters() if p.requires_grad and p not in known]
    groups: list[dict[str, Any]] = [
        {"params": inside, "weight_decay": weight_decay, "rule": hidden},
        {"params": decayed, "weight_decay": weight_decay, "rule": rest},
        {"params": others, "weight_decay": 0.0, "rule": rest},
    ]
    return [group for group in groups if group["params"]]


def _weights(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and parameter.dim() >= 2 and not isinstance(module, NORMS):
                yield module, parameter
