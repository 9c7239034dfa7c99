"""A proof as a person sees it in the terminal."""

import math

from rich.table import Table
from rich.text import Text

from caviar.workflow.proof import Proof, Tried
from caviar.workflow.show import plain_table

SETTINGS_WIDTH = 30
STYLES = {"cures": "green", "helps": "green", "harms": "red", "fails": "bold red", "is refused": "dim"}


def proof_tables(proof: Proof) -> list[Table | str]:
    """Return the table of control and remedies, and what to take."""
    table = plain_table("settings", f"dev {proof.metric}", "gain", "± seeds", "", left=1)
    table.columns[0].min_width, table.columns[-1].justify = SETTINGS_WIDTH, "left"
    table.add_row(*_row(proof.control))
    for number in sorted({each.round for each in proof.tried}):
        if number > 1:
            table.add_section()
        for each in proof.tried:
            if each.round == number and not each.reason:
                table.add_row(*_row(each))
    begin = "the first state" if not proof.from_epoch else f"the state after epoch {proof.from_epoch}"
    fewer = "; what fell far behind on the first seed has that one only" if proof.seeds > 1 else ""
    what = ", ".join(proof.codes) or "a run without findings"
    heading = (
        f"Proof of {what}: from {begin} to epoch {proof.epochs}, {proof.seeds} seed"
        f"{'s' * (proof.seeds != 1)}{fewer} (*: from scratch)."
    )
    untried = [f"Not tried: {do} ({reason})" for do, reason in proof.untried]
    return ["", heading, table, "", *untried, *_refusals(proof), _advice(proof)]


def _row(tried: Tried) -> list[str | Text]:
    name = "\n".join(tried.settings) + (" *" if tried.anew else "") if tried.settings else "(nothing changed)"
    lost = sum(math.isnan(metric) for metric in tried.metrics)
    reached = f"{tried.reached:.4f}" if math.isfinite(tried.reached) else "-"
    gain = f"{tried.gain:+.4f}" if not math.isnan(tried.gain) else ""
    spread = f"{tried.spread:.4f}" if gain and len(tried.trials) > 1 else ""
    cured = f" {', '.join(tried.cured)}" if tried.verdict == "cures" and len(tried.codes) > 1 else ""
    diverged = f" ({lost} of {len(tried.metrics)} diverged)" if lost else ""
    verdict = tried.verdict or "control"
    return [name, reached, gain, spread, Text(f"{verdict}{cured}{diverged}", STYLES.get(verdict, ""))]


def _refusals(proof: Proof) -> list[str]:
    return [f"Refused: {' '.join(each.settings)}: {each.reason}" for each in proof.tried if each.reason]


def _advice(proof: Proof) -> str:
    if proof.winner is None:
        return "None of the remedies did better than doing nothing."
    return f"Take: {' '.join(f'--set {setting}' for setting in proof.winner.settings)}"
