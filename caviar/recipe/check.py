"""From a sparse recipe to a complete one, or to one plain sentence for each thing that is wrong with it."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from caviar.core.errors import InputError
from caviar.core.formats import RECIPE, check_version
from caviar.core.settings import Settings
from caviar.recipe.explain import not_a_section, unknown_key, unknown_section, wrong_name, wrong_value
from caviar.recipe.places import Path as KeyPath
from caviar.recipe.places import Place
from caviar.recipe.recipe import DEFAULT_NAMES, PLAIN_SECTIONS, SECTIONS, Recipe, default_model_name, variant_of
from caviar.recipe.sparse import Sparse
from caviar.recipe.values import shown_key, strict_value

MOST_TOLD = 20
_LAST = Place(1 << 60, 0)


class _Problems:
    """What was found wrong so far, to be told all at once in the order of the file."""

    def __init__(self, sparse: Sparse) -> None:
        self.sparse = sparse
        self.found: list[tuple[Place, str]] = []

    def add(self, path: KeyPath, sentence: str, *, at_value: bool = True) -> None:
        """Add a problem that stands at the value, or at the key, of `path`."""
        origin = self.sparse.origin(path)
        where = origin.at_value() if at_value else origin.at_key()
        self.found.append((origin.place.key if origin.place else _LAST, f"{where}: {sentence}"))

    def raise_any(self) -> None:
        """Raise the first problems, in the order of the file, as one error; return where there are none."""
        texts = [text for _, text in sorted(self.found, key=lambda problem: problem[0])]
        more = [f"... and {len(texts) - MOST_TOLD} more."] if len(texts) > MOST_TOLD else []
        if texts:
            raise InputError("\n".join(texts[:MOST_TOLD] + more))


def validate(sparse: Sparse, data_kind: str | None = None) -> Recipe:
    """Complete a sparse recipe with the defaults and return it, or say everything that is wrong with it.

    A model section without a name is completed by the kind of the data (`data_kind`, or else data.kind: "table",
    "pictures", "arrays") where it is known, otherwise by its keys. Types are strict: true is not a number, "3" is
    not 3; a whole number passes for a number.

    Raises:
        InputError: one line for each wrong key or value: where it stands, what arrived, what is allowed.
    """
    values = sparse.values
    if "version" in values:
        check_version("recipe", values["version"], RECIPE, sparse.origin(("version",)).at_value())
    problems = _Problems(sparse)
    for key in (key for key in values if key not in Recipe.model_fields):
        problems.add((key,), unknown_section(key, values[key]), at_value=False)
    head = _build(Recipe, (), {key: value for key, value in values.items() if key not in SECTIONS}, problems)
    sections = {section: _section(section, values, data_kind, problems) for section in SECTIONS}
    problems.raise_any()
    return Recipe.model_validate({"version": head.version, "seed": head.seed, **sections})


def _section(section: str, recipe: Mapping[str, Any], data_kind: str | None, problems: _Problems) -> Any:
    values = recipe.get(section, {})
    if not isinstance(values, Mapping):
        problems.add((section,), not_a_section(section, values))
        return None
    kind: type[Settings] | None
    if section in PLAIN_SECTIONS:
        kind, name = PLAIN_SECTIONS[section], None
    else:
        name = values.get("name", _default_name(section, recipe, data_kind))
        kind = variant_of(section, name) if isinstance(name, str) else None
        values = {**values, "name": name}
    if kind is None:
        problems.add((section, "name"), wrong_name(section, name))
        return None
    for key in (key for key in values if key not in kind.model_fields):
        problems.add((section, key), unknown_key(section, key, kind, name), at_value=False)
    return _build(kind, (section,), values, problems)


def _default_name(section: str, recipe: Mapping[str, Any], data_kind: str | None) -> str:
    if section != "model":
        return DEFAULT_NAMES[section]
    data = recipe.get("data")
    said = data.get("kind") if isinstance(data, Mapping) else None
    return default_model_name(recipe.get(section, {}), data_kind or said)


def _build(kind: type[Settings], above: KeyPath, values: Mapping[str, Any], problems: _Problems) -> Any:
    """Build settings of class `kind` from the keys it knows; what is wrong with their values becomes problems."""
    known: dict[str, Any] = {}
    told: set[tuple[str, ...]] = set()
    for key in (key for key in values if key in kind.model_fields):
        try:
            known[key] = strict_value(values[key])
        except ValueError as error:
            problems.add((*above, key), f"{_dotted((*above, key))}: {error}.")
            told.add((key,))
    try:
        return kind.model_validate(known, strict=True)
    except ValidationError as error:
        details = [detail for detail in error.errors(include_url=False) if detail["loc"] not in told]
        _translate(details, kind, above, known, problems)
        return None


def _translate(
    details: list[ErrorDetails], kind: type[Settings], above: KeyPath, known: Mapping[str, Any], problems: _Problems
) -> None:
    """Turn Pydantic's errors, one for each thing that a setting might have been, into one problem a setting."""
    wrong: dict[str, int | None] = {}
    for detail in details:
        key = str(detail["loc"][0]) if detail["loc"] else ""
        entries = [part for part in detail["loc"][1:] if isinstance(part, int) and part < len(known[key])]
        if key not in known:
            problems.add(above, _dotted((*above, key)) + _without_value(detail["type"], detail["msg"], kind, key))
        else:
            wrong[key] = entries[0] if entries else wrong.get(key)
    schemas = kind.model_json_schema()["properties"]
    for key, entry in wrong.items():
        path = (*above, key) if entry is None else (*above, key, entry)
        problems.add(path, wrong_value(_dotted((*above, key)), known[key], schemas[key], entry))


def _without_value(error_type: str, message: str, kind: type[Settings], key: str) -> str:
    if error_type == "missing":
        return f" is missing ({kind.model_fields[key].description})."
    return f": {message.removeprefix('Value error, ')}."


def _dotted(path: KeyPath) -> str:
    return ".".join(shown_key(part) for part in path if part != "")
