"""The direction of a step on its way through the pieces of a rule: a sum that is not yet computed.

Pieces multiply and add; were each to write its result, a rule of five pieces would pass through memory far more often
than one written by hand. So a direction stays a formula until a piece, or the final addition, needs its value.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from caviar.optim.bucket import Bucket
from caviar.optim.lists import Number, add, add_quotients, is_one, is_zero, scale_tensors


class Term(NamedTuple):
    """factor * tensors, or factor * tensors / denominators."""

    tensors: list[Tensor]
    factor: Number = 1.0
    denominators: list[Tensor] | None = None


class Direction(NamedTuple):
    """The sum of `terms`, plus `decay` times the parameters."""

    terms: Sequence[Term]
    decay: Number = 0.0


def scaled(direction: Direction, factor: Number) -> Direction:
    """Return factor * direction."""
    terms = [Term(term.tensors, term.factor * factor, term.denominators) for term in direction.terms]
    return Direction(terms, direction.decay if is_zero(direction.decay) else direction.decay * factor)


def add_to(tensors: list[Tensor], direction: Direction, bucket: Bucket) -> None:
    """Compute tensors += direction."""
    for term in direction.terms:
        if term.denominators is None:
            add(tensors, term.tensors, term.factor)
        else:
            add_quotients(tensors, term.tensors, term.denominators, term.factor, bucket.temporary)
    if not is_zero(direction.decay):
        add(tensors, bucket.params, direction.decay)


def value_of(direction: Direction, bucket: Bucket) -> list[Tensor]:
    """Return the direction as tensors, only to be read: the gradients or state themselves, or scratch memory."""
    terms = direction.terms
    plain = len(terms) == 1 and is_one(terms[0].factor) and terms[0].denominators is None
    if plain and is_zero(direction.decay):
        return terms[0].tensors
    used = [tensors for term in terms for tensors in (term.tensors, term.denominators)]
    result = bucket.free_scratch(used)
    result.flat.zero_()
    add_to(result.parts, direction, bucket)
    return result.parts


def apply(direction: Direction, bucket: Bucket) -> None:
    """Compute parameters += direction."""
    if not is_zero(direction.decay):
        scale_tensors(bucket.params, 1 + direction.decay)
    add_to(bucket.params, Direction(direction.terms), bucket)
