"""The real data of benchmarks/diagnosis.py, as tensors that are ready to train on."""

import io
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from caviar.recipe import from_dict
from caviar.workflow.plan import make_plan

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
TABLES = {"adult": ("adult_train.csv", "income"), "california": ("california_housing.csv", "median_house_value")}
TABLE_ROWS = {"train": 6000, "dev": 2000}
PICTURES = {"train": 300, "dev": 60}
"""Pictures of each class of CIFAR-10."""


@dataclass(frozen=True)
class Data:
    """Standardised examples. raw: the inputs before they were standardised, as far as they are numbers."""

    train: tuple[Tensor, Tensor]
    dev: tuple[Tensor, Tensor]
    classes: int
    raw: tuple[Tensor, Tensor]


def load(name: str, folder: Path) -> Data:
    """Return digits, adult, california or cifar; the last three from `folder`."""
    data = _load(name, folder)
    return Data(*(tuple(part.clone() for part in pair) for pair in (data.train, data.dev)), data.classes, data.raw)  # type: ignore[arg-type]


@cache
def _load(name: str, folder: Path) -> Data:
    if name == "digits":
        return _digits()
    return _cifar(folder) if name == "cifar" else _table(name, folder)


def _digits() -> Data:
    plan = make_plan(from_dict({"data": {"source": "sample:digits"}}, "benchmark"))
    examples = plan.prepared.examples
    raw = tuple(torch.as_tensor(plan.raw.inputs[plan.splits.of(split)]).float() for split in ("train", "dev"))
    pairs = [(examples[split].inputs.clone(), examples[split].targets.clone()) for split in ("train", "dev")]
    return Data(pairs[0], pairs[1], 10, raw)  # type: ignore[arg-type]


def _table(name: str, folder: Path) -> Data:
    file, target = TABLES[name]
    recipe: dict[str, Any] = {"data": {"source": str(folder / file), "target": target}}
    plan = make_plan(from_dict(recipe, "benchmark"))
    slots: tuple[int, ...] = tuple(getattr(plan.prepared.preprocess, "cardinalities", ()))
    pairs, raws = [], []
    for split in ("train", "dev"):
        examples = plan.prepared.examples[split]
        rows = torch.linspace(0, len(examples) - 1, TABLE_ROWS[split]).long()  # type: ignore[index]
        pairs.append((_one_hot(examples.inputs[rows], slots), examples.targets[rows]))
        frame = plan.raw.inputs[plan.splits.of(split)[rows.numpy()]]  # type: ignore[index]
        numeric = [c.name for c in plan.raw.columns if c.kind == "numeric"]
        filled = torch.from_numpy(np.nan_to_num(frame.select(numeric).to_numpy().astype(np.float32)))
        raws.append(torch.cat([filled, pairs[-1][0][:, filled.shape[1] :]], 1))
    return Data(pairs[0], pairs[1], len(plan.raw.classes), (raws[0], raws[1]))


def _one_hot(inputs: Tensor, slots: tuple[int, ...]) -> Tensor:
    """Replace the slot numbers in the last columns by one column for each slot."""
    if not slots:
        return inputs.clone()
    numbers = inputs.shape[1] - len(slots)
    parts = [inputs[:, :numbers]]
    for column, count in enumerate(slots):
        parts.append(torch.nn.functional.one_hot(inputs[:, numbers + column].long(), count).float())
    return torch.cat(parts, 1)


def _cifar(folder: Path) -> Data:
    pictures, labels = {"train": [], "dev": []}, {"train": [], "dev": []}  # type: ignore[var-annotated]
    names: dict[str, int] = {}
    with tarfile.open(folder / "cifar10.tar.gz") as archive:
        for member in archive:
            parts = member.name.split("/")
            if len(parts) != 4 or parts[1] != "train":
                continue
            number = int(parts[3][:4])
            split = "train" if number < PICTURES["train"] else "dev" if number < sum(PICTURES.values()) else ""
            content = archive.extractfile(member) if split else None
            if content is not None:
                pictures[split].append(np.asarray(Image.open(io.BytesIO(content.read()))))
                labels[split].append(names.setdefault(parts[2], len(names)))
    pixels = {s: torch.from_numpy(np.stack(p)).permute(0, 3, 1, 2).float() / 255 for s, p in pictures.items()}
    mean, std = pixels["train"].mean((0, 2, 3), keepdim=True), pixels["train"].std((0, 2, 3), keepdim=True)
    pairs = {s: ((p - mean) / std, torch.tensor(labels[s])) for s, p in pixels.items()}
    order = {s: torch.randperm(len(y), generator=torch.Generator().manual_seed(0)) for s, (_, y) in pairs.items()}
    shuffled = {s: (x[order[s]], y[order[s]]) for s, (x, y) in pairs.items()}
    return Data(shuffled["train"], shuffled["dev"], 10, (pixels["train"][order["train"]], pixels["dev"][order["dev"]]))
