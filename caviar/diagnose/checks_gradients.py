"""Checks of the gradients: right, arriving at every parameter, and held by the optimiser."""

import math
from typing import Any, Final

import torch
from torch import Tensor, nn

from caviar.diagnose.checks_setup import Outcome, failed, passed, skipped
from caviar.diagnose.checks_subject import Subject, gradients_of
from caviar.nn.gradient_check import check_gradients
from caviar.nn.probe import first_tensor

EXAMPLES: Final = 4
EVALUATIONS: Final = 400
"""Forward passes that the gradient check may take, about."""
NAMES: Final = 5
"""A sentence lists at most so many layers."""
STEEP: Final = 1e4
"""Gradients of the second and the last weights this many times apart vanish, or explode, on their way."""
FRESH_ROWS: Final = 8
"""A weight of fewer rows or columns is too small to be called fresh or learned."""
FRESH_SPREAD: Final = 3.0
"""Random weights keep within so many times the spread that chance gives them."""


def check_numeric(subject: Subject) -> Outcome:
    """Compare the gradients with centred differences in float64."""
    setup = subject.setup
    batch = subject.batch.take(slice(EXAMPLES))
    trainable = sum(each.requires_grad for each in setup.model.parameters())
    if trainable == 0:
        return skipped("the model has no trainable parameter.")
    if narrow := _not_double(subject):
        return skipped(f"{narrow} computes in less than float64, which hides the differences.")
    samples = max(1, min(10, EVALUATIONS // (2 * trainable)))
    pair, training = (batch.inputs, batch.targets), len(batch) > 1
    report = check_gradients(setup.fresh(), pair, setup.loss, samples=samples, seed=setup.seed, training=training)
    worst = report.worst
    numbers = {
        "worst_parameter": worst.name,
        "relative_error": worst.relative_error,
        "analytic": worst.worst.analytic,
        "numeric": worst.worst.numeric,
        "entries": sum(each.num_checked for each in report.parameters),
        "kinks": sum(each.num_kinks for each in report.parameters),
    }
    if worst.verdict == "wrong":
        wrong = [each.name for each in report.parameters if each.verdict == "wrong"]
        return failed(
            f"the gradient of {_some(wrong)} is wrong: {worst.worst.analytic:.4g} from backward, "
            f"{worst.worst.numeric:.4g} by centred differences.",
            "Look for a backward of your own that does not belong to its forward, and for detach, .data, item or "
            "in-place changes on the way from there to the loss.",
            **numbers,
        )
    return passed(f"{numbers['entries']} entries agree; largest relative error {worst.relative_error:.1e}.", **numbers)


def _not_double(subject: Subject) -> str:
    """Return the first layer whose output is not float64 in a float64 copy of the model, or ""."""
    model = subject.setup.fresh(training=subject.trains).double()
    found: list[str] = []

    def hook(name: str) -> Any:
        def leave(module: nn.Module, arguments: Any, output: Any) -> None:  # noqa: ARG001
            values = first_tensor(output)
            if values is not None and values.is_floating_point() and values.dtype != torch.float64:
                found.append(name or "the model")

        return leave

    for name, module in model.named_modules():
        module.register_forward_hook(hook(name))
    inputs = subject.batch.inputs[:EXAMPLES]
    try:
        with torch.no_grad():
            model(inputs.double() if inputs.is_floating_point() else inputs)
    except RuntimeError:
        return found[0] if found else "the model"
    return found[0] if found else ""


def check_arrival(subject: Subject) -> Outcome:
    """Look whether every trainable parameter receives a gradient."""
    gradients = subject.gradients
    if not gradients:
        return failed(
            "the model has no trainable parameter.",
            "Set requires_grad on what shall be trained.",
            parameters=0,
            without=[],
        )
    without = [name for name, gradient in gradients.items() if gradient is None]
    numbers = {"parameters": len(gradients), "without": without}
    if without:
        return failed(
            f"no gradient arrives at {_some(without)}: unused, or cut off by detach, no_grad, .data or item.",
            "Use the layer, take the cut out, or remove the parameter (set requires_grad to False if it is meant).",
            **numbers,
        )
    return passed(f"a gradient arrives at each of {len(gradients)} parameters.", **numbers)


def check_frozen(subject: Subject) -> Outcome:
    """Look for frozen weights that have not learned anything yet."""
    frozen = [(name, each) for name, each in subject.setup.model.named_parameters() if not each.requires_grad]
    if not frozen:
        return passed("nothing is frozen.", frozen=[], fresh=[])
    fresh = [name for name, each in frozen if _is_fresh(each.detach())]
    numbers = {"frozen": [name for name, _ in frozen], "fresh": fresh}
    if fresh:
        return failed(
            f"frozen, though its weights look freshly drawn: {_some(fresh)}.",
            "Set requires_grad to True, or load trained weights before freezing.",
            **numbers,
        )
    return passed(f"{len(frozen)} frozen parameters hold learned weights: {_some(numbers['frozen'])}.", **numbers)


def _is_fresh(weight: Tensor) -> bool:
    """Whether a weight looks drawn at random, all units alike: training makes some units much larger than others.

    The lengths of n units drawn with k weights each spread by about 1 / sqrt(2 k) of their mean.
    """
    if weight.dim() < 2 or len(weight) < FRESH_ROWS or weight[0].numel() < FRESH_ROWS:
        return False
    rows = weight.double().flatten(1)
    lengths = rows.norm(dim=1)
    if float(lengths.mean()) == 0.0:
        return True
    spread = float(lengths.std() / lengths.mean())
    kurtosis = float(((rows - rows.mean()) ** 4).mean() / rows.var(correction=0).clamp_min(1e-300) ** 2)
    random = spread < FRESH_SPREAD / math.sqrt(2 * rows.shape[1]) and kurtosis < 3.5
    aligned = float(rows.mean(0).norm() / lengths.mean())
    return random and aligned < FRESH_SPREAD / math.sqrt(len(rows))


def check_held(subject: Subject) -> Outcome:
    """Look whether the optimiser holds the model's parameters, all of them and no others."""
    held = subject.setup.held
    if held is None:
        return skipped("no optimizer was given.")
    numbers = {"absent": list(held.absent), "foreign": held.foreign}
    if held.absent or held.foreign:
        words = [f"lacks {_some(held.absent)}"] if held.absent else []
        words += [f"holds {held.foreign} tensors that are not the model's"] if held.foreign else []
        return failed(
            f"the optimizer {' and '.join(words)}.",
            "Build the optimizer after the model has its last layers, device and type: "
            "torch.optim.AdamW(model.parameters(), ...).",
            **numbers,
        )
    return passed("the optimizer holds every trainable parameter of the model, and no others.", **numbers)


def check_depth(subject: Subject) -> Outcome:
    """Look whether gradients keep their size on the way from the last layer to the first."""
    model = subject.setup.fresh(training=subject.trains, dropout=False)
    weights = {name for name, each in model.named_parameters() if each.dim() >= 2 and each.requires_grad}
    sizes = {
        name: float(gradient.norm())
        for name, gradient in gradients_of(model, subject.setup, subject.batch).items()
        if gradient is not None and name in weights
    }
    present = {name: size for name, size in sizes.items() if math.isfinite(size) and size > 0}
    if len(present) < 3:
        return skipped("there are fewer than three weights that receive a gradient.", norms=sizes)
    first, last = list(present)[1], list(present)[-1]  # the very first one's size is that of the inputs as well
    ratio = present[first] / present[last]
    numbers = {"first": first, "last": last, "first_over_last": ratio, "norms": sizes}
    words = f"{present[first]:.1e} at {first}, {present[last]:.1e} at {last}"
    if ratio < 1 / STEEP:
        return failed(
            f"gradients vanish with depth: {words}.",
            "Use relu (or another activation that does not saturate) with He's initial weights, batch or layer norm, "
            "or residual connections.",
            **numbers,
        )
    if ratio > STEEP:
        return failed(
            f"gradients explode with depth: {words}.",
            "Draw the weights smaller (He for relu, Xavier for tanh), normalise between layers, or clip the gradient.",
            **numbers,
        )
    return passed(f"norms {words}.", **numbers)


def _some(names: Any) -> str:
    """Return names as a short list."""
    listed = list(names)
    rest = f" and {len(listed) - NAMES} more" if len(listed) > NAMES else ""
    return ", ".join(listed[:NAMES]) + rest
