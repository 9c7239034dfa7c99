"""Folders of pictures as examples: files found, decoded once, mapped from the cache."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from caviar.core.errors import InputError
from caviar.data.decode import Plan
from caviar.data.decode_pool import Progress, decode_into
from caviar.data.picture_cache import Wanted, cached_pictures, work_folder
from caviar.data.picture_files import list_pictures, scan_pictures
from caviar.data.raw import RawData
from caviar.data.settings import DataSettings

CHANNELS = {"rgb": 3, "grey": 1}


def open_pictures(folder: str | Path, settings: DataSettings, progress: Progress | None = None) -> RawData:
    """Read a folder of pictures: root/<split>/<class>/* or root/<class>/*.

    Splits are folders named train; val, valid, validation or dev; test (any case). Every picture is brought to the same
    size and to RGB or grey as `caviar.data.decode` states, decoded in parallel into the cache the first time, and found
    there by content afterwards. `progress` is told (pictures done, pictures in all) while that happens.

    inputs: uint8 (rows, height, width, channels), read-only, memory-mapped. targets: class numbers, A to Z.
    Raises `InputError` naming the file or folder that cannot be used.
    """
    if settings.task == "regression":
        raise InputError(
            f"{folder}: task 'regression' does not go with pictures in class folders. Set data.task to classification."
        )
    if settings.target != "none":
        raise InputError(
            f"{folder}: data.target {settings.target!r} names a column, but pictures get their class from their "
            "folder. Leave the target out."
        )
    scan = scan_pictures(Path(folder), _optional(settings.dev), _optional(settings.test))
    cached = cached_pictures(scan.files, wanted_of(settings), progress)
    numbers = {label: number for number, label in enumerate(scan.classes)}
    return RawData(
        kind="pictures",
        inputs=cached.pixels,
        targets=np.array([numbers[file.label] for file in scan.files], dtype=np.int64),
        task="classification",
        parts=scan.parts,
        digest=cached.content,
        classes=scan.classes,
        notices=(*scan.notices, *cached.notices),
        names=[file.name for file in scan.files],
    )


def wanted_of(settings: DataSettings) -> Wanted:
    """The part of the settings that decides what pixels come out."""
    size = None if settings.picture_size == "auto" else settings.picture_size
    return Wanted(size, CHANNELS.get(settings.picture_mode), settings.max_pixels)


def _optional(path: str) -> Path | None:
    return None if path == "none" else Path(path)


def read_pictures(
    source: str | Path | Sequence[str | Path],
    size: tuple[int, int],
    mode: str,
    max_pixels: int,
    progress: Progress | None = None,
) -> tuple[NDArray[np.uint8], list[str]]:
    """Decode new pictures for prediction: a folder (searched to its depths), one file, or a list of files.

    size is (height, width), mode is rgb or grey. Returns uint8 (pictures, height, width, channels), mapped from a file
    that vanishes with it, and the names: relative to the folder, or as they were given.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        named = list_pictures(path) if path.is_dir() else [(str(path), str(path))]
    else:
        named = [(str(path), str(path)) for path in source]
    if not named:
        raise InputError("no pictures were given. Name at least one file, or a folder of them.")
    names, paths = [name for name, _ in named], [path for _, path in named]
    plan = Plan(*size, CHANNELS[mode], max_pixels)
    with work_folder() as folder:
        target = folder / "pixels"
        decode_into(paths, target, plan, progress, sum(_file_size(path) for path in paths))
        pixels = np.memmap(target, dtype=np.uint8, mode="r", shape=(len(paths), *size, plan.channels))
    return pixels, names


def _file_size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0  # decoding will name it
