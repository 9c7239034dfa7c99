"""Try remedies beside an untouched control, round by round: what findings advise, then what is still lacking."""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from rich.console import Console

from caviar.core.errors import InputError
from caviar.core.findings import Finding, at_least
from caviar.recipe import Recipe
from caviar.workflow.advice import ALL, Advice, advice_for, only_changes, together, usual_choices
from caviar.workflow.find_lr import Sweep, planned_start, run_sweep
from caviar.workflow.plan import Plan
from caviar.workflow.proof import NEAR, SMALLEST, Proof, Tried, choose_winner, judge
from caviar.workflow.show import print_notes, steps_progress
from caviar.workflow.trial_runs import Fork, Tell, begins_anew, run_trial
from caviar.workflow.trials_together import alike, run_trials

SEEDS: Final = 3
LEAST_EPOCHS: Final = 10
ROUNDS: Final = 3
BEHIND: Final = 0.05
"""A remedy whose first seed ends so far behind the best one's is tried on no other."""
MOST_AHEAD: Final = 4
"""And so many of the others go on, at most."""
RATE: Final = "optimizer.learning_rate"
SEARCH: Final = Sweep(rates=16, seeds=1, timed=False)

MakePlan = Callable[[tuple[str, ...]], Plan]
"""From assignments to the plan of a run that differs in them; raises InputError where they cannot be."""


CONTROL: Final = Tried("Change nothing", (), (), ())


@dataclass
class _Bench:
    """What all trials of a proof share. last: the epoch that they train to. tell: is told of epochs that are done."""

    make: MakePlan
    fork: Fork
    recipe: Recipe
    last: int
    codes: tuple[str, ...]
    console: Console
    wide: bool
    control: Tried = CONTROL
    tell: Tell = int
    plans: dict[tuple[str, ...], Plan] = field(default_factory=dict)

    @property
    def span(self) -> int:
        """How many epochs a trial trains, if it may."""
        return self.last - self.fork.epoch

    def judges(self, advice: Advice) -> bool:
        """Whether trials show what advice is worth: what lets a run go on for longer shows at its end only."""
        return not advice.lengthens or (self.wide and self.last == self.recipe.training.epochs)

    def tried(self, advice: Advice, number: int, base: tuple[str, ...] = ()) -> Tried | None:
        """Return a remedy on top of others, ready for its trials; None where it changes nothing."""
        settings = together(base, advice.settings)
        codes = advice.codes if advice.codes and number == 1 else self.codes
        found = Tried(advice.do, settings, codes, (), round=number, everything=advice.do == ALL, own=advice.settings)
        try:
            plan = self.make(settings)
        except InputError as error:
            return replace(found, reason=str(error))
        settings = only_changes(settings, self.recipe, plan.recipe)
        if not settings or settings in self.plans:
            return None
        self.plans[settings] = plan
        return replace(found, settings=settings, anew=begins_anew(settings))

    def run(self, every: Sequence[Tried], number: int) -> list[Tried]:
        """Add a trial of one seed to each; what differs in numbers only trains together."""
        groups: dict[object, list[int]] = {}
        for place, each in enumerate(every):
            if not each.reason:
                anew = each.anew and self.fork.epoch > 0
                like = alike(self.plans[each.settings])
                groups.setdefault(place if like is None else (like, anew, self._last(each)), []).append(place)
        found = list(every)
        for places in groups.values():
            for place, tried in zip(places, self._group([every[place] for place in places], number), strict=True):
                found[place] = tried
                done = tried.trials[-1].epochs if not tried.reason else 0
                self.tell(max(0, self.span - done))  # where a run ended before its time
        return found

    def _group(self, every: Sequence[Tried], number: int) -> list[Tried]:
        plans, last = [self.plans[each.settings] for each in every], self._last(every[0])
        fork = None if every[0].anew else self.fork
        if len(every) > 1:
            with contextlib.suppress(InputError):  # each alone says what is wrong
                trials = run_trials(plans, fork, last, number, self.tell)
                if trials is not None:
                    return [replace(e, trials=(*e.trials, own)) for e, own in zip(every, trials, strict=True)]
        return [self._single(each, number) for each in every]

    def _single(self, tried: Tried, number: int) -> Tried:
        plan, fork = self.plans[tried.settings], None if tried.anew else self.fork
        try:
            trial = run_trial(plan, fork, self._last(tried), number, self.tell)
        except InputError as error:
            return replace(tried, reason=str(error))
        return replace(tried, trials=(*tried.trials, trial))

    def _last(self, tried: Tried) -> int:
        """Return the epoch to train to: of what lets a run go on for longer, its own last one."""
        epochs = self.plans[tried.settings].recipe.training.epochs
        assert isinstance(epochs, int)
        return epochs if Advice("", tried.settings).lengthens else self.last


