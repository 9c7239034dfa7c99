"""Torch's optimisers without what torch wraps around their methods."""

import inspect
from typing import Any

import torch
from torch.optim import Optimizer

WRAPPED = ("add_param_group", "state_dict", "load_state_dict")


def plain(rule: type[Optimizer]) -> Any:
    """Return `rule` with its methods as they are written: the same arithmetic, without the decorators around them.

    The decorators serve the profiler, step hooks and torch.compile. They import torch.compile's machinery when the
    optimiser is made (1,000 modules, 0.5 seconds or more) and cost 10 microseconds a step on a CPU, half of what SGD
    takes for a small net. Hooks registered on the optimiser's step are not called: its `calls_hooks` is False.
    """
    methods = {name: inspect.unwrap(getattr(rule, name)) for name in WRAPPED}
    step: Any = torch.no_grad()(inspect.unwrap(rule.step))
    step.hooked = True  # the mark by which Optimizer knows steps that it has wrapped already
    return type(rule.__name__, (rule,), {**methods, "step": step, "calls_hooks": False, "__doc__": rule.__doc__})
