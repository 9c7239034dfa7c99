"""Update rules of members: settings with a member's own values, and what rules remember, by parameter."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from caviar.core.errors import InputError
from caviar.nn.settings import RegularizationSettings
from caviar.optim.settings import LBFGSSettings, NewtonSettings, OptimizerSettings
from caviar.population.cohort import Cohort

RULE_VALUES = ("learning_rate", "momentum", "eps", "weight_decay")
PENALTIES = ("l1", "l2", "max_norm")


def rule_values(cohort: Cohort) -> dict[str, Any]:
    """Return the hyperparameters of the update rule in which members differ, by the names of its settings."""
    values: dict[str, Any] = {name: cohort.values[name] for name in RULE_VALUES if name in cohort.values}
    betas = [cohort.values.get(name) for name in ("beta1", "beta2")]
    if any(beta is not None for beta in betas):
        given = getattr(cohort.optimizer, "betas", None)
        if given is None:
            raise InputError(f"members differ in beta1 or beta2, but {cohort.optimizer.name} has no betas.")
        values["betas"] = tuple(own if beta is None else beta for own, beta in zip(given, betas, strict=True))
    for name in values:
        if name not in type(cohort.optimizer).model_fields:
            raise InputError(f"members differ in {name}, which {cohort.optimizer.name} does not have.")
    return values


def member_rule(cohort: Cohort, member: int) -> OptimizerSettings:
    """Return the settings of one member's update rule."""
    values = {name: _numbers(value, member) for name, value in rule_values(cohort).items()}
    return cohort.optimizer.model_copy(update=values)


def check_first_order(settings: OptimizerSettings) -> None:
    """Refuse the second-order methods: they call the model over and over within a step, each member at its own pace."""
    if isinstance(settings, LBFGSSettings | NewtonSettings):
        raise InputError(
            f"optimizer.name = {settings.name!r} trains one model at a time. Choose a first-order rule for a "
            "population, such as adamw or sgd."
        )


def member_penalties(cohort: Cohort, member: int) -> RegularizationSettings:
    """Return the penalties on one member's weights."""
    values = {name: float(cohort.values[name][member]) for name in PENALTIES if name in cohort.values}
    return cohort.regularization.model_copy(update=values)


def _numbers(value: Any, member: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_numbers(entry, member) for entry in value)
    return float(value[member]) if isinstance(value, Tensor) else value


def optimizer_state(optimizer: Optimizer, names: Mapping[Any, str]) -> dict[str, Tensor]:
    """Return what a rule remembers as "<parameter>/<slot>" -> tensor (not a copy); a count of steps is float64."""
    optimizer.state_dict()  # caviar's rules write their counts there
    found: dict[str, Tensor] = {}
    for parameter, slots in optimizer.state.items():
        for slot, value in slots.items():
            if isinstance(value, Tensor):
                counts = slot == "step"
                found[f"{names[parameter]}/{slot}"] = value.double() if counts else value.detach()
    return found


def load_optimizer_state(optimizer: Optimizer, names: Mapping[Any, str], state: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_state` returned, into an optimiser over parameters of the same names."""
    packed = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    places = {names[parameter]: index for index, parameter in enumerate(parameters)}
    for key, value in state.items():
        name, slot = key.rsplit("/", 1)
        parameter = parameters[places[name]]
        if value.shape == parameter.shape and slot != "step":
            value = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
        elif slot == "step" and not hasattr(optimizer, "rule_name"):
            value = value.float()  # as torch's own rules count
        else:
            value = value.clone()
        slots.setdefault(places[name], {})[slot] = value
    optimizer.load_state_dict({"state": slots, "param_groups": packed["param_groups"]})
