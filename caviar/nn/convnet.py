"""The small convolutional network."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.nn.activation_facts import activation_facts
from caviar.nn.activations import PIECES, build_activation, pieces_of
from caviar.nn.dropout import Dropout
from caviar.nn.layers import CANCELLING, build_dropout, build_linear, build_picture_norm


class ConvNet(nn.Module):
    """Blocks of conv 3x3 (padding 1), norm, max pool 2, activation; then fully connected layers; a linear output.

    inputs (batch, input channels, height, width) -> outputs (batch, num_outputs). Each block halves height and width,
    rounding down: the last row or column of an odd size is left out by its pool. A convolution in front of a batch or
    instance norm has no bias: the norm subtracts it again. Dropout stands before each fully connected layer, the output
    included; spatial dropout, of whole channels, at the end of each block.

    The pool comes before the activation where that never falls (ReLU: max(relu(x)) = relu(max(x)), so outputs and
    gradients are those of the usual order), which then works on a quarter of the data, ReLU in place as well.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        channels: Sequence[int],
        hidden: Sequence[int],
        num_outputs: int,
        *,
        activation: str = "relu",
        norm: str = "batch",
        dropout: float = 0.0,
        dropout_form: str = "inverted",
        spatial_dropout: float = 0.0,
        maxout_pieces: int = PIECES,
    ) -> None:
        super().__init__()
        fan_in, height, width = input_shape
        _check_size(height, width, len(channels))
        pieces = pieces_of(activation, maxout_pieces)
        label = "relu" if activation == "relu" else "activation"
        pool_first = activation_facts(activation).monotone
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for number, num_channels in enumerate(channels, start=1):
            wide = num_channels * pieces
            blocks[f"conv{number}"] = nn.Conv2d(fan_in, wide, kernel_size=3, padding=1, bias=norm not in CANCELLING)
            if norm != "none":
                blocks[f"norm{number}"] = build_picture_norm(norm, wide)
            tail = {
                f"pool{number}": nn.MaxPool2d(2),
                f"{label}{number}": build_activation(activation, pieces=maxout_pieces, dim=-3, inplace=True),
            }
            blocks.update(tail if pool_first else dict(reversed(tail.items())))
            if spatial_dropout > 0:
                blocks[f"dropout{number}"] = Dropout(spatial_dropout, spatial_axes=2)
            fan_in, height, width = num_channels, height // 2, width // 2
        self.blocks = nn.Sequential(blocks)
        self.flatten = nn.Flatten()
        fan_in = fan_in * height * width
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, units in enumerate(hidden, start=1):
            dropped = build_dropout(dropout_form, dropout)
            if dropped is not None:
                layers[f"dropout{number}"] = dropped
            layers[f"linear{number}"] = build_linear(fan_in, units * pieces, dropout_form, dropout)
            layers[f"{label}{number}"] = build_activation(activation, pieces=maxout_pieces, inplace=True)
            fan_in = units
        dropped = build_dropout(dropout_form, dropout)
        if dropped is not None:
            layers["dropout"] = dropped
        self.hidden = nn.Sequential(layers)
        self.output = build_linear(fan_in, num_outputs, dropout_form, dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits or values of a batch of pictures."""
        outputs: Tensor = self.output(self.hidden(self.flatten(self.blocks(inputs))))
        return outputs


def _check_size(height: int, width: int, num_blocks: int) -> None:
    fitting = max(min(height, width).bit_length() - 1, 0)
    if fitting < num_blocks:
        raise InputError(
            f"model.channels has {num_blocks} entries and each halves the picture, but a picture of {height} x {width} "
            f"pixels can be halved {fitting} times. Give model.channels at most {fitting} entries, or larger pictures."
        )
