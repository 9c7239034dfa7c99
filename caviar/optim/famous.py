"""The famous optimisers: each takes parameters (or groups of them) and what its rule takes."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Concatenate, ParamSpec

from torch import Tensor

from caviar.optim.optimizer import Optimizer
from caviar.optim.rules import (
    Rule,
    adagrad_rule,
    adam_rule,
    adamw_rule,
    lion_rule,
    muon_rule,
    nadam_rule,
    radam_rule,
    ranger_rule,
    rmsprop_rule,
    sgd_rule,
)

P = ParamSpec("P")
Params = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]


def _optimizer(rule: Callable[P, Rule]) -> Callable[Concatenate[Params, P], Optimizer]:
    def build(params: Params, *args: P.args, **kwargs: P.kwargs) -> Optimizer:
        return Optimizer(params, rule(*args, **kwargs))

    functools.update_wrapper(build, rule)
    build.__name__ = build.__qualname__ = rule.__name__.removesuffix("_rule")
    build.__module__ = __name__
    signature, first = inspect.signature(rule), inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    build.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[first, *signature.parameters.values()], return_annotation=Optimizer
    )
    return build  # type: ignore[return-value]  # params by name is welcome too


sgd = _optimizer(sgd_rule)
adagrad = _optimizer(adagrad_rule)
rmsprop = _optimizer(rmsprop_rule)
adam = _optimizer(adam_rule)
adamw = _optimizer(adamw_rule)
nadam = _optimizer(nadam_rule)
radam = _optimizer(radam_rule)
ranger = _optimizer(ranger_rule)
lion = _optimizer(lion_rule)
muon = _optimizer(muon_rule)
