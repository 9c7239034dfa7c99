"""Pictures of CIFAR-10 for benchmarks, from the unpacked folder or the archive of one, or noise of the same shape."""

import io
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10.tar.gz"
CLASSES = 10
PER_CLASS = {"train": 1000, "dev": 200, "test": 10}


def cifar_subset(source: Path | None, folder: Path) -> str:
    """Write a subset of CIFAR-10 as a folder of pictures, and say what it is.

    source: the unpacked folder, or the archive; when there is none, pictures of noise of the same shape.
    """
    source = _found(source)
    count = 0
    for split, name, content in _pictures(source, PER_CLASS):
        path = folder / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        count += 1
    _check(source, count, PER_CLASS)
    dev = f"{CLASSES * PER_CLASS['dev']:,} for dev"
    return f"{CLASSES * PER_CLASS['train']:,} {_what(source)} to train on, {dev}"


def cifar_arrays(source: Path | None, per_class: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], str]:
    """Return the first pictures of each class (rows, 3, 32, 32), their classes' numbers, and what they are."""
    source = _found(source)
    pictures, names = [], []
    for _, name, content in _pictures(source, {"train": per_class}):
        with Image.open(io.BytesIO(content)) as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
        names.append(name.split("/")[0])
    _check(source, len(names), {"train": per_class})
    labels = np.unique(names, return_inverse=True)[1]
    stacked = np.stack(pictures).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(stacked), labels.astype(np.int64), _what(source)


def _found(source: Path | None) -> Path | None:
    return source or (SHARED if SHARED.exists() else None)


def _what(source: Path | None) -> str:
    return "random pictures (CIFAR-10 was not found)" if source is None else "CIFAR-10 pictures"


def _check(source: Path | None, count: int, per_class: Mapping[str, int]) -> None:
    if count != CLASSES * sum(per_class.values()):
        raise SystemExit(f"{source}: expected train/<class>/0000.jpg to 4999.jpg in {CLASSES} classes.")


def _pictures(source: Path | None, per_class: Mapping[str, int]) -> Iterator[tuple[str, str, bytes]]:
    """Yield split, class/file and content of each picture; splits take consecutive numbers of each class."""
    if source is None:
        return _noise(per_class)
    return _unpacked(source, per_class) if source.is_dir() else _packed(source, per_class)


def _packed(archive: Path, per_class: Mapping[str, int]) -> Iterator[tuple[str, str, bytes]]:
    with tarfile.open(archive) as tar:
        for member in tar:
            split = _split_of(member.name, per_class)
            if split and (file := tar.extractfile(member)) is not None:
                yield split, "/".join(member.name.split("/")[-2:]), file.read()


def _unpacked(root: Path, per_class: Mapping[str, int]) -> Iterator[tuple[str, str, bytes]]:
    for path in sorted(root.glob("train/*/*.*")):
        if split := _split_of(path.as_posix(), per_class):
            yield split, f"{path.parent.name}/{path.name}", path.read_bytes()


def _split_of(path: str, per_class: Mapping[str, int]) -> str | None:
    """The split that a file of CIFAR-10's own training part belongs to here, by its number; None for no split."""
    parts = path.split("/")
    if len(parts) < 3 or parts[-3] != "train" or not parts[-1].split(".")[0].isdigit():
        return None
    number, end = int(parts[-1].split(".")[0]), 0
    for split, size in per_class.items():
        end += size
        if number < end:
            return split
    return None


def _noise(per_class: Mapping[str, int]) -> Iterator[tuple[str, str, bytes]]:
    draw = np.random.default_rng(0)
    for split, number in per_class.items():
        for i in range(CLASSES * number):
            file = io.BytesIO()
            Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "png")
            yield split, f"class{i % CLASSES}/{i // CLASSES:04}.png", file.getvalue()
