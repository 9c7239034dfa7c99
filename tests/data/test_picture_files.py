"""Which files, classes and splits a folder has, and which folders are refused."""

import os
from pathlib import Path

import pytest

from caviar.core.errors import InputError
from caviar.data import picture_files
from caviar.data.picture_files import list_pictures, scan_pictures


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def classes_of(root: Path, split: str = "", count: int = 2) -> list[str]:
    return [f"{split}{label}/{number}.jpg" for label in ("cat", "dog") for number in range(count)]


def test_one_folder_a_class(tmp_path: Path) -> None:
    scan = scan_pictures(tree(tmp_path, "dog/2.jpg", "dog/1.PNG", "cat/deep/er/b.jpg", "cat/a.jpeg"))
    assert scan.classes == ("cat", "dog")
    assert scan.parts == {"train": 4}
    assert [file.name for file in scan.files] == ["cat/a.jpeg", "cat/deep/er/b.jpg", "dog/1.PNG", "dog/2.jpg"]
    assert [file.label for file in scan.files] == ["cat", "cat", "dog", "dog"]
    assert scan.notices == ()


@pytest.mark.parametrize("dev", ["val", "Valid", "VALIDATION", "dev"])
def test_split_folders_in_any_case(tmp_path: Path, dev: str) -> None:
    tree(tmp_path, *classes_of(tmp_path, "Train/"), f"{dev}/cat/9.jpg", "TEST/dog/8.jpg", "TEST/dog/7.jpg")
    scan = scan_pictures(tmp_path)
    assert scan.parts == {"train": 4, "dev": 1, "test": 2}
    assert [file.split for file in scan.files] == ["train"] * 4 + ["dev"] + ["test"] * 2
    assert [file.name for file in scan.files][-2:] == ["TEST/dog/7.jpg", "TEST/dog/8.jpg"]


def test_train_and_test_are_enough(tmp_path: Path) -> None:
    tree(tmp_path, *classes_of(tmp_path, "train/"), "test/cat/1.jpg")
    assert scan_pictures(tmp_path).parts == {"train": 4, "test": 1}


def test_further_folders_for_dev_and_test(tmp_path: Path) -> None:
    tree(tmp_path / "a", *classes_of(tmp_path))
    tree(tmp_path / "b", "cat/5.jpg")
    scan = scan_pictures(tmp_path / "a", test=tmp_path / "b")
    assert scan.parts == {"train": 4, "test": 1}
    assert scan.files[-1].name == "test/cat/5.jpg"
    tree(tmp_path / "c", *classes_of(tmp_path, "train/"), "test/cat/1.jpg")
    with pytest.raises(InputError, match=r"data\.test names .*Keep one"):
        scan_pictures(tmp_path / "c", test=tmp_path / "b")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert scan_pictures(tree(tmp_path, "bus/1.jpg", "bus/2.jpg", "train/1.jpg", "train/2.jpg")).classes == (
        "bus",
        "train",
    )


def test_hidden_and_leftover_files_are_passed_over_in_silence(tmp_path: Path) -> None:
    tree(
        tmp_path,
        *classes_of(tmp_path),
        "cat/Thumbs.db",
        "cat/.DS_Store",
        ".git/x.jpg",
        "__MACOSX/cat/1.jpg",
        "dog/._0.jpg",
    )
    scan = scan_pictures(tmp_path)
    assert (len(scan.files), scan.notices) == (4, ())


def test_other_files_are_counted(tmp_path: Path) -> None:
    scan = scan_pictures(tree(tmp_path, *classes_of(tmp_path), "readme.txt", "cat/labels.csv"))
    assert len(scan.notices) == 1
    assert "2 files left out" in scan.notices[0]


def test_pictures_outside_of_classes_are_counted(tmp_path: Path) -> None:
    (notice,) = scan_pictures(tree(tmp_path, *classes_of(tmp_path), "cover.jpg")).notices
    assert "1 picture in no class folder" in notice


