"""The list of names is complete: whatever a recipe lets one choose by name stands in it, and nothing else."""

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest

from caviar.core.settings import Settings
from caviar.recipe import FAMILIES, merge, parse_assignment, validate
from caviar.recipe.recipe import CODE, PLAIN_SECTIONS, VARIANTS

WORDS = {"auto", "none", "all"}
ALSO_VALUES = {("prediction.views", "none"), ("average.name", "none"), ("model.norm", "none")} | {
    (key, "auto") for key in ("model.init", "loss.name")
}
NO_COMPONENTS = {
    "population.executor", "watch.quantities", "watch.every", "watch.findings",
    "augment.fill", "data.kind", "data.picture_mode", "data.task", "device.precision", "model.init_distribution",
    "model.init_fan_mode", "optimizer.curvature", "optimizer.rule", "schedule.shape", "schedule.unit",
    "schedule.warmup_kind", "split.method", "training.metric", "loss.class_weights", "data.encoding", "data.delimiter",
}  # fmt: skip
"""Settings with a choice of words that are no components of training."""


def literals(annotation: Any) -> Iterator[str]:
    """Every word that an annotation allows, however deep."""
    if get_origin(annotation) is Literal:
        yield from (each for each in get_args(annotation) if isinstance(each, str))
    for inner in get_args(annotation):
        yield from literals(inner)


def kinds() -> Iterator[tuple[str, type[Settings]]]:
    yield from PLAIN_SECTIONS.items()
    for section, variants in VARIANTS.items():
        yield from ((section, kind) for kind in variants.values())


def choices() -> dict[str, set[str]]:
    """Setting -> the words it allows, for all settings that allow words of their own."""
    found: dict[str, set[str]] = {}
    for section, kind in kinds():
        for key, field in kind.model_fields.items():
            found.setdefault(f"{section}.{key}", set()).update(literals(field.annotation))
    return {key: words for key, words in found.items() if words - WORDS}


def test_every_choice_of_a_recipe_is_listed() -> None:
    listed = {family.key: {name.name for name in family.names} for family in FAMILIES if "." in family.key}
    allowed = {key: words for key, words in choices().items() if key not in NO_COMPONENTS}
    allowed["model.name"] |= {CODE}
    for key, words in allowed.items():
        assert key in listed, f"{key} is a choice ({sorted(words)}), but no family lists it"
        wanted = words - (WORDS - {word for setting, word in ALSO_VALUES if setting == key})
        assert listed[key] == wanted, key
    assert set(listed) == set(allowed)


def test_every_listed_setting_exists() -> None:
    fields: dict[str, set[str]] = {}
    for section, kind in kinds():
        fields.setdefault(section, set()).update(kind.model_fields)
    for family in FAMILIES:
        for name in family.names:
            section, _, key = name.setting.partition("=")[0].partition(".")
            assert key in fields[section], name


def test_names_are_said_once_in_a_line_each() -> None:
    titles = [family.title for family in FAMILIES]
    assert len(titles) == len(set(titles))
    for family in FAMILIES:
        names = [name.name if family.key else name.setting.removesuffix("=VALUE") for name in family.names]
        assert len(names) == len(set(names))
        room = 112 - max(map(len, names))
        for name in family.names:
            assert 3 < len(name.summary) <= room, name
            assert "\n" not in name.summary


@pytest.mark.parametrize("family", [family for family in FAMILIES if "." in family.key], ids=lambda family: family.key)
def test_what_the_list_says_to_set_can_be_set(family: Any) -> None:
    for name in family.names:
        if name.name in (CODE, "given"):
            continue
        section, key = family.key.split(".")
        at_home = parse_assignment("model.name=convnet") if section == "model" and key != "name" else None
        parts = [part for part in (at_home, parse_assignment(name.setting)) if part is not None]
        assert getattr(getattr(validate(merge(*parts)), section), key) == name.name
