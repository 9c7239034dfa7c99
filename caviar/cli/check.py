"""caviar check: look for faults before the long run."""

from typing import Annotated

import typer

from caviar.cli.output import JsonFlag, Output, QuietFlag
from caviar.cli.train import (
    DeviceOption,
    DevOption,
    SeedOption,
    SetOption,
    SourceArgument,
    TargetOption,
    TestOption,
)


def check(
    source: SourceArgument = None,
    target: TargetOption = None,
    seed: SeedOption = None,
    assignments: SetOption = None,
    dev: DevOption = None,
    test: TestOption = None,
    device: DeviceOption = None,
    mute: Annotated[
        list[str] | None, typer.Option("--mute", metavar="CODE", help="Leave this check out; may be given repeatedly.")
    ] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Let the recipe's model.name run Python code (module.path:callable).")
    ] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Check what `caviar train` would do with SOURCE before it does it: data, loss, weights, gradients, a few steps.

    Exit code 1 when a check fails.
    """
    from caviar.core.errors import InputError
    from caviar.recipe import merge, parse_assignment
    from caviar.workflow.check import check_recipe
    from caviar.workflow.plan import updates
    from caviar.workflow.show import check_tables
    from caviar.workflow.train import describe

    output = Output(as_json, quiet)
    if source is None:
        raise InputError("nothing to check: give a file, a folder, sample:digits or a recipe.")
    sparse, _ = describe(source, target, dev, test)
    changes = merge(updates(seed=seed, device=device), *map(parse_assignment, assignments or []))
    report = check_recipe(merge(sparse, changes), mute or [], allow_code=allow_code, console=output.console())
    output.say(*check_tables(report))
    output.give("check", **report.to_dict())
    if not report.ok:
        raise typer.Exit(1)
