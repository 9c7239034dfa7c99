"""caviar predict: a bundle on new data."""

from pathlib import Path
from typing import Annotated

import typer

from caviar.cli.output import JsonFlag, Output, PredictionOption, ProductQuietFlag, check_destination


def predict(
    bundle: Annotated[Path, typer.Argument(help="The bundle: runs/NAME/bundle.")],
    data: Annotated[
        str, typer.Argument(help="New rows: a table, a picture or folder of pictures, or arrays (.npy, .npz).")
    ],
    destination: Annotated[
        Path | None, typer.Option("--output", "-o", help="The CSV file to write; without it CSV goes to stdout.")
    ] = None,
    assignments: PredictionOption = None,
    as_json: JsonFlag = False,
    quiet: ProductQuietFlag = False,
) -> None:
    """Predict each row of DATA with BUNDLE and write row_id, prediction, and a probability for each class as CSV."""
    from caviar.workflow.evaluate import open_bundle

    output = Output(as_json, quiet)
    if destination is not None:
        check_destination(destination, "the CSV file")
    predictions = open_bundle(bundle, assignments or []).predict(data)
    output.note(predictions.notices)
    frame = predictions.to_frame()
    if destination is not None:
        _write(destination, frame.write_csv())
        output.say(f"{len(predictions):,} predictions are in {destination}.")
    elif not as_json:
        print(frame.write_csv(), end="")
    output.give(
        "predict",
        bundle=str(bundle),
        data=data,
        rows=len(predictions),
        output=str(destination) if destination else None,
        unseen=predictions.unseen,
        notices=predictions.notices,
        **({} if destination else {"predictions": frame.to_dicts() if as_json else []}),
    )


def _write(path: Path, text: str) -> None:
    from caviar.core.errors import InputError
    from caviar.core.files import write_atomic

    try:
        write_atomic(path, text.encode())
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}). Name another file.") from error
