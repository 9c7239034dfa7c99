"""The curable faults of benchmarks/proof.py: working recipes on real data, and the settings that break them."""

import csv
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

ROWS = {"adult": 2500, "california": 2500}
TABLES = {"adult": ("adult_train.csv", "income"), "california": ("california_housing.csv", "median_house_value")}
PICTURES = 120
"""Of each class of CIFAR-10."""

Settings = dict[str, Any]
PLAIN: Settings = {"device.threads": 1, "watch.every": 40}
ADAM: Settings = {"optimizer.name": "adam", "optimizer.learning_rate": 0.001, "schedule.name": "constant"}
SGD: Settings = {"optimizer.name": "sgd", "optimizer.learning_rate": 0.05, "schedule.name": "cosine"}
BARE: Settings = {"model.norm": "none", "model.dropout": 0.0}
SIXTEEN: Settings = {"training.epochs": 16, "training.batch_size": 32, "training.patience": "none"}


@dataclass(frozen=True)
class Work:
    """A recipe that works. source: makes the data ready in a folder, from that of the shared data."""

    source: Callable[[Path, Path], str]
    settings: Settings


@dataclass(frozen=True)
class Fault:
    """Settings that break a work. The remedy is never looked at: any that does as well will do."""

    name: str
    work: str
    settings: Settings


def digits(_shared: Path, _place: Path) -> str:
    """scikit-learn's digits as rows of 64 numbers."""
    return "sample:digits"


def digit_pictures(_shared: Path, place: Path) -> str:
    """The same as pictures of 8 by 8 pixels."""
    folder = place / "digits"
    if not folder.exists():
        from sklearn.datasets import load_digits

        found = load_digits()
        half = place / "digits.part"
        for number, (image, label) in enumerate(zip(found.images, found.target, strict=True)):
            path = half / str(label) / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15.9).astype("uint8")).save(path)
        half.rename(folder)
    return str(folder)


