"""Muon: momentum orthogonalised by a Newton-Schulz iteration, for matrices in hidden layers."""

from typing import Final

import torch
from torch import Tensor

from caviar.core.errors import InputError
from caviar.optim.bucket import Bucket
from caviar.optim.direction import Direction, Term, value_of
from caviar.optim.lists import Number, average, exact, mix_in
from caviar.optim.pieces import Piece, Values, slots

COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
"""Of the odd quintic a s + b s³ + c s⁵, with the steepest slope at 0 that still keeps s between about 0.7 and 1.2."""

SMALLEST_NORM: Final = 1e-7


def newton_schulz(matrices: Tensor, num_iterations: int = 5) -> Tensor:
    """Return matrices near to U V^T of U S V^T, each matrix (..., rows, columns) by itself.

    X = G / |G|_F, then num_iterations times X = a X + (b A + c A²) X with A = X X^T. Singular values come to lie
    between about 0.7 and 1.2, which is near enough and far cheaper than a decomposition (Jordan et al. 2024). Those
    that are tiny beside the largest need more iterations; a zero matrix stays zero.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=SMALLEST_NORM)
    stack = x.reshape(-1, *x.shape[-2:]).contiguous()
    other, gram = torch.empty_like(stack), stack.new_empty(len(stack), stack.shape[1], stack.shape[1])
    square = torch.empty_like(gram)
    a, b, c = COEFFICIENTS
    for _ in range(num_iterations):
        torch.bmm(stack, stack.mT, out=gram)
        torch.baddbmm(gram, gram, gram, beta=b, alpha=c, out=square)
        torch.baddbmm(stack, square, stack, beta=a, out=other)
        stack, other = other, stack
    result: Tensor = stack.view(x.shape)
    return result.mT if tall else result


def scale_by_muon(
    momentum: Number = 0.95,
    *,
    nesterov: bool = True,
    num_iterations: int = 5,
    match_adamw: bool = False,
    dtype: torch.dtype | None = None,
) -> Piece:
    """m = momentum m + (1 - momentum) g, u = factor * newton_schulz(m); nesterov: of momentum m + (1 - momentum) g.

    A weight (fan_out, fan_in, ...) counts as the matrix (fan_out, fan_in * ...), with a members axis as one matrix for
    each member. factor: sqrt(max(1, rows / columns)), as Jordan et al. 2024; with match_adamw it is
    0.2 sqrt(max(rows, columns)), which makes steps as long as AdamW's, so that its rates can be used (Liu et al. 2025).
    dtype: of the iteration; by default bfloat16 on a GPU, and the weights' own elsewhere.

    The iteration works in temporary matrices; all else is in place.
    """
    if isinstance(num_iterations, bool) or not isinstance(num_iterations, int) or not 1 <= num_iterations < 100:
        raise InputError(f"num_iterations is {num_iterations!r}; it must be a whole number from 1 to 99 (usually 5).")

    def update(direction: Direction, bucket: Bucket, values: Values) -> Direction:
        gradients, decay = value_of(direction, bucket), exact(values["momentum"])
        mean, result = bucket.slots["momentum_buffer"], bucket.scratch("orthogonal")
        average(mean, gradients, decay)
        result.flat.copy_(mean.flat)
        if nesterov:
            mix_in(result.parts, gradients, 1 - decay)
        _orthogonalise(result.parts, bucket.members, num_iterations, match_adamw, dtype)
        return Direction([Term(result.parts)])

    return Piece(update, slots("momentum_buffer"), {"momentum": momentum}, check=_check_is_matrix)


def _check_is_matrix(weight: Tensor, members: int | None) -> None:
    axes = "two or more axes" if members is None else "two or more axes behind that of members"
    if weight.dim() < (2 if members is None else 3):
        raise InputError(
            f"Muon is for weights of {axes}, but a parameter has shape {tuple(weight.shape)}. Give biases, norms and "
            "other vectors to another rule, as caviar.optim.muon_groups does."
        )


def _orthogonalise(
    weights: list[Tensor], members: int | None, num_iterations: int, match_adamw: bool, dtype: torch.dtype | None
) -> None:
    """Put its orthogonalised matrix in the place of each weight; matrices of one shape go through together."""
    matrix_axis = 0 if members is None else 1
    alike: dict[tuple[int, int], list[Tensor]] = {}
    for weight in weights:
        rows, columns = weight.shape[matrix_axis], weight[(0,) * (matrix_axis + 1)].numel()
        alike.setdefault((rows, columns), []).append(weight)
    for (rows, columns), group in alike.items():
        kind = dtype or (torch.bfloat16 if group[0].is_cuda else group[0].dtype)
        stack = torch.cat([weight.reshape(-1, rows, columns).to(kind) for weight in group])
        factor = 0.2 * max(rows, columns) ** 0.5 if match_adamw else max(1.0, rows / columns) ** 0.5
        result = newton_schulz(stack, num_iterations).mul_(factor).reshape(len(group), -1, rows, columns)
        for weight, matrices in zip(group, result, strict=True):
            weight.copy_(matrices.reshape(weight.shape))
