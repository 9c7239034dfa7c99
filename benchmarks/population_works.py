"""The works of benchmarks/population.py: nets, data files that every process maps, and what each step must multiply."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from cifar import CLASSES, cifar_arrays
from nets import plain_convnet, plain_mlp
from torch import Tensor, nn


@dataclass(frozen=True)
class Work:
    """One work: its net, its batches, and what caviar is to reach.

    widths: of a fully connected net, the inputs first; channels: of the convolutional one. epochs: of one trial, of the
    contenders that train whole trials. speed: how many times faster a member is to be than the hand-written loop, at
    the best number of members; gpu_speed: with gpu_members on a GPU. peak: share of the machine's own product peak.
    """

    title: str
    rows: int
    batch_size: int
    epochs: int
    speed: float
    peak: float | None = None
    widths: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    bf16: bool = False
    gpu_members: int | None = None
    gpu_speed: float = 0.0

    @property
    def steps(self) -> int:
        """Steps of an epoch, all batches being of one size."""
        return self.rows // self.batch_size

    def net(self) -> nn.Module:
        """Return the net as people write it."""
        return plain_convnet(self.channels) if self.channels else plain_mlp(self.widths)


CONVNET = Work(
    "conv 16-32-64 net, CIFAR-10, batch 100", 5000, 100, 1, 2.2, channels=(16, 32, 64), gpu_members=64, gpu_speed=8.0
)
WORKS = {
    "A": Work(
        "3072-50-10 net, CIFAR-10, batch 100", 49000, 100, 2, 3.0, 0.8, (3072, 50, 10), gpu_members=256, gpu_speed=50.0
    ),
    "B": Work("64-64-64-10 net, digits, batch 32", 1440, 32, 10, 28.0, widths=(64, 64, 64, 10)),
    "C": CONVNET,
    "C-bf16": replace(CONVNET, title=CONVNET.title + ", caviar in bf16", speed=3.2, bf16=True),
    "D": Work("784-512-512-10 net, random rows, batch 128", 12800, 128, 2, 1.9, widths=(784, 512, 512, 10)),
}
QUICK = {"A": 4900, "C": 500, "C-bf16": 500, "D": 1280}
"""Rows of a quick run, whole batches each."""


def the_work(name: str, *, quick: bool) -> Work:
    """Return a work; a quick one has fewer rows, and trials of one epoch."""
    work = WORKS[name]
    return replace(work, rows=QUICK.get(name, work.rows), epochs=1) if quick else work


@dataclass(frozen=True)
class Task:
    """A work in memory, as every contender trains it: float32 standardised inputs in the default memory format.

    There is no dev split: nobody evaluates in the time that is measured.
    """

    work: Work
    net: Callable[[], nn.Module]
    inputs: Tensor
    labels: Tensor
    dev_inputs: Tensor
    dev_labels: Tensor
    epochs: int
    batch_size: int

    def fresh(self) -> nn.Module:
        """Return a net with new weights, where the data is."""
        return self.net().to(self.inputs.device)


def write_data(name: str, work: Work, folder: Path, cifar: Path | None) -> str:
    """Write a work's inputs and labels as .npy files, unless they are there, and say what they are."""
    if (folder / "about.json").exists():
        return str(json.loads((folder / "about.json").read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    if name == "B":
        inputs, labels, what = _digits(work.rows)
    elif name == "D":
        draw = np.random.default_rng(0)
        inputs = draw.standard_normal((work.rows, work.widths[0]), dtype=np.float32)
        labels, what = draw.integers(0, CLASSES, work.rows), "random rows"
    else:
        pictures, labels, what = cifar_arrays(cifar, work.rows // CLASSES)
        inputs = _standardised(pictures)
        inputs = inputs if work.channels else inputs.reshape(len(inputs), -1)
    np.save(folder / "inputs.npy", inputs)
    np.save(folder / "labels.npy", labels.astype(np.int64))
    about = f"{len(labels):,} {what}"
    (folder / "about.json").write_text(json.dumps(about))
    return about


def load_task(work: Work, folder: Path, device: str = "cpu") -> Task:
    """Return a work over the files of `write_data`, which all processes on a machine share, every page touched."""
    inputs, labels = (
        torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c")).to(device) for name in ("inputs", "labels")
    )
    inputs.sum()
    return Task(work, work.net, inputs, labels, inputs[:0], labels[:0], work.epochs, work.batch_size)


@torch.no_grad()
def step_flops(task: Task) -> int:
    """Return the operations of one member's step, a multiply-add being two: products and convolutions only.

    Forward, the gradient of the weights and, but for the first layer, the gradient of the inputs cost the same each.
    """
    counts: list[int] = []

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(layer.weight, Tensor)
        counts.append(output.numel() * layer.weight[0].numel())

    net = task.net()
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(count)
    net(task.inputs[: task.batch_size].cpu())
    return 2 * (3 * sum(counts) - counts[0])


def _standardised(pictures: np.ndarray) -> np.ndarray:
    inputs = pictures.astype(np.float32)
    inputs -= inputs.mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
    for channel in range(inputs.shape[1]):
        inputs[:, channel] /= np.sqrt(np.mean(np.square(inputs[:, channel]), dtype=np.float64))
    return inputs


def _digits(rows: int) -> tuple[np.ndarray, np.ndarray, str]:
    from sklearn.datasets import load_digits

    inputs, labels = load_digits(return_X_y=True)
    inputs = inputs[:rows].astype(np.float32)
    return (inputs - inputs.mean(0)) / np.maximum(inputs.std(0), 1e-6), labels[:rows], "digits"