def table(name: str) -> Callable[[Path, Path], str]:
    """Every n-th row of a table."""

    def made(shared: Path, place: Path) -> str:
        path = place / f"{name}.csv"
        if not path.exists():
            with (shared / TABLES[name][0]).open(newline="") as file:
                header, *rows = csv.reader(file)
            text = io.StringIO()
            csv.writer(text).writerows([header, *rows[:: len(rows) // ROWS[name]]])
            path.write_text(text.getvalue())
        return str(path)

    return made


def cifar(shared: Path, place: Path) -> str:
    """The first pictures of each class of CIFAR-10."""
    folder = place / "cifar"
    if not folder.exists():
        half = place / "cifar.part"
        with tarfile.open(shared / "cifar10.tar.gz") as archive:
            for member in archive:
                parts = member.name.split("/")
                if len(parts) == 4 and parts[1] == "train" and int(parts[3][:4]) < PICTURES:
                    content = archive.extractfile(member)
                    assert content is not None
                    path = half / parts[2] / parts[3]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content.read())
        half.rename(folder)
    return str(folder)


WORKS: dict[str, Work] = {
    "digits mlp": Work(digits, {**PLAIN, **ADAM, **BARE, **SIXTEEN, "model.widths": [64]}),
    "digits deep": Work(digits, {**PLAIN, **ADAM, **SIXTEEN, "model.widths": [64] * 4, "model.dropout": 0.1}),
    "digits sgd": Work(digits, {**PLAIN, **SGD, **BARE, **SIXTEEN, "model.widths": [64, 64]}),
    "digits conv": Work(
        digit_pictures,
        {**PLAIN, **SGD, **SIXTEEN, "model.name": "convnet", "model.channels": [8, 16], "training.epochs": 8},
    ),
    "adult mlp": Work(
        table("adult"),
        {**PLAIN, **ADAM, **SIXTEEN, "data.target": "income", "model.widths": [64, 32], "training.epochs": 8}
        | {"model.norm": "none", "model.dropout": 0.2, "training.batch_size": 32},
    ),
    "california mlp": Work(
        table("california"),
        {**PLAIN, **ADAM, **BARE, **SIXTEEN, "data.target": TABLES["california"][1], "model.widths": [64, 64]},
    ),
    "california deep": Work(
        table("california"),
        {**PLAIN, **SGD, **BARE, **SIXTEEN, "data.target": TABLES["california"][1], "model.widths": [48] * 5}
        | {"optimizer.learning_rate": 0.01},
    ),
    "cifar conv": Work(
        cifar,
        {**PLAIN, **SGD, **SIXTEEN, "model.name": "convnet", "model.channels": [8, 16, 24], "training.epochs": 10},
    ),
}
"""Working recipes; each reaches what its network can on its data."""


def _faults(what: str, works: str, **settings: Any) -> list[Fault]:
    changed = {name.replace("__", "."): value for name, value in settings.items()}
    return [Fault(f"{what}, {work}", work, changed) for work in works.split(", ")]


def _rates(factor: float, words: str, works: str) -> list[Fault]:
    names = works.split(", ")
    rates = {name: WORKS[name].settings["optimizer.learning_rate"] for name in names}
    return [
        Fault(f"rate {words}, {name}", name, {"optimizer.learning_rate": float(f"{rates[name] * factor:.6g}")})
        for name in names
    ]


ONE_DIRECTION: Settings = {"preprocess.decorrelate": "pca", "preprocess.components": 1}
DECAYED: Settings = {"optimizer.name": "adamw", "optimizer.weight_decay": 300.0}
CUT: Settings = {"schedule.name": "piecewise", "schedule.boundaries": [1], "schedule.factors": [1.0, 0.0]}
STILL: Settings = {"average.name": "ema", "average.decay": 0.99999, "average.warm_up": False}

FAULTS: list[Fault] = [
    *_rates(1000, "1000 times too high", "california mlp, digits conv"),
    *_rates(100, "100 times too high", "adult mlp, california deep"),
    *_rates(30, "30 times too high", "digits sgd"),
    *_rates(1e-3, "1000 times too low", "digits mlp"),
    *_rates(1e-2, "100 times too low", "digits sgd, california deep"),
    *_rates(1 / 30, "30 times too low", "california mlp"),
    *_faults("huge weights", "digits mlp, adult mlp", model__init_gain=30.0),
    *_faults("all weights 0", "california mlp", model__init="zeros"),
    *_faults("constant weights", "digits sgd", model__init="constant"),
    *_faults("tiny weights", "california deep, digits sgd", model__init_gain=0.003),
    *_faults("sigmoids eight deep", "digits mlp, adult mlp", model__activation="sigmoid", model__widths=[48] * 8),
    *_faults("tanh saturated", "digits sgd, california mlp", model__activation="tanh", model__init_gain=30.0),
    *_faults("inputs not scaled", "california mlp, adult mlp", preprocess__numeric="none"),
    *_faults("inputs squeezed", "digits sgd", preprocess__numeric="minmax", preprocess__minmax_range=[0, 1e-3]),
    *_faults("one direction left", "digits mlp", **ONE_DIRECTION),
    *_faults("weight decay huge", "california mlp, adult mlp", **DECAYED),
    *_faults("l1 huge", "digits mlp, california mlp", regularization__l1=0.3),
    *_faults("l2 huge", "digits sgd", regularization__l2=3.0),
    *_faults("weights kept short", "digits mlp, california mlp", regularization__max_norm=0.02),
    *_faults("nearly all dropped", "digits deep", model__dropout=0.97),
    *_faults("momentum 0.999", "digits sgd", optimizer__momentum=0.999),
    *_faults("a pair in a batch", "digits deep", training__batch_size=2),
    *_faults("a thousand rows in a batch", "digits mlp", training__batch_size=1000),
    *_faults("rate decays too soon", "digits mlp", schedule__name="exponential", schedule__rate=0.05),
    *_faults("rate cut at once", "digits sgd", **CUT),
    *_faults("warm-up longer than the run", "digits sgd", schedule__warmup=100_000),
    *_faults("one epoch of patience", "digits sgd", training__patience=1, optimizer__momentum=0.99),
    *_faults("one epoch", "digits mlp", training__epochs=1),
    *_faults("one unit", "digits mlp, california mlp", model__widths=[1]),
    *_faults("two units in the middle", "digits deep", model__widths=[64, 2, 64]),
    *_faults("gradient clipped to nothing", "digits sgd", training__clip_norm=1e-4),
    *_faults("labels smoothed away", "digits mlp", loss__label_smoothing=0.98),
    *_faults("Adam at 1", "digits deep", optimizer__name="adam", optimizer__learning_rate=1.0),
    *_faults("Lookahead at 3", "adult mlp", optimizer__name="lookahead", optimizer__learning_rate=3.0),
    *_faults("eps of Adam 10", "digits mlp, california mlp", optimizer__eps=10.0),
    *_faults("AdaGrad at 1e-5", "adult mlp", optimizer__name="adagrad", optimizer__learning_rate=1e-5),
    *_faults("Lion at 1", "california mlp", optimizer__name="lion", optimizer__learning_rate=1.0),
    *_faults("average that never moves", "digits sgd, california mlp", **STILL),
    *_faults("one class weighs all", "adult mlp", loss__class_weights=[1000.0, 0.1]),
    *_faults("pictures turned round", "digits conv", augment__rotate=180.0, augment__flip=0.5),
    *_faults("pictures erased", "cifar conv", augment__erase=1.0, augment__brightness=1.0, augment__contrast=1.0),
]
"""A fault counts where its run comes to less than 95% of the working one's dev metric."""
