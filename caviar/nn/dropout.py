"""Dropout: whole-batch masks from a generator of one's own, for one model or for stacked members."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd

from caviar.core.errors import InputError, unknown_name
from caviar.core.members import cast_over_members, check_range

Form = Literal["inverted", "classic"]
Generators = torch.Generator | Sequence[torch.Generator] | None
"""Where masks come from: None is torch's global stream; a sequence holds one generator for each member."""

FORMS: Final = ("inverted", "classic")


def dropout(
    inputs: Tensor,
    rate: float | Tensor,
    *,
    training: bool = True,
    form: Form = "inverted",
    spatial_axes: int = 0,
    generator: Generators = None,
) -> Tensor:
    """Set a random share `rate` of the inputs to zero while training (Hinton et al., 2012; Srivastava et al., 2014).

    inverted: training gives inputs * mask / (1 - rate), evaluation the inputs as they are.
    classic: training gives inputs * mask, evaluation inputs * (1 - rate): the form of the paper, scaled at test time.
    Both have the same expected output in training as in evaluation; they differ by the factor 1 - rate throughout.
    When: train is much better than dev and there are no more data; 0.5 between wide layers, 0.1 to 0.3 elsewhere.

    Args:
        inputs: any shape; with members, (members, batch, ...).
        rate: 0 to below 1, a number or [members].
        training: whether to drop anything.
        form: "inverted" or "classic".
        spatial_axes: so many last axes share one decision: 2 drops whole channels of pictures (Tompson et al., 2015).
        generator: None, one generator for the whole batch, or one for each member. With one for each, a member's mask
            depends on its own generator only, whoever stands beside it.

    Raises:
        InputError: a rate that is no tensor is out of range (a tensor is not read), or the form is unknown.
    """
    if not isinstance(rate, Tensor) and not 0 <= rate < 1:
        check_range("rate", rate, least=0, below=1)
    if form not in FORMS:
        raise unknown_name("form of dropout", form, FORMS)
    keep = cast_over_members(1.0 - rate, inputs)
    if not training:
        return inputs * keep if form == "classic" else inputs
    if generator is None and form == "inverted" and spatial_axes == 0 and not isinstance(rate, Tensor):
        return functional.dropout(inputs, rate)
    mask = dropout_mask(_mask_shape(inputs, spatial_axes), 1.0 - rate, inputs, generator)
    return inputs * (mask / keep if form == "inverted" else mask)


def dropout_mask(shape: Sequence[int], keep: float | Tensor, like: Tensor, generator: Generators = None) -> Tensor:
    """Draw a mask of 0 and 1, of dtype and device as `like`; every entry is 1 with probability `keep`.

    keep: a number or [members], then members is the first axis of `shape`; so it is with a generator for each member.
    """
    uniform = torch.empty(tuple(shape), dtype=torch.float32, device=like.device)
    if generator is None or isinstance(generator, torch.Generator):
        uniform.uniform_(generator=generator)
    else:
        if len(generator) != len(uniform):
            raise InputError(
                f"{len(generator)} generators arrived for inputs with {len(uniform)} members (the first axis of "
                f"{tuple(shape)}). Give one generator for each member."
            )
        for row, own in zip(uniform, generator, strict=True):
            row.uniform_(generator=own)
    return (uniform < cast_over_members(keep, uniform)).to(like.dtype)


def _mask_shape(inputs: Tensor, spatial_axes: int) -> list[int]:
    if inputs.dim() < spatial_axes + 2:
        raise InputError(
            f"spatial dropout over {spatial_axes} axes needs inputs (batch, channels, ...), but {tuple(inputs.shape)} "
            "arrived."
        )
    kept = inputs.dim() - spatial_axes
    return [*inputs.shape[:kept], *[1] * spatial_axes]


