"""Update rules, schedules, clipping, and an optimiser's state as tensors."""

from caviar.optim.build import build_optimizer, parameter_groups, set_learning_rate
from caviar.optim.clip import clip_gradients
from caviar.optim.schedules import Schedule, build_schedule, constant, cosine
from caviar.optim.state import load_optimizer_tensors, optimizer_tensors

__all__ = [
    "Schedule",
    "build_optimizer",
    "build_schedule",
    "clip_gradients",
    "constant",
    "cosine",
    "load_optimizer_tensors",
    "optimizer_tensors",
    "parameter_groups",
    "set_learning_rate",
]
