"""caviar recipe: print the complete recipe that caviar would use, or the names that one can use."""

from typing import Annotated

import typer

from caviar.cli.output import JsonFlag, Output, ProductQuietFlag
from caviar.cli.train import (
    DeviceOption,
    DevOption,
    EpochsOption,
    SeedOption,
    SetOption,
    SourceArgument,
    TargetOption,
    TestOption,
)


def recipe(
    source: SourceArgument = None,
    target: TargetOption = None,
    epochs: EpochsOption = None,
    seed: SeedOption = None,
    assignments: SetOption = None,
    dev: DevOption = None,
    test: TestOption = None,
    device: DeviceOption = None,
    list_names: Annotated[
        bool,
        typer.Option("--list", help="Print every name that a recipe can use, with one line each."),
    ] = False,
    as_json: JsonFlag = False,
    quiet: ProductQuietFlag = False,
) -> None:
    """Print the complete, commented recipe for SOURCE as TOML: what `caviar train` would do with it."""
    from caviar.core.errors import InputError
    from caviar.recipe import dump, merge, parse_assignment
    from caviar.workflow.describe import complete_recipe
    from caviar.workflow.plan import updates
    from caviar.workflow.show import reading_progress
    from caviar.workflow.train import describe

    output = Output(as_json, quiet)
    if list_names:
        _list_names(output)
        return
    if source is None:
        raise InputError("give a file, a folder, sample:digits or a recipe to complete.")
    sparse, _ = describe(source, target, dev, test)
    changes = merge(updates(epochs=epochs, seed=seed, device=device), *map(parse_assignment, assignments or []))
    with reading_progress(output.console()) as progress:
        found = complete_recipe(merge(sparse, changes), progress)
    if as_json:
        output.give("recipe", recipe=found.model_dump(), toml=dump(found))
    else:
        print(dump(found), end="")


def _list_names(output: Output) -> None:
    from caviar.recipe import FAMILIES
    from caviar.workflow.show import names_tables

    if not output.as_json:
        Output(as_json=False, quiet=False).say(*names_tables(FAMILIES))
    families = [
        {"title": family.title, "key": family.key, "names": [name._asdict() for name in family.names]}
        for family in FAMILIES
    ]
    output.give("recipe --list", families=families)
