"""The pieces of which update rules are made, in the manner of optax: each one a pair of functions, init and update.

init(bucket) adds the piece's named state to a bucket of parameters; update(direction, bucket, values) returns the
direction that the next piece gets. `values` are the hyperparameters of a parameter group, by the names that torch.optim
uses (lr, momentum, betas, eps, weight_decay), each a number or a tensor of shape [members].

In the formulas g is the incoming direction (the gradient, for the first piece), u the outgoing one, t the step from 1,
and all products are elementwise. Names of state are those of torch.optim, so that states can be compared and moved.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from caviar.core.members import over_members
from caviar.optim.bucket import Bucket
from caviar.optim.direction import Direction, Term, add_to, scaled, value_of
from caviar.optim.lists import (
    Number,
    average,
    average_squares,
    exact,
    is_tensor,
    mix_in,
    scale,
    shift,
)

Values = Mapping[str, Any]
"""The hyperparameters of a parameter group, by name."""


def no_state(bucket: Bucket) -> None:
    """Add no state."""


class Piece(NamedTuple):
    """One piece of an update rule.

    hyperparameters: name -> default of what `update` reads from the parameter group. after: what is done to the
    parameters once they have been updated. check: called with each parameter and the number of members (or None) when
    it joins an optimiser; raises InputError when the piece is not for it.
    """

    update: Callable[[Direction, Bucket, Values], Direction]
    init: Callable[[Bucket], None] = no_state
    hyperparameters: Mapping[str, Any] = {}
    after: Callable[[Bucket, Values], None] | None = None
    check: Callable[[Tensor, int | None], None] | None = None


def slots(*names: str) -> Callable[[Bucket], None]:
    """Return an init that adds state of these names, zero at first."""

    def init(bucket: Bucket) -> None:
        for name in names:
            bucket.add_slot(name)

    return init


def scale_by_learning_rate(learning_rate: Number) -> Piece:
    """u = -lr g: the last piece of most rules, which turns a direction of ascent into a step of descent."""

    def update(direction: Direction, bucket: Bucket, values: Values) -> Direction:  # noqa: ARG001
        return scaled(direction, -exact(values["lr"]))

    return Piece(update, hyperparameters={"lr": learning_rate})


def add_decayed_weights(weight_decay: Number = 0.0) -> Piece:
    """u = g + weight_decay w.

    As the first piece it is the gradient of an L2 penalty, weight_decay/2 |w|²; as the one before
    `scale_by_learning_rate` it is decoupled weight decay (Loshchilov and Hutter 2019): w shrinks by
    learning_rate * weight_decay in each step, whatever the gradients are.
    """

    def update(direction: Direction, bucket: Bucket, values: Values) -> Direction:  # noqa: ARG001
        return direction._replace(decay=direction.decay + exact(values["weight_decay"]))

    return Piece(update, hyperparameters={"weight_decay": weight_decay})


def scale_by_momentum(momentum: Number = 0.9, *, nesterov: bool = False) -> Piece:
    """v = momentum v + g, u = v; with nesterov u = g + momentum v (Polyak 1964; Nesterov 1983, Sutskever et al. 2013).

    The learning rate is outside the velocity, as in torch: a new rate acts at once on all of it.
    """

    def update(direction: Direction, bucket: Bucket, values: Values) -> Direction:
        velocity, decay = bucket.slots["momentum_buffer"], exact(values["momentum"])
        scale(velocity, decay)
        add_to(velocity.parts, direction, bucket)
        if nesterov:
            return Direction([*direction.terms, Term(velocity.parts, decay)], direction.decay)
        return Direction([Term(velocity.parts)])

    return Piece(update, slots("momentum_buffer"), {"momentum": momentum})


def scale_by_nesterov(momentum: Number = 0.9) -> Piece:
    """v = momentum v + g, u = g + momentum v: the gradient as if taken one step ahead (Sutskever et al. 2013)."""
    return scale_by_momentum(momentum, nesterov=True)


def scale_by_velocity(learning_rate: Number, momentum: Number = 0.9, *, nesterov: bool = False) -> Piece:
    """v = momentum v - lr g, u = v; with nesterov u = momentum v - lr g: momentum as the textbooks write it.

    The learning rate is inside the velocity, so this piece takes the place of `scale_by_learning_rate`. While the rate
    is constant the steps are those of `scale_by_momentum`; after a change, what has been gathered keeps the old rate.
    """

    def update(direction: Direction, bucket: Bucket, values: Values) -> Direction:
        velocity, decay = bucket.slots["velocity"], exact(values["momentum"])
        downhill = scaled(direction, -exact(values["lr"]))
        scale(velocity, decay)
        add_to(velocity.parts, downhill, bucket)
        if nesterov:
            return Direction([*downhill.terms, Term(velocity.parts, decay)], downhill.decay)
        return Direction([Term(velocity.parts)])

    return Piece(update, slots("velocity"), {"lr": learning_rate, "momentum": momentum})


def scale_by_adagrad(eps: Number = 1e-10) -> Piece:
    """s = s + g², u = g / (sqrt(s) + eps) (Duchi, Hazan and Singer 2011)."""

    def update(direction: Direction, bucket: Bucket, values: Values) -> Direction:
        gradients, total = value_of(direction, bucket), bucket.slots["sum"]
        torch._foreach_addcmul_(total.parts, gradients, gradients)
        return Direction([Term(gradients, 1.0, _root_plus(total.flat, exact(values["eps"]), bucket))])

    return Piece(update, slots("sum"), {"eps": eps})


def scale_by_rms(decay: Number = 0.99, eps: Number = 1e-8, *, centered: bool = False) -> Piece:
    """s = decay s + (1 - decay) g², u = g / (sqrt(s) + eps) (Tieleman and Hinton 2012).

    centered: the mean gradient's square is taken from s under the root, which estimates the variance (Graves 2013).
    """

    def update(direction: Direction, bucket: Bucket, values: Values) -> Direction:
        gradients, alpha = value_of(direction, bucket), exact(values["alpha"])
        squares = bucket.slots["square_avg"]
        average_squares(squares, gradients, alpha, bucket.temporary)
        spread_out = squares.flat
        if centered:
            mean = bucket.slots["grad_avg"]
            average(mean, gradients, alpha)
            spread_out = bucket.scratch("denominator").flat
            torch.mul(mean.flat, mean.flat, out=spread_out).neg_().add_(squares.flat)
            spread_out.clamp_(min=0)  # rounding may leave a constant gradient a variance just below zero
        return Direction([Term(gradients, 1.0, _root_plus(spread_out, exact(values["eps"]), bucket))])

    names = ("square_avg", "grad_avg") if centered else ("square_avg",)
    return Piece(update, slots(*names), {"alpha": decay, "eps": eps})


def scale_by_adam(
    betas: tuple[Number, Number] = (0.9, 0.999), eps: Number = 1e-8, *, bias_correction: bool = True
) -> Piece:
    """m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g², u = m' / (sqrt(v') + eps) (Kingma and Ba 2015).

    m' = m / (1 - b1^t) and v' = v / (1 - b2^t) undo that both averages begin at zero; without bias_correction m and v
    themselves are used, and the first step is (1 - b1) / sqrt(1 - b2) = 3.2 times as long.
    """

    def update(direction: Direction, bucket: Bucket, values: Values) -> Direction:
        mean, correction1, correction2, denominators = _moments(
            value_of(direction, bucket), bucket, values, bias_correction
        )
        return Direction([Term(mean, correction2 / correction1, denominators)])

    return Piece(update, slots("exp_avg", "exp_avg_sq"), {"betas": betas, "eps": eps})


def scale_by_nadam(
    betas: tuple[Number, Number] = (0.9, 0.999), eps: Number = 1e-8, momentum_decay: Number = 0.004
) -> Piece:
    """Adam's moments, u = (mu' m / (1 - M mu') + (1 - mu) g / (1 - M)) / (sqrt(v') + eps) (Dozat 2016).

    mu = b1 (1 - 0.96^(t momentum_decay) / 2), mu' the same for t + 1, M the product of all mu so far.
    """

    def init(bucket: Bucket) -> None:
        slots("exp_avg", "exp_avg_sq")(bucket)
        bucket.numbers["mu_product"] = 1.0

    def update(direction: Direction, bucket: Bucket, values: Values) -> Direction:
        gradients = value_of(direction, bucket)
        mean, _, correction, denominators = _moments(gradients, bucket, values, bias_correction=True)
        beta, decay = exact(values["betas"][0]), exact(values["momentum_decay"])
        now, then = (beta * (1 - 0.5 * 0.96 ** (step * decay)) for step in (bucket.step, bucket.step + 1))
        product = bucket.numbers["mu_product"] = bucket.numbers["mu_product"] * now
        from_gradient = Term(gradients, correction * (1 - now) / (1 - product), denominators)
        return Direction([from_gradient, Term(mean, correction * then / (1 - product * then), denominators)])

    return Piece(update, init, {"betas": betas, "eps": eps, "momentum_decay": momentum_decay})


def scale_by_radam(betas: tuple[Number, Number] = (0.9, 0.999), eps: Number = 1e-8) -> Piece:
    """Adam's moments, rectified for how little v is known at first (Liu et al. 2020).

    With r_inf = 2 / (1 - b2) - 1 and r = r_inf - 2 t b2^t / (1 - b2^t): u = m' while r <= 5, and then
    u = sqrt((r - 4)(r - 2) r_inf / ((r_inf - 4)(r_inf - 2) r)) m' sqrt(1 - b2^t) / (sqrt(v) + eps).
    """

    def update(direction: Direction, bucket: Bucket, values: Values) -> Direction:
        gradients, (beta1, beta2) = value_of(direction, bucket), map(exact, values["betas"])
        mean, squares = bucket.slots["exp_avg"], bucket.slots["exp_avg_sq"]
        average(mean, gradients, beta1)
        average_squares(squares, gradients, beta2, bucket.temporary)
        unbias, remaining = 1 / (1 - beta1**bucket.step), 1 - beta2**bucket.step
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * bucket.step * beta2**bucket.step / remaining
        plain, adaptive = _rectified(length, longest)
        terms = []
        if is_tensor(plain) or plain:
            terms.append(Term(mean.parts, plain * unbias))
        if is_tensor(adaptive) or adaptive:
            denominators = _root_plus(squares.flat, exact(values["eps"]), bucket)
            terms.append(Term(mean.parts, adaptive * unbias * remaining**0.5, denominators))
        return Direction(terms)

    return Piece(update, slots("exp_avg", "exp_avg_sq"), {"betas": betas, "eps": eps})


def scale_by_lion(betas: tuple[Number, Number] = (0.9, 0.99)) -> Piece:
    """u = sign(b1 m + (1 - b1) g), then m = b2 m + (1 - b2) g (Chen et al. 2023).

    Every weight moves by the learning rate, so rates are 3 to 10 times smaller than Adam's, and decay as much larger.
    """

    def update(direction: Direction, bucket: Bucket, values: Values) -> Direction:
        gradients, (beta1, beta2) = value_of(direction, bucket), map(exact, values["betas"])
        mean, signs = bucket.slots["exp_avg"], bucket.scratch("signs")
        signs.flat.copy_(mean.flat)
        average(signs, gradients, beta1)
        signs.flat.sign_()
        average(mean, gradients, beta2)
        return Direction([Term(signs.parts)])

    return Piece(update, slots("exp_avg"), {"betas": betas})


def synchronise_slow_weights(period: int = 5, alpha: Number = 0.5) -> Piece:
    """Every `period` steps slow += alpha (w - slow), w = slow: Lookahead around the rule before it.

    Zhang et al. 2019. The slow weights begin as the weights before the first step.
    """

    def init(bucket: Bucket) -> None:
        bucket.add_slot("slow", bucket.params)

    def update(direction: Direction, bucket: Bucket, values: Values) -> Direction:  # noqa: ARG001
        return direction

    def after(bucket: Bucket, values: Values) -> None:
        due = bucket.step % values["period"] == 0
        slow = bucket.slots["slow"]
        if isinstance(due, Tensor):
            mix_in(slow.parts, bucket.params, exact(values["slow_step"]) * due)
            for parameter, part in zip(bucket.params, slow.parts, strict=True):
                parameter.copy_(torch.where(torch.as_tensor(over_members(due, parameter)), part, parameter))
        elif due:
            mix_in(slow.parts, bucket.params, exact(values["slow_step"]))
            torch._foreach_copy_(bucket.params, slow.parts)

    return Piece(update, init, {"period": period, "slow_step": alpha}, after)


def _moments(
    gradients: list[Tensor], bucket: Bucket, values: Values, bias_correction: bool
) -> tuple[list[Tensor], Number, Number, list[Tensor]]:
    """Update Adam's moments and return m, 1 - b1^t, sqrt(1 - b2^t) and sqrt(v) + eps sqrt(1 - b2^t).

    The second correction is left for the caller's factor, which spares a division of the whole of v.
    """
    beta1, beta2 = map(exact, values["betas"])
    mean, squares = bucket.slots["exp_avg"], bucket.slots["exp_avg_sq"]
    average(mean, gradients, beta1)
    average_squares(squares, gradients, beta2, bucket.temporary)
    correction1: Number = 1 - beta1**bucket.step if bias_correction else 1.0
    correction2: Number = (1 - beta2**bucket.step) ** 0.5 if bias_correction else 1.0
    eps = exact(values["eps"]) * correction2
    return mean.parts, correction1, correction2, _root_plus(squares.flat, eps, bucket)


def _root_plus(squares: Tensor, eps: Number, bucket: Bucket) -> list[Tensor]:
    """Return sqrt(squares) + eps as parts of scratch memory."""
    denominator = bucket.scratch("denominator")
    torch.sqrt(squares, out=denominator.flat)
    shift(denominator, eps)
    return denominator.parts


def _rectified(length: Number, longest: Number) -> tuple[Number, Number]:
    """Return the factors of RAdam's plain and of its adaptive step, one of which is 0 (for each member)."""

    def factor(of: Number) -> Number:
        top, bottom = (of - 4) * (of - 2) * longest, (longest - 4) * (longest - 2) * of
        return (top / bottom) ** 0.5

    if not (is_tensor(length) or is_tensor(longest)):
        return (1.0, 0.0) if length <= 5 else (0.0, factor(length))
    length, longest = torch.as_tensor(length), torch.as_tensor(longest)
    known = length > 5
    safe = torch.where(known, length, 5.0)
    return (~known).double(), torch.where(known, factor(safe), 0.0)
