"""Assignments, merging, default names, paths and differences."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caviar.core.errors import InputError
from caviar.recipe import (
    Recipe,
    Sparse,
    absolute_paths,
    default_model_name,
    diff,
    from_dict,
    from_recipe,
    merge,
    parse_assignment,
    parse_recipe,
    validate,
)
from caviar.recipe.recipe import VARIANTS
from caviar.recipe.values import toml_value
from tests.recipe.recipes import PATIENT, PLAIN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.name=sgd", {"optimizer": {"name": "sgd"}}),
        ("model.widths=[64,64]", {"model": {"widths": [64, 64]}}),
        ("optimizer.learning_rate=3e-4", {"optimizer": {"learning_rate": 3e-4}}),
        ("optimizer.learning_rate = 1e-3", {"optimizer": {"learning_rate": 1e-3}}),
        ("optimizer.learning_rate=.5", {"optimizer": {"learning_rate": 0.5}}),
        ("optimizer.learning_rate=1.", {"optimizer": {"learning_rate": 1.0}}),
        ("seed=7", {"seed": 7}),
        ("split.stratify=false", {"split": {"stratify": False}}),
        ("data.source=/tmp/a b/adult.csv", {"data": {"source": "/tmp/a b/adult.csv"}}),
        ('data.target="1"', {"data": {"target": "1"}}),
        ("data.delimiter=;", {"data": {"delimiter": ";"}}),
        ("data.delimiter==", {"data": {"delimiter": "="}}),
        ("data.delimiter='\t'", {"data": {"delimiter": "\t"}}),
        ("model.name=pkg.nets:build", {"model": {"name": "pkg.nets:build"}}),
        ("model.arguments.depth=3", {"model": {"arguments": {"depth": 3}}}),
        ("model.arguments={a = 1, b = 'x=y'}", {"model": {"arguments": {"a": 1, "b": "x=y"}}}),
        ("model.arguments.'a b'=[1]", {"model": {"arguments": {"a b": [1]}}}),
        ("data.target=", None),
        ("data.target", None),
        ("=3", None),
        ("a b=3", None),
        ("a.=3", None),
        ("model.widths=[64", None),
        ('data.target="x', None),
        ("a\nb=3", None),
        ("", None),
    ],
)
def test_assignment(text: str, expected: dict[str, Any] | None) -> None:
    if expected is None:
        with pytest.raises(InputError) as caught:
            parse_assignment(text)
        assert str(caught.value).startswith(f"--set {text}: ")
    else:
        assert parse_assignment(text).values == expected


@PATIENT
@given(PLAIN)
def test_assignment_takes_every_value_as_toml(value: Any) -> None:
    assert repr(parse_assignment(f"a.b={toml_value(value)}").values) == repr({"a": {"b": value}})


@PATIENT
@given(st.text(min_size=1))
def test_assignment_never_sets_two_keys(text: str) -> None:
    try:
        values = parse_assignment(f"a.b={text}").values
    except InputError:
        return
    assert list(values) == ["a"]
    assert list(values["a"]) == ["b"]


def test_later_wins_and_tables_are_merged() -> None:
    first = parse_recipe("seed = 1\n[training]\nepochs = 3\nbatch_size = 8\n")
    merged = merge(first, parse_assignment("training.epochs=5"), parse_assignment("training.epochs=6"))
    assert merged.values == {"seed": 1, "training": {"epochs": 6, "batch_size": 8}}
    assert first.values["training"]["epochs"] == 3
    assert merge(Sparse(), first).values == first.values


def test_a_new_name_leaves_out_what_it_lacks_and_keeps_what_it_has() -> None:
    file = from_recipe(Recipe.model_validate({"optimizer": {"name": "sgd", "momentum": 0.5, "weight_decay": 0.1}}))
    recipe = validate(merge(file, parse_assignment("optimizer.name=adam")))
    assert recipe.optimizer.name == "adam"
    assert recipe.optimizer.weight_decay == 0.1
    recipe = validate(merge(file, parse_assignment("model.name=convnet"), parse_assignment("schedule.name=constant")))
    assert (recipe.model.name, recipe.schedule.name) == ("convnet", "constant")
    assert recipe.model.model_dump()["dropout"] == 0.2  # "auto" is a word for mlp only
    recipe = validate(merge(file, parse_assignment("model.name=pkg:net"), parse_assignment("model.arguments.x=1")))
    assert recipe.model.name == "pkg:net"


def test_a_value_that_is_wrong_under_both_names_is_refused() -> None:
    file = parse_recipe("[model]\ndropout = 7\n")
    with pytest.raises(InputError, match=r"line 2, column 11: model\.dropout is 7"):
        validate(merge(file, parse_assignment("model.name=convnet")))


SWITCHES = [(section, old, new) for section, names in VARIANTS.items() for old in names for new in names]


@pytest.mark.parametrize(("section", "old", "new"), SWITCHES)
def test_every_complete_recipe_takes_every_other_name(section: str, old: str, new: str) -> None:
    needed = {"class_name": "Net"}
    first = {"name": old, **(needed if old == "given" else {})}
    complete = from_recipe(Recipe.model_validate({section: first}))
    change = from_dict({section: {"name": new, **(needed if new == "given" else {})}}, "change")
    assert getattr(validate(merge(complete, change)), section).name == new


def test_the_same_name_or_a_misspelt_key_leaves_nothing_out() -> None:
    wrong = parse_recipe("[optimizer]\nname = 'adamw'\nmomentum = 0.5\n")
    with pytest.raises(InputError, match=r"momentum is not a setting of adamw; sgd, rmsprop and muon have it"):
        validate(merge(wrong, parse_assignment("optimizer.name=adamw")))
    misspelt = parse_recipe("[optimizer]\nmomentun = 0.5\n")
    with pytest.raises(InputError, match=r"Did you mean optimizer\.momentum"):
        validate(merge(misspelt, parse_assignment("optimizer.name=sgd")))
    with pytest.raises(InputError, match=r"momentum is not a setting of adam; sgd, rmsprop and muon have it"):
        validate(merge(Sparse(), from_dict({"optimizer": {"name": "adam", "momentum": 0.5}}, "x")))


def test_a_name_may_come_after_the_keys_it_fits() -> None:
    file = parse_recipe("[optimizer]\nmomentum = 0.5\n")
    recipe = validate(merge(file, parse_assignment("optimizer.name=sgd")))
    assert recipe.optimizer.model_dump()["momentum"] == 0.5


@pytest.mark.parametrize(
    ("section", "kind", "expected"),
    [
        ({}, None, "mlp"),
        ({}, "auto", "mlp"),
        ({}, "pictures", "convnet"),
        ({}, "table", "mlp"),
        ({}, "arrays", "mlp"),
        ({"channels": [8]}, None, "convnet"),
        ({"hidden": [8]}, "auto", "convnet"),
        ({"widths": [8]}, None, "mlp"),
        ({"dropout": 0.1}, None, "mlp"),
        ({"channels": [8]}, "table", "mlp"),
    ],
)
def test_default_model(section: dict[str, Any], kind: str | None, expected: str) -> None:
    assert default_model_name(section, kind) == expected


def test_model_without_a_name_follows_the_data() -> None:
    assert validate(Sparse(), "pictures").model.name == "convnet"
    assert validate(parse_recipe("data.kind = 'pictures'")).model.name == "convnet"
    assert validate(parse_recipe("data.kind = 'pictures'\nmodel.name = 'mlp'")).model.name == "mlp"
    assert validate(parse_recipe("model.channels = [8]")).model.name == "convnet"


def test_python_values_are_taken_as_they_come() -> None:
    values = {
        "data": {"source": Path("a") / "b.csv"},
        "model": {"widths": (np.int64(3), 4)},
        "optimizer": {"learning_rate": np.float32(0.5), "betas": (0, 0.5)},
    }
    recipe = validate(from_dict(values, "caviar.train(...)"))
    assert recipe.data.source == os.path.join("a", "b.csv")
    assert recipe.model.model_dump()["widths"] == (3, 4)
    assert recipe.optimizer.model_dump()["betas"] == (0.0, 0.5)
    assert type(recipe.optimizer.learning_rate) is float


def test_whole_numbers_pass_for_numbers() -> None:
    recipe = validate(parse_recipe("[training]\nclip_norm = 5\n[split]\ndev = 1\ntest = 0.5\n"))
    assert recipe.training.clip_norm == 5.0
    assert type(recipe.split.dev) is int
    assert math.isclose(float(recipe.split.test), 0.5)


def test_diff_names_keys_and_both_values() -> None:
    first = Recipe()
    assert diff(first, first) == []
    second = validate(parse_recipe("seed = 3\n[optimizer]\nlearning_rate = 0.1\n[data]\ntarget = 'in \"come'\n"))
    assert diff(first, second) == [
        "seed: 0 -> 3",
        'data.target: "none" -> "in \\"come"',
        'optimizer.learning_rate: "auto" -> 0.1',
    ]
    third = validate(parse_recipe("[optimizer]\nname = 'sgd'\nweight_decay = 0.01"))
    assert diff(first, third) == [
        'optimizer.name: "adamw" -> "sgd"',
        "optimizer.betas: [0.9, 0.999] -> absent",
        "optimizer.eps: 1e-08 -> absent",
        "optimizer.momentum: absent -> 0.9",
        "optimizer.nesterov: absent -> false",
        "optimizer.rate_in_velocity: absent -> false",
    ]


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, elsewhere = tmp_path / "recipes", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "beside.csv").touch()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HOME", str(tmp_path))
    sparse = from_dict({"data": {"source": "beside.csv", "dev": "here.csv", "test": "~/home.csv"}}, "x")
    data = absolute_paths(validate(sparse), folder).data
    assert data.source == str(folder / "beside.csv")
    assert data.dev == str(elsewhere / "here.csv")
    assert data.test == str(tmp_path / "home.csv")
    assert absolute_paths(validate(sparse)).data.source == str(elsewhere / "beside.csv")
    again = absolute_paths(validate(sparse), folder)
    assert absolute_paths(again, elsewhere) == again


def test_samples_and_words_are_no_paths(tmp_path: Path) -> None:
    recipe = validate(from_dict({"data": {"source": "sample:digits", "dev": "none", "test": "none"}}, "x"))
    assert absolute_paths(recipe, tmp_path) == recipe


def test_a_path_that_no_recipe_can_name_is_refused() -> None:
    recipe = Recipe.model_validate({"data": {"source": "bad\udc80.csv"}})
    with pytest.raises(InputError, match=r"data\.source: the path"):
        absolute_paths(recipe)
