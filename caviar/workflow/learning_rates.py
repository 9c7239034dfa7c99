"""What a sweep over learning rates means: which barely move, learn, are unstable or explode, and which to take."""

import math
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from caviar.core.jsonable import jsonable

Kind = Literal["barely moves", "good", "best", "unstable", "explodes"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
Outcome = Literal["found", "lowest is best", "highest is best", "nothing moves", "everything explodes"]

BEST: Final = 0.95
GOOD: Final = 0.5
"""Share of what the best rate learns, at least, for a rate to be of this kind."""
MOVED: Final = 0.01
"""Share of the loss that the best rate must win for anything to have moved."""
EXPLODED: Final = 2.0
"""A loss so many times that of the untouched network on the same batch has exploded, or is a spike where it returns."""
LAST_SHARE: Final = 0.1
LEAST_LAST: Final = 5
"""The end of a trial: a tenth of its steps, and five at least."""


class Range(NamedTuple):
    """Neighbouring rates of one kind.

    low, high: its ends by the median over seeds. lows, highs: the lowest and the highest of each end that any seed
    alone would give, None where no seed alone has rates of this kind here.
    """

    kind: Kind
    low: float
    high: float
    lows: tuple[float, float] | None
    highs: tuple[float, float] | None


@dataclass(frozen=True)
class LearningRates:
    """What a sweep over learning rates came to.

    rates: ascending. kinds: of each rate. losses: (seeds, rates) at the end of each trial, NaN or infinity where it
    came to that. before: (seeds,) losses of the untouched network on those batches. learned: (seeds, rates) share of
    what the seed's best rate learned, -inf where it exploded. ranges: ascending, without gaps. suggestion: None where
    no rate learns. outcome: in a word; verdict: in a sentence.
    """

    rates: tuple[float, ...]
    kinds: tuple[Kind, ...]
    losses: Tensor
    before: Tensor
    learned: Tensor
    ranges: tuple[Range, ...]
    suggestion: float | None
    outcome: Outcome
    verdict: str
    steps: int

    def to_dict(self) -> dict[str, Any]:
        """Return strict JSON."""
        trials = [
            {"learning_rate": rate, "kind": kind, "losses": self.losses[:, place].tolist()}
            for place, (rate, kind) in enumerate(zip(self.rates, self.kinds, strict=True))
        ]
        value = {
            "suggestion": self.suggestion,
            "outcome": self.outcome,
            "verdict": self.verdict,
            "ranges": [each._asdict() for each in self.ranges],
            "steps": self.steps,
            "seeds": len(self.before),
            "losses_before": self.before.tolist(),
            "rates": trials,
        }
        return jsonable(value)  # type: ignore[no-any-return]

    def plot(self, path: Any) -> None:
        """Write losses over rates, with their spread, the ranges and the suggestion, as an SVG picture."""
        from caviar.workflow.learning_rates_plot import write_plot

        write_plot(self, path)


def judge(rates: tuple[float, ...], losses: Tensor, untouched: Tensor) -> LearningRates:
    """Return what the batch losses of trials mean.

    rates: ascending. losses: (seeds, steps, rates). untouched: (seeds, steps), of a network that stays as it is, on the
    same batches: what a rate has won is read off without the noise of batches.
    """
    losses, untouched = losses.double(), untouched.double()
    steps = losses.shape[1]
    last = min(steps, max(LEAST_LAST, round(LAST_SHARE * steps)))
    final, before = losses[:, -last:].mean(dim=1), untouched[:, -last:].mean(dim=1)
    limit = before + (EXPLODED - 1) * before.abs()
    exploded = ~torch.isfinite(losses).all(dim=1) | (final > limit[:, None])
    won = torch.where(exploded, -math.inf, before[:, None] - final)
    top = won.max(dim=1).values
    learned = torch.where(exploded, -math.inf, won / top.clamp_min(torch.finfo(torch.float64).tiny)[:, None])
    moved = top > MOVED * before.abs()
    spiked = _spiked(losses, untouched)
    everywhere = _kinds(learned, exploded, spiked, moves=_most(moved))
    alone = [
        _kinds(learned[s : s + 1], exploded[s : s + 1], spiked[s : s + 1], moves=bool(moved[s]))
        for s in range(len(losses))
    ]
    ranges = _ranges(rates, everywhere, alone)
    suggestion, outcome = _suggest(rates, everywhere, exploded, moves=_most(moved))
    verdict = _verdict(rates, ranges, suggestion, outcome, steps)
    return LearningRates(rates, tuple(everywhere), final, before, learned, ranges, suggestion, outcome, verdict, steps)


def _most(flags: Tensor) -> bool:
    return bool(flags.double().mean() > 0.5)


def _spiked(losses: Tensor, untouched: Tensor) -> Tensor:
    """Return (seeds, rates): whether a batch of the second half costs far more than it cost the untouched network."""
    half = untouched.shape[1] // 2
    usual = torch.maximum(untouched[:, half:], untouched.mean(dim=1, keepdim=True)).unsqueeze(-1)
    return (losses[:, half:] > usual + (EXPLODED - 1) * usual.abs()).any(dim=1)


def _kinds(learned: Tensor, exploded: Tensor, spiked: Tensor, *, moves: bool) -> list[Kind]:
    """Return the kind of each rate; from the best one outwards they only get worse."""
    share = learned.median(dim=0).values
    gone, sometimes = exploded.double().mean(dim=0) > 0.5, exploded.any(dim=0)
    shaky = sometimes | (spiked.double().mean(dim=0) > 0.5)
    if not moves or bool(gone.all()):
        return ["explodes" if g else "unstable" if s else "barely moves" for g, s in zip(gone, shaky, strict=True)]
    best = int(torch.where(shaky, -math.inf, share).argmax()) if not bool(shaky.all()) else int(share.argmax())
    kinds: list[Kind] = ["best"] * len(share)
    worst = 0
    for place in range(best, -1, -1):
        worst = max(worst, 0 if share[place] >= BEST else 1 if share[place] >= GOOD else 2)
        kinds[place] = ("best", "good", "barely moves")[worst]
    worst = 0
    for place in range(best + 1, len(share)):
        found = 3 if gone[place] else 2 if shaky[place] or share[place] < GOOD else int(share[place] < BEST)
        worst = max(worst, found)
        kinds[place] = ("best", "good", "unstable", "explodes")[worst]
    return kinds


def _ranges(rates: tuple[float, ...], kinds: list[Kind], alone: list[list[Kind]]) -> tuple[Range, ...]:
    runs = [_runs(each) for each in alone]
    found = []
    for kind, above, first, last in _runs(kinds):
        same = [(low, high) for own in runs for k, a, low, high in own if (k, a) == (kind, above)]
        lows = (rates[min(low for low, _ in same)], rates[max(low for low, _ in same)]) if same else None
        highs = (rates[min(high for _, high in same)], rates[max(high for _, high in same)]) if same else None
        found.append(Range(kind, rates[first], rates[last], lows, highs))
    return tuple(found)


def _runs(kinds: list[Kind]) -> list[tuple[Kind, bool, int, int]]:
    """Return (kind, whether it stands above the best rates, first place, last place) of neighbours of one kind."""
    found: list[tuple[Kind, bool, int, int]] = []
    above = False
    for place, kind in enumerate(kinds):
        above = above or (kind != "best" and "best" in kinds[:place])
        if found and found[-1][0] == kind:
            found[-1] = (*found[-1][:3], place)
        else:
            found.append((kind, above, place, place))
    return found


def _suggest(
    rates: tuple[float, ...], kinds: list[Kind], exploded: Tensor, *, moves: bool
) -> tuple[float | None, Outcome]:
    """Return the rate to begin with: in the middle of the best ones, counted in factors."""
    if bool((exploded.double().mean(dim=0) > 0.5).all()):
        return None, "everything explodes"
    if not moves or "best" not in kinds:
        return None, "nothing moves"
    places = [place for place, kind in enumerate(kinds) if kind == "best"]
    low, high = rates[places[0]], rates[places[-1]]
    if places[0] == 0 and len(rates) > 1:
        return float(f"{low:.2g}"), "lowest is best"
    if places[-1] == len(rates) - 1 and len(rates) > 1:
        return float(f"{high:.2g}"), "highest is best"
    return float(f"{math.sqrt(low * high):.2g}"), "found"


def _verdict(
    rates: tuple[float, ...], ranges: tuple[Range, ...], suggestion: float | None, outcome: Outcome, steps: int
) -> str:
    span = f"from {rates[0]:.2g} to {rates[-1]:.2g}"
    if outcome == "everything explodes":
        return (
            f"Every rate {span} explodes within {steps} steps: the rate alone is not at fault. Look for numbers that "
            "are not finite, or far from 1, in inputs, targets and initial weights (caviar check), or try lower rates."
        )
    if outcome == "nothing moves":
        return (
            f"No rate {span} lowers the loss by {MOVED:.0%} within {steps} steps: the rate alone is not at fault. Look "
            "at gradients, labels and frozen layers (caviar check), or give more steps."
        )
    best = next(each for each in ranges if each.kind == "best")
    found = f"Begin with {suggestion:.2g}: rates from {best.low:.2g} to {best.high:.2g} learn most in {steps} steps"
    if outcome == "found":
        return f"{found}."
    way = "lower" if outcome == "lowest is best" else "higher"
    return f"{found}. That is the end of what was tried: {way} rates may be better still."


__all__ = ["KINDS", "Kind", "LearningRates", "Outcome", "Range", "judge"]
