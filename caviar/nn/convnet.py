"""The small convolutional network."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from caviar.core.errors import InputError


class ConvNet(nn.Module):
    """Blocks of conv 3x3 (padding 1), norm, max pool 2, ReLU; then fully connected layers with ReLU; a linear output.

    inputs (batch, input channels, height, width) -> outputs (batch, num_outputs). Each block halves height and width,
    rounding down: the last row or column of an odd size is left out by its pool. A convolution in front of a batch norm
    has no bias: the norm subtracts it again. Dropout stands before each fully connected layer, the output included.

    The pool comes before the ReLU. Both only ever pick or keep the larger value, so max(relu(x)) = relu(max(x)) and
    outputs and gradients are those of the usual order, but ReLU works on a quarter of the data, and in place.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        channels: Sequence[int],
        hidden: Sequence[int],
        num_outputs: int,
        *,
        norm: str = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        fan_in, height, width = input_shape
        _check_size(height, width, len(channels))
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for number, num_channels in enumerate(channels, start=1):
            blocks[f"conv{number}"] = nn.Conv2d(fan_in, num_channels, kernel_size=3, padding=1, bias=norm == "none")
            if norm == "batch":
                blocks[f"norm{number}"] = nn.BatchNorm2d(num_channels)
            blocks[f"pool{number}"] = nn.MaxPool2d(2)
            blocks[f"relu{number}"] = nn.ReLU(inplace=True)
            fan_in, height, width = num_channels, height // 2, width // 2
        self.blocks = nn.Sequential(blocks)
        self.flatten = nn.Flatten()
        fan_in = fan_in * height * width
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, units in enumerate(hidden, start=1):
            if dropout > 0:
                layers[f"dropout{number}"] = nn.Dropout(dropout)
            layers[f"linear{number}"] = nn.Linear(fan_in, units)
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
            fan_in = units
        if dropout > 0:
            layers["dropout"] = nn.Dropout(dropout)
        self.hidden = nn.Sequential(layers)
        self.output = nn.Linear(fan_in, num_outputs)

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
