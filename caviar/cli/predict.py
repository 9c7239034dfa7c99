"""caviar predict: a bundle on new data."""

from pathlib import Path
from typing import Annotated

import typer

from caviar.cli.output import JsonFlag, Output, QuietFlag


def predict(
    bundle: Annotated[Path, typer.Argument(help="The bundle: runs/NAME/bundle.")],
    data: Annotated[str, typer.Argument(help="New rows: a table, a picture or folder of pictures, or a .npy file.")],
    destination: Annotated[
        Path | None, typer.Option("--output", "-o", help="The CSV file to write; without it CSV goes to stdout.")
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Predict each row of DATA with BUNDLE and write row_id, prediction, and a probability for each class as CSV."""
    from caviar.bundle import load_bundle
    from caviar.cli.evaluate import notes
    from caviar.core.errors import InputError
    from caviar.core.files import write_atomic

    output = Output(as_json, quiet)
    predictions = load_bundle(bundle).predict(data)
    notes(output, predictions.notices)
    text = predictions.to_frame().write_csv()
    if destination is not None:
        try:
            write_atomic(destination, text.encode())
        except OSError as error:
            raise InputError(f"{destination}: cannot be written ({error.strerror or error}).") from error
        output.say(f"{len(predictions):,} predictions are in {destination}.")
    elif not as_json:
        print(text, end="")
    output.give(
        "predict",
        bundle=str(bundle),
        data=data,
        rows=len(predictions),
        output=str(destination) if destination else None,
        unseen=predictions.unseen,
        notices=predictions.notices,
        **({} if destination else {"predictions": predictions.to_frame().to_dicts()}),
    )
