"""caviar train: from data or a recipe to a finished run."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from caviar.cli.output import JsonFlag, Output, QuietFlag

SourceArgument = Annotated[
    str | None,
    typer.Argument(
        help="A table (CSV, TSV, Parquet), folder of pictures, arrays (.npy, .npz), sample:digits, or recipe (.toml)."
    ),
]
TargetOption = Annotated[
    str | None, typer.Option("--target", help="The column to predict (tables); the targets' file (.npy).")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="Any setting of the recipe, such as optimizer.learning_rate=3e-4."
    ),
]
EpochsOption = Annotated[int | None, typer.Option(help="Passes over the training examples.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of everything random; the same seed gives the same result.")]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
DevOption = Annotated[str | None, typer.Option("--dev", help="A file or folder of development examples of its own.")]
TestOption = Annotated[str | None, typer.Option("--test", help="A file or folder of test examples of its own.")]


def train(
    source: SourceArgument = None,
    target: TargetOption = None,
    epochs: EpochsOption = None,
    seed: SeedOption = None,
    assignments: SetOption = None,
    members: Annotated[
        int | None, typer.Option(help="Models that train together, each with a seed of its own; the best is kept.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="Cross-validation: train without each of so many folds, and on all rows at once.")
    ] = None,
    care: Annotated[
        bool, typer.Option("--care", help="When findings appear, go back, try remedies, and go on with one that helps.")
    ] = False,
    dev: DevOption = None,
    test: TestOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; without it a readable one is made.")] = None,
    runs_dir: Annotated[Path, typer.Option(help="The folder that holds the runs.")] = Path("runs"),
    device: DeviceOption = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run (runs/NAME) after a stop.")] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Let the recipe's model.name run Python code (module.path:callable).")
    ] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train a model on SOURCE, evaluate it on a test split, and write it as a reusable bundle."""
    from caviar.core.errors import InputError
    from caviar.recipe import merge, parse_assignment
    from caviar.workflow.plan import updates
    from caviar.workflow.train import describe, resume_run, start_run

    output = Output(as_json, quiet)
    changes = merge(
        updates(epochs=epochs, seed=seed, device=device, members=members, folds=folds, care=care or None),
        *map(parse_assignment, assignments or []),
    )
    sparse, _ = describe(source, target, dev, test)
    if resume is not None:
        if name is not None:
            raise InputError("--name is for a new run; --resume goes on with one that has its name. Leave one out.")
        run = resume_run(resume, sparse, changes, None, None, allow_code=allow_code, console=output.console())
    elif source is None:
        raise InputError(
            "nothing to train on: give a file, a folder, sample:digits or a recipe (or --resume runs/NAME)."
        )
    else:
        run = start_run(
            merge(sparse, changes), None, None, name, runs_dir, allow_code=allow_code, console=output.console()
        )
    _show(output, run)


def _show(output: Output, run: Any) -> None:
    from caviar.workflow.show import members_tables, report_tables
    from caviar.workflow.show_folds import folds_tables

    summary, path = run.summary, run.path
    metrics, recipe = summary["metrics"], run.recipe
    trained = folds_tables if "cross_validation" in summary else members_tables
    spread = trained(summary) if "trials" in summary else []
    output.say(
        *spread,
        *report_tables(metrics),
        *_interventions(summary.get("interventions", [])),
        *_findings(path, summary.get("findings", []), len(summary.get("trials", []))),
        f"Best epoch {metrics['best_epoch']} of {summary['epochs_run']}. Everything is in {path}/ (recipe.toml, "
        f"records.sqlite, {'cohorts' if recipe.population.vary else 'checkpoints'}/, bundle/, train.log).",
        "Next:",
        *(f"  {line}" for line in _next_commands(path, recipe)),
    )
    output.give(
        "train",
        run=str(path),
        name=run.name,
        status=summary["status"],
        bundle=str(path / "bundle"),
        recipe=str(path / "recipe.toml"),
        epochs_run=summary["epochs_run"],
        best=summary.get("best"),
        metrics=metrics,
        **{key: summary[key] for key in ("spread", "trials", "cross_validation", "cohorts") if key in summary},
        findings=summary.get("findings", []),
        interventions=summary.get("interventions", []),
        notices=summary.get("notices", []),
    )


def _interventions(interventions: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"Care, {', '.join(each['codes'])}: on from epoch {0 if each['from_scratch'] else each['from_epoch']} with "
        f"{' '.join(f'--set {setting}' for setting in each['settings'])}"
        for each in interventions
    ]
    return [*lines, ""] if lines else []


def _findings(path: Path, findings: list[dict[str, Any]], members: int) -> list[str]:
    """Return a line for each finding that is worse than worth knowing and no consequence of another one."""
    from caviar.diagnose.groups import line_of

    grave = [f for f in findings if f["severity"] != "info" and not f["consequence_of"]]
    lines = [line_of(finding, members) for finding in grave]
    return [*lines, f"What to do about it: caviar diagnose {shlex.quote(str(path))}"] if lines else []


def _next_commands(path: Path, recipe: Any) -> list[str]:
    new_data = {"table": "new.csv", "pictures": "new_pictures/", "arrays": "new.npy"}[recipe.data.kind]
    if recipe.data.source.startswith("sample:"):
        new_data = recipe.data.source
    rate, vary = recipe.optimizer.learning_rate / 3, recipe.population.vary
    runs_dir = "" if path.parent == Path("runs") else f" --runs-dir {shlex.quote(str(path.parent))}"
    again = f"caviar train {shlex.quote(str(path / 'recipe.toml'))}{runs_dir} --set optimizer.learning_rate={rate:.1g}"
    return [
        f"caviar predict {shlex.quote(str(path / 'bundle'))} {new_data} --output predictions.csv",
        *([] if vary else [again]),
        f"caviar runs{runs_dir}",
    ]
