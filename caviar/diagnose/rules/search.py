"""SEARCH: many members compared."""

from collections.abc import Iterator, Mapping

import numpy as np

from caviar.diagnose.rules.found import CrossRule, Found, Limits, percent, say
from caviar.diagnose.story import LackingError, Story

VARIED = ("learning_rate", "weight_decay", "momentum")
"""Hyperparameters that are records, for where nobody noted what members were given."""


def _scores(stories: Mapping[int, Story], least: int) -> dict[int, float]:
    """Return each member's best metric on dev (its negative loss where there is none); NaN for the ones that failed."""
    if len(stories) < least:
        raise LackingError(f"it compares members, at least {least} of them")
    found = {}
    for member, story in stories.items():
        name = next((n for n in ("accuracy", "r2", "loss") if story.has(n, "dev")), "")
        if not name:
            raise LackingError("there are no records of dev")
        values = story.curve(name, "dev").finite().values * (-1 if name == "loss" else 1)
        bad = story.failed or (story.has("batch_loss", "train") and not np.isfinite(story.losses.last))
        found[member] = float("nan") if bad or not len(values) else float(values.max())
    return found


def at_the_edge(stories: Mapping[int, Story], limits: Limits) -> Iterator[Found]:
    """SEARCH001: the best member has the least or largest value that was tried."""
    scores = _scores(stories, int(limits["members"]))
    good = {member: score for member, score in scores.items() if np.isfinite(score)}
    if len(good) < 2:
        raise LackingError("fewer than two members came through")
    best = max(good, key=lambda member: good[member])
    for name in dict.fromkeys((*VARIED, *(name for story in stories.values() for name in story.facts.chosen))):
        tried = {member: value for member, story in stories.items() if (value := _value(story, name)) is not None}
        values = sorted(set(tried.values()))
        if len(values) < limits["values"] or best not in tried or tried[best] not in (values[0], values[-1]):
            continue
        inside = max(
            (good[m] for m, value in tried.items() if m in good and values[0] < value < values[-1]), default=None
        )
        if inside is not None and good[best] - inside < limits["errors"] * _error(stories[best], good[best]):
            continue  # dev cannot tell it from the best one inside
        end = "least" if tried[best] == values[0] else "largest"
        message = (
            f"the best member has {name} {say(tried[best])}, the {end} of {len(values)} values tried: better ones may "
            "lie beyond."
        )
        yield Found("warning", 0.8, message, {name: tried[best], "from": values[0], "to": values[-1]})


def _error(story: Story, score: float) -> float:
    """Return the standard error of a member's score; 0 where it is not known."""
    try:
        return story.metric_error(score) if story.has(story.metric, "dev") else 0.0
    except LackingError:
        return 0.0


def _value(story: Story, name: str) -> float | None:
    """Return what a member was given of a hyperparameter, or None."""
    chosen = story.facts.chosen.get(name)
    if isinstance(chosen, int | float):
        return float(chosen)
    return float(story.curve(name).values.max()) if story.has(name) else None


def many_fail(stories: Mapping[int, Story], limits: Limits) -> Iterator[Found]:
    """SEARCH002: many members diverge."""
    scores = _scores(stories, int(limits["members"]))
    share = float(np.mean([not np.isfinite(score) for score in scores.values()]))
    if share > limits["share"]:
        message = (
            f"{percent(share)} of the {len(scores)} members diverged: the ranges reach too far, and what they were "
            "trained for was spent on nothing."
        )
        yield Found("warning", 0.9, message, {"share": share, "members": float(len(scores))})


def only_noise(stories: Mapping[int, Story], limits: Limits) -> Iterator[Found]:
    """SEARCH003: members differ by no more than dev's noise."""
    scores = np.array([s for s in _scores(stories, int(limits["members"])).values() if np.isfinite(s)])
    story = next(iter(stories.values()))
    if len(scores) < limits["members"]:
        raise LackingError("too few members came through")
    error = story.metric_error(float(np.median(scores)))
    spread = float(scores.std())
    if 0 < spread < limits["errors"] * error:
        message = f"the members' scores differ by {say(spread)}, and dev can tell no less than {say(error)}: which is "
        message += "best is luck."
        yield Found("info", 0.7, message, {"spread": spread, "error": error})


def all_alike(stories: Mapping[int, Story], limits: Limits) -> Iterator[Found]:
    """SEARCH004: members are copies of each other."""
    scores = _scores(stories, int(limits["members"]))
    lasts = [story.losses.last for member, story in stories.items() if np.isfinite(scores[member])]
    copies = len(lasts) - len(set(lasts))
    if len(lasts) >= 2 and copies > limits["share"] * len(lasts):
        message = f"{copies} of {len(lasts)} members end with the very loss of another: they differ in nothing, seeds "
        message += "included."
        yield Found("warning", 0.95, message, {"copies": float(copies), "members": float(len(lasts))})


RULES: dict[str, CrossRule] = {
    "SEARCH001": at_the_edge,
    "SEARCH002": many_fail,
    "SEARCH003": only_noise,
    "SEARCH004": all_alike,
}
