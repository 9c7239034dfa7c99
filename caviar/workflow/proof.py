"""What trying remedies came to: each beside the untouched control, and which one to take."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from caviar.core.jsonable import jsonable
from caviar.workflow.trial_runs import Trial

Verdict = Literal["cures", "helps", "makes no difference", "harms", "fails", "is refused"]

SURE: Final = 2.0
"""A difference counts from so many of its standard errors on, or where every seed shows it."""
SMALLEST: Final = 0.005
"""And from half a per cent of accuracy or R2 on."""
NEAR: Final = 0.02
"""To change everything at once takes so much more accuracy or R2 than to change what is at fault."""


@dataclass(frozen=True)
class Tried:
    """One remedy, or the control (no settings), and what its trials came to.

    round: 1 for what findings advise, later ones for what was tried on top of the best until then. everything: it is
    all that caviar would choose otherwise, at once. anew: it cannot be taken up by a run that is under way. own: what
    it adds to the best one until then.
    gain: mean difference to the control of the same seed, in the dev metric; spread: its standard deviation over seeds
    (both NaN where a side diverged). cured: codes that the control shows and this does not.
    """

    do: str
    settings: tuple[str, ...]
    codes: tuple[str, ...]
    trials: tuple[Trial, ...]
    anew: bool = False
    gain: float = math.nan
    spread: float = math.nan
    cured: tuple[str, ...] = ()
    verdict: Verdict | None = None
    reason: str = ""
    round: int = 1
    everything: bool = False
    own: tuple[str, ...] = ()

    @property
    def reached(self) -> float:
        """The mean metric over seeds that did not diverge, minus infinity where all did."""
        known = [metric for metric in self.metrics if not math.isnan(metric)]
        return statistics.fmean(known) if known else -math.inf

    @property
    def metrics(self) -> list[float]:
        """Of each seed."""
        return [trial.metric for trial in self.trials]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "do": self.do,
            "settings": list(self.settings),
            "advised_by": list(self.codes),
            "round": self.round,
            "from_scratch": self.anew,
            "verdict": self.verdict or "control",
            "reason": self.reason,
            "gain": self.gain,
            "gain_spread": self.spread,
            "cured": list(self.cured),
            "dev_metric": self.metrics,
            "dev_loss": [trial.loss for trial in self.trials],
            "findings": [sorted(trial.codes) for trial in self.trials],
        }


@dataclass(frozen=True)
class Proof:
    """What trying the remedies of findings came to.

    codes: of the findings. metric: accuracy or r2. from_step, from_epoch: where the trials begin; epochs: they end
    there. control: what happens if nothing is done. winner: the remedy to take, or None. untried: remedies that no
    short run can judge, with the reason.
    """

    codes: tuple[str, ...]
    metric: str
    from_step: int
    from_epoch: int
    epochs: int
    seeds: int
    control: Tried
    tried: tuple[Tried, ...]
    winner: Tried | None
    untried: tuple[tuple[str, str], ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return strict JSON."""
        value = {
            "codes": list(self.codes),
            "metric": self.metric,
            "from_step": self.from_step,
            "from_epoch": self.from_epoch,
            "to_epoch": self.epochs,
            "seeds": self.seeds,
            "winner": None if self.winner is None else list(self.winner.settings),
            "control": self.control.to_dict(),
            "tried": [each.to_dict() for each in self.tried],
            "untried": [{"do": do, "reason": reason} for do, reason in self.untried],
        }
        return jsonable(value)  # type: ignore[no-any-return]


def judge(tried: Tried, control: Tried, codes: Sequence[str]) -> Tried:
    """Return a remedy with its verdict, beside the control of the same seeds."""
    if tried.reason:
        return replace(tried, verdict="is refused")
    count = len(tried.trials)
    beside = control.trials[:count]
    shown = [code for code in codes if 2 * sum(code in trial.codes for trial in beside) >= count]
    cured = tuple(code for code in shown if 2 * sum(code in trial.codes for trial in tried.trials) < count)
    failed, before = sum(trial.failed for trial in tried.trials), sum(trial.failed for trial in beside)
    pairs = zip(tried.metrics, control.metrics, strict=False)
    differences = [own - other for own, other in pairs if not math.isnan(own - other)]
    gain = statistics.fmean(differences) if differences else math.nan
    spread = statistics.stdev(differences) if len(differences) > 1 else math.nan if not differences else 0.0
    least = max(SMALLEST, SURE * spread / math.sqrt(len(differences))) if differences else math.inf
    known = [code for code in shown if code in tried.codes]
    better = gain >= least or failed < before or (count > 1 and min(differences, default=0.0) >= SMALLEST)
    verdict: Verdict = "makes no difference"
    if failed > before or 2 * failed > count:
        verdict = "fails"
    elif better:
        verdict = "cures" if known and set(known) <= set(cured) else "helps"
    elif gain <= -least:
        verdict = "harms"
    return replace(tried, gain=gain, spread=spread, cured=cured, verdict=verdict)


def choose_winner(tried: Sequence[Tried]) -> Tried | None:
    """Return the remedy that ends best on dev, of those that help; of those within half a per cent, the one that
    changes fewest settings, and cheaper ones before.

    What was tried on fewer seeds than others was left behind there. Changing everything wins where nothing less comes
    near it.
    """
    most = max((len(each.trials) for each in tried), default=0)
    helping = [each for each in tried if each.verdict in ("cures", "helps") and len(each.trials) == most]
    rest = [each for each in helping if not each.everything]
    best = max((each.reached for each in rest), default=-math.inf)
    near = sorted((e for e in rest if e.reached >= best - SMALLEST), key=lambda each: len(each.settings))
    far = [each for each in helping if each.everything and each.reached > best + NEAR]
    return next(
        (each for each in (*far, *near) if each.everything or each.verdict == "cures"), near[0] if near else None
    )
