"""Checks of the gradients: right, arriving at every parameter, and held by the optimiser."""

import copy
import math
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from caviar.diagnose.checks_setup import Outcome, failed, passed, skipped
from caviar.diagnose.checks_subject import Subject
from caviar.diagnose.quantities.fresh import looks_fresh
from caviar.nn.gradient_check import ParameterCheck, check_gradients
from caviar.nn.probe import first_tensor

EXAMPLES: Final = 4
EVALUATIONS: Final = 400
"""Forward passes that the gradient check may take, about."""
SMALLEST: Final = 1e-4
"""Gradients smaller than this share of the largest are not judged: kinks and rounding are of their size."""
NAMES: Final = 5
"""A sentence lists at most so many layers."""
STEEP: Final = 1e4
"""Gradients at the first and the last layer this many times apart vanish, or explode, on their way."""


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
    loss = copy.deepcopy(setup.loss).double() if isinstance(setup.loss, nn.Module) else setup.loss
    pair, training = (batch.inputs, batch.targets), len(batch) > 1
    report = check_gradients(setup.fresh(), pair, loss, samples=samples, seed=setup.seed, training=training)
    worst, largest = report.worst, max(map(_size, report.parameters))
    numbers = {
        "worst_parameter": worst.name,
        "relative_error": worst.relative_error,
        "analytic": worst.worst.analytic,
        "numeric": worst.worst.numeric,
        "entries": sum(each.num_checked for each in report.parameters),
        "kinks": sum(each.num_kinks for each in report.parameters),
    }
    wrong = [each.name for each in report.parameters if each.verdict == "wrong" and _size(each) > SMALLEST * largest]
    if wrong:
        return failed(
            f"the gradient of {some(wrong)} is wrong: {worst.worst.analytic:.4g} from backward, "
            f"{worst.worst.numeric:.4g} by centred differences.",
            "Look for a backward of your own that does not belong to its forward, and for detach, .data, item or "
            "in-place changes on the way from there to the loss.",
            **numbers,
        )
    return passed(f"{numbers['entries']} entries agree; largest relative error {worst.relative_error:.1e}.", **numbers)


def _size(parameter: ParameterCheck) -> float:
    return max(abs(parameter.worst.analytic), abs(parameter.worst.numeric))


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
            f"no gradient arrives at {some(without)}: unused, or cut off by detach, no_grad, .data or item.",
            "Use the layer, take the cut out, or remove the parameter (set requires_grad to False if it is meant).",
            **numbers,
        )
    return passed(f"a gradient arrives at each of {len(gradients)} parameters.", **numbers)


def check_frozen(subject: Subject) -> Outcome:
    """Look for frozen weights that have not learned anything yet."""
    frozen = [(name, each) for name, each in subject.setup.model.named_parameters() if not each.requires_grad]
    if not frozen:
        return passed("nothing is frozen.", frozen=[], fresh=[])
    fresh = [name for name, each in frozen if looks_fresh(each.detach())]
    numbers = {"frozen": [name for name, _ in frozen], "fresh": fresh}
    if fresh:
        return failed(
            f"frozen, though its weights look freshly drawn: {some(fresh)}.",
            "Set requires_grad to True, or load trained weights before freezing.",
            **numbers,
        )
    return passed(f"{len(frozen)} frozen parameters hold learned weights: {some(numbers['frozen'])}.", **numbers)


class Depth(NamedTuple):
    """Norms of the loss's gradient with respect to the outputs of the first and the last layer with weights."""

    first: str
    last: str
    first_norm: float
    last_norm: float

    def __str__(self) -> str:
        return f"{self.first_norm:.1e} at {self.first}, {self.last_norm:.1e} at {self.last}"


def gradient_depth(subject: Subject) -> Depth | None:
    """Follow the gradient back through the layers; None where there are fewer than three."""
    model = subject.setup.fresh(training=subject.trains, dropout=False)
    signals: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def leave(module: nn.Module, arguments: Any, output: Any) -> None:  # noqa: ARG001
            found = first_tensor(output)
            if found is not None and found.requires_grad:
                signals.setdefault(name, found)

        return leave

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | _ConvNd | nn.RNNBase):
            module.register_forward_hook(hook(name))
    loss = subject.setup.loss(model(subject.batch.inputs.clone()), subject.batch.targets)
    if len(signals) < 3 or not loss.requires_grad:
        return None
    gradients = torch.autograd.grad(loss, list(signals.values()), allow_unused=True)
    norms = {name: 0.0 if g is None else float(g.norm()) for name, g in zip(signals, gradients, strict=True)}
    present = {name: norm for name, norm in norms.items() if math.isfinite(norm) and norm > 0}
    if len(present) < 3:
        return None
    first, last = next(iter(present)), list(present)[-1]
    return Depth(first, last, present[first], present[last])


def check_vanishing(subject: Subject) -> Outcome:
    """Look whether gradients fade on the way from the last layer to the first."""
    depth = subject.once(gradient_depth)
    if depth is None:
        return skipped("there are fewer than three layers with weights that a gradient reaches.")
    if depth.first_norm < depth.last_norm / STEEP:
        return failed(
            f"gradients vanish with depth: {depth}.",
            "Use relu (or another activation that does not saturate) with He's initial weights, batch or layer norm, "
            "or residual connections.",
            **depth._asdict(),
        )
    return passed(f"{depth}.", **depth._asdict())


def check_exploding(subject: Subject) -> Outcome:
    """Look whether gradients grow on the way from the last layer to the first."""
    depth = subject.once(gradient_depth)
    if depth is None:
        return skipped("there are fewer than three layers with weights that a gradient reaches.")
    if depth.first_norm > depth.last_norm * STEEP:
        return failed(
            f"gradients explode with depth: {depth}.",
            "Draw the weights smaller (He for relu, Xavier for tanh), normalise between layers, or clip the gradient.",
            **depth._asdict(),
        )
    return passed(f"{depth}.", **depth._asdict())


def some(names: Any) -> str:
    """Return names as a short list."""
    listed = list(names)
    rest = f" and {len(listed) - NAMES} more" if len(listed) > NAMES else ""
    return ", ".join(listed[:NAMES]) + rest