def try_remedies(
    findings: Sequence[Finding],
    recipe: Recipe,
    make: MakePlan,
    fork: Fork,
    *,
    epochs: int | None,
    seeds: int,
    console: Console,
    wide: bool = False,
    pace: float = math.nan,
) -> Proof:
    """Run the control and every remedy, each for every seed it is worth.

    wide: try, beside what findings advise, all that the recipe has otherwise than caviar would choose, and go on in
    further rounds from the best until nothing helps any more. pace: seconds that an epoch of the run takes.
    """
    advice, untried = advice_for(findings, recipe)
    codes = tuple(dict.fromkeys(finding.code for finding in findings))
    usual = usual_choices(recipe) if wide else []
    whole = recipe.training.epochs
    assert isinstance(whole, int)
    last = min(whole, fork.epoch + (epochs or max(LEAST_EPOCHS, whole // 3)))
    bench = _Bench(make, fork, recipe, last, codes, console, wide)
    untried += [(each.do, "it takes whole runs to judge it") for each in advice if not bench.judges(each)]
    advice = [each for each in advice if bench.judges(each)]
    if not advice and not wide:
        raise InputError(
            f"{', '.join(codes)}: none of the remedies is one that short runs can try; caviar diagnose lists them."
        )
    bench.plans[()] = make(())
    _say_plan(bench, max(1, len(advice) + bool(usual)), seeds, pace)
    tried = _rounds(bench, advice, usual, seeds)
    if bench.control.reason:
        raise InputError(f"the run cannot be repeated: {bench.control.reason}")
    metric = "accuracy" if recipe.data.task == "classification" else "r2"
    step = 0 if fork.checkpoint is None else int(fork.checkpoint.data["step"])
    winner = choose_winner(tried)
    return Proof(codes, metric, step, fork.epoch, last, seeds, bench.control, tuple(tried), winner, tuple(untried))


def _say_plan(bench: _Bench, count: int, seeds: int, pace: float) -> None:
    span = bench.span
    what = "1 remedy" if count == 1 else f"{count} remedies"
    least, most = 1 + count, seeds + count + (seeds - 1) * min(count, MOST_AHEAD)
    time = "" if math.isnan(pace) else f", up to {_time(most * span * pace)} at the run's own pace"
    print_notes(
        bench.console,
        [
            f"Trying {what} beside the run as it is: {least} to {most} runs of {span} epoch{'s' * (span != 1)}{time}. "
            "The best go on over all seeds, and further rounds build on them while that helps."
        ],
    )


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _rounds(bench: _Bench, advice: list[Advice], usual: list[Advice], seeds: int) -> list[Tried]:
    """Try what findings advise; then, on top of the best so far, what is advised there, and what helped beside it."""
    every: list[Tried] = []
    base: tuple[str, ...] = ()
    for number in range(1, (ROUNDS if bench.wide else 1) + 1):
        advice = [*advice, *_searched(bench, advice, base), *(usual[-1:] if number == 1 else ())]
        ready = [tried for each in advice if (tried := bench.tried(each, number, base)) is not None]
        before = _least(every)
        every += _screened(bench, ready, seeds, number)
        best = _least(every)
        improved = best is not None and (before is None or best.reached > before.reached + SMALLEST)
        if number > 1 and not improved:
            break
        base = best.settings if best is not None else ()
        advice = _next_advice(bench, every, best, usual[:-1])
        if not advice:
            break
    return [*every, *_without_base(bench, every, seeds)]


def _without_base(bench: _Bench, every: Sequence[Tried], seeds: int) -> list[Tried]:
    """Try what mended most in a later round without what came before it: it may be all that was needed."""
    best = _least(every)
    if best is None or best.round == 1:
        return []
    alone = bench.tried(Advice(best.do, best.own), best.round + 1)
    return [] if alone is None else _screened(bench, [alone], seeds, alone.round)


def _least(every: Sequence[Tried]) -> Tried | None:
    """Return the best of what changes less than everything."""
    return choose_winner([each for each in every if not each.everything])


def _next_advice(bench: _Bench, every: Sequence[Tried], best: Tried | None, usual: list[Advice]) -> list[Advice]:
    """Return what to try on top of the best."""
    top = max((each.reached for each in every if each.verdict in ("cures", "helps")), default=-math.inf)
    lacking = top > (-math.inf if best is None else best.reached) + NEAR
    found = list(usual) if lacking else []
    if best is None:
        return found
    found_there = best.trials[0].findings
    left = [f for f in found_there if f.code in bench.codes or (lacking and at_least(f.severity, "warning"))]
    if left:
        advised = advice_for(left, bench.plans[best.settings].recipe)[0]
        found = [*(each for each in advised if bench.judges(each)), *found]
    if left or lacking:
        names = {assignment.split("=", 1)[0] for assignment in best.settings}
        beside = [each for each in every if each.verdict in ("cures", "helps") and not each.everything]
        beside = [each for each in beside if not names & set(Advice("", each.settings).names)]
        found += [Advice(each.do, each.settings, each.codes) for each in beside]
    return found


def _screened(bench: _Bench, ready: Sequence[Tried], seeds: int, number: int) -> list[Tried]:
    """Run each on the first seed, and those that do best there on all the others."""
    what = "trying remedies" if number == 1 else f"trying more, round {number}"
    controls = [] if bench.control.trials else [bench.control]
    runs = len(ready) + min(len(ready), MOST_AHEAD) * (seeds - 1) + seeds * len(controls)
    with steps_progress(bench.console, what, runs * bench.span, "epochs") as bench.tell:
        ran = bench.run([*controls, *ready], 0)
        controls, first = ran[: len(controls)], ran[len(controls) :]
        ahead = sorted((each.reached for each in first if not each.reason), reverse=True)[:MOST_AHEAD]
        least = max(ahead[0] - BEHIND, ahead[-1]) if ahead else math.inf
        going = [e for e in first if not e.reason and e.reached >= least and e.reached > -math.inf]
        left = [each for each in first if each not in going]
        for seed in range(1, seeds):
            ran = bench.run([*controls, *going], seed)
            controls, going = ran[: len(controls)], ran[len(controls) :]
    bench.control = controls[0] if controls else bench.control
    by_settings = {each.settings: each for each in (*left, *going)}
    return [judge(by_settings[each.settings], bench.control, bench.codes) for each in ready]


def _searched(bench: _Bench, advice: Sequence[Advice], base: tuple[str, ...]) -> list[Advice]:
    """Return as advice the rate that a search suggests, where remedies change the rate and the rule has one."""
    codes = [code for each in advice if RATE in each.names for code in each.codes]
    if (bench.codes and not codes) or bench.recipe.optimizer.name in ("lbfgs", "newton"):
        return []
    plan = bench.plans[base]
    rate = run_sweep(planned_start(plan, SEARCH), SEARCH, bench.console).suggestion
    if rate is None:
        return []
    return [Advice("Take the rate that caviar find-lr suggests.", (f"{RATE}={rate}",), tuple(dict.fromkeys(codes)))]
