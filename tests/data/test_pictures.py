"""Folders of pictures from files to a mapped array, and the cache between."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from caviar.core.errors import InputError, RunError
from caviar.core.files import cache_folder
from caviar.data import decode, decode_pool, picture_cache
from caviar.data.pictures import open_pictures, read_pictures
from caviar.data.settings import DataSettings

AUTO = DataSettings()
RNG = np.random.default_rng(1)


def save(path: Path, height: int = 10, width: int = 12, mode: str = "RGB") -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = RNG.integers(0, 256, (height, width, 3) if mode == "RGB" else (height, width), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return values


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        for label in ("ant", "bee"):
            for number in range(count):
                save(root / split / label / f"{number}.png")
    return root


def entries() -> set[str]:
    return {entry.name for entry in (cache_folder() / "pictures").iterdir()} - {"index"}


def count_chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the size of every chunk that is decoded in this process."""
    chunks: list[int] = []
    original = decode.decode_chunk

    def noted(paths: list[str], *rest: object) -> dict[str, object]:
        chunks.append(len(paths))
        return original(paths, *rest)

    monkeypatch.setattr(decode, "decode_chunk", noted)
    return chunks


def test_rows_targets_and_names_agree(folder: Path) -> None:
    raw = open_pictures(folder, AUTO)
    assert raw.kind == "pictures"
    assert raw.task == "classification"
    assert raw.classes == ("ant", "bee")
    assert raw.parts == {"train": 8, "dev": 4, "test": 6}
    assert raw.inputs.shape == (18, 10, 12, 3)
    assert raw.inputs.dtype == np.uint8
    assert isinstance(raw.inputs, np.memmap)
    assert raw.notices == ()
    assert raw.names is not None
    for row, name in enumerate(raw.names):
        np.testing.assert_array_equal(raw.inputs[row], np.asarray(Image.open(folder / name)))
        assert raw.classes[raw.targets[row]] == Path(name).parent.name


def test_auto_size_and_mode(folder: Path) -> None:
    save(folder / "train/ant/odd.png", 11, 12)
    assert open_pictures(folder, AUTO).inputs.shape == (19, 64, 64, 3)
    assert open_pictures(folder, DataSettings(picture_size=(5, 7))).inputs.shape == (19, 5, 7, 3)
    assert open_pictures(folder, DataSettings(picture_mode="grey")).inputs.shape == (19, 64, 64, 1)


def test_large_pictures_that_agree_are_brought_to_64(tmp_path: Path) -> None:
    for name in ("a/1", "a/2", "b/1", "b/2"):
        save(tmp_path / f"{name}.png", 130, 100)
    assert open_pictures(tmp_path, AUTO).inputs.shape == (4, 64, 64, 3)


def test_auto_mode_is_grey_only_if_every_picture_is(tmp_path: Path) -> None:
    for name in ("a/1", "a/2", "b/1", "b/2"):
        save(tmp_path / f"{name}.png", mode="L")
    assert open_pictures(tmp_path, AUTO).inputs.shape == (4, 10, 12, 1)
    save(tmp_path / "b/3.png")
    assert open_pictures(tmp_path, AUTO).inputs.shape == (5, 10, 12, 3)


@pytest.mark.parametrize("odd", ["size", "mode"])
def test_one_odd_picture_among_many_changes_the_plan(tmp_path: Path, odd: str) -> None:
    """The guess is made from a sample; picture 101 of 200 is not in it."""
    for number in range(200):
        save(tmp_path / f"{'ab'[number % 2]}/{number:03}.png", 4, 4, mode="L")
    save(tmp_path / "a/100.png", *((4, 4, "RGB") if odd == "mode" else (4, 5, "L")))
    shape = open_pictures(tmp_path, AUTO).inputs.shape
    assert shape == ((200, 4, 4, 3) if odd == "mode" else (200, 64, 64, 1))


def test_second_open_reads_no_picture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_pictures(folder, AUTO)
    chunks = count_chunks(monkeypatch)
    monkeypatch.setattr(decode, "read_file", lambda *_: pytest.fail("a picture was read"))
    again = open_pictures(folder, AUTO)
    assert chunks == []
    np.testing.assert_array_equal(first.inputs, again.inputs)
    assert (again.digest, again.notices, again.names) == (first.digest, first.notices, first.names)


