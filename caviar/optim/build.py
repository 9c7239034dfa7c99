"""From settings to a torch optimiser, and its learning rate during training."""

from typing import Any, TypeGuard

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from caviar.core.errors import InputError
from caviar.optim.build_rule import build_muon, build_second_order, rule_of
from caviar.optim.lists import Number
from caviar.optim.optimizer import Optimizer as RuleOptimizer
from caviar.optim.plain import plain
from caviar.optim.settings import (
    AdamSettings,
    AdamWSettings,
    LBFGSSettings,
    MuonSettings,
    NewtonSettings,
    OptimizerSettings,
    SGDSettings,
)
from caviar.optim.split import NORMS

FUSED_DEVICES = ("cpu", "cuda")


def build_optimizer(settings: OptimizerSettings, model: nn.Module) -> Optimizer:
    """Return an optimiser over the model's trainable parameters, in the model's own order.

    Torch's own SGD, Adam and AdamW, whose fused kernels are the fastest there are, L-BFGS also; every other rule, and
    forms that torch lacks, are caviar's. Weight decay reaches weights only: see `parameter_groups`.
    Raises InputError when the model has no trainable parameter, or the settings contradict each other; ValueError when
    the learning rate is still "auto".
    """
    if settings.learning_rate == "auto":
        raise ValueError("optimizer.learning_rate must be resolved before the optimiser is built")
    if isinstance(settings, LBFGSSettings | NewtonSettings):
        return build_second_order(settings, parameter_groups(model, 0.0)[0]["params"])
    if isinstance(settings, MuonSettings):
        return build_muon(settings, model)
    if isinstance(settings, SGDSettings) and settings.nesterov and settings.momentum == 0:
        raise InputError(
            "optimizer.nesterov looks ahead along the momentum, but optimizer.momentum is 0. Set a momentum, such as "
            "0.9, or nesterov = false."
        )
    groups = parameter_groups(model, settings.weight_decay)
    if not _torch_has(settings):
        ours: Optimizer = plain(RuleOptimizer)(groups, rule_of(settings))
        return ours
    options: dict[str, Any] = {"lr": settings.learning_rate, **kernel_options(model)}
    if isinstance(settings, SGDSettings):
        sgd: SGD = plain(SGD)(groups, momentum=settings.momentum, nesterov=settings.nesterov, **options)
        if settings.momentum > 0 and options.get("fused"):
            _start_momentum(sgd)
        return sgd
    rule = Adam if isinstance(settings, AdamSettings) else AdamW
    adam: Optimizer = plain(rule)(groups, betas=settings.betas, eps=settings.eps, **options)
    return adam


def _torch_has(settings: OptimizerSettings) -> TypeGuard[SGDSettings | AdamSettings | AdamWSettings]:
    if isinstance(settings, SGDSettings):
        return not settings.rate_in_velocity
    return isinstance(settings, AdamWSettings) or (isinstance(settings, AdamSettings) and settings.bias_correction)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters into those that decay and those that do not.

    Tensors of two or more axes that do not belong to a norm are weights and decay (linear, convolution, embedding,
    recurrent, attention). Biases, norms and other vectors set a level, not a strength, and are left alone. Without
    decay all stand in one group, which spares a step one kernel call (6 to 10 microseconds on a CPU).
    """
    decayed: dict[nn.Parameter, bool] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad:
                decayed.setdefault(parameter, parameter.dim() >= 2 and not isinstance(module, NORMS))
    if not decayed:
        raise InputError(
            f"{type(model).__name__} has no trainable parameter, so there is nothing to optimise. "
            "Set requires_grad on those that shall be trained."
        )
    if weight_decay == 0:
        return [{"params": list(decayed), "weight_decay": 0.0}]
    weights = {"params": [p for p, decays in decayed.items() if decays], "weight_decay": weight_decay}
    others = {"params": [p for p, decays in decayed.items() if not decays], "weight_decay": 0.0}
    return [group for group in (weights, others) if group["params"]]


def kernel_options(model: nn.Module) -> dict[str, bool]:
    """Return the keyword that makes torch's optimisers use their fastest form for these parameters.

    Microseconds a step on two CPU cores, fused against foreach against one by one: a 64-64-64-10 net with SGD
    24, 35, 40 (1.5 times faster than foreach) and with AdamW 40, 115, 129 (2.9 times); a 784-512-512-512-10 net (0.9
    million) with SGD 150, 216, 217 (1.4 times) and with AdamW 243, 727, 867 (3.0 times).

    The fused kernels walk through memory without looking at strides, so only dense parameters and gradients get them.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sparse = any(getattr(module, "sparse", False) is True for module in model.modules())
    fused = not sparse and all(_suits_fused(parameter) for parameter in parameters)
    return {"fused": True} if fused else {"foreach": True}


def _suits_fused(parameter: nn.Parameter) -> bool:
    # An empty copy keeps the strides exactly when the elements lie without gaps or overlaps.
    dense = torch.empty_like(parameter, device="meta").stride() == parameter.stride()
    return dense and parameter.device.type in FUSED_DEVICES and parameter.is_floating_point()


def _start_momentum(optimizer: SGD) -> None:
    # Momentum that starts at zero is the same rule, and torch's fused SGD needs it: it fails when a parameter gets its
    # first gradient in a later step than the others.
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def set_learning_rate(optimizer: Optimizer, learning_rate: Number) -> None:
    """Use `learning_rate` for all parameters from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def set_momentum(optimizer: Optimizer, momentum: Number) -> None:
    """Use `momentum`, or the first of the betas, for all parameters whose rule has one, from the next step on."""
    for group in optimizer.param_groups:
        if "momentum" in group:
            group["momentum"] = momentum
        elif "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
