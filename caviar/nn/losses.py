"""What training minimises, as functions of (outputs, targets).

Every loss takes the plain form, outputs (batch, ...) and targets (batch,), and the members form, outputs
(members, batch, ...) with targets (batch,) common to all or (members, batch). Its hyperparameters are numbers, or
[members]. It gives one number an example (reduction "none") or the mean over the batch, one number for each member.
`example_weights`, (batch,) or (members, batch), make the mean sum(w * loss) / sum(w); where all weights are 0 it is 0.
Outputs in half precision are widened first: sums of exponentials and squares need the digits.

Shapes, numbers out of range, an empty batch (for a mean) and labels that are no class are an InputError. Tensors of
hyperparameters are not looked at: reading them would make the device wait.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional

from caviar.core.errors import InputError
from caviar.core.members import cast_over_members, check_range

Reduction = Literal["mean", "none"]


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float | Tensor = 0.0,
    class_weights: Tensor | None = None,
    example_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Softmax cross entropy -sum_c v_c q_c log softmax(logits)_c, in nats: the usual loss for classes.

    logits ([members,] batch, classes). targets: class numbers, then q is 1 - s at the label plus s / classes
    everywhere, where s = label_smoothing, 0 to below 1 (Szegedy et al. 2016); or soft labels in floating point,
    ([members,] batch, classes), as mixup and CutMix make them, then q is (1 - s) targets + s / classes. v =
    class_weights (classes,), 1 where absent; with class numbers the mean over the batch is then divided by the sum of
    the labels' weights, as torch does.
    """
    logits = _at_least_float32(logits)
    soft = targets.is_floating_point()
    _check_classes(logits, targets, class_weights, soft=soft)
    if not isinstance(label_smoothing, Tensor) and not 0 <= label_smoothing < 1:
        check_range("label_smoothing", label_smoothing, least=0.0, below=1.0)
    weight = None if class_weights is None else class_weights.to(logits)
    try:
        if example_weights is None and logits.dim() == 2 and not isinstance(label_smoothing, Tensor) and len(logits):
            return functional.cross_entropy(
                logits, targets, weight=weight, label_smoothing=label_smoothing, reduction=reduction
            )
        logs = functional.log_softmax(logits, dim=-1)
        logs, spread = (logs, logs.mean(dim=-1)) if weight is None else (logs * weight, (logs * weight).mean(dim=-1))
        counted = None
        if soft:
            picked = (logs * targets.to(logs)).sum(dim=-1)
        else:
            labels = targets.long().expand(logits.shape[:-1])
            picked = logs.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
            counted = None if weight is None else weight[labels]
    except (IndexError, RuntimeError) as error:
        raise _explained(error, targets, logits) from error
    smoothing = cast_over_members(label_smoothing, picked)
    return _reduced(-((1.0 - smoothing) * picked + smoothing * spread), example_weights, counted, reduction)


