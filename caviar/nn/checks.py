"""Is this module, built by somebody else, one that the task can train?"""

from typing import Any

from torch import Tensor, nn

from caviar.core.columns import Task
from caviar.core.errors import InputError
from caviar.nn.probe import probe


def check_outputs(model: nn.Module, example_batch: Tensor, task: Task, num_classes: int | None = None) -> None:
    """Refuse a model whose output does not have the shape that the task needs; the model is left as it was.

    Classification needs one logit a class, (batch, num_classes); regression one number a row, (batch,) or (batch, 1).
    Raises InputError that names the shape received, the shape expected and the remedy.
    """
    output, _ = probe(model, example_batch)
    batch = len(example_batch)
    expected = f"({batch}, {num_classes})" if task == "classification" else f"({batch},) or ({batch}, 1)"
    got, remedy = _fault(output, batch, num_classes if task == "classification" else None)
    if remedy:
        raise InputError(
            f"{type(model).__name__} turned a batch of shape {tuple(example_batch.shape)} into {got}, but this {task} "
            f"task needs {expected}. {remedy}"
        )


def _fault(output: Any, batch: int, num_classes: int | None) -> tuple[str, str]:
    if not isinstance(output, Tensor):
        return f"a {type(output).__name__}", "Let its forward return one tensor only."
    got, shape = f"shape {tuple(output.shape)}", tuple(output.shape)
    if not output.is_floating_point():
        return f"numbers of type {output.dtype}", "Let its forward return scores, not the chosen class."
    if not shape or shape[0] != batch:
        return got, "Keep the batch as the first axis, one output row for each input row."
    return got, _regression_remedy(shape) if num_classes is None else _class_remedy(shape, num_classes)


def _regression_remedy(shape: tuple[int, ...]) -> str:
    return "" if len(shape) == 1 or shape[1:] == (1,) else "Give its last layer a single output."


def _class_remedy(shape: tuple[int, ...], num_classes: int) -> str:
    if shape[1:] == (num_classes,):
        return ""
    if shape[1:] in ((), (1,)) and num_classes == 2:
        return "Two classes need two logits here: give its last layer 2 outputs instead of one, without a sigmoid."
    if len(shape) > 2:
        return "Flatten or pool the axes after the batch before its last layer."
    return f"Give its last layer {num_classes} outputs, one for each class, without a softmax."
