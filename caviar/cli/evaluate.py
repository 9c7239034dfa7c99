"""caviar evaluate: a bundle against data with known targets."""

from pathlib import Path
from typing import Annotated

import typer

from caviar.cli.output import JsonFlag, Output, PredictionOption, QuietFlag


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="The bundle: runs/NAME/bundle.")],
    data: Annotated[
        str,
        typer.Argument(help="A table with the target column, a folder with a folder for each class, or arrays (.npz)."),
    ],
    target: Annotated[
        str | None, typer.Option(help="Another name of the target column; the targets' file (.npy).")
    ] = None,
    assignments: PredictionOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Evaluate BUNDLE on DATA that holds the true targets."""
    from caviar.workflow.evaluate import open_bundle
    from caviar.workflow.show import report_tables

    output = Output(as_json, quiet)
    report = open_bundle(bundle, assignments or []).evaluate(data, target)
    unseen, notices = report.pop("unseen"), report.pop("notices")
    output.note(notices)
    output.say(*report_tables(report))
    output.give("evaluate", bundle=str(bundle), data=data, metrics=report, unseen=unseen, notices=notices)
