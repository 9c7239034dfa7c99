"""A small job that the tests of this room share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from caviar.core.examples import Examples
from caviar.train.loop import Job


def small_net(norm: bool = False, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    middle: list[nn.Module] = [nn.BatchNorm1d(16)] if norm else []
    return nn.Sequential(nn.Linear(6, 16), *middle, nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


def small_examples(rows: int, seed: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, 6, generator=generator)
    labels = (inputs[:, :3] + 0.1 * torch.randn(rows, 3, generator=generator)).argmax(dim=1)
    return Examples(inputs, labels)


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, labels)


def each_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, labels, reduction="none")


@pytest.fixture
def make_job() -> Callable[..., Job]:
    def make(model: nn.Module | None = None, **changes: Any) -> Job:
        net = small_net() if model is None else model
        settings: dict[str, Any] = {
            "model": net,
            "loss": mean_loss,
            "loss_per_example": each_loss,
            "optimizer": torch.optim.Adam(net.parameters(), lr=0.01),
            "schedule": lambda step: 0.01 / (1 + 0.01 * step),
            "train": small_examples(101, 1),
            "dev": small_examples(40, 2),
            "prepare": lambda x: x,
            "device": torch.device("cpu"),
            "task": "classification",
            "metric": "loss",
            "epochs": 6,
            "batch_size": 10,
            "merge_single": False,
            "patience": None,
            "clip_norm": None,
            "autocast": False,
            "compile": False,
            "checkpoint_seconds": 0.0,
            "seed": 7,
        }
        return Job(**(settings | changes))

    return make
