"""Members that differ in any setting: their recipes, cohorts, and the one recipe for all."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caviar.core.errors import InputError
from caviar.recipe import (
    Recipe,
    Sparse,
    dump,
    from_dict,
    member_sparses,
    merge,
    parse_assignment,
    parse_recipe,
    validate,
)
from caviar.recipe.cohorts import cohort_recipes, differing_values, join_members, member_recipes, single_recipes

SOME = settings(deadline=None, max_examples=40)

CHOICES: dict[str, list[Any]] = {
    "training.batch_size": [16, 32],
    "training.clip_norm": ["none", 0.5, 1.0],
    "model.widths": [[8], [8, 8]],
    "model.activation": ["relu", "tanh"],
    "model.dropout": [0.0, 0.1, 0.3],
    "optimizer.learning_rate": [0.1, 0.01],
    "optimizer.betas": [[0.9, 0.99], [0.8, 0.99], [0.8, 0.9]],
    "regularization.l2": [0.0, 1e-3],
    "schedule": [{"name": "constant"}, {"name": "cosine"}],
    "optimizer": [{"name": "sgd", "momentum": 0.5}, {"name": "adamw"}, {"name": "adam"}],
    "device.precision": ["float32", "bf16"],
}
BASE = from_dict({"optimizer": {"name": "adam", "learning_rate": 0.01}, "model": {"dropout": 0.1}}, "the base")


def recipe_of(vary: dict[str, list[Any]], members: int, **population: Any) -> Recipe:
    asked = from_dict({"population": {"members": members, "vary": vary, **population}}, "asked")
    sparses = member_sparses(merge(BASE, asked))
    return join_members([validate(each) for each in sparses], validate(asked).population)


@st.composite
def varied(draw: st.DrawFn) -> tuple[dict[str, list[Any]], int]:
    members = draw(st.integers(1, 6))
    keys = draw(st.lists(st.sampled_from(sorted(CHOICES)), unique=True, max_size=4))
    if "optimizer" in keys:  # not every rule has betas
        keys = [key for key in keys if key != "optimizer.betas"]
    values = {key: draw(st.lists(st.sampled_from(CHOICES[key]), min_size=members, max_size=members)) for key in keys}
    return values, members


@SOME
@given(varied())
def test_cohorts_are_a_partition_of_members_that_can_be_stacked(case: tuple[dict[str, list[Any]], int]) -> None:
    vary, members = case
    recipe = recipe_of(vary, members)
    cohorts = cohort_recipes(recipe)
    trials = [trial for cohort in cohorts for trial in cohort.trials]
    assert sorted(trials) == list(range(members))
    assert [cohort.trials[0] for cohort in cohorts] == sorted(cohort.trials[0] for cohort in cohorts)
    for cohort in cohorts:
        assert list(cohort.trials) == sorted(cohort.trials)
        assert cohort.recipe.population.vary == {}
        assert cohort.recipe.population.members == len(cohort.trials)
    assert [len(cohort_recipes(cohort.recipe)) for cohort in cohorts] == [1] * len(cohorts)


@SOME
@given(varied())
def test_every_member_is_what_was_asked(case: tuple[dict[str, list[Any]], int]) -> None:
    """However it is reached: from the joined recipe, from its cohort, or from the user's words one after another."""
    vary, members = case
    recipe = recipe_of(vary, members)
    asked = []
    for number in range(members):
        parts = [from_dict(_nested(key, values[number]), "one") for key, values in sorted(vary.items(), key=_depth)]
        asked.append(validate(merge(BASE, *parts)))
    assert single_recipes(recipe) == asked
    for cohort in cohort_recipes(recipe):
        assert single_recipes(cohort.recipe) == [asked[trial] for trial in cohort.trials]


@SOME
@given(varied())
def test_the_joined_recipe_comes_back_from_its_text_and_joins_to_itself(case: tuple[dict[str, list[Any]], int]) -> None:
    recipe = recipe_of(*case)
    again = validate(parse_recipe(dump(recipe)))
    assert again == recipe
    joined = join_members(member_recipes(again), again.population)
    assert joined == recipe or not recipe.population.vary


def _nested(key: str, value: Any) -> dict[str, Any]:
    nested = value
    for word in reversed(key.split(".")):
        nested = {word: nested}
    return nested  # type: ignore[no-any-return]


def _depth(item: tuple[str, Any]) -> int:
    return item[0].count(".")


def test_what_can_be_stacked_becomes_lists() -> None:
    recipe = recipe_of({"optimizer.learning_rate": [0.1, 0.2], "optimizer.betas": [[0.9, 0.99], [0.8, 0.99]]}, 2)
    assert recipe.population.vary == {}
    assert recipe.population.lists() == {"learning_rate": (0.1, 0.2), "beta1": (0.9, 0.8)}
    assert len(cohort_recipes(recipe)) == 1


