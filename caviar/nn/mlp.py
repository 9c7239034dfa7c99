"""The multilayer perceptron, with learned vectors for categorical columns in front where there are some."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from caviar.nn.activations import PIECES, build_activation, pieces_of
from caviar.nn.layers import build_dropout, build_linear

NORMS: Final[dict[str, Callable[[int], nn.Module]]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


def embedding_size(slots: int) -> int:
    """Return the length of a category's vector: min(50, ceil(1.6 slots^0.56)), fastai's rule of thumb."""
    return min(50, math.ceil(1.6 * math.pow(slots, 0.56)))


class ColumnEmbeddings(nn.Module):
    """Replaces slot numbers by learned vectors.

    The last len(cardinalities) input columns hold slot numbers as floats, column i from 0 to cardinalities[i] - 1.
    inputs (batch, columns) -> (batch, num_outputs): the numeric columns, then each categorical column's vector.
    """

    def __init__(self, columns: int, cardinalities: Sequence[int]) -> None:
        super().__init__()
        if not 0 < len(cardinalities) <= columns:
            raise ValueError(f"{len(cardinalities)} categorical columns do not fit into {columns} columns")
        sizes = [embedding_size(slots) for slots in cardinalities]
        self.num_numeric = columns - len(cardinalities)
        self.num_outputs = self.num_numeric + sum(sizes)
        self.tables = nn.ModuleList(map(nn.Embedding, cardinalities, sizes))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the numeric columns and the categories' vectors side by side."""
        slots = inputs[:, self.num_numeric :].long()
        vectors = [table(slots[:, i]) for i, table in enumerate(self.tables)]
        return torch.cat([inputs[:, : self.num_numeric], *vectors], dim=1)


class MLP(nn.Module):
    """A multilayer perceptron: for each width linear, norm, activation, dropout; then a linear output.

    inputs (batch, ...) are flattened to (batch, num_inputs); the outputs are (batch, num_outputs) logits or values.
    With `cardinalities` the last columns are slot numbers (see ColumnEmbeddings). A linear layer in front of a batch
    norm has no bias: the norm subtracts it again. Norm "none" and dropout 0 leave their layers out. With maxout the
    linear layer (and its norm) has `maxout_pieces` outputs for each unit. With dropout_form "dropconnect" every linear
    layer behind the first width drops weights instead of the units in front of it.
    """

    def __init__(
        self,
        num_inputs: int,
        widths: Sequence[int],
        num_outputs: int,
        *,
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
        dropout_form: str = "inverted",
        maxout_pieces: int = PIECES,
        cardinalities: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.embeddings = ColumnEmbeddings(num_inputs, cardinalities) if cardinalities else None
        fan_in = self.embeddings.num_outputs if self.embeddings is not None else num_inputs
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        pieces, rate = pieces_of(activation, maxout_pieces), 0.0
        for number, width in enumerate(widths, start=1):
            layers[f"linear{number}"] = build_linear(fan_in, width * pieces, dropout_form, rate, bias=norm != "batch")
            if norm != "none":
                layers[f"norm{number}"] = NORMS[norm](width * pieces)
            layers[f"activation{number}"] = build_activation(activation, pieces=maxout_pieces)
            dropped = build_dropout(dropout_form, dropout)
            if dropped is not None:
                layers[f"dropout{number}"] = dropped
            fan_in, rate = width, dropout
        self.hidden = nn.Sequential(layers)
        self.output = build_linear(fan_in, num_outputs, dropout_form, rate)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits or values of a batch of rows."""
        columns = torch.flatten(inputs, start_dim=1)
        if self.embeddings is not None:
            columns = self.embeddings(columns)
        outputs: Tensor = self.output(self.hidden(columns))
        return outputs
