"""Are the gradients right? Autograd against centred differences, in float64, on a sample of every parameter."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import Tensor, nn

from caviar.core.errors import InputError

Verdict = Literal["fine", "kink", "suspicious", "wrong"]
FINE: Final = 1e-7
WRONG: Final = 1e-2
STEP: Final = 1e-5
ORDER: Final[tuple[Verdict, ...]] = ("fine", "kink", "suspicious", "wrong")
READING: Final[dict[Verdict, str]] = {
    "fine": "relative error below 1e-7, or a difference too small to tell from rounding",
    "kink": "the loss bends within the step (relu at 0, max of equals): a smaller step agrees, or the slopes left and "
    "right stay apart and there is no gradient to compare with",
    "suspicious": "relative error from 1e-7 to 1e-2: look at this layer, above 1e-4 closely",
    "wrong": "relative error above 1e-2: the backward of this layer does not belong to its forward",
}


class EntryCheck(NamedTuple):
    """One entry of one parameter: where it stands, both gradients, |a - n| / max(|a|, |n|), and what that means.

    The relative error is 0 where it is above 1e-7 only by a difference that rounding can make.
    """

    place: tuple[int, ...]
    analytic: float
    numeric: float
    relative_error: float
    verdict: Verdict


class ParameterCheck(NamedTuple):
    """One parameter: its sampled entries, the worst of them, and the verdict on it."""

    name: str
    shape: tuple[int, ...]
    num_checked: int
    num_kinks: int
    worst: EntryCheck

    @property
    def relative_error(self) -> float:
        return self.worst.relative_error

    @property
    def verdict(self) -> Verdict:
        return self.worst.verdict


@dataclass(frozen=True)
class GradientReport:
    """What `check_gradients` found, parameter by parameter. `str(report)` is a table with its reading."""

    parameters: tuple[ParameterCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether every parameter is fine, or differs at kinks only."""
        return all(check.verdict in ("fine", "kink") for check in self.parameters)

    @property
    def worst(self) -> ParameterCheck:
        return max(self.parameters, key=lambda check: (ORDER.index(check.verdict), check.relative_error))

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.parameters)
        lines = [f"{'parameter':<{width}}  checked  kinks  relative error  verdict"]
        lines += [
            f"{check.name:<{width}}  {check.num_checked:>7}  {check.num_kinks:>5}  {check.relative_error:>14.2e}  "
            f"{check.verdict}"
            for check in self.parameters
        ]
        seen = {check.verdict for check in self.parameters}
        return "\n".join([*lines, "", *(f"{verdict}: {READING[verdict]}." for verdict in ORDER if verdict in seen)])


def check_gradients(
    model: nn.Module,
    batch: tuple[Any, Any],
    loss: Callable[[Any, Any], Tensor],
    *,
    samples: int = 20,
    step: float = STEP,
    training: bool = True,
    seed: int = 0,
) -> GradientReport:
    """Compare autograd's gradients with centred differences (f(w + h) - f(w - h)) / 2h on a sample of each parameter.

    Everything runs on a float64 copy; the model, its buffers and torch's random streams are left as they were. Random
    draws (dropout) are repeated in every evaluation, buffers (running averages) put back, so that the loss is one fixed
    function of the weights.

    An entry whose relative error |a - n| / max(|a|, |n|) exceeds 1e-7 is looked at again with smaller steps and from
    each side. Where a smaller step agrees, or the slopes of both sides stay apart however small it is, the loss has a
    kink there and the entry is explained. Differences below what float64 can resolve count as fine.

    Args:
        model: any module whose layers can compute in float64.
        batch: (inputs, targets); floating-point tensors are widened. A few examples are enough, and quick.
        loss: (outputs, targets) -> a tensor with one number.
        samples: entries checked of each parameter, the one with the largest gradient among them; each costs two
            forward passes.
        step: h, from 1e-8 to 1e-2; it is multiplied by |w| where that is above 1.
        training: in which mode the model runs.
        seed: decides which entries are sampled, and what dropout drops.

    Raises:
        InputError: the loss is no single number, not finite, or not the same twice; or nothing is trainable.
    """
    if samples < 1:
        raise InputError(f"samples must be at least 1, but {samples} arrived.")
    if not 1e-8 <= step <= 1e-2:
        raise InputError(f"step must be from 1e-8 to 1e-2, but {step:g} arrived.")
    probe = _Probe(model, batch, loss, training, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=_cuda_devices(model)):
        gradients = probe.gradients()
        checks = []
        for name, parameter in probe.trainable():
            entries = _sample(gradients[name], samples, generator)
            found = [_check_entry(probe, parameter, gradients[name], entry, step) for entry in entries]
            worst = max(found, key=lambda check: (ORDER.index(check.verdict), check.relative_error))
            kinks = sum(check.verdict == "kink" for check in found)
            checks.append(ParameterCheck(name, tuple(parameter.shape), len(found), kinks, worst))
    return GradientReport(tuple(checks))


