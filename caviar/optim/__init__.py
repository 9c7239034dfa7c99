"""Update rules, schedules, clipping, running averages, and an optimiser's state as tensors."""

from caviar.optim.averages import AveragedModel, RunningAverage, ewma, stochastic_weight_average
from caviar.optim.averaging import AverageTimes, Averaging, average_times, build_averaging, check_average
from caviar.optim.build import build_optimizer, parameter_groups, set_learning_rate, set_momentum
from caviar.optim.build_schedule import (
    build_momentum_schedule,
    build_plateaus,
    build_schedule,
    check_schedule,
    momentum_of,
)
from caviar.optim.clip import clip_gradients
from caviar.optim.early_stopping import EarlyStopping, is_better
from caviar.optim.famous import (
    adagrad,
    adam,
    adamw,
    lion,
    muon,
    nadam,
    radam,
    ranger,
    rmsprop,
    sgd,
)
from caviar.optim.newton_schulz import newton_schulz
from caviar.optim.optimizer import Optimizer
from caviar.optim.plateau import Plateau, Plateaus
from caviar.optim.plot import plot_schedules
from caviar.optim.preview import preview, preview_table, sparkline
from caviar.optim.rules import Rule, chain, lookahead
from caviar.optim.schedules import Schedule, constant, cosine
from caviar.optim.second_order import Newton, lbfgs, needs_closure, second_order_step
from caviar.optim.split import muon_groups
from caviar.optim.state import load_optimizer_tensors, optimizer_tensors

__all__ = [
    "AverageTimes",
    "AveragedModel",
    "Averaging",
    "EarlyStopping",
    "Newton",
    "Optimizer",
    "Plateau",
    "Plateaus",
    "Rule",
    "RunningAverage",
    "Schedule",
    "adagrad",
    "adam",
    "adamw",
    "average_times",
    "build_averaging",
    "build_momentum_schedule",
    "build_optimizer",
    "build_plateaus",
    "build_schedule",
    "chain",
    "check_average",
    "check_schedule",
    "clip_gradients",
    "constant",
    "cosine",
    "ewma",
    "is_better",
    "lbfgs",
    "lion",
    "load_optimizer_tensors",
    "lookahead",
    "momentum_of",
    "muon",
    "muon_groups",
    "nadam",
    "needs_closure",
    "newton_schulz",
    "optimizer_tensors",
    "parameter_groups",
    "plot_schedules",
    "preview",
    "preview_table",
    "radam",
    "ranger",
    "rmsprop",
    "second_order_step",
    "set_learning_rate",
    "set_momentum",
    "sgd",
    "sparkline",
    "stochastic_weight_average",
]
