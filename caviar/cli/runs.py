"""caviar runs: the list of runs."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from caviar.cli.output import JsonFlag, Output, QuietFlag

if TYPE_CHECKING:
    from caviar.core.runs import RunLine


def runs(
    runs_dir: Annotated[Path, typer.Option(help="The folder that holds the runs.")] = Path("runs"),
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """List the runs, oldest first: status, epochs, best dev value, test metric."""
    from caviar.core.runs import list_runs

    output = Output(as_json, quiet)
    lines = list_runs(runs_dir)
    if lines:
        output.say(_table(lines))
    else:
        output.say(f"There are no runs in {runs_dir}/. Start one: caviar train sample:digits")
    output.give(
        "runs",
        runs_dir=str(runs_dir),
        runs=[{**line.summary, "name": line.name, "path": str(line.path), "status": line.status} for line in lines],
    )


def _table(lines: list["RunLine"]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("run", "status", "epoch", "dev", "test", "source", "started"):
        table.add_column(heading, overflow="fold")
    for line in lines:
        s = line.summary
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(s["created"])) if "created" in s else ""
        epoch = f"{s.get('epoch', '?')}/{s.get('epochs', '?')}" if s else ""
        source = Path(str(s.get("source", ""))).name or line.problem
        table.add_row(line.name, line.status, epoch, _dev(s), _test(s), source, started)
    return table


def _dev(summary: dict[str, Any]) -> str:
    best = summary.get("best") or {}
    name = next((key for key in best if key.startswith("dev_") and key != "dev_loss"), None)
    return f"{name.removeprefix('dev_')} {best[name]:.4f}" if name and isinstance(best[name], float) else ""


def _test(summary: dict[str, Any]) -> str:
    metrics = summary.get("metrics") or {}
    name = metrics.get("metric")
    value = metrics.get(name, {}).get("value") if name else None
    return f"{name} {value:.4f}" if isinstance(value, float) else ""
