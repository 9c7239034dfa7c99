"""Every recipe there can be, as hypothesis strategies made from the settings' own schemas."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from caviar.core.settings import Settings
from caviar.recipe.recipe import PLAIN_SECTIONS, VARIANTS, Recipe

PATIENT = settings(deadline=None)
NASTY = st.sampled_from(
    ['"', "\\", "'''", '"""', "\n", "\r\n", "\t", "\x00", "\x7f", "\x1b", "# no comment", "é☃𝔘", " ", "= [x]", "\u2028"]
)
TEXT = st.one_of(st.text(max_size=12), st.lists(NASTY, max_size=4).map("".join))
FINITE = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.one_of(st.booleans(), st.integers(), FINITE, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)


def values_for(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Every value that a setting's JSON schema allows."""
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of(*map(values_for, schema["anyOf"]))
    match schema["type"]:
        case "boolean":
            return st.booleans()
        case "string" if "pattern" in schema:
            return st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,5}:[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True)
        case "string":
            return TEXT
        case "object":
            return st.dictionaries(TEXT, PLAIN, max_size=3)
        case "array" if "prefixItems" in schema:
            return st.tuples(*map(values_for, schema["prefixItems"]))
        case "array":
            return st.lists(values_for(schema["items"]), max_size=4).map(tuple)
    low, high = (
        schema.get("minimum", schema.get("exclusiveMinimum")),
        schema.get("maximum", schema.get("exclusiveMaximum")),
    )
    if schema["type"] == "integer":
        return st.integers(low, high - 1 if "exclusiveMaximum" in schema else high)
    return st.floats(
        low,
        high,
        exclude_min="exclusiveMinimum" in schema,
        exclude_max="exclusiveMaximum" in schema,
        allow_nan=False,
        allow_infinity=False,
    )


def settings_of(kind: type[Settings]) -> st.SearchStrategy[Settings]:
    """Every instance of a settings class."""
    properties = kind.model_json_schema()["properties"]
    return st.fixed_dictionaries({name: values_for(schema) for name, schema in properties.items()}).map(
        kind.model_validate
    )


SETTINGS = [*PLAIN_SECTIONS.values(), *(kind for kinds in VARIANTS.values() for kind in kinds.values())]

RECIPES: st.SearchStrategy[Recipe] = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**63 - 1),
        **{section: settings_of(kind) for section, kind in PLAIN_SECTIONS.items()},
        **{section: st.one_of(*map(settings_of, kinds.values())) for section, kinds in VARIANTS.items()},
    }
).map(lambda parts: Recipe(**parts))

__all__ = ["PATIENT", "PLAIN", "RECIPES", "SETTINGS", "TEXT"]