def hinge(
    logits: Tensor,
    targets: Tensor,
    *,
    margin: float | Tensor = 1.0,
    class_weights: Tensor | None = None,
    example_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Multiclass support vector loss, sum over c != y of max(0, margin + z_c - z_y) (Weston and Watkins, 1999).

    logits z ([members,] batch, classes), targets y class numbers, margin > 0 (1 is usual: the scale of the scores is
    free). Only scores are learned, no probabilities; once every margin is kept the loss is 0 and learning stops.
    torch's multi_margin_loss is this divided by the number of classes. class_weights (classes,) multiply each example
    by the weight of its class. When: only the order of the classes matters, as in support vector machines.
    """
    logits = _at_least_float32(logits)
    _check_classes(logits, targets, class_weights)
    if not isinstance(margin, Tensor) and not 0 < margin < inf:
        check_range("margin", margin, above=0.0)
    labels = targets.long().expand(logits.shape[:-1]).unsqueeze(-1)
    try:
        excess = torch.clamp_min(cast_over_members(margin, logits) + logits - logits.gather(-1, labels), 0.0)
    except RuntimeError as error:
        raise _explained(error, targets, logits) from error
    return _class_reduced(
        excess.scatter(-1, labels, 0.0).sum(dim=-1), labels, class_weights, example_weights, reduction
    )


def logistic(
    logits: Tensor,
    targets: Tensor,
    *,
    class_weights: Tensor | None = None,
    example_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Logistic loss, one sigmoid for each class against the rest: sum_c log(1 + exp(-t_c z_c)), t_y = 1, else -1.

    logits z ([members,] batch, classes), targets y class numbers. With a single output, logits ([members,] batch, 1) or
    (batch,), targets are 0 or 1 and it is the binary logistic loss (logistic regression). Probabilities are
    sigmoid(z_c), each on its own; `class_log_probabilities` divides them by their sum to choose one class.
    When: two classes, or classes of which several may hold; class_weights (classes,) as for `cross_entropy`.
    """
    logits = _at_least_float32(logits)
    logits = logits.unsqueeze(-1) if logits.dim() == 1 else logits
    _check_classes(logits, targets, class_weights)
    labels = targets.long().expand(logits.shape[:-1]).unsqueeze(-1)
    if logits.shape[-1] == 1:
        signed = torch.where(labels > 0, -logits, logits)
        labels = labels.clamp(0, 1)
    else:  # the sign is turned before anything is added: a sum with the label's large logit would lose the others
        try:
            signed = logits.scatter(-1, labels, -logits.gather(-1, labels))
        except RuntimeError as error:
            raise _explained(error, targets, logits) from error
    values = functional.softplus(signed).sum(dim=-1)
    return _class_reduced(values, labels, class_weights, example_weights, reduction)


def mean_squared_error(
    outputs: Tensor, targets: Tensor, *, example_weights: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """(outputs - targets)^2: the usual loss for numbers; large errors count most, so outliers pull hard.

    outputs (batch,) or (batch, 1), members (members, batch, 1); targets (batch,) or (members, batch).
    """
    outputs = _at_least_float32(outputs)
    plain = outputs.dim() < 3 and targets.dim() == 1 and outputs.numel() == targets.numel() > 0
    if example_weights is None and plain:
        return functional.mse_loss(outputs.reshape(targets.shape), targets, reduction=reduction)
    return _reduced(_errors(outputs, targets).square(), example_weights, None, reduction)


def huber(
    outputs: Tensor,
    targets: Tensor,
    *,
    delta: float | Tensor = 1.0,
    example_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Huber's loss (1964): e^2 / 2 for |e| <= delta, delta (|e| - delta / 2) beyond, where e = outputs - targets.

    Quadratic for small errors, linear for large ones, so that outliers pull with a bounded force. delta > 0 stands in
    units of the (standardised) targets. Shapes as for `mean_squared_error`. When: some targets are far off or wrong.
    """
    if not isinstance(delta, Tensor) and not 0 < delta < inf:
        check_range("delta", delta, above=0.0)
    size = _errors(_at_least_float32(outputs), targets).abs()
    limit = cast_over_members(delta, size)
    inner = torch.minimum(size, limit) if isinstance(limit, Tensor) else size.clamp_max(limit)
    return _reduced(inner * (size - 0.5 * inner), example_weights, None, reduction)


def class_log_probabilities(logits: Tensor, loss: str = "cross_entropy") -> Tensor:
    """Return log probabilities of the classes (last axis), as the loss that trained the network reads its outputs.

    cross_entropy: log softmax. logistic: log of sigmoid(z_c) / sum_k sigmoid(z_k). hinge: log softmax too, but its
    outputs are scores, so that these are an order of the classes, not frequencies to rely on.
    """
    return functional.log_softmax(class_scores(logits, loss), dim=-1)


def class_scores(logits: Tensor, loss: str = "cross_entropy") -> Tensor:
    """Return the numbers whose softmax (last axis) are the classes' probabilities: see `class_log_probabilities`."""
    logits = _at_least_float32(logits)
    return functional.logsigmoid(logits) if loss == "logistic" else logits


def balanced_class_weights(counts: Sequence[int] | Tensor) -> Tensor:
    """Return weights inversely proportional to the classes' counts: total / (classes * count), scikit-learn's rule.

    A class without examples gets weight 0. Over the counted examples the weights' mean is 1.
    """
    numbers = torch.as_tensor(counts).double()
    if numbers.dim() != 1 or not numbers.numel() or not bool((numbers >= 0).all()) or not bool(numbers.sum() > 0):
        raise InputError(f"counts is {numbers.tolist()}; give how many examples each class has, at least one in all.")
    present = numbers > 0
    weights = torch.where(present, numbers.sum() / (present.sum() * numbers.clamp_min(1)), 0.0)
    return weights.float()


def _check_classes(logits: Tensor, targets: Tensor, class_weights: Tensor | None, *, soft: bool = False) -> None:
    """Refuse shapes and types that do not fit; nothing is read from the device."""
    rows, given = logits.shape[:-1], targets.shape[:-1] if soft else targets.shape
    fits = logits.dim() in (2, 3) and given in (rows, rows[-1:])
    if not fits or (soft and targets.shape[-1:] != logits.shape[-1:]):
        wanted = "(batch, classes) or (members, batch, classes)" if soft else "(batch,), or (members, batch)"
        raise InputError(
            f"logits of shape {tuple(logits.shape)} and targets of shape {tuple(targets.shape)} do not fit. Expected "
            f"logits (batch, classes) or (members, batch, classes) with targets {wanted}."
        )
    if targets.is_floating_point() and not soft and logits.shape[-1] > 1:
        raise InputError(f"targets hold {targets.dtype}; class numbers must be whole: give targets.long().")
    if class_weights is not None and class_weights.shape not in (logits.shape[-1:], (2,) * (logits.shape[-1] == 1)):
        raise InputError(
            f"class_weights has shape {tuple(class_weights.shape)}; give one weight for each of the "
            f"{logits.shape[-1]} classes."
        )


def _explained(error: Exception, targets: Tensor, logits: Tensor) -> Exception:
    """Return what to say of labels that are no class, or else the error as it came."""
    classes = logits.shape[-1]
    if targets.is_floating_point() or targets.device.type != "cpu" or not targets.numel():
        return error
    low, high = int(targets.min()), int(targets.max())
    if low >= 0 and high < classes:
        return error
    return InputError(f"targets go from {low} to {high}, but with {classes} classes they must be 0 to {classes - 1}.")


def _errors(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.shape == (*targets.shape, 1) or (outputs.dim() == 3 and outputs.shape[1:] == (*targets.shape, 1)):
        outputs = outputs.squeeze(-1)
    elif outputs.shape != targets.shape:
        raise InputError(
            f"outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)} do not fit. Expected "
            "outputs (batch, 1) or (batch,) with targets (batch,), or outputs (members, batch, 1) with targets "
            "(batch,) or (members, batch)."
        )
    return outputs - targets


def _class_reduced(
    values: Tensor, labels: Tensor, class_weights: Tensor | None, example_weights: Tensor | None, reduction: Reduction
) -> Tensor:
    if class_weights is None:
        return _reduced(values, example_weights, None, reduction)
    weights = class_weights.to(values)[labels.squeeze(-1)]
    return _reduced(values * weights, example_weights, weights, reduction)


def _reduced(values: Tensor, example_weights: Tensor | None, counted: Tensor | None, reduction: Reduction) -> Tensor:
    """Return the values, weighted, or their mean over the batch axis: their sum over the sum of all weights.

    counted: weights that stand in `values` already and shall count in the sum of weights (class weights).
    """
    if reduction == "mean" and not values.shape[-1]:
        raise InputError("the batch is empty, so its loss has no mean. Give at least one example.")
    if example_weights is not None:
        if example_weights.shape not in (values.shape, values.shape[-1:]):
            raise InputError(
                f"example_weights has shape {tuple(example_weights.shape)}; give one weight an example, of shape "
                f"{tuple(values.shape[-1:])} or {tuple(values.shape)}."
            )
        weights = example_weights.to(values)
        values = values * weights
        counted = weights.expand(values.shape) if counted is None else counted * weights
    if reduction == "none":
        return values
    if counted is None:
        return values.mean(dim=-1)
    total = counted.sum(dim=-1)
    return values.sum(dim=-1) / torch.where(total > 0, total, 1.0)


def _at_least_float32(outputs: Tensor) -> Tensor:
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs


LOSSES: Final[dict[str, Callable[..., Tensor]]] = {
    "cross_entropy": cross_entropy,
    "hinge": hinge,
    "logistic": logistic,
    "mean_squared_error": mean_squared_error,
    "huber": huber,
}
"""The losses by their names in recipes."""
