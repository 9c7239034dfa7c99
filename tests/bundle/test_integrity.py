"""Bundles that are damaged, edited, foreign, newer or malicious: refused by name, and nothing in them ever runs."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import caviar
from caviar.bundle import manifest as module
from caviar.core.files import digest_file, json_text

SETTINGS = {"model.widths": [8], "device.threads": 1}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a table with numbers and categories."""
    draw = np.random.default_rng(0)
    frame = pl.DataFrame(
        {"size": draw.normal(size=90), "town": draw.choice(["Ulm", "Bonn"], 90), "ok": draw.choice(["yes", "no"], 90)}
    )
    folder = tmp_path_factory.mktemp("table")
    run = caviar.train(frame, "ok", epochs=1, settings=SETTINGS, runs_dir=folder, name="it", progress=False)
    return run.path / "bundle"


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a regression on arrays."""
    folder = tmp_path_factory.mktemp("numbers")
    run = caviar.train("sample:diabetes", epochs=1, settings=SETTINGS, runs_dir=folder, name="it", progress=False)
    return run.path / "bundle"


@pytest.fixture
def bundle(table: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(table, tmp_path / "bundle"))


def rewritten(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Change the manifest as somebody would who knows how its digest is made."""
    path = bundle / "bundle.json"
    value = json.loads(path.read_text())
    change(value)
    del value["digest"]
    value["files"] = {name: digest_file(bundle / name) for name in value["files"] if (bundle / name).is_file()}
    path.write_text(json_text({**value, "digest": module._digest(value)}))
    return bundle


def test_a_copy_is_as_good(bundle: Path, table: Path) -> None:
    rows = {"size": [0.1, -2.0], "town": ["Ulm", "Kiel"]}
    ours, theirs = caviar.load(bundle).predict(rows), caviar.load(table).predict(rows)
    assert np.array_equal(ours.values, theirs.values)
    assert ours.probabilities is not None
    assert theirs.probabilities is not None
    assert np.array_equal(ours.probabilities, theirs.probabilities)
    assert caviar.load(bundle.parent / "bundle").classes == ("no", "yes")


