"""Places of keys and values, against tomllib and against texts whose places are counted by hand."""

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from caviar.recipe.places import Place, key_places
from caviar.recipe.values import toml_key, toml_value
from tests.recipe.recipes import PATIENT

HARD = '''\
# learning_rate = 1, [optimizer]
title = "a # not a comment"   # title = 3
"quoted key" = 1
[optimizer] # [model]
name = 'sgd\\'
  learning_rate   =   0.1
betas = [ # name = 1
    0.9,  # ]
    """]""", '}',
]
[ model . "x.y" ]
arguments = { a = 1, "b c" = { d.e = [1, 2] } }
text = """
learning_rate = 2
""\\"" [z] """"
raw = \'\'\'
q = 1\'\'\'\'
last.when = 1979-05-27T07:32:00Z
[[many]]
a = 1
[[many]]
a = 2
'''


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("title",), (2, 1), (2, 9)),
        (("quoted key",), (3, 1), (3, 16)),
        (("optimizer",), (4, 2), (4, 2)),
        (("optimizer", "name"), (5, 1), (5, 8)),
        (("optimizer", "learning_rate"), (6, 3), (6, 23)),
        (("optimizer", "betas", 0), (8, 5), (8, 5)),
        (("optimizer", "betas", 1), (9, 5), (9, 5)),
        (("optimizer", "betas", 2), (9, 14), (9, 14)),
        (("model",), (11, 3), (11, 3)),
        (("model", "x.y"), (11, 11), (11, 11)),
        (("model", "x.y", "arguments", "a"), (12, 15), (12, 19)),
        (("model", "x.y", "arguments", "b c", "d", "e", 1), (12, 42), (12, 42)),
        (("model", "x.y", "text"), (13, 1), (13, 8)),
        (("model", "x.y", "raw"), (16, 1), (16, 7)),
        (("model", "x.y", "last", "when"), (18, 6), (18, 13)),
        (("many", "a"), (20, 1), (20, 5)),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_known_places(path: tuple[str | int, ...], key: tuple[int, int], value: tuple[int, int], newline: str) -> None:
    text = HARD.replace("\n", newline)
    tomllib.loads(text)
    assert key_places(text)[path] == (Place(*key), Place(*value))


def walk(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield every path that tomllib finds; lists of tables have no entries of their own here."""
    if path:
        yield path, value
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from walk(entry, (*path, key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from walk(entry, (*path, index))


LEAVES = st.one_of(st.integers(), st.text(max_size=8), st.booleans(), st.floats(allow_nan=False), st.dates())
TREES = st.dictionaries(
    st.text(max_size=6),
    st.recursive(
        st.one_of(LEAVES, st.lists(LEAVES, max_size=3)),
        lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
    max_size=4,
)


@PATIENT
@given(TREES)
def test_paths_are_those_of_tomllib(tree: dict[str, Any]) -> None:
    text = tomlkit.dumps(tree)
    assert set(key_places(text)) == {path for path, _ in walk(tomllib.loads(text))}


@PATIENT
@given(TREES, st.lists(st.sampled_from(["", "# [x] = '", '\t# """', "   "]), min_size=1, max_size=5))
def test_value_stands_at_its_place(tree: dict[str, Any], noise: list[str]) -> None:
    lines = [f"{toml_key(key)} = {toml_value(value)}" for key, value in tree.items() if writable(value)]
    text = "\n".join(part for index, line in enumerate(lines) for part in (noise[index % len(noise)], line))
    rows = text.split("\n")
    for path, place in key_places(text).items():
        value = tomllib.loads(text)
        for part in path:
            value = value[part]  # type: ignore[index]
        assert rows[place.value.line - 1][place.value.column - 1 :].startswith(toml_value(value)[:1])
        if isinstance(path[-1], str):
            assert rows[place.key.line - 1][place.key.column - 1 :].startswith(toml_key(path[-1]))


def writable(value: Any) -> bool:
    try:
        toml_value(value)
    except Exception:
        return False
    return True
