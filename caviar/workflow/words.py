"""What a person is told to type."""

import shlex
from pathlib import Path

from caviar.recipe import Recipe


def how_to_resume(recipe: Recipe, path: Path) -> str:
    """Return the command, or the line of Python, that goes on with a run."""
    if recipe.data.source == "none" or recipe.model.name == "given":
        data = "data, " if recipe.data.source == "none" else ""
        model = "model=module, " if recipe.model.name == "given" else ""
        return f'caviar.train({data}{model}resume="{path}")'
    code = " --allow-code" if ":" in recipe.model.name else ""
    return f"caviar train --resume {shlex.quote(str(path))}{code}"