@pytest.mark.parametrize("name", ["bundle.json", "preprocess.safetensors", "network.safetensors"])
class TestEachFile:
    @given(place=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
    def test_any_changed_byte_is_found_and_the_file_named(
        self, name: str, place: float, bits: int, table: Path
    ) -> None:
        path = table / name
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[int(place * len(whole))] ^= bits
        try:
            path.write_bytes(changed)
            with pytest.raises(caviar.InputError) as raised:
                caviar.load(table)
        finally:
            path.write_bytes(whole)
        assert str(path) in str(raised.value) or "bundle.json" in str(raised.value)

    def test_missing(self, name: str, bundle: Path) -> None:
        (bundle / name).unlink()
        with pytest.raises(caviar.InputError, match=name.replace(".", r"\.")):
            caviar.load(bundle)

    @pytest.mark.parametrize("length", [0, 7, 100, -1])
    def test_cut(self, name: str, length: int, bundle: Path) -> None:
        path = bundle / name
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(caviar.InputError, match=name):
            caviar.load(bundle)

    def test_longer(self, name: str, bundle: Path) -> None:
        with (bundle / name).open("ab") as file:
            file.write(b" ")
        with pytest.raises(caviar.InputError, match=name):
            caviar.load(bundle)

    def test_a_folder_instead(self, name: str, bundle: Path) -> None:
        (bundle / name).unlink()
        (bundle / name).mkdir()
        with pytest.raises(caviar.InputError, match=name):
            caviar.load(bundle)

    def test_a_pickle_instead_is_not_run(self, name: str, bundle: Path) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return (Path.touch, (bundle / "owned",))

        (bundle / name).write_bytes(pickle.dumps(Evil()))
        rewrite = name != "bundle.json"
        with pytest.raises(caviar.InputError, match=name):
            caviar.load(rewritten(bundle, lambda value: None) if rewrite else bundle)
        assert not (bundle / "owned").exists()


def test_flipping_single_bits_of_the_manifest(bundle: Path) -> None:
    """Bits whose change leaves the values as they were (1e-05 and 1E-05, the last digit of a float) count as well."""
    path = bundle / "bundle.json"
    whole = path.read_bytes()
    for position in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[position] ^= 0x20 if whole[position : position + 1].isalpha() else 0x01
        path.write_bytes(changed)
        with pytest.raises(caviar.InputError, match=r"bundle"):
            module.manifest_from_json(path)


@pytest.mark.parametrize(
    "change", [("  ", "\t"), ("\n", "\r\n"), ("}\n", "}"), ('"outputs": 2', '"outputs": 2, "outputs": 2')]
)
def test_even_harmless_edits_are_found(change: tuple[str, str], bundle: Path) -> None:
    path = bundle / "bundle.json"
    path.write_bytes(path.read_text().replace(*change).encode())
    with pytest.raises(caviar.InputError, match="damaged or edited"):
        caviar.load(bundle)


def test_edited_values_are_found(bundle: Path) -> None:
    path = bundle / "bundle.json"
    path.write_text(path.read_text().replace('"Ulm"', '"Rom"'))
    with pytest.raises(caviar.InputError, match=r"bundle\.json: damaged or edited"):
        caviar.load(bundle)


def test_a_newer_bundle_is_refused_by_name(bundle: Path) -> None:
    rewritten(bundle, lambda value: value.update(version=8, something="new"))
    with pytest.raises(caviar.InputError, match=r"bundle\.json: this bundle has format version 8.*Upgrade"):
        caviar.load(bundle)


def set_in(*path: str) -> Callable[[Any], Callable[[dict[str, Any]], None]]:
    def with_value(new: Any) -> Callable[[dict[str, Any]], None]:
        def change(value: dict[str, Any]) -> None:
            for key in path[:-1]:
                value = value[key]
            value[path[-1]] = new

        return change

    return with_value


LIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "kind": set_in("kind")("exec"),
    "kind of other data": set_in("kind")("arrays"),
    "task": set_in("task")("os:system"),
    "regression": set_in("task")("regression"),
    "classes": set_in("classes")(["only"]),
    "class names": set_in("classes")([1, {"a": 2}]),
    "outputs": set_in("outputs")(-2),
    "outputs as text": set_in("outputs")("many"),
    "majority": set_in("majority")(99),
    "columns": set_in("columns")([{"name": "size", "kind": "code"}]),
    "fewer columns": lambda value: value["columns"].pop(),
    "columns of other shape": set_in("columns")("size"),
    "input shape": set_in("input_shape")([10**12]),
    "wide": set_in("model", "widths")([65_536, 65_536]),
    "very wide": set_in("model", "widths")([10**15]),
    "auto": set_in("model", "widths")("auto"),
    "activation": set_in("model", "activation")("__import__('os')"),
    "extra setting": set_in("model", "hook")("os:system"),
    "other network": set_in("model", "name")("convnet"),
    "preprocess kind": set_in("preprocess", "kind")("os:system"),
    "preprocess": set_in("preprocess")({}),
    "scaler": set_in("scaler")({"kind": "target", "mean": 0.0, "std": 1.0}),
    "reading": set_in("reading")({"source": "/etc/passwd"}),
    "nothing": lambda value: [
        value.pop(key) for key in list(value) if key not in ("format", "version", "files", "digest")
    ],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_is_refused_even_with_a_right_digest(lie: str, bundle: Path) -> None:
    with pytest.raises(caviar.InputError):
        caviar.load(rewritten(bundle, LIES[lie]))


@pytest.mark.parametrize(
    "change", [set_in("scaler")({}), set_in("scaler")({"kind": "target", "mean": "x", "std": 0}), set_in("outputs")(2)]
)
def test_a_lying_regression(change: Callable[[dict[str, Any]], Any], numbers: Path, tmp_path: Path) -> None:
    with pytest.raises(caviar.InputError):
        caviar.load(rewritten(Path(shutil.copytree(numbers, tmp_path / "bundle")), change))


def test_paths_in_the_manifest_are_never_followed(bundle: Path) -> None:
    secret = bundle.parent / "secret.safetensors"
    save_file({"secret": torch.ones(2)}, secret)

    def change(value: dict[str, Any]) -> None:
        value["files"] = {"../secret.safetensors": digest_file(secret), "/etc/passwd": "0", **value["files"]}

    with pytest.MonkeyPatch.context() as patch:
        opened: list[str] = []
        original = Path.open

        def watched(self: Path, *args: Any, **kwargs: Any) -> Any:
            opened.append(str(self))
            return original(self, *args, **kwargs)

        rewritten(bundle, change)
        patch.setattr(Path, "open", watched)
        caviar.load(bundle)
    assert opened
    assert all(Path(path).parent == bundle for path in opened)


@pytest.mark.parametrize("name", ["evil_module:build", "os:system", "evil_module.build", "given"])
def test_nothing_that_is_named_inside_is_imported_or_run(
    name: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\ndef build(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("os.system was called"))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    rewritten(bundle, set_in("model")({"name": name, "class_name": "evil_module.build", "arguments": {"x": 1}}))
    for text in ("model", "recipe"):
        rewritten(bundle, set_in("recipe", text)({"name": "evil_module:build"}))
    with pytest.raises(caviar.InputError, match="cannot build from data alone"):
        caviar.load(bundle)
    assert "evil_module" not in sys.modules
    assert not (tmp_path / "owned").exists()


def test_tensors_of_other_names_or_shapes(bundle: Path) -> None:
    path = bundle / "network.safetensors"
    weights = load_file(path)
    for name, tensors in {
        "output.bias": weights | {"output.bias": torch.zeros(3)},
        "more": weights | {"more": torch.zeros(1)},
        "output.weight": {n: t for n, t in weights.items() if n != "output.weight"},
    }.items():
        save_file(tensors, path)
        with pytest.raises(caviar.InputError, match=rf"do not fit.*{name}"):
            caviar.load(rewritten(bundle, lambda value: None))


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(caviar.InputError, match="no such bundle"):
        caviar.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(caviar.InputError, match=r"not a bundle \(it has no bundle\.json\)"):
        caviar.load(tmp_path / "empty")
    for text in ("[1]", "{}", '{"format": "caviar run", "version": 1}', "3", '{"format": NaN}', "[" * 100_000):
        (tmp_path / "empty" / "bundle.json").write_text(text)
        with pytest.raises(caviar.InputError, match=r"bundle\.json"):
            caviar.load(tmp_path / "empty")


class Own(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.inner = nn.Linear(4, width)
        self.output = nn.Linear(width, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.output(self.inner(inputs))
        return outputs


@pytest.fixture(scope="module")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> caviar.Run:
    settings = {"device.threads": 1, "training.batch_size": 32}
    folder = tmp_path_factory.mktemp("own")
    return caviar.train(
        "sample:iris", model=Own(), epochs=1, settings=settings, runs_dir=folder, name="it", progress=False
    )


class TestOwnModule:
    def test_without_the_module_its_class_is_named(self, own_run: caviar.Run) -> None:
        with pytest.raises(caviar.InputError, match=r"its network is .*\.Own, .*caviar\.load\(.*, model="):
            caviar.load(own_run.path)

    def test_with_the_module(self, own_run: caviar.Run) -> None:
        own = Own()
        loaded = caviar.load(own_run.path, model=own)
        assert loaded.network is own
        rows = np.ones((2, 4))
        assert np.array_equal(loaded.predict(rows).values, own_run.bundle.predict(rows).values)

    def test_with_another_module_the_differing_weights_are_named(self, own_run: caviar.Run) -> None:
        with pytest.raises(caviar.InputError, match=r"inner\.bias \(\(6,\) there, \(7,\) in the module\)"):
            caviar.load(own_run.path, model=Own(7))
        with pytest.raises(caviar.InputError, match=r"do not fit this Linear.*inner\.bias \(\(6,\) there, absent in"):
            caviar.load(own_run.path, model=nn.Linear(4, 3))


def test_saving_over_an_older_bundle_is_all_or_nothing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = caviar.load(bundle)
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("caviar.bundle.bundle.write_json", full)
        with pytest.raises(OSError, match="No space"):
            loaded.save(bundle)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
    loaded.save(bundle)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
