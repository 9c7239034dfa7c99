"""caviar runs: the list of runs."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from caviar.cli.output import JsonFlag, Output, QuietFlag

if TYPE_CHECKING:
    from caviar.core.runs import RunLine

LONGEST_SOURCE = 32


def runs(
    runs_dir: Annotated[Path, typer.Option(help="The folder that holds the runs.")] = Path("runs"),
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """List the runs, oldest first: status, epochs, best dev value, test metric."""
    from caviar.core.errors import InputError
    from caviar.core.runs import list_runs

    if runs_dir.exists() and not runs_dir.is_dir():
        raise InputError(f"{runs_dir}: a file. Give the folder that holds the runs.")
    output = Output(as_json, quiet)
    lines = list_runs(runs_dir)
    if lines:
        output.say(*_table([_cells(line) for line in lines]))
    else:
        output.say(f"There are no runs in {runs_dir}/. Start one: caviar train sample:digits")
    output.give(
        "runs",
        runs_dir=str(runs_dir),
        runs=[_described(line) for line in lines],
    )


def _described(line: "RunLine") -> dict[str, Any]:
    summary = {key: value for key, value in line.summary.items() if key not in ("format", "version")}
    problem = {"error": line.problem} if line.problem else {}
    return {**summary, **problem, "name": line.name, "path": str(line.path), "status": line.status}


def _cells(line: "RunLine") -> list[str]:
    s = line.summary
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(s["created"])) if "created" in s else ""
    epoch = f"{s.get('epoch', '?')}/{s.get('epochs', '?')}" if s else ""
    if "cohorts" in s and "cohort" in s and line.status != "finished":
        epoch += f" of cohort {s['cohort']}/{len(s['cohorts'])}"
    metric = (s.get("metrics") or {}).get("metric") or _dev_metric(s.get("best") or {})
    dev = _number((s.get("best") or {}).get(f"dev_{metric}"))
    test = _number(((s.get("metrics") or {}).get(metric) or {}).get("value"))
    source = Path(str(s.get("source", ""))).name[:LONGEST_SOURCE]
    return [line.name, line.status, epoch, metric, dev, test, started, line.problem or source]


def _dev_metric(best: dict[str, Any]) -> str:
    return next((k.removeprefix("dev_") for k in best if k.startswith("dev_") and k != "dev_loss"), "")


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value or "")


def _table(rows: list[list[str]]) -> list[str]:
    """Lay rows out under headings. Plain text: a line too long for the terminal wraps, and nothing is cut."""
    table = [["run", "status", "epoch", "metric", "dev", "test", "started", "source"], *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
