"""The whole typed description of a run: read it, check it, write it, compare it."""

from caviar.recipe.check import validate
from caviar.recipe.names import FAMILIES, Family, Name
from caviar.recipe.recipe import Recipe, default_model_name
from caviar.recipe.sparse import Sparse, from_dict, from_recipe, merge, parse_assignment, parse_recipe, read_recipe
from caviar.recipe.vary import member_sparses, varied_keys
from caviar.recipe.write import absolute_paths, diff, dump

__all__ = [
    "FAMILIES",
    "Family",
    "Name",
    "Recipe",
    "Sparse",
    "absolute_paths",
    "default_model_name",
    "diff",
    "dump",
    "from_dict",
    "from_recipe",
    "member_sparses",
    "merge",
    "parse_assignment",
    "parse_recipe",
    "read_recipe",
    "validate",
    "varied_keys",
]
