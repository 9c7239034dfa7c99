"""Initialisers: functions that fill a weight in place, drawn from a generator given by name.

Every one has the same form, `name(target, *, gain, fan_mode, distribution, generator)`. The target is a weight
(fan_out, fan_in, *window), or a layer with a weight (its bias becomes 0). For stacked members the target is
(members, fan_out, fan_in, *window); `gain` [members], or a list with one generator for each member, says so, and every
member is filled as it would be alone. fan_mode is "fan_in", "fan_out" or "fan_avg" (their mean); distribution is
"normal" or "uniform" (of the same standard deviation). An initialiser that has no use for one of them says so.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final, Literal, Protocol

import torch
from torch import Tensor, nn

from caviar.core.errors import InputError, unknown_name
from caviar.core.members import check_range, is_per_member
from caviar.nn.fans import FanMode, Fans, fan_in_and_fan_out, fan_of

Distribution = Literal["normal", "uniform"]
ROOT_2: Final = math.sqrt(2.0)
RECTIFIES: Final = 1.3
"""From this gain on, random_walk takes the activation for a relative of relu (gain 1.37 to 1.41)."""
DISTRIBUTIONS: Final = ("normal", "uniform")
Generators = torch.Generator | Sequence[torch.Generator] | None

Fill = Callable[[Tensor, Fans, float, torch.Generator | None], object]
"""Fills one member's weight: (weight, fans, gain, generator)."""


class Initialiser(Protocol):
    """What all initialisers look like."""

    def __call__(
        self,
        target: Tensor | nn.Module,
        *,
        gain: float | Tensor = 1.0,
        fan_mode: FanMode = "fan_in",
        distribution: Distribution = "normal",
        generator: Generators = None,
    ) -> None: ...


def zeros(
    target: Tensor | nn.Module,
    *,
    gain: float | Tensor = 1.0,
    fan_mode: FanMode = "fan_in",
    distribution: Distribution = "normal",
    generator: Generators = None,
) -> None:
    """Fill with 0. All units of a layer then stay equal for ever: right for biases, and to show what goes wrong.

    Uses none of its arguments.
    """
    _fill(target, gain, fan_mode, distribution, generator, lambda weight, *_: weight.zero_())


def constant(
    target: Tensor | nn.Module,
    *,
    gain: float | Tensor = 1.0,
    fan_mode: FanMode = "fan_in",
    distribution: Distribution = "normal",
    generator: Generators = None,
) -> None:
    """Fill with the number `gain`. All units of a layer stay equal, as with zeros. Uses gain only."""
    _fill(target, gain, fan_mode, distribution, generator, lambda weight, _fans, scale, _own: weight.fill_(scale))


def small_normal(
    target: Tensor | nn.Module,
    *,
    gain: float | Tensor = 1.0,
    fan_mode: FanMode = "fan_in",
    distribution: Distribution = "normal",
    generator: Generators = None,
) -> None:
    """Draw with standard deviation 0.01 gain, whatever the fan: fine for shallow nets; in deep ones signals fade."""
    _draw(target, gain, fan_mode, distribution, generator, lambda _, scale: 0.01 * scale)


def normal(
    target: Tensor | nn.Module,
    *,
    gain: float | Tensor = 1.0,
    fan_mode: FanMode = "fan_in",
    distribution: Distribution = "normal",
    generator: Generators = None,
) -> None:
    """Draw from a normal distribution of mean 0 and standard deviation `gain`. Uses gain and generator only."""
    _draw(target, gain, fan_mode, "normal", generator, lambda _, scale: scale, given=distribution)


def uniform(
    target: Tensor | nn.Module,
    *,
    gain: float | Tensor = 1.0,
    fan_mode: FanMode = "fan_in",
    distribution: Distribution = "uniform",
    generator: Generators = None,
) -> None:
    """Draw from a uniform distribution between -gain and gain. Uses gain and generator only."""
    _draw(target, gain, fan_mode, "uniform", generator, lambda _, scale: scale / math.sqrt(3), given=distribution)


def xavier(
    target: Tensor | nn.Module,
    *,
    gain: float | Tensor = 1.0,
    fan_mode: FanMode = "fan_avg",
    distribution: Distribution = "normal",
    generator: Generators = None,
) -> None:
    """Draw with variance gain^2 2 / (fan_in + fan_out) (Glorot and Bengio, 2010): for tanh and sigmoid.

    A compromise that nearly keeps the variance of signals forwards and of gradients backwards.
    """
    _draw(target, gain, fan_mode, distribution, generator, lambda fan, scale: scale * math.sqrt(1 / fan))


def he(
    target: Tensor | nn.Module,
    *,
    gain: float | Tensor = ROOT_2,
    fan_mode: FanMode = "fan_in",
    distribution: Distribution = "normal",
    generator: Generators = None,
) -> None:
    """Draw with variance gain^2 / fan_in, gain^2 = 2 (He, Zhang, Ren and Sun, 2015): for relu and its relatives.

    relu halves the mean square of its inputs; the 2 gives it back. The published gains of all activations:
    `activation_facts(name).gain`.
    """
    _draw(target, gain, fan_mode, distribution, generator, lambda fan, scale: scale / math.sqrt(fan))


def lecun(
    target: Tensor | nn.Module,
    *,
    gain: float | Tensor = 1.0,
    fan_mode: FanMode = "fan_in",
    distribution: Distribution = "normal",
    generator: Generators = None,
) -> None:
    """Draw with variance gain^2 / fan_in (LeCun, Bottou, Orr and Mueller, 1998): for selu and for linear layers."""
    _draw(target, gain, fan_mode, distribution, generator, lambda fan, scale: scale / math.sqrt(fan))


