"""caviar verify: check what caviar promises, on this machine."""

from typing import Annotated

import typer

from caviar.cli.output import JsonFlag, Output, QuietFlag

VerifyArgument = Annotated[str, typer.Argument(help="What to verify: population.")]
ExecutorOption = Annotated[
    list[str] | None, typer.Option("--executor", help="Only this executor: singles, stacked or chain.")
]


def verify(
    what: VerifyArgument = "population",
    executor: ExecutorOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Check that members of a population train as they would alone, on every layer, update rule and executor."""
    from caviar.core.errors import InputError, unknown_name
    from caviar.workflow.verify import verify_population, verify_tables

    output = Output(as_json, quiet)
    if what != "population":
        raise unknown_name("contract", what, ["population"])
    rows = verify_population(executor or (), output.console())
    if not rows:
        raise InputError("no executor was left to verify.")
    failed = sum(not row.held for row in rows)
    output.say(*verify_tables(rows))
    output.give("verify", what=what, checked=len(rows), failed=failed, rows=[row.to_json() for row in rows])
    if failed:
        raise typer.Exit(1)