def test_settings_that_auto_came_to_find_the_same_entry(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_pictures(folder, AUTO)
    chunks = count_chunks(monkeypatch)
    raw = open_pictures(folder, DataSettings(picture_size=(10, 12), picture_mode="rgb"))
    assert raw.inputs.shape == (18, 10, 12, 3)
    assert chunks == []
    open_pictures(folder, DataSettings(max_pixels=120))
    assert chunks
    with pytest.raises(InputError, match=r"data\.max_pixels"):
        open_pictures(folder, DataSettings(max_pixels=119))


def test_a_changed_renamed_or_removed_picture_changes_the_digest(folder: Path) -> None:
    digests = [open_pictures(folder, AUTO).digest]
    pixels = open_pictures(folder, AUTO).inputs[0].copy()
    path = folder / "train/ant/0.png"
    Image.fromarray(255 - pixels).save(path)
    changed = open_pictures(folder, AUTO)
    np.testing.assert_array_equal(changed.inputs[0], 255 - pixels)
    digests.append(changed.digest)
    path.rename(folder / "train/ant/00.png")
    digests.append(open_pictures(folder, AUTO).digest)
    (folder / "train/ant/00.png").unlink()
    digests.append(open_pictures(folder, AUTO).digest)
    assert len(set(digests)) == 4


def test_the_same_content_elsewhere_is_the_same_entry(folder: Path, tmp_path: Path) -> None:
    first = open_pictures(folder, AUTO)
    before = entries()
    shutil.copytree(folder, tmp_path / "copy")
    assert open_pictures(tmp_path / "copy", AUTO).digest == first.digest
    assert entries() == before


def entry() -> Path:
    (name,) = entries()
    return cache_folder() / "pictures" / name


def cut(path: Path) -> None:
    os.truncate(path / "pixels", 1000)


def overwrite(path: Path) -> None:
    with (path / "pixels").open("r+b") as file:
        file.seek(500)
        file.write(b"damage")


def overwrite_manifest(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["facts"]["shape"] = [18, 12, 10, 3]
    (path / "manifest.json").write_text(json.dumps(manifest))


def empty_manifest(path: Path) -> None:
    (path / "manifest.json").write_text("")


def remove_pixels(path: Path) -> None:
    (path / "pixels").unlink()


def manifest_without_keys(path: Path) -> None:
    (path / "manifest.json").write_text('{"version": 1}')


@pytest.mark.parametrize(
    "damage", [cut, overwrite, overwrite_manifest, empty_manifest, remove_pixels, manifest_without_keys, shutil.rmtree]
)
def test_a_damaged_entry_is_made_anew(folder: Path, damage: object) -> None:
    wanted = np.array(open_pictures(folder, AUTO).inputs)
    damage(entry())
    np.testing.assert_array_equal(open_pictures(folder, AUTO).inputs, wanted)
    assert len(entries()) == 1


def test_a_damaged_index_is_made_anew(folder: Path) -> None:
    wanted = np.array(open_pictures(folder, AUTO).inputs)
    (index,) = (cache_folder() / "pictures" / "index").iterdir()
    for content in ("", "{", "[]", '{"version": 1}', '{"version": 1, "content": 3, "choices": {"[null, null]": 5}}'):
        index.write_text(content)
        np.testing.assert_array_equal(open_pictures(folder, AUTO).inputs, wanted)


def test_a_copied_cache_is_checked_and_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_pictures(folder, AUTO)
    os.utime(entry() / "pixels")
    chunks = count_chunks(monkeypatch)
    open_pictures(folder, AUTO)
    assert chunks == []


def test_what_killed_processes_left_is_swept_away(folder: Path) -> None:
    left = cache_folder() / "pictures" / ".work.left"
    left.mkdir(parents=True)
    (left / "pixels").write_bytes(b"half")
    open_pictures(folder, AUTO)
    assert not left.exists()


def test_nothing_is_left_when_it_fails(folder: Path) -> None:
    (folder / "train/bee/1.png").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"train/bee/1\.png: the file is empty \(0 bytes\)\. Replace the file, or delete"
    ):
        open_pictures(folder, AUTO)
    assert entries() == set()


def test_interrupted_decoding_leaves_nothing(folder: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_pictures(folder, AUTO, interrupt)
    assert entries() == set()
    assert len(open_pictures(folder, AUTO)) == 18


def test_progress_is_told(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    open_pictures(folder, AUTO, lambda done, total: told.append((done, total)))
    assert told[-1] == (18, 18)


def as_text(path: Path) -> None:
    path.write_text("I am a letter")


def cut_short(path: Path) -> None:
    Image.fromarray(RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-30])


def a_folder_of_bytes(path: Path) -> None:
    path.write_bytes(RNG.bytes(1000))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (as_text, "is not a picture"),
        (cut_short, "is cut short"),
        (a_folder_of_bytes, "is not a picture"),
        (lambda path: Image.new("1", (9000, 9000)).save(path, "PNG"), "81,000,000 pixels, more than data.max_pixels"),
    ],
)
def test_bad_files_are_named_with_a_remedy(folder: Path, fault: object, says: str) -> None:
    path = folder / "test/bee/2.jpg"
    fault(path)
    with pytest.raises(InputError) as raised:
        open_pictures(folder, AUTO)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert says in message
    assert "Replace the file" in message or "Shrink it" in message


