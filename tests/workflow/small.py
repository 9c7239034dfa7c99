"""Small data of every kind, and the arguments of a quick run."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from caviar.core.records import Record
from caviar.diagnose.quantities.names import MOMENTARY

YES, NO = 'yes, "Zürich"', "no\u2009‖"
QUICK: dict[str, Any] = {"epochs": 1, "progress": False}


def table(rows: int = 120, seed: int = 0) -> pl.DataFrame:
    """Columns of every kind with gaps, and a target of two awkward class names that depends on them."""
    draw = np.random.default_rng(seed)
    age, level = draw.normal(40, 12, rows), draw.integers(1, 4, rows)
    city, member = draw.choice(["Oslo", "Łódź", "Bern"], rows), draw.random(rows) < 0.5
    label = np.where(age + 10 * member + 4 * level + draw.normal(0, 3, rows) > 53, YES, NO)
    frame = pl.DataFrame({"age": age, "level": level, "city": city, "member": member, "label": label})
    gap = pl.int_range(rows) % 11 == 3
    return frame.with_columns(
        pl.when(gap).then(None).otherwise(pl.col("age")).alias("age"),
        pl.when(gap).then(None).otherwise(pl.col("city")).alias("city"),
    )


def prices(rows: int = 120, seed: int = 0) -> pl.DataFrame:
    """A regression table: a price in the hundreds of thousands."""
    draw = np.random.default_rng(seed)
    size, garden = draw.normal(100, 20, rows), draw.random(rows) < 0.3
    price = 2_000 * size + 50_000 * garden + draw.normal(0, 5_000, rows)
    return pl.DataFrame({"size": size, "garden": garden, "price": price})


def arrays(rows: int = 90, classes: int = 3, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Inputs (rows, 4) and the class numbers that follow from them."""
    inputs = np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)
    return inputs, inputs[:, :classes].argmax(axis=1)


def quantities(rows: int = 90, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Inputs (rows, 4) and a number that follows from them."""
    inputs = np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)
    return inputs, 1000 + 50 * inputs[:, 0].astype(np.float64) - 20 * inputs[:, 1]


def write_pictures(
    root: Path, per_class: int = 8, classes: tuple[str, ...] = ("dark", "light"), size: int = 10
) -> Path:
    """Write root/<class>/*.png, the classes told apart by their brightness."""
    draw = np.random.default_rng(len(str(root.name)))
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for picture in range(per_class):
            pixels = draw.integers(0, 100, (size, size, 3)) + 150 * number / max(len(classes) - 1, 1)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{picture:03}.png")
    return root


def lasting(records: list[Record]) -> list[Record]:
    """Leave out what belongs to the machine, or to several steps that a stop may part."""
    return [record for record in records if record.name not in MOMENTARY]
