"""What is known about each activation, as data that code and tables can read. Tests prove every entry."""

import math
from dataclasses import dataclass
from typing import Final, Literal

from caviar.core.errors import unknown_name

Side = Literal["left", "right"]


@dataclass(frozen=True)
class ActivationFacts:
    """The facts that lectures tabulate about an activation f.

    formula: f(z). low, high: the range; `low_reached` says whether f takes the value low (high is never reached).
    zero_centred: whether the mean output is 0 for standard normal inputs.
    saturates: the sides on which the gradient goes to 0: a unit that is pushed far there stops learning.
    gradients: f'(-10), f'(0), f'(10); at a kink what torch takes for it; for maxout that of the winning piece.
    monotone: whether f never falls.
    initialiser, gain: what suits the layer before it: weights drawn with standard deviation gain / sqrt(fan).
    unit_gain: 1 / sqrt(E[f(z)^2]) for standard normal z: with that gain over fan_in the next layer's inputs keep
    their mean square exactly. The published gains are this number for relu, leaky_relu, prelu, selu and maxout; He's
    sqrt(2) serves the smooth relatives of relu, and Glorot's 1 tanh and sigmoid, which are nearly linear around 0.
    when: when to use it. source: who proposed it.
    """

    formula: str
    low: float
    high: float
    low_reached: bool
    zero_centred: bool
    saturates: tuple[Side, ...]
    gradients: tuple[float, float, float]
    monotone: bool
    initialiser: str
    gain: float
    unit_gain: float
    when: str
    source: str


_ROOT_2 = math.sqrt(2.0)
_SELU_SCALE = 1.0507009873554805
_SELU_ALPHA = 1.6732632423543772

ACTIVATION_FACTS: Final[dict[str, ActivationFacts]] = {
    "relu": ActivationFacts(
        "max(0, z)", 0.0, math.inf, True, False, ("left",), (0.0, 0.0, 1.0), True, "he", _ROOT_2, _ROOT_2,
        "the first choice; watch for units that are dead (0 for every example)",
        "Nair and Hinton, 2010",
    ),
    "leaky_relu": ActivationFacts(
        "z if z > 0 else 0.01 z", -math.inf, math.inf, False, False, (), (0.01, 0.01, 1.0), True, "he",
        math.sqrt(2 / (1 + 0.01**2)), math.sqrt(2 / (1 + 0.01**2)),
        "when units of relu die",
        "Maas, Hannun and Ng, 2013",
    ),
    "prelu": ActivationFacts(
        "z if z > 0 else a z, a learned from 0.25", -math.inf, math.inf, False, False, (), (0.25, 0.25, 1.0), True,
        "he", math.sqrt(2 / (1 + 0.25**2)), math.sqrt(2 / (1 + 0.25**2)),
        "when there are enough data to learn the slope",
        "He, Zhang, Ren and Sun, 2015",
    ),
    "elu": ActivationFacts(
        "z if z > 0 else e^z - 1", -1.0, math.inf, False, False, ("left",), (math.exp(-10), 1.0, 1.0), True, "he",
        _ROOT_2, 1.2451983007,
        "without normalisation, for means nearer to 0 than relu's; costs an exponential",
        "Clevert, Unterthiner and Hochreiter, 2016",
    ),
    "selu": ActivationFacts(
        "1.0507 (z if z > 0 else 1.6733 (e^z - 1))", -_SELU_SCALE * _SELU_ALPHA, math.inf, False, True, ("left",),
        (_SELU_SCALE * _SELU_ALPHA * math.exp(-10), _SELU_SCALE * _SELU_ALPHA, _SELU_SCALE), True, "lecun", 1.0, 1.0,
        "deep nets without normalisation: means and variances come back to 0 and 1 by themselves, given LeCun normal "
        "weights, standardised inputs and alpha dropout instead of dropout",
        "Klambauer, Unterthiner, Mayr and Hochreiter, 2017",
    ),
    "gelu": ActivationFacts(
        "z Phi(z)", -0.1699712075, math.inf, True, False, ("left",), (0.0, 0.5, 1.0), False, "he", _ROOT_2,
        1.5335304412,
        "transformers",
        "Hendrycks and Gimpel, 2016",
    ),
    "silu": ActivationFacts(
        "z / (1 + e^-z), also called Swish", -0.2784645428, math.inf, True, False, ("left",),
        (-4.0856020866e-4, 0.5, 1.0004085602), False, "he", _ROOT_2, 1.6765324703,
        "deep convolutional nets; a little better than relu, at the price of an exponential",
        "Elfwing, Uchibe and Doya, 2017; Ramachandran, Zoph and Le, 2017",
    ),
    "softplus": ActivationFacts(
        "log(1 + e^z)", 0.0, math.inf, False, False, ("left",), (4.5397868702e-5, 0.5, 0.9999546021), True, "he",
        _ROOT_2, 1.0418668355,
        "for outputs that must be positive; in hidden layers relu does better",
        "Dugas et al., 2001",
    ),
    "maxout": ActivationFacts(
        "max of k linear pieces", -math.inf, math.inf, False, False, (), (1.0, 1.0, 1.0), True, "lecun", 1.0, 1.0,
        "with dropout; k times the weights (the gain is for k = 2)",
        "Goodfellow et al., 2013",
    ),
    "tanh": ActivationFacts(
        "tanh(z)", -1.0, 1.0, False, True, ("left", "right"), (8.244614e-9, 1.0, 8.244614e-9), True, "xavier", 1.0,
        1.5925374197,
        "small and recurrent nets; always better than sigmoid in a hidden layer",
        "LeCun, Bottou, Orr and Mueller, 1998",
    ),
    "sigmoid": ActivationFacts(
        "1 / (1 + e^-z)", 0.0, 1.0, False, False, ("left", "right"), (4.539580774e-5, 0.25, 4.539580774e-5), True,
        "xavier", 1.0, 1.8462285453,
        "for gates and probabilities; in hidden layers it saturates, and its outputs are never centred",
        "Rumelhart, Hinton and Williams, 1986",
    ),
}  # fmt: skip


def activation_facts(name: str) -> ActivationFacts:
    """Return the facts about an activation; InputError with the nearest name where there is none."""
    if name not in ACTIVATION_FACTS:
        raise unknown_name("activation", name, ACTIVATION_FACTS)
    return ACTIVATION_FACTS[name]