def test_several_bad_files_are_counted(folder: Path) -> None:
    for number in range(4):
        as_text(folder / f"train/ant/{number}.png")
    as_text(folder / "test/bee/1.png")
    with pytest.raises(InputError, match=r"train/ant/0\.png: .* 4 more cannot be used: .*ant/1\.png is not"):
        open_pictures(folder, AUTO)


def test_an_unreadable_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system_open = os.open

    def refuse(path: str, *rest: int) -> int:
        if str(path).endswith(".png"):
            raise PermissionError(13, "Permission denied", path)
        return system_open(path, *rest)

    monkeypatch.setattr(decode.os, "open", refuse)
    with pytest.raises(InputError, match=r"ant/0\.png: the file cannot be read \(Permission denied\)\. Check the file"):
        open_pictures(folder, AUTO)


def test_unusual_pictures_are_handled(folder: Path) -> None:
    Image.new("CMYK", (12, 10)).save(folder / "train/ant/cmyk.jpg")
    Image.fromarray(np.zeros((10, 12), np.uint16)).save(folder / "train/ant/deep.png")
    Image.new("RGBA", (12, 10)).save(folder / "train/bee/clear.png")
    raw = open_pictures(folder, AUTO)
    assert raw.inputs.shape == (21, 10, 12, 3)
    assert raw.names is not None
    assert (raw.inputs[raw.names.index("train/bee/clear.png")] == 255).all()


def test_an_animation_is_refused(folder: Path) -> None:
    frames = [Image.new("RGB", (12, 10), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "train/bee/moving.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=r"bee/moving\.gif.* is animated or has several pages \(2 of them\)"):
        open_pictures(folder, AUTO)


def test_repeats_across_splits_and_classes_are_noticed_each_time(folder: Path) -> None:
    shutil.copy(folder / "train/ant/0.png", folder / "test/ant/copy.png")
    shutil.copy(folder / "train/ant/1.png", folder / "train/bee/copy.png")
    for _ in range(2):
        leak, quarrel = open_pictures(folder, AUTO).notices
        assert "1 picture of dev or test also in an earlier split" in leak
        assert "test/ant/copy.png is train/ant/0.png" in leak
        assert "train/bee/copy.png is train/ant/1.png" in quarrel


def test_settings_that_do_not_apply_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="regression"):
        open_pictures(folder, DataSettings(task="regression"))
    with pytest.raises(InputError, match="'species' names a column"):
        open_pictures(folder, DataSettings(target="species"))


def test_a_cache_that_cannot_be_written(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CAVIAR_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"the cache cannot be written .* CAVIAR_CACHE"):
        open_pictures(folder, AUTO)


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decode.os, "pwrite", full)
    with pytest.raises(InputError, match=r"No space left on device.*Make room"):
        open_pictures(folder, AUTO)
    assert entries() == set()


# Many pictures: worker processes.


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many")
    for number in range(700):
        save(root / f"{'ab'[number % 2]}/{number:03}.png", 8, 8)
    return root


