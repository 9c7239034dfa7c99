"""Members that differ in any setting as recipes: one for each member, one for each cohort, one for the whole run."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from caviar.core.partition import partition
from caviar.population import NAMES
from caviar.population.settings import PopulationSettings
from caviar.recipe.check import validate
from caviar.recipe.recipe import SECTIONS, Recipe, accepts
from caviar.recipe.sparse import from_recipe
from caviar.recipe.values import plain_value, toml_value
from caviar.recipe.vary import member_sparses

PARTS: Mapping[str, tuple[str, ...]] = {"optimizer.betas": ("beta1", "beta2")}
"""Settings that hold several hyperparameters of members."""
STACKABLE: Mapping[str, tuple[str, ...]] = {home: PARTS.get(home, (name,)) for name, home in NAMES.items()}
"""Settings that may differ within a cohort, and the names of their hyperparameters."""


class CohortRecipe(NamedTuple):
    """Members of one cohort, ascending, and the recipe of a population of them alone."""

    trials: tuple[int, ...]
    recipe: Recipe


def member_recipes(recipe: Recipe) -> list[Recipe]:
    """Return the recipe that each member is, as a single run, before the lists of [population] are laid over it."""
    return [validate(sparse) for sparse in member_sparses(from_recipe(recipe))]


def join_members(recipes: Sequence[Recipe], population: PopulationSettings) -> Recipe:
    """Return one recipe for all members: that of the first, and in [population] what the others have else.

    Numbers that a stack can hold become lists of [population], those that it has already stay; everything else becomes
    population.vary. A section whose name differs stands there as a whole.
    """
    dumps = [recipe.model_dump() for recipe in recipes]
    lists: dict[str, tuple[float, ...]] = {}
    vary: dict[str, Any] = {}
    for section in (name for name in SECTIONS if name != "population"):
        values = [dump[section] for dump in dumps]
        if any(value.get("name") != values[0].get("name") for value in values):
            vary[section] = values
            continue
        for field in values[0]:
            column = [value[field] for value in values]
            if all(value == column[0] for value in column):
                continue
            key = f"{section}.{field}"
            if all(_stacks(key, value) for value in values):
                lists |= _lists(key, column)
            else:
                vary[key] = column
    kept = {name: values for name, values in lists.items() if name not in population.lists()}
    changes = {"population": population.model_copy(update=kept | {"vary": plain_value(vary)})}
    return recipes[0].model_copy(update=changes | _with_dropout(recipes[0], lists.get("dropout")))


def cohort_recipes(recipe: Recipe) -> list[CohortRecipe]:
    """Return the cohorts of a resolved recipe: members that are equal in all that cannot be stacked, trials ascending.

    Executors are not chosen here: a cohort has the executor, size and threads of the whole.
    """
    recipes, population = member_recipes(recipe), recipe.population
    if len(recipes) == 1:
        return [CohortRecipe(tuple(range(population.members)), recipe)]
    found = []
    for trials in partition(map(_key, recipes)):
        lists = {name: tuple(values[trial] for trial in trials) for name, values in population.lists().items()}
        own = population.model_copy(update={"members": len(trials), "vary": {}, **lists})
        found.append(CohortRecipe(trials, join_members([recipes[trial] for trial in trials], own)))
    return found


def single_recipes(recipe: Recipe) -> list[Recipe]:
    """Return each member of a resolved recipe as a single run, the values of [population] in their places.

    (A dropout rate of a module that is not caviar's own has no place in a recipe.)
    """
    recipes, lists = member_recipes(recipe), recipe.population.lists()
    found = []
    for trial in range(recipe.population.members):
        values = {name: column[trial] for name, column in lists.items()}
        found.append(_with_values(recipes[trial if len(recipes) > 1 else 0], values))
    return found


def _with_values(recipe: Recipe, values: Mapping[str, float]) -> Recipe:
    for name, number in values.items():
        section, field = NAMES[name].split(".")
        settings = getattr(recipe, section)
        if field not in type(settings).model_fields:
            continue
        value: Any = number
        if len(parts := STACKABLE[NAMES[name]]) > 1:
            own = dict(zip(parts, getattr(settings, field), strict=True))
            value = tuple((own | {name: number}).values())
        recipe = recipe.model_copy(update={section: settings.model_copy(update={field: value})})
    return recipe


def differing_values(recipe: Recipe) -> list[dict[str, Any]]:
    """Return what each member of a resolved recipe has else than others: hyperparameters by name, settings by key."""
    lists = recipe.population.lists()
    flat = [flat_values(each) for each in single_recipes(recipe)]
    listed = {NAMES[name] for name in lists}
    keys = [key for key in dict.fromkeys(key for values in flat for key in values) if key not in listed]
    varied = [key for key in keys if any(key not in values or values[key] != flat[0].get(key) for values in flat)]
    return [
        {name: column[trial] for name, column in lists.items()} | {key: values[key] for key in varied if key in values}
        for trial, values in enumerate(flat)
    ]


def flat_values(recipe: Recipe) -> dict[str, Any]:
    """Return every setting of a recipe's sections by "section.key", apart from [population]."""
    sections = {name: values for name, values in recipe.model_dump().items() if name in SECTIONS}
    sections.pop("population")
    return {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}


def _key(recipe: Recipe) -> str:
    """Write all that members of a cohort have in common."""
    dump = recipe.model_dump()
    for key in STACKABLE:
        section, field = key.split(".")
        if field in dump[section] and _stacks(key, dump[section]):
            dump[section][field] = "each its own"
    return toml_value(dump)


def _stacks(key: str, section: Mapping[str, Any]) -> bool:
    """Whether a stack can hold this setting's value beside other ones."""
    if key not in STACKABLE or (key == "model.dropout" and section.get("spatial_dropout")):
        return False
    value = section[key.split(".")[1]]
    entries = value if isinstance(value, tuple) else (value,)
    names = STACKABLE[key]
    return len(entries) == len(names) and all(
        not isinstance(entry, str) and accepts(PopulationSettings, name, (entry,))
        for name, entry in zip(names, entries, strict=True)
    )


def _lists(key: str, column: Sequence[Any]) -> dict[str, tuple[float, ...]]:
    names = STACKABLE[key]
    rows = [value if isinstance(value, tuple) else (value,) for value in column]
    found = {name: tuple(float(row[place]) for row in rows) for place, name in enumerate(names)}
    return {name: values for name, values in found.items() if len(set(values)) > 1}


def _with_dropout(recipe: Recipe, rates: tuple[float, ...] | None) -> dict[str, Any]:
    """A network of dropout 0 has no layers that other members' dropout could be in: the largest rate lays it out."""
    return {} if rates is None else {"model": recipe.model.model_copy(update={"dropout": max(rates)})}
