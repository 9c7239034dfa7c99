"""What is known of a run besides its records: the task, the data, the settings, the network."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_type_hints

from torch import nn

from caviar.diagnose.quantities.layout import Layout, dropout_rate


class LayerFacts(NamedTuple):
    """A layer: its name, its class, its inputs and outputs a unit (0, 0 for an activation or a norm)."""

    name: str
    kind: str
    fan_in: int = 0
    units: int = 0


@dataclass(frozen=True)
class Facts:
    """Everything that rules may ask besides the curves; "", 0 and () where it is not known.

    task: classification or regression. loss: as in a recipe. train_shares, dev_shares: of the classes, in their order.
    layers: those with weights, in the network's own order. hidden: activations before the last of them. norms: batch
    norms. own_network: whether caviar built the network, so that its weights are fresh. own_targets: whether caviar
    standardised the targets. best_error: the least error to hope for, -1 where nobody said. chosen: of a member, the
    hyperparameters in which it differs from others.
    """

    task: str = ""
    loss: str = ""
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    train_shares: tuple[float, ...] = ()
    dev_shares: tuple[float, ...] = ()
    num_train: int = 0
    num_dev: int = 0
    batch_size: int = 0
    epochs: int = 0
    steps_per_epoch: int = 0
    patience: int = 0
    label_smoothing: float = 0.0
    class_weighted: bool = False
    optimizer: str = ""
    schedule: str = ""
    clip_norm: float = 0.0
    l1: float = 0.0
    l2: float = 0.0
    dropout: float = 0.0
    augmented: bool = False
    mixes_labels: bool = False
    precision: str = ""
    own_network: bool = False
    own_targets: bool = False
    layers: tuple[LayerFacts, ...] = ()
    hidden: tuple[LayerFacts, ...] = ()
    norms: tuple[LayerFacts, ...] = ()
    best_error: float = -1.0
    chosen: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON."""
        return dataclasses.asdict(self) | {
            name: [list(layer) for layer in getattr(self, name)] for name in ("layers", "hidden", "norms")
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Facts":
        """Read what `to_dict` gave; keys of another version and values of another type are left out."""
        known: dict[str, Any] = {}
        hints = get_type_hints(cls)
        for name in (entry.name for entry in dataclasses.fields(cls)):
            value = values.get(name)
            if name in ("layers", "hidden", "norms") and isinstance(value, list | tuple):
                known[name] = tuple(LayerFacts(*entry) for entry in value)
            elif name == "chosen":
                known[name] = dict(value) if isinstance(value, dict) else {}
            elif isinstance(value, list):
                known[name] = tuple(value)
            elif value is not None and isinstance(value, hints[name] if isinstance(hints[name], type) else object):
                known[name] = value
        return cls(**known)


OWN = ("label_smoothing", "clip_norm", "l1", "l2", "dropout")
"""Facts that are hyperparameters in which members may differ."""


def member_facts(shared: Facts, chosen: Mapping[str, float]) -> Facts:
    """Return the facts of a member that has these hyperparameters of its own."""
    own: dict[str, Any] = {name: chosen[name] for name in OWN if name in chosen}
    return dataclasses.replace(shared, chosen=dict(chosen), **own)


def differences(facts: Facts, shared: Facts) -> dict[str, Any]:
    """Return, as JSON, the facts that are not the shared ones: what `merged` puts back."""
    common = shared.to_dict()
    return {name: value for name, value in facts.to_dict().items() if value != common[name]}


def merged(shared: Facts, own: Mapping[str, Any]) -> Facts:
    """Return the shared facts with those of `differences` in their place."""
    return Facts.from_dict(shared.to_dict() | dict(own))


def facts_of(model: nn.Module) -> Facts:
    """Return what the network itself tells."""
    layout = Layout.of(model)
    layers = tuple(_layer(layer.name, layer.module, layer.weight) for layer in layout.layers)
    order = list(layout.names)
    last = max((order.index(layer.module) for layer in layout.layers), default=0)
    hidden = tuple(
        LayerFacts(layout.names[module], type(module).__name__)
        for module in (*layout.activations, *layout.entering)
        if order.index(module) < last or module in layout.entering
    )
    norms = tuple(LayerFacts(layout.names[module], type(module).__name__) for module in layout.norms)
    rate = max((dropout_rate(module) for module in layout.moody), default=0.0)
    return Facts(layers=layers, hidden=hidden, norms=norms, dropout=rate)


def _layer(name: str, module: nn.Module, weight: nn.Parameter) -> LayerFacts:
    return LayerFacts(name, type(module).__name__, weight.numel() // max(len(weight), 1), len(weight))