def test_folders_beside_the_splits_are_named(tmp_path: Path) -> None:
    (notice,) = scan_pictures(tree(tmp_path, *classes_of(tmp_path, "train/"), "notes/a.txt")).notices
    assert "notes" in notice


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "no pictures and no class folders"),
        (["1.jpg", "2.jpg"], "2 pictures but no class folders"),
        (["cat/1.jpg", "cat/2.jpg"], "only the class 'cat' to train on"),
        (["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"], r"dog/1\.jpg: the only training picture of the class 'dog'"),
        (["cat/1.jpg", "cat/2.jpg", "dog/a.txt"], "dog: the class folder has no pictures"),
        (["test/cat/1.jpg", "val/cat/1.jpg"], "'test' and 'val' but no folder 'train'"),
        (["train/1.jpg", "test/2.jpg"], "no class folders in it"),
        (
            ["train/cat/1.jpg", "train/cat/2.jpg", "train/dog/1.jpg", "train/dog/2.jpg", "test/9.jpg"],
            "1 picture but no class",
        ),
        (["train/cat/1.jpg", "Train/cat/2.jpg"], "both hold the train split"),
        (["train/cat/1.jpg", "val/cat/2.jpg", "dev/cat/2.jpg"], "both hold the dev split"),
    ],
)
def test_refused_layouts(tmp_path: Path, names: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says) as raised:
        scan_pictures(tree(tmp_path, *names))
    assert str(tmp_path) in str(raised.value)


def test_empty_class_folder_is_named(tmp_path: Path) -> None:
    tree(tmp_path, *classes_of(tmp_path))
    (tmp_path / "emu").mkdir()
    with pytest.raises(InputError, match=r"emu: the class folder has no pictures .* Fill it, or remove it"):
        scan_pictures(tmp_path)


def test_class_never_seen_in_train(tmp_path: Path) -> None:
    tree(tmp_path, *classes_of(tmp_path, "train/"), "test/cats/1.jpg")
    with pytest.raises(InputError, match=r"test/cats/1\.jpg: the class 'cats' .* Did you mean 'cat'\?"):
        scan_pictures(tmp_path)


def test_absent_folder_and_file_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        scan_pictures(tmp_path / "none")
    with pytest.raises(InputError, match="a file, not a folder"):
        scan_pictures(tree(tmp_path, "a.jpg") / "a.jpg")


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    tree(tmp_path / "a", *classes_of(tmp_path))
    (tmp_path / "b").mkdir()
    (tmp_path / "b/cat").symlink_to(tmp_path / "a/cat")
    (tmp_path / "b/dog").symlink_to(tmp_path / "a/dog")
    assert len(scan_pictures(tmp_path / "b").files) == 4


@pytest.mark.parametrize("goal", [".", "cat", "cat/deep"])
def test_a_loop_of_links_is_refused(tmp_path: Path, goal: str) -> None:
    tree(tmp_path, *classes_of(tmp_path), "cat/deep/1.jpg")
    (tmp_path / "cat/deep/back").symlink_to(tmp_path / goal)
    with pytest.raises(InputError, match=r"back: this link leads back to a folder that contains it"):
        scan_pictures(tmp_path)


def test_many_ways_to_one_folder_are_walked_once(tmp_path: Path) -> None:
    tree(tmp_path, *classes_of(tmp_path))
    for depth in range(20):
        folder = tmp_path / f"cat/{depth}"
        folder.mkdir()
        (folder / "1.jpg").write_bytes(b"x")
        for way in "ab":
            (folder / way).symlink_to(tmp_path / f"cat/{depth + 1}")
    (tmp_path / "cat/20").mkdir()
    assert len(scan_pictures(tmp_path).files) == 4 + 20


def test_broken_and_circular_links_are_named(tmp_path: Path) -> None:
    tree(tmp_path, *classes_of(tmp_path))
    link = tmp_path / "cat/gone.jpg"
    for goal in (tmp_path / "nowhere", link):
        link.symlink_to(goal)
        with pytest.raises(InputError, match=r"gone\.jpg: a link that leads nowhere"):
            scan_pictures(tmp_path)
        link.unlink()


def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    tree(tmp_path, *classes_of(tmp_path))
    os.mkfifo(tmp_path / "cat/pipe.jpg")
    with pytest.raises(InputError, match=r"pipe\.jpg: .* not a regular file"):
        scan_pictures(tmp_path)


def test_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, *classes_of(tmp_path))
    scandir = os.scandir

    def refuse(folder: str) -> object:
        if str(folder).endswith("dog"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(picture_files.os, "scandir", refuse)
    with pytest.raises(InputError, match=r"dog: cannot be read \(Permission denied\). Check its permissions"):
        scan_pictures(tmp_path)


def test_list_pictures_searches_to_the_depths(tmp_path: Path) -> None:
    tree(tmp_path, "b/2.jpg", "1.png", "notes.txt")
    assert [name for name, _ in list_pictures(tmp_path)] == ["1.png", "b/2.jpg"]
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no pictures in this folder"):
        list_pictures(tmp_path / "none")