class Dropout(nn.Module):
    """Dropout in either form, with [members] rates, whole channels, and generators of its own; see `dropout`.

    Plain inverted dropout from torch's global stream is `torch.nn.Dropout`, and costs the same here.
    The generators are the caller's: their states are saved by whoever saves the run. Raises InputError for a rate
    outside 0 to below 1, or an unknown form.
    """

    def __init__(
        self,
        rate: float | Tensor,
        *,
        form: Form = "inverted",
        spatial_axes: int = 0,
        generator: Generators = None,
    ) -> None:
        super().__init__()
        check_range("rate", rate, least=0, below=1)
        if form not in FORMS:
            raise unknown_name("form of dropout", form, FORMS)
        self.rate = rate
        self.form: Form = form
        self.spatial_axes = spatial_axes
        self.generator = generator

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs with a share of them dropped (training), or scaled as the form wants (evaluation)."""
        return dropout(
            inputs,
            self.rate,
            training=self.training,
            form=self.form,
            spatial_axes=self.spatial_axes,
            generator=self.generator,
        )

    def extra_repr(self) -> str:
        return f"rate={self.rate}, form={self.form}, spatial_axes={self.spatial_axes}"


class DropConnectLinear(nn.Linear):
    """A linear layer that drops weights while training (Wan et al., 2013): x (W * mask / (1 - rate))^T + b.

    One mask serves the whole batch (the paper draws one for each example, which needs a copy of the weights for each).
    Biases are kept. In evaluation it is an ordinary linear layer. rate: 0 to below 1.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        rate: float,
        *,
        bias: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_inputs, num_outputs, bias=bias)
        check_range("rate", rate, least=0, below=1)
        self.rate = rate
        self.generator = generator

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's outputs, with dropped weights while training."""
        weight = dropout(self.weight, self.rate, training=self.training, generator=self.generator)
        return functional.linear(input, weight, self.bias)


def drop_connect(
    weight: Tensor, rate: float | Tensor, *, training: bool = True, generator: Generators = None
) -> Tensor:
    """Return weights with a share of them dropped, scaled by 1 / (1 - rate): DropConnect (Wan et al., 2013).

    weight: of any layer and shape, or (members, fan_out, fan_in) with rate [members] or a generator for each member.
    rate: 0 to below 1. When: as dropout; a little stronger, and slower, for wide fully connected layers.
    """
    return dropout(weight, rate, training=training, generator=generator)


DROPOUTS: Final = (_DropoutNd, Dropout, DropConnectLinear)
"""Every kind of layer that drops something while training."""


def has_dropout(model: nn.Module) -> bool:
    """Say whether the model drops something while training."""
    return any(isinstance(module, DROPOUTS) for module in model.modules())


class MonteCarlo(NamedTuple):
    """What repeated predictions with dropout came to: their mean and standard deviation, each shaped as one output."""

    mean: Tensor
    std: Tensor


@torch.no_grad()
def monte_carlo_predict(model: nn.Module, batch: Tensor, samples: int = 100, seed: int | None = None) -> MonteCarlo:
    """Predict `samples` times with dropout switched on and everything else in evaluation mode (Gal, Ghahramani, 2016).

    The standard deviation (over samples, divided by samples - 1) says how unsure the network is of each output.
    samples: at least 2. seed: makes the draws from torch's global stream repeatable, which is put back afterwards.
    The model is left as it was. Raises InputError when the model has no dropout, so that all samples would be equal.
    """
    if samples < 2:
        raise InputError(f"samples must be at least 2, but {samples} arrived: one prediction has no spread.")
    layers = [module for module in model.modules() if isinstance(module, DROPOUTS)]
    if not layers:
        raise InputError(
            f"{type(model).__name__} has no dropout layer, so all predictions would be the same. Train it with dropout."
        )
    with _only_training(model, layers), _seeded(seed, batch.device):
        mean, squares = model(batch).double(), None
        for count in range(2, samples + 1):
            outputs = model(batch)
            change = outputs.double() - mean
            mean = mean + change / count
            step = change * (outputs.double() - mean)
            squares = step if squares is None else squares + step
    assert squares is not None
    return MonteCarlo(mean.to(outputs.dtype), (squares / (samples - 1)).sqrt().to(outputs.dtype))


@contextmanager
def _only_training(model: nn.Module, layers: Sequence[nn.Module]) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        for layer in layers:
            layer.training = True
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
