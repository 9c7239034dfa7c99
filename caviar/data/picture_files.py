"""Which picture files a folder holds, and which class and split each belongs to. Nothing is opened here.

Two layouts: root/<split>/<class>/* and root/<class>/*. Files in deeper folders count to their class folder.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

from caviar.core.errors import InputError, nearest
from caviar.core.examples import SPLITS, SplitName

SPLIT_FOLDERS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "dev": "dev",
    "test": "test",
    "testing": "test",
}
EXTENSIONS = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "gif", "bmp", "dib", "webp", "tif", "tiff"}
    | {"ppm", "pgm", "pbm", "pnm", "avif", "jp2", "j2k", "tga", "ico"}
)
LEFTOVERS = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir", "lost+found"})


class PictureFile(NamedTuple):
    """One picture file: its name relative to the root (with /), where it is, and what the system says of it."""

    name: str
    path: str
    split: SplitName
    label: str
    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass
class Found:
    """What a walk over folders came upon."""

    files: list[PictureFile] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PictureScan:
    """The picture files of a data set: train, dev, test, each sorted by name, and the classes seen in train."""

    files: list[PictureFile]
    classes: tuple[str, ...]
    parts: dict[SplitName, int]
    notices: tuple[str, ...]


def scan_pictures(folder: Path, dev: Path | None = None, test: Path | None = None) -> PictureScan:
    """List the pictures of `folder`; `dev` and `test` are further folders (root/<class>/*) that hold those splits.

    Raises `InputError` for anything that would make the classes or splits doubtful.
    """
    found = Found()
    given = _walk_root(folder, found)
    extras: tuple[tuple[SplitName, Path | None], ...] = (("dev", dev), ("test", test))
    for split, extra in extras:
        if extra is None:
            continue
        if split in given:
            raise InputError(
                f"{folder} has a folder for {split} ({given[split]}), and data.{split} names {extra} as well. "
                "Keep one of them."
            )
        _walk_classes(extra, _children(extra), split, f"{split}/", found)
    return _checked(folder, found)


def list_pictures(folder: Path) -> list[tuple[str, str]]:
    """Return (name relative to the folder, path) of every picture in a folder tree, sorted by name."""
    found = Found()
    _walk(str(folder), "", ("train", ""), found, (), set())
    if not found.files:
        raise InputError(f"{folder}: no pictures in this folder (known endings: {_endings()}).")
    return sorted((file.name, file.path) for file in found.files)


def _checked(folder: Path, found: Found) -> PictureScan:
    order = {split: number for number, split in enumerate(SPLITS)}
    files = sorted(found.files, key=lambda file: (order[file.split], file.name))
    counts = Counter(file.split for file in files)
    parts: dict[SplitName, int] = {split: counts[split] for split in SPLITS if split in counts}
    classes = _check_classes(folder, files)
    notices = list(found.notices)
    if found.others:
        notices.append(
            f"{folder}: {_number(len(found.others), 'file')} left out, not pictures by the ending of the name "
            f"(first: {min(found.others)})."
        )
    return PictureScan(files, classes, parts, tuple(notices))


def _check_classes(folder: Path, files: list[PictureFile]) -> tuple[str, ...]:
    counts = Counter(file.label for file in files if file.split == "train")
    if len(counts) < 2:
        only = f"only the class {next(iter(counts))!r}" if counts else "no class"
        raise InputError(
            f"{folder}: {only} to train on; a classifier needs two. Give every class a folder of its own: "
            "root/<class>/* or root/train/<class>/*."
        )
    for label, count in sorted(counts.items()):
        if count == 1:
            lone = next(file for file in files if file.label == label)
            raise InputError(
                f"{lone.path}: the only training picture of the class {label!r}; a class needs at least two. "
                "Add pictures, or remove the class."
            )
    for file in files:
        if file.label not in counts:
            near = nearest(file.label, counts)
            hint = f" Did you mean {near!r}?" if near else ""
            raise InputError(
                f"{file.path}: the class {file.label!r} of the {file.split} split has no folder in train.{hint} "
                "Rename or remove it, or add training pictures of it."
            )
    return tuple(sorted(counts))


def _walk_root(folder: Path, found: Found) -> dict[str, str]:
    """Walk a root in either layout; return the folder names of the splits that it gives."""
    children = _children(folder)
    named = {child.name: SPLIT_FOLDERS[child.name.lower()] for child in children if _names_a_split(child)}
    holding = {name for name in named if any(_is_folder(child) for child in _children(folder / name))}
    rest = [child for child in children if _is_folder(child) and child.name not in named]
    if not holding and (rest or not named):
        _walk_classes(folder, children, "train", "", found)
        return {}
    if not holding:
        name = min(named)
        raise InputError(
            f"{folder / name}: no class folders in it. Put the pictures of each class into a folder: "
            f"{folder / name}/<class>/*."
        )
    by_split: dict[str, str] = {}
    for name in sorted(named):
        if named[name] in by_split:
            raise InputError(
                f"{folder}: {by_split[named[name]]!r} and {name!r} both hold the {named[name]} split. Keep one."
            )
        by_split[named[name]] = name
    if "train" not in by_split:
        raise InputError(
            f"{folder}: there is {_listed(sorted(by_split.values()))} but no folder 'train'. "
            f"Add {folder}/train/<class>/*, or rename a class folder whose name happens to be that of a split."
        )
    for child in children:
        if child.name in named:
            part = folder / child.name
            _walk_classes(part, _children(part), named[child.name], f"{child.name}/", found)
        elif _is_folder(child) or _ending(child.name) in EXTENSIONS:
            found.notices.append(f"{child.path}: left out, as it is in none of the split folders.")
        else:
            found.others.append(child.path)
    return by_split


def _names_a_split(child: os.DirEntry[str]) -> bool:
    return child.name.lower() in SPLIT_FOLDERS and _is_folder(child)


def _walk_classes(folder: Path, children: list[os.DirEntry[str]], split: SplitName, prefix: str, found: Found) -> None:
    """Take each folder in `folder` as a class."""
    above = (_identity(folder),)
    folders = [child for child in children if _is_folder(child)]
    loose = [child.path for child in children if child not in folders and _ending(child.name) in EXTENSIONS]
    if not folders:
        what = f"{_number(len(loose), 'picture')} but no class folders" if loose else "no pictures and no class folders"
        raise InputError(f"{folder}: {what} in it. Put the pictures of each class into a folder: {folder}/<class>/*.")
    for child in folders:
        before = len(found.files)
        _walk(child.path, f"{prefix}{child.name}/", (split, child.name), found, above, set())
        if len(found.files) == before:
            raise InputError(
                f"{child.path}: the class folder has no pictures (known endings: {_endings()}). Fill it, or remove it."
            )
    if loose:
        found.notices.append(
            f"{folder}: {_number(len(loose), 'picture')} in no class folder left out (first: {min(loose)})."
        )
    found.others.extend(child.path for child in children if child not in folders and child.path not in loose)


def _walk(
    folder: str,
    prefix: str,
    place: tuple[SplitName, str],
    found: Found,
    above: tuple[tuple[int, int], ...],
    seen: set[tuple[int, int]],
) -> None:
    """Collect the files under `folder`. `above` are the folders on the way here, `seen` all of this class so far."""
    here = _identity(folder)
    if here in above:
        raise InputError(f"{folder}: this link leads back to a folder that contains it. Remove the link.")
    if here in seen:
        return
    seen.add(here)
    for child in _children(folder):
        name = child.name
        if _is_folder(child):
            _walk(child.path, f"{prefix}{name}/", place, found, (*above, here), seen)
        elif _ending(name) in EXTENSIONS:
            found.files.append(_picture_file(child, prefix, place))
        else:
            found.others.append(child.path)


def _picture_file(child: os.DirEntry[str], prefix: str, place: tuple[SplitName, str]) -> PictureFile:
    try:
        status = child.stat()
    except OSError as error:
        _unreadable(child.path, error)
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{child.path}: has the ending of a picture but is not a regular file. Remove it.")
    return PictureFile(prefix + child.name, child.path, *place, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _children(folder: str | Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, without hidden ones and what operating systems leave behind."""
    try:
        with os.scandir(folder) as entries:
            return [e for e in entries if not e.name.startswith(".") and e.name.lower() not in LEFTOVERS]
    except OSError as error:
        _unreadable(folder, error)


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError as error:
        _unreadable(child.path, error)


def _identity(folder: str | Path) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:
        _unreadable(folder, error)
    return status.st_dev, status.st_ino


def _unreadable(path: str | Path, error: OSError) -> NoReturn:
    if os.path.islink(path):
        raise InputError(f"{path}: a link that leads nowhere ({error.strerror}). Mend or remove it.") from error
    if isinstance(error, FileNotFoundError):
        raise InputError(f"{path}: there is no such file or folder. Check the path.") from error
    if isinstance(error, NotADirectoryError):
        raise InputError(f"{path}: a file, not a folder. Give the folder that holds the pictures.") from error
    raise InputError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error


def _ending(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _endings() -> str:
    return "jpg, png, gif, bmp, webp, tif, ppm and others"


def _listed(names: Iterable[str]) -> str:
    return " and ".join(repr(name) for name in names)


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def duplicates(files: list[PictureFile], digests: list[str]) -> list[str]:
    """Say which pictures, equal byte for byte, stand in two splits or under two classes."""
    first: dict[str, PictureFile] = {}
    leaks: list[tuple[PictureFile, PictureFile]] = []
    quarrels: list[tuple[PictureFile, PictureFile]] = []
    for file, digest in zip(files, digests, strict=True):
        other = first.setdefault(digest, file)
        if other.split != file.split:
            leaks.append((other, file))
        if other.label != file.label:
            quarrels.append((other, file))
    notices = []
    if leaks:
        one, two = leaks[0]
        notices.append(
            f"{_number(len(leaks), 'picture')} of dev or test also in an earlier split, byte for byte "
            f"(first: {two.name} is {one.name}); scores on them flatter the model. Remove the repeats."
        )
    if quarrels:
        one, two = quarrels[0]
        notices.append(
            f"{_number(len(quarrels), 'picture')} equal to another one of a different class, byte for byte "
            f"(first: {two.name} is {one.name}). Correct the labels, or remove one of each pair."
        )
    return notices
