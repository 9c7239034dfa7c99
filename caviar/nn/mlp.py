"""The multilayer perceptron, with learned vectors for categorical columns in front where there are some."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from caviar.nn.activations import ACTIVATIONS

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
    norm has no bias: the norm subtracts it again. Norm "none" and dropout 0 leave their layers out.
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
        cardinalities: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.embeddings = ColumnEmbeddings(num_inputs, cardinalities) if cardinalities else None
        fan_in = self.embeddings.num_outputs if self.embeddings is not None else num_inputs
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, width in enumerate(widths, start=1):
            layers[f"linear{number}"] = nn.Linear(fan_in, width, bias=norm != "batch")
            if norm != "none":
                layers[f"norm{number}"] = NORMS[norm](width)
            layers[f"activation{number}"] = ACTIVATIONS[activation]()
            if dropout > 0:
                layers[f"dropout{number}"] = nn.Dropout(dropout)
            fan_in = width
        self.hidden = nn.Sequential(layers)
        self.output = nn.Linear(fan_in, num_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits or values of a batch of rows."""
        columns = torch.flatten(inputs, start_dim=1)
        if self.embeddings is not None:
            columns = self.embeddings(columns)
        outputs: Tensor = self.output(self.hidden(columns))
        return outputs
