"""Famous update rules, each a short composition of pieces.

A rule carries defaults for its hyperparameters; `caviar.optim.Optimizer(params, rule)` makes it an optimiser. Every
number may be a tensor of shape [members] instead, for parameters stacked on a leading members axis.

Ranges: learning_rate, weight_decay, eps and momentum_decay at least 0; momentum, decay and both betas from 0 to below
1; alpha above 0 to 1; period at least 1. What lies outside is an InputError. In formulas lr stands for learning_rate, g
for the gradient, w for the weights, b1 and b2 for the betas.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from caviar.core.errors import InputError
from caviar.optim.bucket import Bucket
from caviar.optim.checks import check_hyperparameters
from caviar.optim.direction import Direction, Term, apply
from caviar.optim.lists import Number, is_zero
from caviar.optim.newton_schulz import scale_by_muon
from caviar.optim.pieces import (
    Piece,
    Values,
    add_decayed_weights,
    scale_by_adagrad,
    scale_by_adam,
    scale_by_learning_rate,
    scale_by_lion,
    scale_by_momentum,
    scale_by_nadam,
    scale_by_radam,
    scale_by_rms,
    scale_by_velocity,
    synchronise_slow_weights,
)


class Rule(NamedTuple):
    """An update rule: its name, its pieces in order, and the defaults of its hyperparameters."""

    name: str
    pieces: tuple[Piece, ...]
    hyperparameters: Mapping[str, Any]


def chain(name: str, *pieces: Piece) -> Rule:
    """Put pieces together to a rule; each gets the direction of the one before it, the first one the gradient.

    Raises InputError when a default is out of range.
    """
    values = {key: value for piece in pieces for key, value in piece.hyperparameters.items()}
    check_hyperparameters(values, values)
    return Rule(name, pieces, values)


def start(rule: Rule, bucket: Bucket) -> None:
    """Give a bucket the state of all pieces."""
    for piece in rule.pieces:
        piece.init(bucket)


def advance(rule: Rule, bucket: Bucket, gradients: list[Tensor], values: Values) -> None:
    """Take one step: gradients through all pieces, their sum onto the parameters, in place."""
    bucket.step += 1
    direction = Direction([Term(gradients)])
    for piece in rule.pieces:
        direction = piece.update(direction, bucket, values)
    apply(direction, bucket)
    for piece in rule.pieces:
        if piece.after is not None:
            piece.after(bucket, values)


def sgd_rule(
    learning_rate: Number = 0.01,
    momentum: Number = 0.0,
    *,
    nesterov: bool = False,
    weight_decay: Number = 0.0,
    rate_in_velocity: bool = False,
) -> Rule:
    """Stochastic gradient descent, with momentum in either written form, or Nesterov's.

    w -= lr g; with momentum v = momentum v + g, w -= lr v; with rate_in_velocity v = momentum v - lr g, w += v. The two
    forms take the same steps while the rate is constant. weight_decay is an L2 penalty's factor.
    When: a first baseline; with momentum 0.9 and a falling rate still hard to beat for convolutional networks.
    Polyak 1964; Nesterov 1983 and Sutskever et al. 2013.
    """
    decay = add_decayed_weights(weight_decay)
    if nesterov and is_zero(momentum):
        raise InputError("nesterov looks ahead along the momentum, but momentum is 0. Give a momentum, such as 0.9.")
    if rate_in_velocity:
        return chain("sgd", decay, scale_by_velocity(learning_rate, momentum, nesterov=nesterov))
    moving = () if is_zero(momentum) else (scale_by_momentum(momentum, nesterov=nesterov),)
    return chain("sgd", decay, *moving, scale_by_learning_rate(learning_rate))


def adagrad_rule(learning_rate: Number = 0.01, eps: Number = 1e-10, weight_decay: Number = 0.0) -> Rule:
    """w -= lr g / (sqrt(sum of all g² so far) + eps). weight_decay is an L2 penalty's factor.

    When: sparse features, rare words; for deep networks its steps become too small. Duchi, Hazan and Singer 2011.
    """
    pieces = add_decayed_weights(weight_decay), scale_by_adagrad(eps), scale_by_learning_rate(learning_rate)
    return chain("adagrad", *pieces)


def rmsprop_rule(
    learning_rate: Number = 0.01,
    decay: Number = 0.99,
    eps: Number = 1e-8,
    momentum: Number = 0.0,
    *,
    centered: bool = False,
    weight_decay: Number = 0.0,
) -> Rule:
    """w -= lr g / (sqrt(mean of g²) + eps), with momentum on the quotient if asked; weight_decay as an L2 penalty.

    When: recurrent networks and reinforcement learning. Tieleman and Hinton 2012 (lecture 6.5); centered: Graves 2013.
    """
    scaling = scale_by_rms(decay, eps, centered=centered)
    moving = () if is_zero(momentum) else (scale_by_momentum(momentum),)
    return chain("rmsprop", add_decayed_weights(weight_decay), scaling, *moving, scale_by_learning_rate(learning_rate))


def adam_rule(
    learning_rate: Number = 1e-3,
    betas: tuple[Number, Number] = (0.9, 0.999),
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    *,
    bias_correction: bool = True,
) -> Rule:
    """w -= lr m' / (sqrt(v') + eps), m and v running means of g and g² (`scale_by_adam`). When: a good first choice.

    Rates of 1e-4 to 1e-2 mostly work. weight_decay is an L2 penalty's factor, added to g (see `adamw`).

    Without bias_correction the averages are used as they are, zero at first: for comparison, and for warm-up's sake.
    Kingma and Ba 2015.
    """
    scaling = scale_by_adam(betas, eps, bias_correction=bias_correction)
    return chain("adam", add_decayed_weights(weight_decay), scaling, scale_by_learning_rate(learning_rate))


def adamw_rule(
    learning_rate: Number = 1e-3,
    betas: tuple[Number, Number] = (0.9, 0.999),
    eps: Number = 1e-8,
    weight_decay: Number = 0.01,
) -> Rule:
    """w -= lr (m' / (sqrt(v') + eps) + weight_decay w): Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    The decay is not divided by sqrt(v'), so weights with large gradients shrink as fast as others.
    When: the usual choice for transformers, and wherever Adam is to be regularised.
    """
    scaling, decay = scale_by_adam(betas, eps), add_decayed_weights(weight_decay)
    return chain("adamw", scaling, decay, scale_by_learning_rate(learning_rate))


def nadam_rule(
    learning_rate: Number = 2e-3,
    betas: tuple[Number, Number] = (0.9, 0.999),
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    momentum_decay: Number = 0.004,
) -> Rule:
    """Adam with Nesterov's momentum (Dozat 2016): `scale_by_nadam` has the formula. When: as Adam.

    weight_decay is an L2 penalty's factor, momentum_decay says how fast momentum rises to betas[0].
    """
    scaling = scale_by_nadam(betas, eps, momentum_decay)
    return chain("nadam", add_decayed_weights(weight_decay), scaling, scale_by_learning_rate(learning_rate))


def radam_rule(
    learning_rate: Number = 1e-3,
    betas: tuple[Number, Number] = (0.9, 0.999),
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
) -> Rule:
    """Rectified Adam (Liu et al. 2020): `scale_by_radam` has the formula; weight_decay is an L2 penalty's factor.

    When: Adam that needs no warm-up: the adaptive step begins only once the variance of g² is known well enough.
    """
    scaling = scale_by_radam(betas, eps)
    return chain("radam", add_decayed_weights(weight_decay), scaling, scale_by_learning_rate(learning_rate))


def lion_rule(
    learning_rate: Number = 1e-4, betas: tuple[Number, Number] = (0.9, 0.99), weight_decay: Number = 0.0
) -> Rule:
    """w -= lr (sign(b1 m + (1 - b1) g) + weight_decay w), m = b2 m + (1 - b2) g (Chen et al. 2023).

    When: large batches; half of Adam's memory. Use a rate 3 to 10 times below Adam's, weight decay as much above.
    """
    scaling, decay = scale_by_lion(betas), add_decayed_weights(weight_decay)
    return chain("lion", scaling, decay, scale_by_learning_rate(learning_rate))


def muon_rule(
    learning_rate: Number = 0.02,
    momentum: Number = 0.95,
    weight_decay: Number = 0.1,
    *,
    nesterov: bool = True,
    num_iterations: int = 5,
    match_adamw: bool = False,
    dtype: torch.dtype | None = None,
) -> Rule:
    """Momentum whose direction is brought near to an orthogonal matrix; decoupled weight decay (Jordan et al. 2024).

    For hidden weights of two or more axes only: leave first and last layers, biases, norms and embeddings to AdamW
    (`muon_groups` does). See `scale_by_muon`. When: hidden layers of transformers and convolutional networks.
    """
    scaling = scale_by_muon(
        momentum, nesterov=nesterov, num_iterations=num_iterations, match_adamw=match_adamw, dtype=dtype
    )
    return chain("muon", scaling, add_decayed_weights(weight_decay), scale_by_learning_rate(learning_rate))


def lookahead(rule: Rule, period: int = 5, alpha: Number = 0.5) -> Rule:
    """Return `rule` with Lookahead around it (Zhang et al. 2019).

    Every `period` steps the slow weights go the share `alpha` of the way to the fast ones, which go on from there.
    When: to calm a rule whose steps scatter; it makes the rate and momentum matter less.
    """
    return chain(f"lookahead({rule.name})", *_with_defaults(rule), synchronise_slow_weights(period, alpha))


def ranger_rule(
    learning_rate: Number = 1e-3,
    betas: tuple[Number, Number] = (0.95, 0.999),
    eps: Number = 1e-5,
    weight_decay: Number = 0.0,
    period: int = 6,
    alpha: Number = 0.5,
) -> Rule:
    """RAdam with Lookahead around it (Wright 2019), with that author's defaults.

    weight_decay is decoupled, as there. When: as Adam, where nobody wants to tune warm-up.
    """
    radam = chain(
        "radam", scale_by_radam(betas, eps), add_decayed_weights(weight_decay), scale_by_learning_rate(learning_rate)
    )
    return lookahead(radam, period, alpha)._replace(name="ranger")


def _with_defaults(rule: Rule) -> list[Piece]:
    """Return the rule's pieces with its present defaults, which may have been replaced since it was chained."""
    pieces = []
    for piece in rule.pieces:
        values = {name: rule.hyperparameters[name] for name in piece.hyperparameters}
        pieces.append(piece._replace(hyperparameters=values))
    return pieces
