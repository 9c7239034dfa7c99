"""What to try against findings: their remedies as settings, each once, and what caviar would choose by itself."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from caviar.core.findings import Finding
from caviar.core.settings import Settings
from caviar.recipe import Recipe
from caviar.recipe.recipe import DEFAULT_NAMES, VARIANTS
from caviar.recipe.values import toml_value
from caviar.workflow.remedies import remedies_for

NOT_COMPARABLE: Final = ("split", "data", "device", "watch")
"""Sections after which runs are judged on other examples, or only cost something else."""
LENGTHS: Final = ("training.epochs", "training.patience")
"""Settings that let a run go on for longer."""

COMPANIONS: Final = {
    "model.activation": ("model.init=auto", "model.init_gain=auto"),
    "model.init": ("model.init_gain=auto",),
}

OWN_RULE: Final = "Take the usual settings of the update rule."
ALL: Final = "Begin with what caviar would choose, and change one thing at a time."
USUAL: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("Draw initial weights as usual.", ("model.init", "model.init_gain", "model.init_fan_mode")),
    ("Leave out limits and penalties.", ("regularization", "training.clip_norm", "optimizer.weight_decay")),
    ("Take the usual loss.", ("loss",)),
    ("Take the usual course of the rate.", ("schedule",)),
    ("Take batches of the usual size.", ("training.batch_size",)),
    ("Take the usual dropout.", ("model.dropout",)),
    ("Hand over the weights themselves.", ("average",)),
    ("Prepare inputs as usual.", ("preprocess",)),
    ("Leave pictures as they are.", ("augment",)),
    ("Take the usual activation and norm.", ("model.activation", "model.norm", "model.init", "model.init_gain")),
    ("Take a network of the usual size.", ("model.widths", "model.channels", "model.hidden")),
    (OWN_RULE, ("optimizer.*",)),
    ("Take the usual update rule and rate.", ("optimizer",)),
)
"""What a recipe may have chosen otherwise than caviar would: sections, or single settings, that belong together."""


class Advice(NamedTuple):
    """A remedy in settings, and the codes of the findings that advise it. usual: it is what caviar would choose."""

    do: str
    settings: tuple[str, ...]
    codes: tuple[str, ...] = ()
    usual: bool = False

    @property
    def names(self) -> list[str]:
        """The settings without their values."""
        return [assignment.split("=", 1)[0] for assignment in self.settings]

    @property
    def lengthens(self) -> bool:
        """Whether it is about how long a run goes on."""
        return any(name in LENGTHS for name in self.names)


def advice_for(findings: Sequence[Finding], recipe: Recipe) -> tuple[list[Advice], list[tuple[str, str]]]:
    """Return the remedies that can be tried, each once, cheapest of the gravest first; and those that cannot, why."""
    found: dict[tuple[str, ...], Advice] = {}
    untried: dict[str, str] = {}
    for finding in findings:
        for remedy, settings in remedies_for(finding, recipe):
            advice = Advice(remedy.do, with_companions(settings))
            if not settings:
                untried.setdefault(remedy.do, "it is no matter of settings")
            elif any(name.startswith(NOT_COMPARABLE) for name in advice.names):
                untried.setdefault(remedy.do, "a run on the same dev examples cannot judge it")
            elif any(_shortens(recipe, assignment) for assignment in settings):
                untried.setdefault(remedy.do, "the best epoch is handed over in any case")
            else:
                known = found.get(advice.settings, advice)
                found[advice.settings] = known._replace(codes=tuple(dict.fromkeys((*known.codes, finding.code))))
    return list(found.values()), list(untried.items())


def _shortens(recipe: Recipe, assignment: str) -> bool:
    name, _, text = assignment.partition("=")
    if name not in LENGTHS or text in ("auto", "none"):
        return False
    present: Any = getattr(recipe.training, name.removeprefix("training."))
    return present == "none" or float(text) <= float(present)


def with_companions(settings: tuple[str, ...]) -> tuple[str, ...]:
    """Return settings with those that must be chosen anew beside them: initial weights are made for an activation."""
    names = [assignment.split("=", 1)[0] for assignment in settings]
    added = [each for name in names for each in COMPANIONS.get(name, ()) if each.split("=", 1)[0] not in names]
    return (*settings, *added)


def together(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    """Return the settings of both, the second ones where both have one."""
    values = dict(assignment.split("=", 1) for assignment in (*first, *second))
    return tuple(f"{name}={value}" for name, value in values.items())


def usual_choices(recipe: Recipe) -> list[Advice]:
    """Return what the recipe has otherwise than caviar would choose, concern by concern; last, all of it at once."""
    found = [Advice(do, _as_usual(recipe, places), (), usual=True) for do, places in USUAL]
    found = [advice for advice in found if advice.settings]
    every: tuple[str, ...] = ()
    for advice in found:
        if advice.do != OWN_RULE:
            every = together(every, advice.settings)
    return [*found, Advice(ALL, every, (), usual=True)] if every else found


def _as_usual(recipe: Recipe, places: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(assignment for place in places for assignment in _usual_at(recipe, place)))


def _usual_at(recipe: Recipe, place: str) -> list[str]:
    """Return what makes a section (all of it, or "section.*" under its present name) or a setting the usual one."""
    section, _, key = place.partition(".")
    present: Settings = getattr(recipe, section)
    kind = type(present)
    if not key and section in VARIANTS and section != "model":
        kind = VARIANTS[section][DEFAULT_NAMES[section]]
    keys = [key] if key not in ("", "*") else list(kind.model_fields)
    usual = {key: kind.model_fields[key].get_default() for key in keys if key in kind.model_fields}
    differing = {key: value for key, value in usual.items() if value != getattr(present, key, None)}
    return [f"{section}.{key}={v if isinstance(v, str) else toml_value(v)}" for key, v in differing.items()]


def only_changes(settings: tuple[str, ...], before: Recipe, after: Recipe) -> tuple[str, ...]:
    """Leave out settings that were chosen anew and came to what they were. Both recipes are resolved."""
    return tuple(each for each in settings if _value(before, each) != _value(after, each))


def _value(recipe: Recipe, assignment: str) -> Any:
    section, _, key = assignment.partition("=")[0].partition(".")
    return getattr(getattr(recipe, section), key, None)
