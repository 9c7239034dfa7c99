"""What a person sees in the terminal: reading progress, the model, the report, the next commands."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

SHOW_AFTER_SECONDS = 1.0
MAX_CLASSES = 20


@contextlib.contextmanager
def reading_progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback (done, total) that draws a bar once reading has taken more than a second."""
    bar = Progress(
        TextColumn("reading"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        auto_refresh=False,
        transient=True,
    )
    task = bar.add_task("", total=None)
    began = shown = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if not console.is_terminal or now - began < SHOW_AFTER_SECONDS or now - shown < 0.1:
            return
        shown = now
        bar.start()
        bar.update(task, completed=done, total=total)
        bar.refresh()

    try:
        yield update
    finally:
        bar.stop()


def report_tables(report: dict[str, Any]) -> list[Table | str]:
    """Return the tables of one evaluation: metric with its interval beside the baseline, then the classes."""
    if report["task"] == "regression":
        return [_regression_table(report)]
    tables: list[Table | str] = [_accuracy_table(report), _class_table(report)]
    if confused := report["most_confused"]:
        tables.append(
            f"Most confused: {confused['class']!r} taken for {confused['predicted_as']!r} in {confused['rows']} of its "
            f"rows ({confused['share']:.1%})."
        )
    return tables


def _accuracy_table(report: dict[str, Any]) -> Table:
    table = Table(title=f"{report.get('split', 'evaluation')}: {report['rows']:,} rows", title_justify="left")
    for heading in ("metric", "value", "95% interval", "baseline"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    accuracy, base = report["accuracy"], report["baseline"]
    table.add_row(
        "accuracy",
        f"{accuracy['value']:.2%}",
        f"{accuracy['low']:.2%} to {accuracy['high']:.2%}",
        f"{base['accuracy']:.2%} ({base['name']})",
    )
    table.add_row("loss", _number(report["loss"]), "", "")
    return table


def _class_table(report: dict[str, Any]) -> Table:
    classes = report["classes"]
    worst = sorted(classes, key=lambda c: (c["recall"] is None, c["recall"]))[:MAX_CLASSES]
    shown = classes if len(classes) <= MAX_CLASSES else worst
    table = Table(title=None if shown is classes else f"the {MAX_CLASSES} classes of lowest recall, of {len(classes)}")
    for heading in ("class", "rows", "recall", "precision"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for entry in shown:
        table.add_row(entry["class"], f"{entry['rows']:,}", _share(entry["recall"]), _share(entry["precision"]))
    return table


def _regression_table(report: dict[str, Any]) -> Table:
    table = Table(title=f"{report.get('split', 'evaluation')}: {report['rows']:,} rows", title_justify="left")
    for heading in ("metric", "value", "95% interval", f"baseline ({report['baseline']['name']})"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for name in ("r2", "rmse", "mae"):
        entry = report[name]
        interval = f"{_number(entry['low'])} to {_number(entry['high'])}"
        table.add_row(name, _number(entry["value"]), interval, _number(report["baseline"][name]))
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
