"""What a person sees in the terminal: reading progress, the network, what was decided, the report."""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from caviar.population.settings import HYPERPARAMETERS
from caviar.workflow.show_settings import MAX_SETTINGS, settings_columns

if TYPE_CHECKING:
    from caviar.diagnose.checks_setup import CheckReport
    from caviar.population import Timing
    from caviar.recipe.names import Family
    from caviar.workflow.learning_rates import LearningRates
    from caviar.workflow.plan import Plan
    from caviar.workflow.preview import Course

SHOW_AFTER_SECONDS = 1.0
REFRESH_SECONDS = 0.1
MAX_CLASSES = 20
BLOCKS_WIDTH = 72
RATES_WIDTH = 20
MAX_LAYERS = 30
MAX_TRIALS = 10
STYLES = {"pass": "green", "fail": "bold red", "skipped": "dim"}


def notes_console(*, quiet: bool) -> Console:
    """Return the console for progress and notes: stderr. Text is printed as it is, without markup."""
    return Console(stderr=True, quiet=quiet, highlight=False, markup=False, emoji=False)


def print_notes(console: Console, notices: Iterable[str]) -> None:
    """Print notices, each on one line, which only a terminal breaks (a log is searched line by line)."""
    for notice in notices:
        console.print(Text.assemble(("note: ", "yellow"), notice), soft_wrap=not console.is_terminal)


