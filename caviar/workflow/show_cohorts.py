"""What a person sees of cohorts before they train."""

from collections.abc import Iterable, Sequence

from rich.console import Console

from caviar.population.memory import describe_size
from caviar.workflow.cohorts import CohortLayout
from caviar.workflow.show import plain_table
from caviar.workflow.show_settings import MAX_SETTINGS, settings_columns


def print_cohorts(console: Console, cohorts: Iterable[CohortLayout], columns: Sequence[str]) -> None:
    """Print the cohorts of a run: who is in each, what its members share, and how it is run."""
    if console.quiet:
        return
    rows = list(cohorts)
    shared = [key for key in columns if all(key in cohort.values for cohort in rows)]
    count, memory = sum(len(cohort.trials) for cohort in rows), describe_size(max(cohort.bytes for cohort in rows))
    said = f"{count} models in {len(rows)} cohorts, one cohort after another; at most {memory} of memory"
    console.print(said, soft_wrap=True)
    heads, cells = settings_columns(shared, [cohort.values for cohort in rows], "unlike cohort 1")
    table = plain_table(
        "cohort", "trials", *heads, "parameters", "executor", "ms a step", left=2 + (len(shared) > MAX_SETTINGS)
    )
    for number, cohort in enumerate(rows, 1):
        milliseconds = "-" if cohort.seconds is None else f"{cohort.seconds * 1000:,.3g}"
        executor = cohort.executor if cohort.threads == 1 else f"{cohort.executor} x{cohort.threads}"
        numbers = (f"{cohort.parameters:,}", executor, milliseconds)
        table.add_row(str(number), _ranges(cohort.trials), *cells[number - 1], *numbers)
    console.print(table)


def _ranges(numbers: Sequence[int]) -> str:
    """Write ascending numbers in short: 0-3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