def test_workers_decode_what_one_process_does(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = count_chunks(monkeypatch)
    told: list[int] = []
    raw = open_pictures(many, AUTO, lambda done, _: told.append(done))
    assert chunks == []
    assert told == sorted(told)
    assert told[-1] == 700
    wanted = np.stack([np.asarray(Image.open(many / name)) for name in raw.names or ()])
    np.testing.assert_array_equal(raw.inputs, wanted)
    monkeypatch.setattr(decode_pool, "FEW_PICTURES", 10_000)
    monkeypatch.setenv("CAVIAR_CACHE", str(cache_folder() / "other"))
    here = open_pictures(many, AUTO)
    assert sum(chunks) == 700
    np.testing.assert_array_equal(here.inputs, wanted)
    assert here.digest == raw.digest


def test_workers_report_bad_and_odd_files(many: Path, tmp_path: Path) -> None:
    shutil.copytree(many, tmp_path / "set")
    save(tmp_path / "set/b/301.png", 9, 8)
    assert open_pictures(tmp_path / "set", AUTO).inputs.shape == (700, 64, 64, 3)
    as_text(tmp_path / "set/b/555.png")
    with pytest.raises(InputError, match=r"b/555\.png: the file is not a picture"):
        open_pictures(tmp_path / "set", AUTO)


def test_a_worker_that_dies_is_an_error(many: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text("import sys; sys.stdin.readline(); sys.stdin.readline()")
    monkeypatch.setattr(decode, "__file__", str(tmp_path / "dies.py"))
    with pytest.raises(RunError, match="ended without a word"):
        open_pictures(many, AUTO)
    assert entries() == set()


def test_a_worker_needs_neither_torch_nor_polars() -> None:
    code = "import sys, runpy; runpy.run_path(sys.argv[1]); print({'torch', 'polars', 'caviar'} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-P", "-c", code, decode.__file__], capture_output=True, text=True, check=True
    )
    assert found.stdout == "set()\n"


SCRIPT = """
import sys
from caviar.data.pictures import open_pictures
from caviar.data.settings import DataSettings
def progress(done, total):
    print("progress", done, flush=True)
print("rows", len(open_pictures(sys.argv[1], DataSettings(), progress)), flush=True)
"""


def start(script: Path, folder: Path) -> subprocess.Popen[str]:
    script.write_text(SCRIPT)
    root = Path(decode.__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def test_a_plain_script_without_main_guard_and_a_kill(many: Path, tmp_path: Path) -> None:
    killed = start(tmp_path / "script.py", many)
    assert killed.stdout is not None
    killed.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    for name in entries():
        path = cache_folder() / "pictures" / name
        assert name.startswith(".work.") or picture_cache._open(path, 700) is not None
    with start(tmp_path / "script.py", many) as second:
        out, _ = second.communicate()
    assert out.splitlines()[-1] == "rows 700"
    assert out.count("rows") == 1
    assert len(entries()) == 1


def test_two_processes_at_once(many: Path, tmp_path: Path) -> None:
    both = [start(tmp_path / f"script{number}.py", many) for number in range(2)]
    for process in both:
        out, _ = process.communicate()
        assert out.splitlines()[-1] == "rows 700"
    assert len(entries()) == 1


# New pictures, at the time of prediction.


def test_read_pictures_from_a_folder_a_file_and_a_list(folder: Path) -> None:
    pixels, names = read_pictures(folder, (10, 12), "rgb", 10_000)
    raw = open_pictures(folder, AUTO)
    assert sorted(names) == sorted(raw.names or ())
    assert names == sorted(names)
    rows = [(raw.names or ()).index(name) for name in names]
    np.testing.assert_array_equal(pixels, raw.inputs[rows])
    one, (name,) = read_pictures(folder / "test/ant/0.png", (5, 6), "grey", 10_000)
    assert one.shape == (1, 5, 6, 1)
    assert name == str(folder / "test/ant/0.png")
    two, names = read_pictures([folder / "test/ant/1.png", str(folder / "test/ant/0.png")], (10, 12), "rgb", 10_000)
    np.testing.assert_array_equal(two[1], np.asarray(Image.open(folder / "test/ant/0.png")))
    assert len(names) == 2


def test_read_pictures_refuses(folder: Path) -> None:
    with pytest.raises(InputError, match="no pictures were given"):
        read_pictures([], (5, 5), "rgb", 100)
    with pytest.raises(InputError, match=r"none\.png: the file cannot be read \(No such file"):
        read_pictures(folder / "none.png", (5, 5), "rgb", 10_000)
    with pytest.raises(InputError, match="120 pixels"):
        read_pictures(folder, (5, 5), "rgb", 100)
    assert entries() == set()


def test_hymenoptera(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["tar", "xf", shared_data / "hymenoptera.tar", "-C", tmp_path], check=True)
    raw = open_pictures(tmp_path / "hymenoptera", AUTO)
    assert raw.inputs.shape == (397, 64, 64, 3)
    assert raw.parts == {"train": 244, "dev": 153}
    assert raw.classes == ("ants", "bees")
    monkeypatch.setattr(picture_cache, "decode_into", lambda *_: pytest.fail("the pictures were decoded again"))
    open_pictures(tmp_path / "hymenoptera", AUTO)
    assert picture_cache._open(entry(), 397) is not None