def test_rules_differ_as_whole_sections_and_their_rates_within_a_cohort_as_lists() -> None:
    tables = [{"name": "sgd"}, {"name": "adamw"}, {"name": "sgd", "learning_rate": 0.5}]
    recipe = recipe_of({"optimizer": tables}, 3)
    first, second = cohort_recipes(recipe)
    assert (first.trials, second.trials) == ((0, 2), (1,))
    assert first.recipe.population.learning_rate == (0.01, 0.5)
    assert first.recipe.optimizer.name == "sgd"
    assert second.recipe.population.lists() == {}


def test_lists_of_the_run_are_dealt_out_to_cohorts() -> None:
    recipe = recipe_of({"training.batch_size": [8, 16, 8]}, 3, learning_rate=[0.1, 0.2, 0.3])
    first, second = cohort_recipes(recipe)
    assert first.recipe.population.learning_rate == (0.1, 0.3)
    assert second.recipe.population.learning_rate == (0.2,)
    assert single_recipes(recipe)[1].optimizer.learning_rate == 0.2


def test_dropout_that_some_members_lack_is_stacked_under_the_largest_rate() -> None:
    recipe = recipe_of({"model.dropout": [0.0, 0.3]}, 2)
    (cohort,) = cohort_recipes(recipe)
    assert cohort.recipe.model.dropout == 0.3  # type: ignore[union-attr]
    assert cohort.recipe.population.dropout == (0.0, 0.3)


@pytest.mark.parametrize(
    "text",
    [
        '[population.vary]\n"training.batch_size" = [8, 16]',
        "[population.vary]\ntraining.batch_size = [8, 16]",
        "[population.vary.training]\nbatch_size = [8, 16]",
        '[population]\nvary = { "training.batch_size" = [8, 16] }',
        "[population.vary]\ntraining = [{ batch_size = 8 }, { batch_size = 16 }]",
    ],
)
def test_keys_may_be_quoted_dotted_or_nested(text: str) -> None:
    first, second = member_sparses(merge(parse_recipe(text), parse_assignment("population.members=2")))
    assert validate(first).training.batch_size == 8
    assert validate(second).training.batch_size == 16


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('vary = { "training.batch_size" = 8 }', r"training\.batch_size is 8\. Give a list"),
        ('vary = { "training.batch_size" = [8] }', r"line 3.*1 entries for 2 members.*population\.members = 1"),
        ('vary = { "data.source" = ["a", "b"] }', r"cannot differ in data\.source: they are compared on the same"),
        ('vary = { "seed" = [1, 2] }', r"cannot differ in seed"),
        ("vary = { device = [{ name = 'cpu' }, { name = 'cuda' }] }", r"cannot differ in device\.name"),
        (
            'learning_rate = [1, 2]\nvary = { "optimizer.learning_rate" = [1, 2] }',
            r"population\.learning_rate is the sa",
        ),
        ('vary = { "model.norm" = ["batch", "none"], model.norm = ["batch", "none"] }', "twice"),
    ],
)
def test_wrong_lists_are_named(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        member_sparses(parse_recipe(f"[population]\nmembers = 2\n{text}"))


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        (
            {"training.batch_size": [8, 0]},
            r"trial 1: training\.batch_size is 0; it must be .auto. or a whole number of at least 1",
        ),
        ({"learning_rate": [0.1, 0.2]}, r"trial 0: .*Did you mean optimizer\.learning_rate"),
        ({"optimizer": ["sgd", "adamw"]}, r"trial 0: optimizer is a section"),
        ({"optimizer": [{"name": "sgd"}, {"name": "adan"}]}, r'trial 1: optimizer\.name is "adan"'),
    ],
)
def test_a_wrong_value_is_named_with_its_member(vary: dict[str, Any], words: str) -> None:
    asked = from_dict({"population": {"members": 2, "vary": vary}}, "--set it")
    with pytest.raises(InputError, match=f"--set it, {words}"):
        [validate(each) for each in member_sparses(asked)]


def test_no_members_that_vary_are_one_recipe() -> None:
    assert len(member_sparses(Sparse())) == 1
    assert member_recipes(Recipe()) == [Recipe()]
    assert [cohort.trials for cohort in cohort_recipes(Recipe())] == [(0,)]


def test_values_that_differ_are_told_by_their_shortest_names() -> None:
    tables = [{"name": "sgd", "momentum": 0.5}, {"name": "adam"}]
    recipe = recipe_of({"optimizer": tables, "training.batch_size": [8, 8], "regularization.l2": [0.0, 0.1]}, 2)
    first, second = differing_values(recipe)
    assert (first["l2"], second["l2"]) == (0.0, 0.1)
    assert (first["optimizer.name"], second["optimizer.name"]) == ("sgd", "adam")
    assert first["optimizer.momentum"] == 0.5
    assert "optimizer.momentum" not in second
    assert "training.batch_size" not in first
