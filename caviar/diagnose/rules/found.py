"""What a rule returns, and what all rules share."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from caviar.core.findings import Severity
from caviar.diagnose.story import Story

Limits = Mapping[str, float]
"""The thresholds of one rule, by name."""


@dataclass(frozen=True)
class Found:
    """A finding without what its page knows (title, remedies)."""

    severity: Severity
    confidence: float
    message: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    layer: str = ""
    step: int | None = None
    split: str = ""


Rule = Callable[[Story, Limits], Iterator[Found]]
"""A pure function: from the story of one member, and its thresholds, to what it finds; LackingError makes it silent."""

CrossRule = Callable[[Mapping[int, Story], Limits], Iterator[Found]]
"""The same for rules that compare members."""


def say(value: float) -> str:
    """Write a number for a sentence: three digits, and no exponent where none is needed."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def percent(share: float) -> str:
    """Write a share for a sentence."""
    return f"{share:.1%}" if abs(share) < 0.9995 or share == 1 else "over 99.9%"


def surely(value: float, limit: float, certain: float) -> float:
    """Return a confidence: 0.5 where `value` just reaches `limit`, up to 0.98 at `certain` (either may be larger)."""
    if certain == limit:
        return 0.98
    return min(0.98, max(0.5, 0.5 + 0.48 * (value - limit) / (certain - limit)))


def graver(condition: bool) -> Severity:
    """Return the severity of what is worth a warning on a condition, and else only worth knowing."""
    return "warning" if condition else "info"
