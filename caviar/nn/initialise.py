"""Initial weights, drawn from a generator given by name, never from the global one."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

EMBEDDING_STD = 0.01
OUTPUT_GAIN = 0.1


def init_hidden_weight(weight: Tensor, activation: str, generator: torch.Generator) -> None:
    """Fill a hidden layer's weight so that the signal keeps its size through `activation`.

    relu and its smooth relatives: He et al. 2015, normal with variance 2 / fan_in (2 / ((1 + 0.01^2) fan_in) for
    leaky_relu). tanh, sigmoid: Glorot and Bengio 2010, normal with variance 2 / (fan_in + fan_out).
    """
    if activation in ("tanh", "sigmoid"):
        nn.init.xavier_normal_(weight, generator=generator)
    elif activation == "leaky_relu":
        nn.init.kaiming_normal_(weight, a=0.01, nonlinearity="leaky_relu", generator=generator)
    else:
        nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)


def init_output_weight(weight: Tensor, generator: torch.Generator) -> None:
    """Fill the output layer's weight: normal with standard deviation 0.1 / sqrt(fan_in).

    Logits then start near 0, so that the first loss is close to log(classes), or to the variance of the targets.
    """
    nn.init.normal_(weight, std=OUTPUT_GAIN / weight.shape[1] ** 0.5, generator=generator)


def initialise(model: nn.Module, output: nn.Linear, activation: str, generator: torch.Generator) -> None:
    """Set every parameter and buffer: biases 0, norms as new, `output` small, other weights by `activation`.

    Vectors of categories start small (normal, 0.01), so that one never seen in training stays close to neutral.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            if module is output:
                init_output_weight(module.weight, generator)
            else:
                init_hidden_weight(module.weight, activation, generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=EMBEDDING_STD, generator=generator)
        elif isinstance(module, nn.PReLU | _NormBase | nn.LayerNorm | nn.GroupNorm):
            module.reset_parameters()
