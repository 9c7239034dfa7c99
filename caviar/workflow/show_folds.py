"""What a person sees of cross-validation: every fold, their mean and spread, and what is handed over."""

from typing import Any

from rich.table import Table

from caviar.population.settings import HYPERPARAMETERS
from caviar.workflow.show import measured_word, plain_table
from caviar.workflow.show_settings import headings, told

MAX_MEMBERS = 10
MEASURED = ("dev_loss", "dev_accuracy", "dev_r2", "test_loss", "test_accuracy", "test_r2")


def folds_tables(summary: dict[str, Any]) -> list[Table | str]:
    """Return what each fold of the best member came to, with mean and standard deviation, and members side by side."""
    trials, found, best = summary["trials"], summary["cross_validation"], summary["best"]
    chosen = trials[best["trial"]]
    own = [trial for trial in trials if trial["member"] == chosen["member"] and trial["fold"] != "all"]
    said = f" of member {chosen['member']}" if len(found["members"]) > 1 else ""
    by = summary["chosen_by"].replace("_", " ")
    handed = (
        f"Handed over: the model{said} trained on all rows that are not test, as it was after epoch {best['epoch']}, "
        f"when the mean {by} of the folds was best ({measured_word(by, chosen[summary['chosen_by']])}). What to expect "
        "of it on new data is the mean over folds, not the best fold."
    )
    members = [_members_table(trials, found, summary["chosen_by"], summary.get("varied"))] if said else []
    return [*members, f"{found['folds']} folds{said}, each judged by rows that it was not trained on:", "",
            _folds_table(own, summary["spread"]), handed, ""]  # fmt: skip


def _folds_table(trials: list[dict[str, Any]], spread: dict[str, Any]) -> Table:
    shown = [key for key in MEASURED if key in spread]
    table = plain_table("fold", *(key.replace("_", " ") for key in shown), "best epoch", "fate", left=1)
    for trial in trials:
        values = [measured_word(key, trial[key]) if key in trial else "-" for key in shown]
        table.add_row(str(trial["fold"]), *values, str(trial["best_epoch"] or "-"), trial["fate"])
    table.add_section()
    for what in ("mean", "std"):
        table.add_row(what, *(measured_word(key, spread[key][what]) for key in shown), "", "")
    return table


def _members_table(
    trials: list[dict[str, Any]], found: dict[str, Any], chosen_by: str, columns: list[str] | None
) -> Table:
    """The best members by the mean over their folds, as mean and standard deviation; columns: what they differ in."""
    varied = [key for key in trials[0] if key in HYPERPARAMETERS] if columns is None else columns
    members = [each for each in found["members"] if chosen_by in each["spread"]]
    members.sort(key=lambda each: (1 if chosen_by == "dev_loss" else -1) * each["spread"][chosen_by]["mean"])
    shown = [key for key in MEASURED if key in members[0]["spread"]]
    table = plain_table("member", *headings(varied), *(f"{key.replace('_', ' ')} (std)" for key in shown), left=1)
    for each in members[:MAX_MEMBERS]:
        spread = each["spread"]
        numbers = [told(each.get(key, "-")) for key in varied]
        values = [f"{measured_word(k, spread[k]['mean'])} ({measured_word(k, spread[k]['std'])})" for k in shown]
        table.add_row(str(each["member"]), *numbers, *values)
    if len(members) > MAX_MEMBERS:
        table.title = f"the best {MAX_MEMBERS} of {len(members)} by {chosen_by.replace('_', ' ')}"
        table.title_justify = "left"
    return table
