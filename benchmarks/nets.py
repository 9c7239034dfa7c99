"""The nets of the benchmarks, as people write them."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def plain_mlp(widths: Sequence[int]) -> nn.Module:
    """Return a fully connected net with ReLU."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def plain_convnet(channels: Sequence[int]) -> nn.Module:
    """Return blocks of conv 3x3, batch norm, ReLU and max pool 2, and one linear layer, for 3 x 32 x 32 pictures."""
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (fan_in, fan_out) in enumerate(pairwise((3, *channels)), start=1):
        blocks[f"conv{number}"] = nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False)
        blocks[f"norm{number}"] = nn.BatchNorm2d(fan_out)
        blocks[f"relu{number}"] = nn.ReLU()
        blocks[f"pool{number}"] = nn.MaxPool2d(2)
    blocks["flatten"] = nn.Flatten()
    blocks["output"] = nn.Linear(channels[-1] * (32 >> len(channels)) ** 2, 10)
    return nn.Sequential(blocks)