@contextlib.contextmanager
def reading_progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback (done, total) that draws a bar once reading has taken more than a second."""
    bar = Progress(
        TextColumn("reading"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console,
        auto_refresh=False,
        transient=True,
    )
    task = bar.add_task("", total=None)
    began = shown = time.monotonic()
    started = False

    def update(done: int, total: int) -> None:
        nonlocal shown, started
        now = time.monotonic()
        if not console.is_terminal or now - began < SHOW_AFTER_SECONDS or now - shown < REFRESH_SECONDS:
            return
        shown = now
        if not started:
            bar.start()
            started = True
        bar.update(task, completed=done, total=total)
        bar.refresh()

    try:
        yield update
    finally:
        if started:
            bar.stop()


@contextlib.contextmanager
def checking_progress(console: Console) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a callback (done, total, what is next) that draws a bar on a terminal."""
    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def update(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield update


@contextlib.contextmanager
def steps_progress(console: Console, what: str, total: int, unit: str = "steps") -> Iterator[Callable[[int], None]]:
    """Yield a callback that is told of so many more steps done, and draws a bar on a terminal."""
    columns = (TextColumn(what), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn(f"{unit},"))
    left = (TimeRemainingColumn(compact=True), TextColumn("left"))
    with Progress(*columns, *left, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.advance(task, done)


def print_plan(console: Console, plan: "Plan") -> None:
    """Print the network with its output shapes and parameter counts, then what was decided, before training."""
    if not console.quiet:
        if plan.recipe.population.vary:
            console.print("Trial 0; the other members differ from it.")
        if plan.layers:
            console.print(_network_table(plan))
        for line in _decisions(plan):
            console.print(line, soft_wrap=True)


def print_members(console: Console, sentences: Iterable[str], timings: Iterable["Timing"]) -> None:
    """Print how a population is run, and what the ways to run it were timed at."""
    if console.quiet:
        return
    for sentence in sentences:
        console.print(sentence, soft_wrap=True)
    rows = list(timings)
    if not rows:
        return
    table = plain_table("executor", "members at a time", "threads", "ms a step", "", left=1)
    known = [timing.seconds for timing in rows if timing.seconds is not None]
    for timing in rows:
        layout, seconds = timing.layout, timing.seconds
        said = "fastest" if seconds is not None and seconds == min(known) else timing.reason
        milliseconds = "-" if seconds is None else f"{seconds * 1000:,.3g}"
        table.add_row(layout.kind, str(layout.size), str(layout.threads), milliseconds, said)
    console.print(table)


def members_tables(summary: dict[str, Any]) -> list[Table | str]:
    """Return the spread over members of what they reach, and the best of them in a line each."""
    spread, trials = summary["spread"], summary["trials"]
    table = plain_table("over members", "mean", "std", "best", "worst")
    for key, values in spread.items():
        split, name = key.split("_", 1)
        numbers = [measured_word(name, values[what]) for what in ("mean", "std", "best", "worst")]
        table.add_row(f"{split} {name}", *numbers)
    fates = {fate: sum(trial["fate"] == fate for trial in trials) for fate in dict.fromkeys(t["fate"] for t in trials)}
    said = ", ".join(f"{count} {fate}" for fate, count in fates.items())
    return [
        f"{len(trials)} members: {said}.",
        table,
        _trials_table(trials, summary["chosen_by"], summary.get("varied")),
        "",
    ]


def _trials_table(trials: list[dict[str, Any]], chosen_by: str, columns: Sequence[str] | None) -> Table:
    """The best trials by what the run was chosen by, dev's loss or metric; columns: of what they differ in."""
    varied = [key for key in trials[0] if key in HYPERPARAMETERS] if columns is None else columns
    measured = ("dev_loss", "dev_accuracy", "dev_r2", "test_accuracy", "test_r2")
    shown = [key for key in measured if any(key in trial for trial in trials)]
    sign = 1 if chosen_by == "dev_loss" else -1
    ranked = sorted(trials, key=lambda trial: sign * float(trial.get(chosen_by, sign * math.inf)))
    heads, cells = settings_columns(varied, trials, "unlike trial 0")
    left = 1 + (len(varied) > MAX_SETTINGS)
    table = plain_table("trial", *heads, *(key.replace("_", " ") for key in shown), "best epoch", "fate", left=left)
    for trial in ranked[:MAX_TRIALS]:
        values = [measured_word(key, trial[key]) if key in trial else "-" for key in shown]
        own = cells[trials.index(trial)]
        table.add_row(str(trial["trial"]), *own, *values, str(trial["best_epoch"] or "-"), trial["fate"])
    if len(trials) > MAX_TRIALS:
        table.title = f"the best {MAX_TRIALS} of {len(trials)} by {chosen_by.replace('_', ' ')}"
        table.title_justify = "left"
    return table


def measured_word(name: str, value: float | str) -> str:
    """Return a number as its name asks for: an accuracy in percent."""
    if isinstance(value, str):
        return value
    return f"{value:.2%}" if "accuracy" in name else _number(value)


def _network_table(plan: "Plan") -> Table:
    layers = plan.layers
    table = plain_table("layer", "kind", "output", "parameters", left=3)
    for layer in layers[:MAX_LAYERS]:
        shape = " x ".join(map(str, layer.output_shape)) if layer.output_shape is not None else "-"
        table.add_row(layer.name, layer.kind, shape, f"{layer.parameters:,}" if layer.parameters else "")
    if len(layers) > MAX_LAYERS:
        rest = sum(layer.parameters for layer in layers[MAX_LAYERS:])
        table.add_row(f"... {len(layers) - MAX_LAYERS} more", "", "", f"{rest:,}")
    total = f"{sum(layer.parameters for layer in layers):,}"
    table.add_row("total", "", "", total, style="bold")
    return table


def _decisions(plan: "Plan") -> list[str]:
    recipe, splits, training = plan.recipe, plan.splits, plan.recipe.training
    task = f"Classification, {len(plan.raw.classes)} classes" if plan.raw.classes else "Regression"
    rows = f"{len(splits.train):,} train, {len(splits.dev):,} dev, {len(splits.test):,} test rows"
    if not len(splits.dev):
        rows = f"{len(splits.train):,} rows in {recipe.population.folds} folds, {len(splits.test):,} test rows"
    threads = "1 thread" if recipe.device.threads == 1 else f"{recipe.device.threads} threads"
    machine = f"{plan.device} ({threads})" if plan.device.type == "cpu" else str(plan.device)
    epochs = "1 epoch" if training.epochs == 1 else f"up to {training.epochs} epochs"
    rule = f"{recipe.optimizer.name} from {recipe.optimizer.learning_rate:g}, {recipe.schedule.name}"
    rule += f", {recipe.average.name} of the weights" if recipe.average.name != "none" else ""
    return [f"{task}; {rows}", f"{machine}; {epochs} in batches of {training.batch_size}; {rule}"]


def check_tables(report: "CheckReport") -> list[Table | str]:
    """Return the table of all checks, then what to try where one failed."""
    table = plain_table("check", "what", "result", "evidence", left=4)
    for each in report.results:
        table.add_row(each.code, each.title, Text(each.status, STYLES[each.status]), each.words)
    counts = report.to_dict()
    seconds = sum(each.seconds for each in report.results)
    total = f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped in {seconds:.0f} s."
    if report.ok:
        return [table, "", total]
    return [table, "", total, "What to try:", *(f"  {each.code}: {each.remedy}" for each in report.failed)]


def report_tables(report: dict[str, Any]) -> list[Table | str]:
    """Return the tables of one evaluation: metric with its interval beside the baseline, then the classes."""
    where = "Test split" if report.get("split") == "test" else "Evaluation"
    heading = f"{where}, {report['rows']:,} rows"
    why = "" if report["task"] == "regression" else ", the most frequent class in training"
    baseline = f"Baseline: {report['baseline']['name']}{why}."
    if report["task"] == "regression":
        return [heading, _regression_table(report), baseline, ""]
    tables: list[Table | str] = [heading, _accuracy_table(report), baseline, "", _class_table(report)]
    if confused := report["most_confused"]:
        tables.append(
            f"Most confused: {confused['class']!r} taken for {confused['predicted_as']!r} in {confused['rows']} of its "
            f"rows ({confused['share']:.1%})."
        )
    return [*tables, ""]


def names_tables(families: "Iterable[Family]") -> list[Table | str]:
    """Return a heading and a table, a line for each name, for every family of names."""
    tables: list[Table | str] = []
    for family in families:
        said = f"{family.key} = ..." if "." in family.key else f"settings of [{family.key}]"
        tables += [f"{family.title}: {said}" if family.key else family.title, _names_table(family), ""]
    return [*tables, "Try one: caviar train sample:digits --set model.activation=gelu"]


def course_tables(course: "Course") -> list[Table | str]:
    """Return a heading, the course as a line of blocks, and a table of it."""
    from caviar.optim import sparkline

    total, per_epoch = course.total_steps, course.steps_per_epoch
    steps = f"{total:,} steps, {per_epoch:,} an epoch"
    waits = ["It waits for the dev metric to stall; here it never does.", ""] if course.waits else []
    rows = course.table()
    table = plain_table(*(name.replace("_", " ") for name in rows[0]), left=0)
    for row in rows:
        table.add_row(f"{row['step']:,}", f"{row['epoch']:.2f}", *(f"{row[n]:.6g}" for n in list(row)[2:]))
    line = sparkline(course.learning_rate, total, BLOCKS_WIDTH)
    return [f"Learning rate, schedule {course.name}: {steps}", "", line, "", *waits, table]


def rates_tables(found: "LearningRates") -> list[Table | str]:
    """Return the ranges of learning rates with their spread over seeds, every rate in a line, and the suggestion."""
    ranges = plain_table("range", "from", "to", "over seeds: from", "to", left=1)
    for each in found.ranges:
        spread = [f"{ends[0]:.2g} to {ends[1]:.2g}" if ends else "-" for ends in (each.lows, each.highs)]
        ranges.add_row(each.kind, f"{each.low:.2g}", f"{each.high:.2g}", *spread)
    rates = plain_table("learning rate", "loss", "lowest", "highest", "won", "", left=0)
    rates.columns[-2].justify = rates.columns[-1].justify = "left"
    for rate, kind, losses, learned in zip(found.rates, found.kinds, found.losses.T, found.learned.T, strict=True):
        share = min(1.0, max(0.0, float(learned.median())))
        numbers = (_number(float(value)) for value in (losses.median(), losses.min(), losses.max()))
        rates.add_row(f"{rate:.3g}", *numbers, "█" * round(RATES_WIDTH * share), kind)
    many = f"{len(found.before)} seed{'s' * (len(found.before) != 1)}"
    before = f"{found.steps} steps, {many}; without training the loss is {_number(float(found.before.median()))}."
    return [rates, "", ranges, "", before, found.verdict]


def _names_table(family: "Family") -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2), pad_edge=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name in family.names:
        table.add_row(name.name if family.key else name.setting.removesuffix("=VALUE"), name.summary.removesuffix("."))
    return table


def plain_table(*headings: str, left: int = 1) -> Table:
    """Return an empty table; its first `left` columns begin at the left, the rest are numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < left else "right", overflow="fold")
    return table


def _accuracy_table(report: dict[str, Any]) -> Table:
    table = plain_table("metric", "value", "95% interval", "baseline")
    accuracy = report["accuracy"]
    interval = f"{accuracy['low']:.2%} to {accuracy['high']:.2%}"
    table.add_row("accuracy", f"{accuracy['value']:.2%}", interval, f"{report['baseline']['accuracy']:.2%}")
    table.add_row("loss", _number(report["loss"]), "", "")
    return table


def _class_table(report: dict[str, Any]) -> Table:
    classes = report["classes"]
    worst = sorted(classes, key=lambda c: (c["recall"] is None, c["recall"]))[:MAX_CLASSES]
    shown = classes if len(classes) <= MAX_CLASSES else worst
    table = plain_table("class", "rows", "recall", "precision")
    if shown is not classes:
        table.title = f"the {MAX_CLASSES} classes of lowest recall, of {len(classes)}"
        table.title_justify = "left"
    for entry in shown:
        table.add_row(entry["class"], f"{entry['rows']:,}", _share(entry["recall"]), _share(entry["precision"]))
    return table


def _regression_table(report: dict[str, Any]) -> Table:
    table = plain_table("metric", "value", "95% interval", "baseline")
    for name in ("r2", "rmse", "mae"):
        entry = report[name]
        interval = f"{_number(entry['low'])} to {_number(entry['high'])}"
        table.add_row(name, _number(entry["value"]), interval, _number(report["baseline"][name]))
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
