"""What a remedy comes to for a recipe: the very setting to change, and its value."""

import tomllib
from typing import Any

from caviar.core.findings import Finding, Remedy
from caviar.population import NAMES
from caviar.recipe import Recipe
from caviar.recipe.recipe import PLAIN_SECTIONS, VARIANTS, accepts, variant_of
from caviar.recipe.values import toml_value

ARITHMETIC = {"*": lambda value, factor: value * factor, "/": lambda value, factor: value / factor}
DIGITS = 3


def settings_of(remedy: Remedy, recipe: Recipe) -> tuple[str, ...] | None:
    """Return the assignments, such as "optimizer.learning_rate=0.0003", that carry a remedy out.

    () where it is no matter of settings, or of one in which members differ; None where the recipe has no such setting,
    or has it so already.
    """
    varied = {NAMES[name] for name in recipe.population.lists()}
    changes = {setting: how for setting, how in remedy.change.items() if setting not in varied}
    found = [_assignment(recipe, setting, how) for setting, how in changes.items()]
    if not found:
        return ()
    known = [assignment for assignment in found if assignment]
    return tuple(known) if known else None


def remedies_for(finding: Finding, recipe: Recipe | None) -> list[tuple[Remedy, tuple[str, ...]]]:
    """Return the remedies of a finding that mean something for a recipe, with their assignments."""
    if recipe is None:
        return [(remedy, ()) for remedy in finding.remedies]
    found = [(remedy, settings_of(remedy, recipe)) for remedy in finding.remedies]
    return [(remedy, settings) for remedy, settings in found if settings is not None]


def _assignment(recipe: Recipe, setting: str, how: str) -> str | None:
    section, _, key = setting.partition(".")
    settings = getattr(recipe, section)
    present = getattr(settings, key, None)
    sign, _, text = how.partition(" ")
    value = _changed(present, sign, text)
    kinds = VARIANTS.get(section, {})
    if key == "name" and kinds:
        allowed = variant_of(section, str(value)) is not None
    else:
        allowed = accepts(PLAIN_SECTIONS.get(section, type(settings)), key, value)
    if value is None or value == present or not allowed:
        return None
    return f"{setting}={value if isinstance(value, str) else toml_value(value)}"


def _changed(present: Any, sign: str, text: str) -> Any:
    if sign == "=":
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return text
        return tuple(value) if isinstance(value, list) else value
    if isinstance(present, bool) or not isinstance(present, int | float):
        return None
    value = ARITHMETIC[sign](present, float(text))
    if isinstance(present, int):
        return max(1, round(value))
    return float(f"{value:.{DIGITS}g}")