def orthogonal(
    target: Tensor | nn.Module,
    *,
    gain: float | Tensor = 1.0,
    fan_mode: FanMode = "fan_in",
    distribution: Distribution = "normal",
    generator: Generators = None,
) -> None:
    """Fill with gain times a random orthogonal matrix (Saxe, McClelland and Ganguli, 2013; made of a normal one).

    The weight is read as (fan_out, fan_in * window): orthonormal rows, or columns where there are more rows. Lengths of
    signals are kept exactly through any depth of linear layers. Uses gain and generator only.
    """

    def fill(weight: Tensor, fans: Fans, scale: float, own: torch.Generator | None) -> None:  # noqa: ARG001
        nn.init.orthogonal_(weight, gain=scale, generator=own)

    _fill(target, gain, fan_mode, distribution, generator, fill)


def random_walk(
    target: Tensor | nn.Module,
    *,
    gain: float | Tensor = ROOT_2,
    fan_mode: FanMode = "fan_in",
    distribution: Distribution = "normal",
    generator: Generators = None,
) -> None:
    """Draw with variance (gain g)^2 / fan, g so that the log of a gradient's length does not drift through the layers.

    (Sussillo and Abbott, 2014.) For relu and its relatives, gain from 1.3 on: g = exp(1.2 / (max(fan, 6) - 2.4)); else,
    for linear layers: g = exp(1 / (2 fan)). He's rule keeps the mean square, which a few large lengths dominate, so
    that typical lengths shrink in very deep, narrow nets; this one keeps the typical length.
    """

    def std(fan: float, scale: float) -> float:
        drift = 1.2 / (max(fan, 6) - 2.4) if scale >= RECTIFIES else 1 / (2 * fan)
        return scale * math.exp(drift) / math.sqrt(fan)

    _draw(target, gain, fan_mode, distribution, generator, std)


def identity(
    target: Tensor | nn.Module,
    *,
    gain: float | Tensor = 1.0,
    fan_mode: FanMode = "fan_in",
    distribution: Distribution = "normal",
    generator: Generators = None,
) -> None:
    """Fill with gain times the identity: each output is the input of its number (a convolution's in mid-window).

    Outputs beyond the inputs are 0. Uses gain only. For the ends of residual branches, which shall start as 0 or leave
    the signal as it is; see `zero_residual_ends`.
    """

    def fill(weight: Tensor, fans: Fans, scale: float, own: torch.Generator | None) -> None:  # noqa: ARG001
        middle = weight
        for length in weight.shape[2:]:
            middle = middle.select(2, length // 2)
        weight.zero_()
        middle.diagonal().fill_(scale)

    _fill(target, gain, fan_mode, distribution, generator, fill)


INITIALISERS: Final[dict[str, Initialiser]] = {
    "zeros": zeros,
    "constant": constant,
    "small_normal": small_normal,
    "normal": normal,
    "uniform": uniform,
    "xavier": xavier,
    "he": he,
    "lecun": lecun,
    "orthogonal": orthogonal,
    "random_walk": random_walk,
    "identity": identity,
}
"""The initialisers that need no data, by name."""


@torch.no_grad()
def _fill(
    target: Tensor | nn.Module,
    gain: float | Tensor,
    fan_mode: str,
    distribution: str,
    generator: Generators,
    fill: Fill,
) -> None:
    """Check the arguments and fill the target, member by member where it has members."""
    check_range("gain", gain)
    if distribution not in DISTRIBUTIONS:
        raise unknown_name("distribution", distribution, DISTRIBUTIONS)
    per_member = is_per_member(gain) or (generator is not None and not isinstance(generator, torch.Generator))
    fans = fan_in_and_fan_out(target, members=per_member)
    weight = target.weight if isinstance(target, nn.Module) else target
    assert isinstance(weight, Tensor)
    fan_of(fans, fan_mode)
    if isinstance(target, nn.Module) and isinstance(getattr(target, "bias", None), Tensor):
        nn.init.zeros_(target.bias)  # type: ignore[arg-type]
    if not per_member:
        assert generator is None or isinstance(generator, torch.Generator)
        fill(weight, fans, float(gain), generator)
        return
    if isinstance(target, nn.Module):
        raise InputError("a gain or generators for members fill stacked weights. Give the tensor, not a layer.")
    gains = gain.tolist() if isinstance(gain, Tensor) and gain.dim() == 1 else [float(gain)] * len(weight)
    own = [generator] * len(weight) if generator is None or isinstance(generator, torch.Generator) else generator
    if not len(gains) == len(own) == len(weight):
        raise InputError(
            f"a weight of shape {tuple(weight.shape)} has {len(weight)} members, but {len(gains)} gains and {len(own)} "
            "generators arrived. Give one for each member, or one for all."
        )
    for member, scale, drawn_from in zip(weight, gains, own, strict=True):
        fill(member, fans, scale, drawn_from)


def _draw(
    target: Tensor | nn.Module,
    gain: float | Tensor,
    fan_mode: FanMode,
    distribution: Distribution,
    generator: Generators,
    std_of: Callable[[float, float], float],
    given: str | None = None,
) -> None:
    """Fill with random numbers of standard deviation std_of(fan, gain)."""

    def fill(weight: Tensor, fans: Fans, scale: float, own: torch.Generator | None) -> None:
        _draw_one(weight, std_of(fan_of(fans, fan_mode), scale), distribution, own)

    _fill(target, gain, fan_mode, given or distribution, generator, fill)


def _draw_one(weight: Tensor, std: float, distribution: str, generator: torch.Generator | None) -> None:
    if distribution == "normal":
        nn.init.normal_(weight, std=abs(std), generator=generator)
    else:
        bound = math.sqrt(3.0) * abs(std)
        nn.init.uniform_(weight, -bound, bound, generator=generator)
