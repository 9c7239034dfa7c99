"""Arrays, tensors, data sets and their files: what is read, and what is refused with which words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy import sparse
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from caviar.core.errors import InputError
from caviar.data import array_values
from caviar.data.arrays import open_arrays, read_inputs
from caviar.data.raw import RawData
from caviar.data.settings import DataSettings

AUTO = DataSettings()
RNG = np.random.default_rng(2)
X = RNG.normal(size=(60, 3))
Y = np.arange(60) % 3


def reading(inputs: Any = X, targets: Any = Y, **more: Any) -> RawData:
    settings = DataSettings(**{k: more.pop(k) for k in ("task", "memory_budget") if k in more})
    return open_arrays(inputs, targets, settings, **more)


# What is read.


@pytest.mark.parametrize(
    "form",
    [
        np.asarray,
        torch.from_numpy,
        lambda a: a.tolist(),
        np.asfortranarray,
        lambda a: a[::-1][::-1],
        lambda a: [torch.from_numpy(row) for row in a],
        lambda a: a.astype(">f8"),
        lambda a: torch.from_numpy(a).requires_grad_(),
    ],
)
def test_every_form_of_the_same_numbers(form: Callable[[Any], Any]) -> None:
    raw = reading(form(X.copy()))
    np.testing.assert_array_equal(raw.inputs.numpy(), X)
    assert raw.inputs.dtype == torch.float64
    assert (raw.kind, raw.task, raw.classes, raw.parts) == ("arrays", "classification", ("0", "1", "2"), {"train": 60})
    np.testing.assert_array_equal(raw.targets, Y)
    assert raw.digest == reading().digest


def test_memory_is_shared_not_copied() -> None:
    assert reading(X).inputs.data_ptr() == X.ctypes.data


@pytest.mark.parametrize(
    ("given_type", "kept"),
    [
        ("float64", torch.float64),
        ("float32", torch.float32),
        ("float16", torch.float32),
        ("longdouble", torch.float64),
        ("bool", torch.uint8),
        ("uint8", torch.uint8),
        ("int8", torch.int8),
        ("int16", torch.int16),
        ("uint16", torch.int32),
        ("int32", torch.int32),
        ("uint32", torch.int64),
        ("int64", torch.int64),
        ("uint64", torch.float64),
    ],
)
def test_number_types(given_type: str, kept: torch.dtype) -> None:
    values = RNG.integers(0, 2, (60, 4)).astype(given_type)
    for raw in (reading(values), reading(values, memory_budget=1)):
        assert raw.inputs.dtype == kept
        np.testing.assert_array_equal(raw.inputs.numpy().astype(float), values.astype(float))


def test_bfloat16_and_pictures_keep_their_axes() -> None:
    assert reading(torch.from_numpy(X).bfloat16()).inputs.dtype == torch.float32
    pictures = RNG.integers(0, 256, (60, 3, 8, 9), dtype=np.uint8)
    raw = reading(pictures)
    assert raw.inputs.dtype == torch.uint8
    np.testing.assert_array_equal(raw.inputs.numpy(), pictures)


def test_one_axis_becomes_one_feature() -> None:
    assert reading(X[:, 0]).inputs.shape == (60, 1)


def test_a_pair_and_parts() -> None:
    raw = open_arrays((X, Y), None, AUTO, dev=(X[:5], Y[:5]), test=(X[:7], Y[:7]))
    assert raw.parts == {"train": 60, "dev": 5, "test": 7}
    np.testing.assert_array_equal(raw.inputs.numpy(), np.concatenate([X, X[:5], X[:7]]))
    np.testing.assert_array_equal(raw.targets, np.concatenate([Y, Y[:5], Y[:7]]))


def test_parts_beyond_the_budget_go_to_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    large = RNG.normal(size=(60, 4000)).astype(np.float32)
    raw = open_arrays((large, Y), None, DataSettings(memory_budget=1), test=(large[:30].astype(float), Y[:30]))
    assert raw.inputs.dtype == torch.float64
    np.testing.assert_array_equal(raw.inputs.numpy(), np.concatenate([large, large[:30]]))


def test_digest_depends_on_every_number() -> None:
    changed = X.copy()
    changed[17, 1] += 1e-12
    swapped = Y.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    assert len({reading().digest, reading(changed).digest, reading(X, swapped).digest, reading(X[:, :2]).digest}) == 4


# Targets and the task.


@pytest.mark.parametrize(
    ("targets", "task", "classes"),
    [
        (Y, "classification", ("0", "1", "2")),
        (Y.astype(float), "classification", ("0", "1", "2")),
        (Y[:, None], "classification", ("0", "1", "2")),
        (Y == 1, "classification", ("False", "True")),
        (np.array(["b", "a", "c"])[Y], "classification", ("a", "b", "c")),
        (np.array([b"b", b"a", b"c"])[Y], "classification", ("a", "b", "c")),
        ([["b", "a", "c"][y] for y in Y], "classification", ("a", "b", "c")),
        (pd.Series(["b", "a", "c"]).iloc[Y], "classification", ("a", "b", "c")),
        (pl.Series(["b", "a", "c"])[Y.tolist()], "classification", ("a", "b", "c")),
        (pd.Series(["b", "a", "c"], dtype="category").iloc[Y], "classification", ("a", "b", "c")),
        (torch.from_numpy(Y), "classification", ("0", "1", "2")),
        (np.array([10, 2, -1])[Y], "classification", ("-1", "2", "10")),
        (np.arange(60) % 30, "classification", tuple(map(str, range(30)))),
        (np.arange(60) % 30 + 5, "regression", ()),
        (np.arange(60) % 30 * 1.0, "regression", ()),
        (Y + 0.5, "regression", ()),
        (np.arange(60), "regression", ()),
        (X[:, 0], "regression", ()),
        (X[:, :1], "regression", ()),
    ],
)
def test_task_and_classes_from_the_targets(targets: Any, task: str, classes: tuple[str, ...]) -> None:
    raw = reading(X, targets)
    assert (raw.task, raw.classes) == (task, classes)
    if task == "regression":
        assert raw.targets.dtype == np.float64
        np.testing.assert_array_equal(raw.targets, np.asarray(targets, dtype=float).reshape(-1))
    else:
        assert raw.targets.dtype == np.int64


def test_the_task_can_be_given() -> None:
    assert reading(X, Y, task="regression").targets.dtype == np.float64
    halves = reading(X, Y / 2, task="classification")
    assert halves.classes == ("0", "0.5", "1")


@given(hnp.arrays(np.int64, st.integers(4, 80), elements=st.integers(-5, 5)))
def test_class_numbers_give_the_targets_back(targets: Any) -> None:
    counts = np.unique(targets, return_counts=True)[1]
    if len(counts) < 2 or counts.min() < 2:
        return
    raw = open_arrays(np.zeros((len(targets), 1)), targets, DataSettings(task="classification"))
    np.testing.assert_array_equal([int(raw.classes[number]) for number in raw.targets], targets)


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (Y[:-1], "60 rows of inputs but 59 targets"),
        (np.eye(3)[Y], r"targets: of shape \(60, 3\).*One-hot targets become class numbers by targets\.argmax"),
        (np.zeros(60, int), "targets: only one class, '0', in 60 rows"),
        (np.array([9] + [0, 1] * 29 + [0]), r"the class '9' has one row only \(row 0\)"),
        (np.where(np.arange(60) == 7, np.nan, X[:, 0]), "targets: the value of row 7 is missing"),
        (np.where(np.arange(60) == 7, np.inf, X[:, 0]), "targets: the value of row 7 is inf"),
        ([None if i == 4 else "ab"[i % 2] for i in range(60)], "the value of row 4 is missing"),
        (pd.Series([pd.NA if i == 4 else "ab"[i % 2] for i in range(60)]), "the value of row 4 is missing"),
        (["  " if i == 4 else "ab"[i % 2] for i in range(60)], "the value of row 4 is missing"),
        (np.array([3 if i == 4 else "ab"[i % 2] for i in range(60)], dtype=object), "row 4 is 3 and row 0 is 'a'"),
        (Y.astype(complex), "complex numbers"),
        (np.arange(60).astype("datetime64[D]"), "targets: dates"),
        ([f"id{i}" for i in range(60)], "60 different values in 60 rows are too many for classes"),
        (5, "int cannot be read as an array"),
    ],
)
def test_refused_targets(targets: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        reading(X, targets)


def test_refused_for_regression() -> None:
    with pytest.raises(InputError, match=r"text \(row 0 is 'a'\), which regression cannot predict"):
        reading(X, ["abc"[y] for y in Y], task="regression")
    with pytest.raises(InputError, match=r"every row is 2\.5, so there is nothing to learn"):
        reading(X, np.full(60, 2.5), task="regression")


def test_dev_and_test_must_match_train() -> None:
    with pytest.raises(
        InputError, match=r"test targets: the class 'cats' of row 1 is never seen .* Did you mean 'cat'\?"
    ):
        open_arrays((X, ["cat", "dog"] * 30), None, AUTO, test=(X[:2], ["cat", "cats"]))
    with pytest.raises(InputError, match=r"dev targets: the class '7' of row 0 is never seen in training"):
        open_arrays(X, Y, AUTO, dev=(X[:2], [7, 0]))
    with pytest.raises(InputError, match=r"dev: of shape \(60, 2\), but the training inputs are of shape \(60, 3\)"):
        open_arrays(X, Y, AUTO, dev=(X[:, :2], Y))
    with pytest.raises(InputError, match="test targets: of type int64, but the training targets"):
        open_arrays((X, ["cat", "dog"] * 30), None, AUTO, test=(X[:2], [1, 0]))
    with pytest.raises(InputError, match="test: no targets were given for a ndarray"):
        open_arrays(X, Y, AUTO, test=X)
    with pytest.raises(InputError, match=r"dev: the value at \[1, 2\] is NaN"):
        open_arrays(X, Y, AUTO, dev=(np.where(np.arange(3) == 2, [[0], [np.nan]], 0.0), [0, 1]))


# What is refused.


def put(value: Any, dtype: Any = float) -> np.ndarray:
    values = X.astype(dtype)
    values[41, 2] = value
    return values


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (put(np.nan), r"inputs: the value at \[41, 2\] is NaN\. Fill or remove missing values"),
        (put(-np.inf), r"inputs: the value at \[41, 2\] is -inf"),
        (put(np.inf, np.float32), r"\[41, 2\] is inf"),
        (put(1e39), r"\[41, 2\] is 1e\+39, beyond the largest float32, 3\.403e\+38\. Scale"),
        (put("three", object), r"inputs: of type object, mixed or ragged \(first at \[41, 2\]: 'three'\)"),
        (X.astype(str).tolist(), "inputs: text"),
        (X.astype(complex), "complex numbers"),
        (np.zeros(60, "datetime64[s]"), "dates or times"),
        (np.zeros(60, [("a", int), ("b", float)]), "not numbers of one type"),
        (np.float64(3), "inputs: a single number"),
        (torch.tensor(3.0), "inputs: a single number"),
        (np.zeros((0, 3)), r"inputs: empty, of shape \(0, 3\)"),
        (np.zeros((60, 0)), r"inputs: empty, of shape \(60, 0\)"),
        ([], "inputs: empty"),
        ([[1, 2, 3], [1, 2]], "inputs: row 1 has 2 values and row 0 has 3"),
        ([[1, 2], 3], "some rows are lists and some are not"),
        (np.ma.masked_greater(X, 1), "masked array with masked values"),
        (sparse.csr_matrix(X), "sparse array"),
        (sparse.csr_array(X), "sparse array"),
        (torch.from_numpy(X).to_sparse(), "sparse, quantised or without data"),
        (torch.empty((60, 3), device="meta"), "sparse, quantised or without data"),
        ({"a": [1]}, "a dict cannot be read as an array"),
        (iter([1]), "a list_iterator cannot be read as an array"),
        ("numbers.txt", r"numbers\.txt: not a file of arrays"),
    ],
)
def test_refused_inputs(inputs: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        reading(inputs)


def test_no_targets() -> None:
    with pytest.raises(InputError, match=r"no targets were given for a ndarray\. Give the target, or a pair"):
        reading(X, None)
    with pytest.raises(InputError, match="'income' names a column, but arrays have no column names"):
        reading(X, "income")


def test_bad_values_are_found_in_any_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_values, "BLOCK_BYTES", 240)
    with pytest.raises(InputError, match=r"\[41, 2\] is NaN"):
        reading(put(np.nan))


def test_notices() -> None:
    flat = X.copy()
    flat[:, 1] = 4
    (notice,) = reading(flat).notices
    assert "1 of 3 features are constant and say nothing (1)" in notice
    (notice,) = reading(RNG.normal(size=(60, 61))).notices
    assert "more features (61) than rows (60)" in notice
    assert reading(np.zeros((60, 1, 2, 2))).notices == ()


# Files.


def test_npy_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    raw = open_arrays(str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), AUTO)
    np.testing.assert_array_equal(raw.inputs.numpy(), X)
    np.testing.assert_array_equal(raw.targets, Y)
    np.save(tmp_path / "y.npy", Y[::-1])
    assert open_arrays(tmp_path / "x.npy", tmp_path / "y.npy", AUTO).digest != raw.digest
    with pytest.raises(InputError, match=r"x\.npy: one array, without targets"):
        open_arrays(str(tmp_path / "x.npy"), None, AUTO)
    with pytest.raises(InputError, match=r"gone\.npy: cannot be read"):
        open_arrays(str(tmp_path / "gone.npy"), Y, AUTO)


def test_a_large_npy_is_mapped(tmp_path: Path) -> None:
    large = RNG.normal(size=(60, 6000)).astype(np.float32)
    np.save(tmp_path / "x.npy", large)
    np.save(tmp_path / "y.npy", Y)
    raw = open_arrays(tmp_path / "x.npy", tmp_path / "y.npy", DataSettings(memory_budget=1))
    np.testing.assert_array_equal(raw.inputs.numpy(), large)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r+")
    mapped[5, 5] = 7
    assert raw.inputs[5, 5] == 7


@pytest.mark.parametrize(("x", "y"), [("x", "y"), ("X", "Y"), ("inputs", "targets"), ("features", "labels")])
def test_npz_files(tmp_path: Path, x: str, y: str) -> None:
    np.savez(tmp_path / "a.npz", **{x: X, y: Y})
    raw = open_arrays(str(tmp_path / "a.npz"), None, AUTO)
    np.testing.assert_array_equal(raw.inputs.numpy(), X)
    np.testing.assert_array_equal(raw.targets, Y)


def test_npz_with_parts_and_a_named_target(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=X, y_train=Y, x_test=X[:4], y_test=Y[:4])
    assert open_arrays(str(tmp_path / "a.npz"), None, AUTO).parts == {"train": 60, "test": 4}
    with pytest.raises(InputError, match="holds arrays for test"):
        open_arrays(str(tmp_path / "a.npz"), None, AUTO, test=(X, Y))
    np.savez(tmp_path / "b.npz", x=X, y=Y, other=1 - Y % 2)
    assert open_arrays(str(tmp_path / "b.npz"), "other", AUTO).classes == ("0", "1")
    with pytest.raises(
        InputError, match=r"no array 'othr' for the targets\. Did you mean 'other'\? It holds: x, y, other"
    ):
        open_arrays(str(tmp_path / "b.npz"), "othr", AUTO)
    np.savez(tmp_path / "c.npz", a=X, b=Y)
    with pytest.raises(InputError, match=r"c\.npz: needs an array of inputs .* It holds: a, b\. Rename them"):
        open_arrays(str(tmp_path / "c.npz"), None, AUTO)


class Bomb:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('code was run')",)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    bombs = np.array([Bomb(), Bomb()], dtype=object)
    np.save(tmp_path / "x.npy", bombs, allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=bombs, y=bombs)
    bombs.dump(tmp_path / "raw.npy")
    for name in ("x.npy", "x.npz", "raw.npy"):
        with pytest.raises(InputError, match=rf"{name}: holds pickled Python objects, .* never loaded\. Save plain"):
            open_arrays(str(tmp_path / name), None if name.endswith("z") else Y, AUTO)
    with pytest.raises(InputError, match="pickled"):
        read_inputs(tmp_path / "x.npy", memory_budget=1)


@pytest.mark.parametrize("budget", [1, 1 << 30])
def test_cut_and_foreign_files(tmp_path: Path, budget: int) -> None:
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", x=X, y=Y)
    for name in ("x.npy", "x.npz"):
        whole = (tmp_path / name).read_bytes()
        for cut in (0, 3, 50, len(whole) // 2, len(whole) - 1):
            (tmp_path / name).write_bytes(whole[:cut])
            with pytest.raises(InputError, match=f"{name}: (not a whole|cannot be read)"):
                read_inputs(tmp_path / name, budget)
    np.savez(tmp_path / "y.npz", x=X)
    np.save(tmp_path / "z.npy", X)
    (tmp_path / "y.npz").rename(tmp_path / "y.npy")
    (tmp_path / "z.npy").rename(tmp_path / "z.npz")
    for name, other in (("y.npy", "npz"), ("z.npz", "npy")):
        with pytest.raises(InputError, match=rf"{name}: .* Rename it to end in \.{other}"):
            read_inputs(tmp_path / name, budget)
    (tmp_path / "x.npy").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"x\.npy: not a whole"):
        read_inputs(tmp_path / "x.npy", budget)


def test_read_inputs_for_prediction(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    for given_rows in (
        X,
        torch.from_numpy(X),
        X.tolist(),
        (X, Y),
        tmp_path / "a.npz",
        TensorDataset(*map(torch.tensor, (X, Y))),
    ):
        np.testing.assert_array_equal(read_inputs(given_rows).numpy(), X)
    with pytest.raises(InputError, match="NaN"):
        read_inputs(put(np.nan))


# Data sets of PyTorch.


class Items(Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return self.items[index]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([])


def pairs(form: Callable[[Any], Any] = torch.from_numpy) -> list[Any]:
    return [(form(x), int(y)) for x, y in zip(X, Y, strict=True)]


@pytest.mark.parametrize("budget", [1, 1024])
def test_a_data_set_is_read_once(budget: int) -> None:
    items = Items([(torch.from_numpy(np.repeat(x[:, None], 2000, 1)), int(y)) for x, y in zip(X, Y, strict=True)])
    told: list[tuple[int, int]] = []
    raw = open_arrays(items, None, DataSettings(memory_budget=budget), progress=lambda *at: told.append(at))
    np.testing.assert_array_equal(raw.inputs[:, :, 7].numpy(), X)
    np.testing.assert_array_equal(raw.targets, Y)
    assert items.read == [0, *range(60)]
    assert told == [(60, 60)]


@pytest.mark.parametrize("form", [torch.from_numpy, np.asarray, list, lambda x: float(x[0]), lambda x: x[0]])
def test_forms_of_items(form: Callable[[Any], Any]) -> None:
    raw = open_arrays(Items(pairs(form)), None, AUTO)
    np.testing.assert_array_equal(raw.inputs.numpy(), X[:, : raw.inputs.shape[1]])


@pytest.mark.parametrize(
    "y", [lambda y: torch.tensor(y), lambda y: np.int64(y), lambda y: torch.tensor([y]), "abc".__getitem__]
)
def test_forms_of_item_targets(y: Callable[[int], Any]) -> None:
    raw = open_arrays(Items([(x, y(int(label))) for x, label in zip(X, Y, strict=True)]), None, AUTO)
    np.testing.assert_array_equal(raw.targets, Y)


def test_pillow_pictures_become_channels_first() -> None:
    colour = RNG.integers(0, 256, (60, 5, 6, 3), dtype=np.uint8)
    raw = open_arrays(Items([(Image.fromarray(c), int(y)) for c, y in zip(colour, Y, strict=True)]), None, AUTO)
    np.testing.assert_array_equal(raw.inputs.numpy(), colour.transpose(0, 3, 1, 2))
    grey = open_arrays(
        Items([(Image.fromarray(c[..., 0]), int(y)) for c, y in zip(colour, Y, strict=True)]), None, AUTO
    )
    np.testing.assert_array_equal(grey.inputs.numpy(), colour[:, None, :, :, 0])


def test_subsets_and_parts() -> None:
    whole = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    raw = open_arrays(Subset(whole, range(40)), None, AUTO, test=Subset(whole, range(40, 60)))
    assert raw.parts == {"train": 40, "test": 20}
    np.testing.assert_array_equal(raw.inputs.numpy(), X)


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ([(torch.zeros(3), 0), (torch.zeros(4), 1)], r"inputs of item 1 are float32 of shape \(4,\), those of item 0"),
        ([(torch.zeros(3), 0), (torch.zeros(3, dtype=torch.int64), 1)], "item 1 are int64"),
        ([(torch.zeros(3), 0), torch.zeros(3)], r"item 1 is a Tensor; every item must be a pair \(x, y\)"),
        ([(torch.zeros(3), 0, 5)], "item 0 is a tuple of 3"),
        ([(torch.zeros(3), 0), ("text", 1)], "inputs of item 1 are a str that is not numbers"),
        ([([1, [2, 3]], 0)], "inputs of item 0 are a list that is not numbers of one shape"),
        ([(torch.zeros(3), torch.zeros(2))], r"target of item 0 is a Tensor of shape \(2,\)"),
        ([(torch.zeros(3), None)], "target of item 0 is a NoneType"),
        ([], "the data set has no examples"),
    ],
)
def test_refused_items(items: list[Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        open_arrays(Items(items), None, AUTO)


def test_refused_data_sets() -> None:
    class Fails(Items):
        def __getitem__(self, index: int) -> Any:
            if index == 3:
                raise OSError("disk on fire")
            return super().__getitem__(index)

    with pytest.raises(InputError, match=r"item 3 cannot be read \(OSError: disk on fire\)"):
        open_arrays(Fails(pairs()), None, AUTO)
    with pytest.raises(InputError, match=r"a DataLoader\. Give the data set it reads: loader\.dataset"):
        open_arrays(DataLoader(Items(pairs())), None, AUTO)
    with pytest.raises(InputError, match="Stream has no length"):
        open_arrays(Stream(), None, AUTO)
    with pytest.raises(InputError, match="brings its targets"):
        open_arrays(Items(pairs()), Y, AUTO)


def test_a_full_disk_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(array_values.os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"no room for .* MiB of examples \(No space left on device\).*CAVIAR_CACHE"):
        open_arrays(RNG.normal(size=(60, 9000)).astype(np.float16), Y, DataSettings(memory_budget=1))
