"""Every name that a recipe can use, by family, with one line each: what `caviar recipe --list` prints."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from caviar.augment.settings import AUGMENTATIONS
from caviar.bundle.settings import VIEWS
from caviar.core.settings import Settings
from caviar.nn.catalogue import ACTIVATIONS, DROPOUTS, INITIALISERS, LOSSES, NORMS, REGULARIZERS
from caviar.nn.settings import ConvNetSettings, CrossEntropySettings, MLPSettings
from caviar.optim.settings import AVERAGES, OPTIMIZERS, SCHEDULES, AdamWSettings, ConstantSettings, SGDSettings
from caviar.preprocess.settings import CATEGORIES, DECORRELATIONS, MISSING_VALUES, PICTURE_SCALINGS, SCALINGS
from caviar.recipe.recipe import PLAIN_SECTIONS, VARIANTS


class Name(NamedTuple):
    """One name: how a recipe says it (what follows --set; VALUE stands for a value of its own), and what it is."""

    name: str
    setting: str
    summary: str


class Family(NamedTuple):
    """Names of one kind. key: the setting whose values they are, the section whose settings they are, or ""."""

    title: str
    key: str
    names: tuple[Name, ...]


def _values(title: str, key: str, lines: Mapping[str, str]) -> Family:
    return Family(title, key, tuple(Name(name, f"{key}={name}", line) for name, line in lines.items()))


def _settings(title: str, section: str, lines: Mapping[str, str]) -> Family:
    return Family(title, section, tuple(Name(name, f"{section}.{name}=VALUE", line) for name, line in lines.items()))


def _first_lines(section: str) -> dict[str, str]:
    return {name: (kind.__doc__ or "").splitlines()[0] for name, kind in VARIANTS[section].items()}


def _parts(title: str, *settings: tuple[str, type[Settings]]) -> Family:
    """Return settings from several sections that are components as well."""
    lines = {key: kind.model_fields[key.rpartition(".")[2]].description or "" for key, kind in settings}
    return Family(title, "", tuple(Name(key.rpartition(".")[2], f"{key}=VALUE", line) for key, line in lines.items()))


def _descriptions(section: str, *keys: str) -> dict[str, str]:
    return {key: PLAIN_SECTIONS[section].model_fields[key].description or "" for key in keys}


FAMILIES: Final = (
    _values("Networks", "model.name", _first_lines("model")),
    _values("Activations", "model.activation", ACTIVATIONS),
    _values("Initial weights", "model.init", INITIALISERS),
    _values("Norms", "model.norm", NORMS),
    _values("Forms of dropout", "model.dropout_form", DROPOUTS),
    _values("Losses", "loss.name", LOSSES),
    _settings("Penalties and limits on weights", "regularization", REGULARIZERS),
    _values("Update rules", "optimizer.name", OPTIMIZERS),
    _values("Schedules of the learning rate", "schedule.name", SCHEDULES),
    _values("Averages of the weights", "average.name", AVERAGES),
    _settings("Limits on training", "training", _descriptions("training", "patience", "clip_norm")),
    _values("Scalings of numbers", "preprocess.numeric", SCALINGS),
    _values("Decorrelations", "preprocess.decorrelate", DECORRELATIONS),
    _values("Missing numbers", "preprocess.missing", MISSING_VALUES),
    _values("Categorical columns", "preprocess.categorical", CATEGORIES),
    _values("Scalings of pictures", "preprocess.pictures", PICTURE_SCALINGS),
    _settings("Augmentations of pictures", "augment", AUGMENTATIONS),
    _values("Views of a picture at prediction", "prediction.views", VIEWS),
    _parts(
        "Settings that are components as well",
        ("model.dropout", MLPSettings),
        ("model.spatial_dropout", ConvNetSettings),
        ("loss.label_smoothing", CrossEntropySettings),
        ("loss.class_weights", CrossEntropySettings),
        ("optimizer.momentum", SGDSettings),
        ("optimizer.nesterov", SGDSettings),
        ("optimizer.weight_decay", AdamWSettings),
        ("schedule.warmup", ConstantSettings),
    ),
    _settings("Dropout at prediction", "prediction", _descriptions("prediction", "monte_carlo")),
)
"""All families, in the order of a network's making."""