class _Probe:
    """The loss as a function of the weights of a float64 copy, with everything else held still."""

    def __init__(self, model: nn.Module, batch: tuple[Any, Any], loss: Any, training: bool, seed: int) -> None:
        self.model = copy.deepcopy(model).double().train(training)
        self.inputs, self.targets = _widened(batch[0]), _widened(batch[1])
        self.loss_of = loss
        self.seed = seed
        self.buffers = [(buffer, buffer.detach().clone()) for buffer in self.model.buffers()]
        self.generators = [(own, own.get_state()) for own in _generators(self.model)]
        if not list(self.trainable()):
            raise InputError(f"{type(model).__name__} has no trainable parameter, so there are no gradients to check.")

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that have gradients."""
        return ((name, each) for name, each in self.model.named_parameters() if each.requires_grad)

    def loss(self) -> Tensor:
        """The loss, from equal buffers and equal random streams every time."""
        torch.manual_seed(self.seed)
        with torch.no_grad():
            for buffer, value in self.buffers:
                buffer.copy_(value)
            for own, state in self.generators:
                own.set_state(state)
        value = self.loss_of(self.model(self.inputs), self.targets)
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"the loss must be one number, but {shape} arrived. Take its mean.")
        return value.reshape(())

    def gradients(self) -> dict[str, Tensor]:
        """Autograd's gradients; a parameter that the loss does not depend on has gradient 0."""
        with torch.no_grad():
            again = self.loss()
        value = self.loss()  # last: putting buffers back would spoil its graph
        if not bool(torch.isfinite(value)):
            raise InputError(f"the loss is {value.item()}, so there are no gradients to check.")
        if not torch.equal(value, again):
            raise InputError(
                f"the loss is {value.item()!r} and then {again.item()!r} at the same weights. It must not draw from a "
                "random stream that cannot be seeded, or change from call to call."
            )
        names = [name for name, _ in self.trainable()]
        found = torch.autograd.grad(value, [each for _, each in self.trainable()], allow_unused=True)
        return {
            name: torch.zeros_like(self.model.get_parameter(name)) if gradient is None else gradient.to_dense()
            for name, gradient in zip(names, found, strict=True)
        }

    @contextmanager
    def moved(self, parameter: Tensor, place: tuple[int, ...]) -> Iterator[Callable[[float], float]]:
        """Yield the loss as a function of one entry's distance from where it stands, and put the entry back."""
        weights = parameter.detach()
        here = weights[place].clone()

        def at(distance: float) -> float:
            with torch.no_grad():
                weights[place] = here + distance
                return float(self.loss())

        try:
            yield at
        finally:
            weights[place] = here


def _check_entry(probe: _Probe, parameter: nn.Parameter, gradient: Tensor, entry: int, step: float) -> EntryCheck:
    place = tuple(int(i) for i in torch.unravel_index(torch.tensor(entry), parameter.shape))
    analytic = float(gradient[place])
    size = step * max(1.0, abs(float(parameter.detach()[place])))
    with probe.moved(parameter, place) as at:
        sides = _Sides(at, at(0.0), size)
        error = _error(analytic, sides.slope)
        if error < FINE or abs(analytic - sides.slope) <= sides.resolution:
            return EntryCheck(place, analytic, sides.slope, error if error < FINE else 0.0, "fine")
        verdict, numeric = _explain(at, sides, analytic)
    return EntryCheck(place, analytic, numeric, _error(analytic, numeric), verdict)


class _Sides:
    """The loss a step to the right and to the left, and what follows from it.

    bend: how far the slopes of both sides are apart. resolution: what rounding the loss can make of a slope, some 32
    units in its last place over the step.
    """

    def __init__(self, at: Callable[[float], float], here: float, size: float) -> None:
        right, left = at(size), at(-size)
        self.here, self.size = here, size
        self.slope = (right - left) / (2 * size)
        self.bend = abs(right - 2 * here + left) / size
        self.resolution = 32 * torch.finfo(torch.float64).eps * max(abs(here), 1e-3) / size


def _explain(at: Callable[[float], float], first: _Sides, analytic: float) -> tuple[Verdict, float]:
    """Look closer at a centred difference that missed the analytic gradient; return the verdict and the best slope.

    Where a smaller step agrees, the first one was too long: for a strong curve (then the bend shrinks with the step:
    fine) or because it reached over a kink (then it shrinks much faster). On a kink the slopes of both sides stay apart
    however small the step is: there is no gradient that could be right or wrong.
    """
    missed = abs(analytic - first.slope)
    last = first
    for factor in (8, 64, 512):
        sides = _Sides(at, first.here, first.size / factor)
        if sides.resolution > 0.1 * missed:
            break
        last = sides
        if abs(analytic - sides.slope) <= sides.resolution + 10 * FINE * max(abs(analytic), abs(sides.slope)):
            kink = first.bend > 2 * factor * sides.bend + sides.resolution
            return ("kink" if kink else "fine"), sides.slope
    if last.bend > max(0.5 * first.bend, 10 * last.resolution):
        return "kink", first.slope
    return ("wrong" if _error(analytic, first.slope) > WRONG else "suspicious"), first.slope


def _error(analytic: float, numeric: float) -> float:
    largest = max(abs(analytic), abs(numeric))
    return abs(analytic - numeric) / largest if largest > 0 else 0.0


def _sample(gradient: Tensor, samples: int, generator: torch.Generator) -> list[int]:
    """Entries in random order, the one with the largest gradient first."""
    largest = int(gradient.abs().argmax())
    drawn = torch.randperm(gradient.numel(), generator=generator)[:samples].tolist()
    return list(dict.fromkeys([largest, *drawn]))[:samples]


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().double() if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(map(_widened, value))
    return {key: _widened(each) for key, each in value.items()} if isinstance(value, dict) else value


def _generators(model: nn.Module) -> list[torch.Generator]:
    """The generators that layers hold of their own, alone or in a list."""
    values = [value for module in model.modules() for value in vars(module).values()]
    held = [each for value in values for each in (value if isinstance(value, tuple | list) else [value])]
    return [each for each in held if isinstance(each, torch.Generator)]


def _cuda_devices(model: nn.Module) -> list[int]:
    return sorted({each.device.index for each in model.parameters() if each.device.type == "cuda"})
