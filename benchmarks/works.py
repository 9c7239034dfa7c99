"""The three works of benchmarks/loop.py: nets and data."""

import tarfile
from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contenders import LEARNING_RATE, MOMENTUM, Work
from PIL import Image
from torch import Tensor, nn

from caviar.recipe import from_dict
from caviar.workflow.plan import Plan, make_plan

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10.tar.gz"
CLASSES = 10
PER_CLASS = {"train": 1000, "dev": 200, "test": 10}
STARTS = {"train": 0, "dev": 1000, "test": 1200}


def cifar_subset(source: Path | None, folder: Path) -> str:
    """Write a subset of CIFAR-10 as a folder of pictures, and say what it is.

    source: the unpacked folder, or the archive; when there is none, pictures of noise of the same shape.
    """
    source = source or (SHARED if SHARED.exists() else None)
    pictures = _noise() if source is None else _unpacked(source) if source.is_dir() else _packed(source)
    count = 0
    for split, name, content in pictures:
        path = folder / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path)
        count += 1
    if count != CLASSES * sum(PER_CLASS.values()):
        raise SystemExit(f"{source}: expected train/<class>/0000.jpg to 4999.jpg in {CLASSES} classes.")
    what = "random pictures (CIFAR-10 was not found)" if source is None else "CIFAR-10 pictures"
    return f"{CLASSES * PER_CLASS['train']:,} {what} to train on, {CLASSES * PER_CLASS['dev']:,} for dev"


def _packed(archive: Path) -> Iterator[tuple[str, str, bytes]]:
    with tarfile.open(archive) as tar:
        for member in tar:
            split = _split_of(member.name)
            if split and (file := tar.extractfile(member)) is not None:
                yield split, "/".join(member.name.split("/")[-2:]), file.read()


def _unpacked(root: Path) -> Iterator[tuple[str, str, bytes]]:
    for path in sorted(root.glob("train/*/*.*")):
        if split := _split_of(path.as_posix()):
            yield split, f"{path.parent.name}/{path.name}", path.read_bytes()


def _split_of(path: str) -> str | None:
    """The split that a file of CIFAR-10's own training part belongs to here, by its number; None for no split."""
    parts = path.split("/")
    if len(parts) < 3 or parts[-3] != "train" or not parts[-1].split(".")[0].isdigit():
        return None
    number = int(parts[-1].split(".")[0])
    return next((s for s, start in STARTS.items() if start <= number < start + PER_CLASS[s]), None)


def _noise() -> Iterator[tuple[str, str, Image.Image]]:
    draw = np.random.default_rng(0)
    for split, number in PER_CLASS.items():
        for i in range(CLASSES * number):
            pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            yield split, f"class{i % CLASSES}/{i // CLASSES:04}.png", Image.fromarray(pixels)


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
    return _work("convnet", "conv 16-32-64 net, pictures, batch 100", 0.75, plan, _convnet)


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


def _mlp(*sizes: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _convnet() -> nn.Module:
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (fan_in, fan_out) in enumerate([(3, 16), (16, 32), (32, 64)], start=1):
        blocks[f"conv{number}"] = nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False)
        blocks[f"norm{number}"] = nn.BatchNorm2d(fan_out)
        blocks[f"relu{number}"] = nn.ReLU()
        blocks[f"pool{number}"] = nn.MaxPool2d(2)
    blocks["flatten"] = nn.Flatten()
    blocks["output"] = nn.Linear(64 * 4 * 4, 10)
    return nn.Sequential(blocks)
