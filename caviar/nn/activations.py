"""Activations by their standard names. What is known about each of them: caviar.nn.activation_facts."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from caviar.core.errors import InputError, unknown_name

PIECES = 2


class Maxout(nn.Module):
    """The largest of k linear pieces (Goodfellow et al., 2013): outputs_i = max over p of inputs_{i k + p}.

    Stands behind a linear layer (or a convolution) of k times as many outputs, whose k outputs side by side are the
    pieces of one unit. It can bend into any convex function and never saturates, at k times the weights.

    pieces: k, at least 2. dim: the axis of the features, from the end: -1 for rows (batch, k features) ->
    (batch, features), -3 for pictures (batch, k channels, height, width). More axes in front (members) are welcome.
    Raises InputError when pieces is below 2, dim is not negative, or pieces do not divide the features that arrive.
    """

    def __init__(self, pieces: int = PIECES, dim: int = -1) -> None:
        super().__init__()
        if pieces < 2:
            raise InputError(f"pieces must be at least 2, but {pieces} arrived: one piece alone is linear.")
        if dim >= 0:
            raise InputError(f"dim must be negative (counted from the end), but {dim} arrived.")
        self.pieces = pieces
        self.dim = dim

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the largest piece of every unit."""
        try:
            return torch.unflatten(inputs, self.dim, (-1, self.pieces)).amax(self.dim)
        except RuntimeError as error:  # no question before: torch.fx cannot trace one about sizes
            raise InputError(
                f"Maxout({self.pieces}) was given {inputs.size(self.dim)} features (shape {tuple(inputs.shape)}), "
                f"which are not a multiple of its pieces. Give the layer before it {self.pieces} outputs a unit."
            ) from error

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}, dim={self.dim}"


class MaxoutLinear(nn.Sequential):
    """A maxout layer: k linear pieces of every output, of which the largest counts.

    inputs (..., num_inputs) -> (..., num_outputs): max over p of W_p x + b_p. Weights (num_outputs * k, num_inputs).
    Source: Goodfellow et al., Maxout networks, 2013.
    """

    def __init__(self, num_inputs: int, num_outputs: int, pieces: int = PIECES) -> None:
        super().__init__(nn.Linear(num_inputs, num_outputs * pieces), Maxout(pieces))


ACTIVATIONS: Final[dict[str, Callable[[], nn.Module]]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "maxout": Maxout,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def build_activation(name: str, *, pieces: int = PIECES, dim: int = -1, inplace: bool = False) -> nn.Module:
    """Return a new module of the activation `name`, torch's own where torch has it.

    pieces, dim: for maxout. inplace: overwrite the inputs where the activation can (ReLU).
    Raises InputError for a name that does not exist.
    """
    if name not in ACTIVATIONS:
        raise unknown_name("activation", name, ACTIVATIONS)
    if name == "maxout":
        return Maxout(pieces, dim)
    return nn.ReLU(inplace=True) if name == "relu" and inplace else ACTIVATIONS[name]()


def pieces_of(name: str, pieces: int = PIECES) -> int:
    """Return how many outputs of the layer before become one output of the activation: maxout's pieces, else 1."""
    return pieces if name == "maxout" else 1
