"""Arrays, tensors and PyTorch data sets as examples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from caviar.core.errors import InputError
from caviar.core.examples import SPLITS, SplitName
from caviar.data.array_sources import Pair, is_dataset, load_npy, load_npz, read_dataset
from caviar.data.array_targets import Targets, as_targets, encode_targets
from caviar.data.array_values import MEBIBYTE, as_inputs, as_tensor, check_values, digest_tensor, join_parts
from caviar.data.digests import combined_digest, content_digest
from caviar.data.raw import RawData
from caviar.data.settings import DataSettings

Progress = Callable[[int, int], None]


def open_arrays(
    inputs: Any,
    targets: Any,
    settings: DataSettings,
    dev: Any = None,
    test: Any = None,
    progress: Progress | None = None,
) -> RawData:
    """Check arrays and bring them to one tensor of inputs (rows, ...) and one array of targets.

    Args:
        inputs: a NumPy array, a tensor, lists, a map-style `torch.utils.data.Dataset` of (x, y), a pair (inputs,
            targets) with `targets` None, or the path of a .npy or .npz file. The meaning of the axes after the first is
            the caller's; images for a PyTorch network are (rows, channels, height, width).
        targets: one target a row: array, tensor, list, series, the path of a .npy file, or an array's name in the .npz.
        settings: task, memory_budget.
        dev, test: further examples: pairs, data sets or files; their rows follow those of train.
        progress: is told (examples read, examples in all) while a data set is read.

    float64 stays float64 (`caviar.data.array_values.as_inputs` has the rule for every type). The task follows from the
    targets as `caviar.data.array_targets.encode_targets` says, unless `settings.task` says it.

    Raises:
        InputError: names the part, index and value that cannot be used.
    """
    budget = settings.memory_budget * MEBIBYTE
    pairs = _parts(inputs, targets, {"dev": dev, "test": test}, budget, progress)
    tensors: list[Tensor] = []
    labels: list[NDArray[Any]] = []
    notices: list[str] = []
    for pair in pairs.values():
        tensor = as_inputs(pair.inputs, pair.inputs_name, budget)
        label = as_targets(pair.targets, pair.targets_name)
        _check_lengths(tensor, label, pair)
        found = check_values(tensor, pair.inputs_name)
        notices += found if not tensors else []
        tensors.append(tensor)
        labels.append(label)
    _check_shapes(tensors, list(pairs.values()))
    encoded = encode_targets(labels, [pair.targets_name for pair in pairs.values()], settings.task)
    stored = join_parts(tensors, budget)
    return RawData(
        kind="arrays",
        inputs=stored,
        targets=encoded.values,
        task=encoded.task,
        parts={part: len(label) for part, label in zip(pairs, labels, strict=True)},
        digest=_digest((inputs, targets, dev, test), stored, encoded),
        classes=encoded.classes,
        notices=tuple(notices),
    )


def read_inputs(rows: Any, memory_budget: int = 1024 * MEBIBYTE) -> Tensor:
    """Return checked inputs without targets, for prediction: an array, a tensor, lists, or a .npy or .npz file.

    A pair (inputs, targets) and a data set of (x, y) give their inputs.
    """
    where = str(rows) if isinstance(rows, str | Path) else "inputs"
    if isinstance(rows, str | Path):
        path = Path(rows)
        rows = load_npz(path, None)["train"].inputs if path.suffix.lower() == ".npz" else load_npy(path, memory_budget)
    elif is_dataset(rows):
        rows = read_dataset(rows, where, memory_budget).inputs
    elif _is_pair(rows):
        rows = rows[0]
    tensor = as_inputs(rows, where, memory_budget)
    check_values(tensor, where)
    return tensor


def read_examples(data: Any, targets: Any = None, memory_budget: int = 1024 * MEBIBYTE) -> tuple[Tensor, NDArray[Any]]:
    """Return checked inputs and their targets, for evaluation: forms as in `open_arrays`.

    Of an .npz file with parts of its own (x_test, y_test) it is the test part, or the only one there is.
    """
    parts = _open(data, targets, "", memory_budget, None)
    pair = parts.get("test") or parts["train"]
    inputs = as_inputs(pair.inputs, pair.inputs_name, memory_budget)
    labels = as_targets(pair.targets, pair.targets_name)
    _check_lengths(inputs, labels, pair)
    check_values(inputs, pair.inputs_name)
    return inputs, labels


def _parts(
    inputs: Any, targets: Any, others: dict[SplitName, Any], budget: int, progress: Progress | None
) -> dict[SplitName, Pair]:
    found = _open(inputs, targets, "", budget, progress)
    for part, given in others.items():
        if given is None:
            continue
        if part in found:
            raise InputError(f"{inputs}: holds arrays for {part}, and data.{part} names others. Keep one of them.")
        where = str(given) if isinstance(given, str | Path) else part
        found[part] = _open(given, None, where, budget, progress)["train"]
    return {part: found[part] for part in SPLITS if part in found}


def _open(data: Any, targets: Any, where: str, budget: int, progress: Progress | None) -> dict[SplitName, Pair]:
    if isinstance(data, str | Path):
        return _open_file(Path(data), targets, budget)
    if is_dataset(data):
        if targets is not None:
            raise InputError(f"{where or 'inputs'}: a data set of (x, y) brings its targets; leave the target out.")
        return {"train": read_dataset(data, where or "data set", budget, progress)}
    if targets is None:
        if not _is_pair(data):
            raise InputError(
                f"{where or 'inputs'}: no targets were given for a {type(data).__name__}. Give the target, or a pair "
                "(inputs, targets)."
            )
        data, targets = data
    if isinstance(targets, str) and not targets.lower().endswith(".npy"):
        raise InputError(
            f"target {targets!r} names a column, but arrays have no column names. "
            "Give the targets themselves as an array."
        )
    if isinstance(targets, str | Path):
        targets = load_npy(Path(targets), budget)
    return {"train": Pair(data, targets, where)}


def _open_file(path: Path, targets: Any, budget: int) -> dict[SplitName, Pair]:
    if path.suffix.lower() == ".npz":
        if targets is not None and not isinstance(targets, str):
            raise InputError(f"{path}: holds its own targets; leave the target out, or name the array that holds them.")
        pairs = load_npz(path, targets)
        return {part: pairs[part] for part in SPLITS if part in pairs}
    if path.suffix.lower() != ".npy":
        raise InputError(f"{path}: not a file of arrays. Give a .npy or .npz file.")
    if targets is None:
        raise InputError(
            f"{path}: one array, without targets. Name the .npy file of the targets as target, or save both into one "
            ".npz file as x and y."
        )
    loaded = load_npy(Path(targets), budget) if isinstance(targets, str | Path) else targets
    return {"train": Pair(load_npy(path, budget), loaded, str(path))}


def _is_pair(data: Any) -> bool:
    return isinstance(data, tuple) and len(data) == 2


def _check_lengths(inputs: Tensor, targets: NDArray[Any], pair: Pair) -> None:
    if len(inputs) != len(targets):
        raise InputError(
            f"{pair.inputs_name}: {len(inputs):,} rows of inputs but {len(targets):,} targets. "
            "Give one target for each row."
        )


def _check_shapes(tensors: list[Tensor], pairs: list[Pair]) -> None:
    for tensor, pair in zip(tensors, pairs, strict=True):
        if tensor.shape[1:] != tensors[0].shape[1:]:
            raise InputError(
                f"{pair.inputs_name}: of shape {tuple(tensor.shape)}, but the training inputs are of shape "
                f"{tuple(tensors[0].shape)}. All axes after the first must agree."
            )


def _digest(sources: tuple[Any, ...], inputs: Tensor, targets: Targets) -> str:
    """The digest of the content; large files are known by theirs, which is remembered from run to run."""
    given = [source for source in sources if source is not None]
    files = [Path(source) for source in given if isinstance(source, str | Path) and Path(source).is_file()]
    names = [source for source in given if isinstance(source, str) and not Path(source).is_file()]
    if files and len(files) + len(names) == len(given):
        return combined_digest([*map(content_digest, files), *names])
    numbers = digest_tensor(as_tensor(np.ascontiguousarray(targets.values)))
    return combined_digest([digest_tensor(inputs), numbers, *targets.classes])
