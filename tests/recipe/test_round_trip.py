"""A recipe that is written and read again is the same recipe, to the last bit."""

import tomllib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caviar.core.errors import InputError
from caviar.core.formats import RECIPE
from caviar.core.settings import Settings
from caviar.recipe import Recipe, Sparse, dump, from_dict, from_recipe, parse_recipe, validate
from caviar.recipe.recipe import SECTIONS
from caviar.recipe.values import plain_value, toml_value
from tests.recipe.recipes import PATIENT, PLAIN, RECIPES, SETTINGS, TEXT

SLOW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@SLOW
@given(RECIPES, st.booleans())
def test_written_and_read_is_the_same(recipe: Recipe, comments: bool) -> None:
    again = validate(parse_recipe(dump(recipe, comments)))
    assert again == recipe
    assert repr(again) == repr(recipe)  # also 1 and 1.0, True and 1 are told apart
    assert dump(again, comments) == dump(recipe, comments)


@SLOW
@given(RECIPES)
def test_through_python_values_is_the_same(recipe: Recipe) -> None:
    assert validate(from_recipe(recipe)) == recipe


@SLOW
@given(RECIPES, st.data())
def test_sparse_recipe_keeps_what_it_says_and_takes_defaults_elsewhere(recipe: Recipe, data: st.DataObject) -> None:
    complete = tomllib.loads(dump(recipe))
    kept: dict[str, Any] = {"seed": recipe.seed}
    for section in SECTIONS:
        needed = {"name", "class_name"} & complete[section].keys()
        chosen = data.draw(st.sets(st.sampled_from(sorted(complete[section]))))
        kept[section] = {key: complete[section][key] for key in needed | chosen}
    found = validate(from_dict(kept, "test"))
    for section in SECTIONS:
        settings_, given_ = getattr(found, section), getattr(recipe, section)
        for key, field in type(settings_).model_fields.items():
            assert getattr(settings_, key) == (
                getattr(given_, key) if key in kept[section] else field.get_default(call_default_factory=True)
            )


@PATIENT
@given(st.dictionaries(TEXT, PLAIN, max_size=4))
def test_values_are_written_as_toml(values: dict[str, Any]) -> None:
    read = tomllib.loads(f"value = {toml_value(values)}")["value"]
    assert repr(read) == repr(values)


@PATIENT
@given(st.floats(allow_nan=False))
def test_floats_are_exact(value: float) -> None:
    assert tomllib.loads(f"value = {toml_value(value)}")["value"].hex() == value.hex()


def test_default_recipe_is_an_empty_one() -> None:
    assert validate(Sparse()) == Recipe() == validate(parse_recipe(""))
    assert Recipe().model.name == "mlp"
    assert Recipe().optimizer.name == "adamw"
    assert Recipe().schedule.name == "cosine"


def test_every_section_and_key_is_written_with_its_comment() -> None:
    recipe = Recipe()
    text = dump(recipe)
    read = tomllib.loads(text)
    assert list(read) == list(Recipe.model_fields)
    squeezed = " ".join(line.lstrip("# ") if line.lstrip().startswith("#") else line for line in text.split())
    for section in SECTIONS:
        fields = type(getattr(recipe, section)).model_fields
        assert list(read[section]) == list(fields)
        for field in fields.values():
            words = (field.description or "").split()
            assert words
            assert all(word in squeezed for word in words)


def test_header_says_what_the_file_is() -> None:
    text = dump(Recipe())
    assert text.startswith("# A caviar recipe")
    assert "caviar train" in text.split("version")[0]
    assert f"version = {RECIPE}" in text


def test_lines_are_short_and_plain_ones_have_no_comments() -> None:
    assert max(map(len, dump(Recipe()).splitlines())) <= 120
    assert "#" not in dump(Recipe(), comments=False)
    assert tomllib.loads(dump(Recipe(), comments=False)) == tomllib.loads(dump(Recipe()))


@pytest.mark.parametrize("kind", [Recipe, *SETTINGS], ids=lambda kind: kind.__name__)
def test_every_field_has_a_description_of_one_line(kind: type[Settings]) -> None:
    for name, field in kind.model_fields.items():
        assert field.description, f"{kind.__name__}.{name}"
        assert len(field.description) < 160


def test_arguments_from_python_become_what_toml_holds() -> None:
    import numpy as np

    recipe = Recipe.model_validate(
        {"model": {"name": "a:b", "arguments": {"widths": (1, np.float64(0.5), np.int64(3))}}}
    )
    assert recipe.model.arguments == {"widths": [1, 0.5, 3]}  # type: ignore[union-attr]
    assert validate(parse_recipe(dump(recipe))) == recipe


@pytest.mark.parametrize("value", [None, object(), float("nan"), float("inf"), "\udc80", {1: 2}, b"x"])
def test_what_toml_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"cannot be written|not a finite|not text|not valid Unicode"):
        plain_value({"a": [value]})
    with pytest.raises(ValueError, match=r"cannot be written|not a finite|not text|not valid Unicode|valid string"):
        Recipe.model_validate({"model": {"name": "a:b", "arguments": {"a": value}}})


def test_text_that_is_not_unicode_is_never_written() -> None:
    recipe = Recipe.model_validate({"data": {"source": "bad\udc80.csv"}})
    with pytest.raises(InputError, match="not valid Unicode"):
        dump(recipe)
