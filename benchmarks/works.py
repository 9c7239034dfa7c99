"""The three works of benchmarks/loop.py: nets and data."""

from pathlib import Path
from typing import Any

import torch
from contenders import Work
from nets import plain_convnet, plain_mlp
from plain_loops import LEARNING_RATE, MOMENTUM
from torch import Tensor, nn

from caviar.recipe import from_dict
from caviar.workflow.plan import Plan, make_plan


def mlp_on_pictures(folder: Path, epochs: int) -> Work:
    """3072-50-10 on pictures, batch 100."""
    plan = _plan(str(folder), {"name": "mlp", "widths": [50], "norm": "none", "dropout": 0.0}, 100, epochs)
    return _work("mlp-pictures", "3072-50-10 net, pictures, batch 100", 1.03, plan, lambda: _mlp(3072, 50, 10))


def mlp_on_digits(epochs: int) -> Work:
    """64-64-64-10 on scikit-learn's digits, batch 32."""
    plan = _plan("sample:digits", {"name": "mlp", "widths": [64, 64], "norm": "none", "dropout": 0.0}, 32, epochs)
    return _work("mlp-digits", "64-64-64-10 net, digits, batch 32", 1.15, plan, lambda: _mlp(64, 64, 64, 10))


def convnet_on_pictures(folder: Path, epochs: int) -> Work:
    """Three blocks of 16, 32, 64 channels on pictures, batch 100."""
    plan = _plan(str(folder), {"name": "convnet", "channels": [16, 32, 64]}, 100, epochs)
    return _work("convnet", "conv 16-32-64 net, pictures, batch 100", 0.75, plan, lambda: plain_convnet([16, 32, 64]))


def _plan(source: str, model: dict[str, Any], batch_size: int, epochs: int) -> Plan:
    optimizer = {"name": "sgd", "learning_rate": LEARNING_RATE, "momentum": MOMENTUM}
    recipe = {
        "data": {"source": source},
        "model": model,
        "optimizer": optimizer,
        "schedule": {"name": "constant"},
        "training": {"epochs": epochs, "batch_size": batch_size, "patience": "none"},
        "device": {"name": "cpu", "threads": torch.get_num_threads()},
    }
    return make_plan(from_dict(recipe, "benchmark"))


def _work(name: str, title: str, target: float, plan: Plan, net: Any) -> Work:
    tensors = []
    for split in ("train", "dev"):
        examples = plan.prepared.examples[split]
        tensors += [_plain(plan.prepared.prepare(examples.inputs)), examples.targets.clone()]
    training = plan.recipe.training
    assert isinstance(training.epochs, int)
    assert isinstance(training.batch_size, int)
    return Work(name, title, target, plan, net, *tensors, training.epochs, training.batch_size)


def _plain(inputs: Tensor) -> Tensor:
    return inputs.contiguous(memory_format=torch.contiguous_format).clone()


def _mlp(*widths: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), *plain_mlp(widths))
