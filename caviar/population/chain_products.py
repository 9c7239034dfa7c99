"""Matrix products of members, into memory that exists, rounded alike whoever stands beside a member.

MKL's kernels round differently where a matrix does not begin at a multiple of 16 bytes. So every member's matrix begins
at one, behind a gap if need be; products with a gap go member by member, for those in one call want none.
"""

import math

import torch
from torch import Tensor

ALIGNMENT = 4
"""A member's matrix begins at a multiple of so many numbers: 16 bytes in float32."""


def members_stride(shape: tuple[int, ...]) -> int:
    """Return how many numbers lie from one member's matrix to the next one's."""
    return -(-math.prod(shape) // ALIGNMENT) * ALIGNMENT


def is_dense(*shape: int) -> bool:
    """Whether members' matrices of this shape lie without gaps between them."""
    return math.prod(shape) % ALIGNMENT == 0


def members_view(flat: Tensor, num_members: int, shape: tuple[int, ...]) -> Tensor:
    """Return flat memory as (members, *shape), every member aligned."""
    return flat.view(num_members, -1)[:, : math.prod(shape)].view(num_members, *shape)


def members_empty(like: Tensor, num_members: int, *shape: int) -> Tensor:
    """Return memory for (members, *shape), every member aligned; gaps are 0."""
    return members_view(like.new_zeros(num_members * members_stride(shape)), num_members, shape)


def multiply(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Compute out = left @ right for every member."""
    if is_dense(*out.shape[1:]):
        torch.bmm(left, right, out=out)
    else:
        for first, second, result in zip(left, right, out, strict=True):
            torch.mm(first, second, out=result)


def add_product(out: Tensor, left: Tensor, right: Tensor, kept: float) -> None:
    """Compute out = kept * out + left @ right for every member."""
    if is_dense(*out.shape[1:]):
        torch.baddbmm(out, left, right, beta=kept, out=out)
    else:
        for first, second, result in zip(left, right, out, strict=True):
            result.addmm_(first, second, beta=kept)
