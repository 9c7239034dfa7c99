"""What is wrong with a key or a value of a recipe, in one plain sentence with the remedy."""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from caviar.core.errors import nearest
from caviar.core.settings import Settings
from caviar.recipe.recipe import CODE, PLAIN_SECTIONS, SECTIONS, VARIANTS, Recipe
from caviar.recipe.values import shown, shown_key

Schema = Mapping[str, Any]
"""The JSON schema of one setting: its type, bounds and choices as data."""


def wrong_value(name: str, value: Any, schema: Schema, entry: int | None = None) -> str:
    """Say what arrived for the setting `name`, what is allowed, and the nearest choice; `entry` counts from 0."""
    which = f" (entry {entry + 1} is {shown(value[entry])})" if entry is not None else ""
    return f"{name} is {shown(value)}{which}; it must be {_rule(value, schema)}.{_nearest_choice(value, schema)}"


def wrong_name(section: str, value: Any) -> str:
    """Say that a section has no variant called `value`."""
    return wrong_value(f"{section}.name", value, {"enum": list(VARIANTS[section])})


def not_a_section(section: str, value: Any) -> str:
    """Say that a section was given as a single value."""
    key = "name" if section in VARIANTS else next(iter(PLAIN_SECTIONS[section].model_fields))
    remedy = f"Write its keys below [{section}], or {section}.{key} = ..."
    return f"{section} is a section, but {shown(value)} arrived. {remedy}"


def unknown_key(section: str, key: str, kind: type[Settings], name: str | None = None) -> str:
    """Say that `section` (under `name`, if it has one) lacks `key`, who has it, or which one was probably meant."""
    of, full = f" of {name}" if name else "", f"{section}.{shown_key(key)}"
    known = f" Settings{of or f' of [{section}]'}: {', '.join(kind.model_fields)}."
    siblings = {other: variant.model_fields for other, variant in VARIANTS.get(section, {}).items()}
    owners = [other for other, fields in siblings.items() if key in fields]
    if owners:
        *others, last = owners
        have = f"{', '.join(others)} and {last} have" if others else f"{last} has"
        return f"{full} is not a setting of {name}; {have} it.{known}"
    return f"{full} is not a setting{of}.{_meant(section, key, kind, siblings)}{known}"


def _meant(section: str, key: str, kind: type[Settings], siblings: Mapping[str, Iterable[str]]) -> str:
    if near := _near_key(key, kind.model_fields):
        return f" Did you mean {section}.{near}?"
    for other, fields in siblings.items():
        if near := _near_key(key, fields):
            return f" Did you mean {section}.{near}, a setting of {other}?"
    return _elsewhere(key)


def unknown_section(key: str, value: Any) -> str:
    """Say that a recipe has no section or key called `key`, and which one was probably meant."""
    is_table = isinstance(value, Mapping)
    near = nearest(key, Recipe.model_fields)
    hint = (f" Did you mean {near}?" if near else "") if is_table else _elsewhere(key)
    what = "section" if is_table else "key"
    return f"a recipe has no {what} {shown(key)}.{hint} It has: {', '.join(Recipe.model_fields)}."


def _elsewhere(key: str) -> str:
    """Offer the sections that have `key`, or else the key of any section that looks very much like it."""
    homes: dict[str, list[str]] = {name: [name] for name in Recipe.model_fields}
    for section in SECTIONS:
        for other in [] if section == "population" else _all_keys(section):  # its lists have the names of settings
            homes.setdefault(other, []).append(f"{section}.{other}")
    near = key if key in homes else next(iter(difflib.get_close_matches(key.lower(), homes, n=1, cutoff=0.7)), None)
    near = near or _by_initials(key, homes)
    return f" Did you mean {' or '.join(homes[near])}?" if near else ""


def _all_keys(section: str) -> list[str]:
    kinds = VARIANTS[section].values() if section in VARIANTS else [PLAIN_SECTIONS[section]]
    return list(dict.fromkeys(key for kind in kinds for key in kind.model_fields if key != "name"))


def _near_key(key: str, options: Iterable[str]) -> str | None:
    candidates = list(options)
    return _by_initials(key, candidates) or nearest(key, candidates)


def _by_initials(key: str, options: Iterable[str]) -> str | None:
    """Return the option whose words begin with the letters of `key`: lr is learning_rate."""
    fits = (option for option in options if "_" in option and key == "".join(word[0] for word in option.split("_")))
    return next(fits, None)


# --- what a setting allows


def _rule(value: Any, schema: Schema) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and not math.isfinite(_as_float(value)):
        return allowed(schema).replace("a number", "a finite number")
    fits = {"number": is_number, "integer": is_number and isinstance(value, int)}.get(schema.get("type", ""), False)
    return _bounds(schema) if fits else allowed(schema)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def allowed(schema: Schema) -> str:
    """Describe everything that a schema allows: choices first, then numbers, lists, text."""
    choices = [shown(choice) if choice != CODE else CODE for choice in _choices(schema)]
    if schema.get("type") == "boolean":
        return "true or false (without quotes)"
    others = [_one_type(branch) for branch in schema.get("anyOf", [schema]) if not _choices(branch)]
    parts = choices + others
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _one_type(schema: Schema) -> str:
    match schema.get("type"):
        case "number":
            return f"a number {_bounds(schema, ' of ')}".strip()
        case "integer":
            return f"a whole number {_bounds(schema, ' of ')}".strip()
        case "array":
            return _described_list(schema)
        case "string" if "pattern" in schema:
            return f"text of the form {schema.get('description', schema['pattern'])}"
        case "string":
            return "text in quotes"
        case "object":
            return "a table, { key = value }"
    return str(schema.get("description", "something else"))


def _described_list(schema: Schema) -> str:
    if entries := schema.get("prefixItems"):
        return f"a list of {len(entries)} entries, each {allowed(entries[0])}"
    return f"a list, each entry {allowed(schema.get('items', {}))}"


def _bounds(schema: Schema, of: str = "") -> str:
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    least, most = schema.get("minimum"), schema.get("maximum")
    upper = f"below {below}" if below is not None else ""
    if least is not None and (upper or most is not None):
        return f"from {least} to {upper or most}"
    if above is not None and (upper or most is not None):
        return f"greater than {above} and {upper or f'at most {most}'}"
    if above is not None:
        return f"greater than {above}"
    if least is not None:
        return f"{of.strip()} at least {least}".strip()
    return upper or (f"{of.strip()} at most {most}".strip() if most is not None else "")


def _choices(schema: Schema) -> list[Any]:
    if "const" in schema:
        return [schema["const"]]
    return [*schema.get("enum", []), *(choice for branch in schema.get("anyOf", []) for choice in _choices(branch))]


def _nearest_choice(value: Any, schema: Schema) -> str:
    if not isinstance(value, str):
        return ""
    if schema.get("type") == "boolean":
        near = nearest(value, ["true", "false"])
        return f" Did you mean {near}?" if near else ""
    near = nearest(value, [choice for choice in _choices(schema) if choice != CODE])
    return f" Did you mean {shown(near)}?" if near else ""
