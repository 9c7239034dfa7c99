"""caviar find-lr: which learning rates learn, and which one to begin with."""

from pathlib import Path
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


def find_lr(
    source: SourceArgument = None,
    target: TargetOption = None,
    rates: Annotated[int, typer.Option(help="How many learning rates to try, evenly spaced in factors.")] = 32,
    seeds: Annotated[int, typer.Option(help="Trials of each rate, each with weights and batches of its own.")] = 3,
    low: Annotated[float, typer.Option(help="The lowest rate.")] = 1e-6,
    high: Annotated[float, typer.Option(help="The highest rate.")] = 10.0,
    steps: Annotated[int, typer.Option(help="Training steps of each trial.")] = 100,
    seed: SeedOption = None,
    assignments: SetOption = None,
    dev: DevOption = None,
    test: TestOption = None,
    device: DeviceOption = None,
    destination: Annotated[Path | None, typer.Option("--output", "-o", help="The picture to write (.svg).")] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Let the recipe's model.name run Python code (module.path:callable).")
    ] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Try many learning rates for what `caviar train` would do with SOURCE, from equal weights on equal batches."""
    from caviar.cli.recipe import picture_path
    from caviar.core.errors import InputError
    from caviar.recipe import merge, parse_assignment
    from caviar.workflow.find_lr import Sweep, find_recipe_lr
    from caviar.workflow.plan import updates
    from caviar.workflow.show import rates_tables
    from caviar.workflow.train import describe

    output = Output(as_json, quiet)
    if source is None:
        raise InputError("nothing to try rates on: give a file, a folder, sample:digits or a recipe.")
    plot = None if destination is None else picture_path(destination, ".svg")
    sparse, _ = describe(source, target, dev, test)
    changes = merge(updates(seed=seed, device=device), *map(parse_assignment, assignments or []))
    sweep = Sweep(rates, low, high, seeds, steps)
    found = find_recipe_lr(merge(sparse, changes), sweep, allow_code=allow_code, console=output.console())
    if plot is not None:
        found.plot(plot)
    output.say(*rates_tables(found), *([f"The picture: {plot}"] if plot else []))
    if found.suggestion is not None:
        output.say(f"Try it: --set optimizer.learning_rate={found.suggestion:.2g}")
    output.give("find-lr", output=plot and str(plot), **found.to_dict())
