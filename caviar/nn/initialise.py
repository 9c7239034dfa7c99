"""Initial values of a whole network, drawn from a generator given by name, never from the global one."""

from collections.abc import Iterator
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from caviar.core.errors import InputError, unknown_name
from caviar.nn.activation_facts import activation_facts
from caviar.nn.activations import Maxout
from caviar.nn.data_initialisers import data_dependent, lsuv
from caviar.nn.fans import FanMode
from caviar.nn.initialisers import INITIALISERS, Distribution, lecun
from caviar.nn.settings import ConvNetSettings, MLPSettings

EMBEDDING_STD: Final = 0.01
OUTPUT_GAIN: Final = 0.1
BASES: Final = {"data_dependent": "auto", "lsuv": "orthogonal"}
"""What the initialisers that look at data start from."""
FIXED_GAINS: Final = {"constant": 0.01, "normal": 0.05, "uniform": 0.05}
BY_ACTIVATION: Final = ("he", "orthogonal", "random_walk")
KEEPS_SIZE: Final = ("auto", "xavier", "he", "lecun", "orthogonal", "random_walk", *BASES)
"""Initialisers that keep the size of signals: with them the output layer starts small."""

KINDS: Final[dict[type[nn.Module], str]] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.PReLU: "prelu",
    nn.ELU: "elu",
    nn.SELU: "selu",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Softplus: "softplus",
    Maxout: "maxout",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
}


def initialise(
    model: nn.Module,
    name: str = "auto",
    *,
    generator: torch.Generator,
    activation: str | None = None,
    gain: float | Literal["auto"] = "auto",
    fan_mode: FanMode | Literal["auto"] = "auto",
    distribution: Distribution | Literal["auto"] = "auto",
    output_gain: float | None = OUTPUT_GAIN,
    batch: Tensor | None = None,
) -> None:
    """Give every linear layer and convolution of a model its initial weights; biases become 0.

    Norms and learned slopes start as new. Vectors of categories start small (normal, 0.01), so that one never seen in
    training stays close to neutral. Other layers with parameters (recurrent, attention) are left as torch made them.

    Args:
        model: any module; what follows each layer in the order of its modules says which activation it feeds.
        name: an initialiser's, "data_dependent" or "lsuv" (both need `batch`), or "auto": what suits the activation
            (he for relu and its relatives, xavier for tanh and sigmoid, lecun for selu and maxout).
        generator: decides all random numbers.
        activation: the one that all hidden layers feed, where the modules do not show it.
        gain: factor of the weights' standard deviation; auto: by the activation, see `gain_for`. For data_dependent and
            lsuv the standard deviation that every layer's outputs get.
        fan_mode, distribution: as the initialiser takes them; auto: its own.
        output_gain: with initialisers that keep the size of signals the last layer is drawn by lecun with this gain.
            Logits then start near 0, so that the first loss is close to log(classes), or to the targets' variance.
            None treats the last layer like the others.
        batch: inputs of the network, for the initialisers that look at data.
    """
    if name != "auto" and name not in INITIALISERS and name not in BASES:
        raise unknown_name("initialiser", name, ["auto", *INITIALISERS, *BASES])
    if name in BASES and batch is None:
        raise InputError(f"the initialiser {name!r} looks at data. Give it a batch of the network's inputs.")
    base = BASES.get(name, name)
    output = output_layer(model) if output_gain is not None and name in KEEPS_SIZE else None
    feeds = dict(_layers_and_activations(model, activation))
    options = {"fan_mode": fan_mode, "distribution": distribution}
    given = {key: value for key, value in options.items() if value != "auto"}
    for module in model.modules():
        if module is output:
            assert output_gain is not None
            lecun(module, gain=output_gain, generator=generator)
        elif module in feeds:
            chosen = activation_facts(feeds[module]).initialiser if base == "auto" else base
            scale = gain_for(chosen, feeds[module]) if gain == "auto" or name in BASES else gain
            INITIALISERS[chosen](module, gain=scale, generator=generator, **given)  # type: ignore[arg-type]
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=EMBEDDING_STD, generator=generator)
        elif isinstance(module, nn.PReLU | _NormBase | nn.LayerNorm | nn.GroupNorm):
            module.reset_parameters()
    if batch is not None and name in BASES:
        adapt_to_data(model, name, batch, gain=gain, leave=output)


def adapt_to_data(
    model: nn.Module,
    name: str,
    batch: Tensor,
    *,
    gain: float | Literal["auto"] = "auto",
    leave: nn.Module | None = None,
) -> None:
    """Do the part of "data_dependent" or "lsuv" that looks at data; for every other initialiser there is none."""
    target = 1.0 if gain == "auto" else gain
    if name == "data_dependent":
        data_dependent(model, batch, gain=target, leave=leave)
    elif name == "lsuv":
        lsuv(model, batch, gain=target, leave=leave)


def gain_for(name: str, activation: str) -> float:
    """Return the gain that initialiser `name` takes in front of `activation` when none is given.

    he, orthogonal and random_walk: the activation's published gain. constant: 0.01; normal and uniform: 0.05; else 1.
    """
    if name in BY_ACTIVATION:
        return activation_facts(activation).gain
    return FIXED_GAINS.get(name, 1.0)


def output_layer(model: nn.Module) -> nn.Module | None:
    """Return the layer that gives the outputs: the module called `output`, or else the last with a weight."""
    named = getattr(model, "output", None)
    if isinstance(named, nn.Linear | _ConvNd):
        return named
    return next(reversed([layer for layer in model.modules() if isinstance(layer, nn.Linear | _ConvNd)]), None)


def resolve_init(settings: MLPSettings | ConvNetSettings) -> dict[str, object]:
    """Return what stands for every "auto" among a network's settings of initial weights."""
    facts = activation_facts(settings.activation)
    name = facts.initialiser if settings.init == "auto" else settings.init
    base = BASES.get(name, name)
    chosen = facts.initialiser if base == "auto" else base
    return {
        "init": name,
        "init_gain": (1.0 if name in BASES else gain_for(chosen, settings.activation))
        if settings.init_gain == "auto"
        else settings.init_gain,
        "init_fan_mode": ("fan_avg" if chosen == "xavier" else "fan_in")
        if settings.init_fan_mode == "auto"
        else settings.init_fan_mode,
        "init_distribution": ("uniform" if chosen == "uniform" else "normal")
        if settings.init_distribution == "auto"
        else settings.init_distribution,
    }


def _layers_and_activations(model: nn.Module, activation: str | None) -> Iterator[tuple[nn.Module, str]]:
    """Yield every layer with a weight and the activation it feeds, in the order of the modules.

    That is the first one before the next layer; where there is none, the one that the model has most of, or relu.
    """
    modules = list(model.modules())
    kinds = [KINDS[type(module)] for module in modules if type(module) in KINDS]
    usual = max(kinds, key=kinds.count, default="relu")
    for place, layer in enumerate(modules):
        if isinstance(layer, nn.Linear | _ConvNd):
            yield layer, activation or _next_activation(modules[place + 1 :]) or usual


def _next_activation(modules: list[nn.Module]) -> str | None:
    for module in modules:
        if isinstance(module, nn.Linear | _ConvNd):
            return None
        if type(module) in KINDS:
            return KINDS[type(module)]
    return None
