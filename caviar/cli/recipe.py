"""caviar recipe: print the complete recipe, the names that one can use, or a preview of what it would do."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from caviar.cli.output import JsonFlag, Output, ProductQuietFlag, check_destination
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

if TYPE_CHECKING:
    from caviar.recipe import Sparse
    from caviar.workflow.source import Progress


class Preview(Enum):
    """What can be looked at before training."""

    schedule = "schedule"
    augment = "augment"


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
    preview: Annotated[
        Preview | None,
        typer.Option(help="Instead: the learning rate's course, or a sheet of augmented training pictures."),
    ] = None,
    destination: Annotated[
        Path | None, typer.Option("--output", "-o", help="With --preview: the picture to write (.svg; augment: .png).")
    ] = None,
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
    if destination is not None and preview is None:
        raise InputError("--output is for the picture of a --preview. Send the recipe itself to a file with >.")
    sparse, _ = describe(source, target, dev, test)
    changes = merge(updates(epochs=epochs, seed=seed, device=device), *map(parse_assignment, assignments or []))
    with reading_progress(output.console()) as progress:
        if preview is not None:
            _preview(preview, merge(sparse, changes), destination, output, progress)
            return
        found = complete_recipe(merge(sparse, changes), progress).recipe
    if as_json:
        output.give("recipe", recipe=found.model_dump(), toml=dump(found))
    else:
        print(dump(found), end="")


def _preview(kind: Preview, sparse: "Sparse", destination: Path | None, output: Output, progress: "Progress") -> None:
    from caviar.workflow.preview import preview_augmentation, preview_schedule
    from caviar.workflow.show import course_tables

    if kind is Preview.augment:
        path = picture_path(destination or Path("augment.png"), ".png")
        rows = preview_augmentation(sparse, path, progress)
        output.say(f"A row each for {', '.join(rows)}: {path}")
        output.give("recipe --preview", preview=kind.value, output=str(path), rows=rows)
        return
    plot = None if destination is None else picture_path(destination, ".svg")
    course = preview_schedule(sparse, progress)
    if plot is not None:
        course.plot(plot)
    if not output.as_json:
        Output(as_json=False, quiet=False).say(*course_tables(course), *([f"The picture: {plot}"] if plot else []))
    facts = {"total_steps": course.total_steps, "steps_per_epoch": course.steps_per_epoch, "points": course.table(201)}
    output.give("recipe --preview", preview=kind.value, schedule=course.name, output=plot and str(plot), **facts)


def picture_path(path: Path, ending: str) -> Path:
    """Return where a picture goes; the kind of file that it will be must be the one its name promises."""
    from caviar.core.errors import InputError

    check_destination(path, "the picture")
    if path.suffix.lower() not in ("", ending):
        raise InputError(f"--output {path}: this picture is a {ending} file. Name it {path.with_suffix(ending)}.")
    return path.with_suffix(ending)


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
