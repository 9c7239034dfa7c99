"""Check the population engine's contract on this machine, with a table for a person to read."""

import warnings
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table

from caviar.core.errors import unknown_name
from caviar.population import KINDS
from caviar.population.verify import LAYOUTS, Row, verify_all
from caviar.workflow.show import checking_progress, plain_table

SHOWN_FAILURES = 20


def verify_population(kinds: Sequence[str], console: Console) -> list[Row]:
    """Check every promise on every case, and return a row for each. kinds: executors; none for all of them."""
    for kind in kinds:
        if kind not in KINDS:
            raise unknown_name("executor", kind, KINDS)
    layouts = [layout for layout in LAYOUTS if not kinds or layout.kind in kinds]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the networks are small: more threads would only wait for one another
    try:
        with warnings.catch_warnings(), checking_progress(console) as progress:
            warnings.simplefilter("ignore")
            return list(verify_all(layouts, progress))
    finally:
        torch.set_num_threads(threads)


def verify_tables(rows: Sequence[Row]) -> list[Table | str]:
    """Return a line for each promise and executor, the failures, and what cannot be run in which way."""
    table = plain_table("promise", "executor", "cases", "largest difference", "limit", "held", left=2)
    for promise in dict.fromkeys(row.promise for row in rows if not row.reason):
        for executor in dict.fromkeys(row.executor for row in rows):
            found = [row for row in rows if (row.promise, row.executor) == (promise, executor)]
            if found:
                held = f"{sum(row.held for row in found)} of {len(found)}"
                worst, limit = max(row.worst for row in found), found[0].limit
                table.add_row(
                    promise, executor, str(len(found)), f"{worst:.1e}", f"{limit:.0e}" if limit else "0", held
                )
    failed = [row for row in rows if not row.held]
    lines = [f"FAILED {row.promise}: {row.case}, {row.executor}: {_failure(row)}" for row in failed]
    if len(lines) > SHOWN_FAILURES:
        lines = [*lines[:SHOWN_FAILURES], f"... and {len(lines) - SHOWN_FAILURES} more (all of them: --json)"]
    said = "Every promise held." if not failed else f"{len(failed)} of {len(rows)} checks failed."
    return [table, *_not_run(rows), *lines, said]


def _not_run(rows: Sequence[Row]) -> list[str]:
    """Say which cases an executor cannot run; why stands in the rows of --json."""
    lines = []
    for kind in KINDS:
        cases = dict.fromkeys(row.case for row in rows if row.reason and row.executor.startswith(kind))
        if cases:
            named = "; ".join(cases)
            lines.append(f"not run by {kind}, whose members run in another way (network, update rule): {named}.")
    return lines


def _failure(row: Row) -> str:
    if row.worst > row.limit:
        return f"{row.worst:.2e} is more than {row.limit:.0e}"
    return "a planted change of 0.1% was not seen"
