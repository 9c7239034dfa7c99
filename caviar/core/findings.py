"""What records mean: findings, as checks, rules, proofs and pages share them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from caviar.core.jsonable import jsonable

Severity = Literal["info", "warning", "error"]

SEVERITIES: Final[tuple[Severity, ...]] = ("info", "warning", "error")
"""From worth knowing, over costs accuracy or time, to cannot work as it is."""

FAMILIES: Final[dict[str, str]] = {
    "DATA": "the examples, their labels and how they are prepared",
    "INIT": "the weights that training starts from",
    "GRAD": "gradients and updates on their way through the network",
    "LR": "learning rate, its schedule and momentum",
    "FIT": "what the curves of train and dev say",
    "NORM": "normalisation layers and the modes of layers",
    "REG": "penalties, dropout and other limits",
    "NUM": "numbers that are not finite, and outputs and losses that do not belong together",
    "PERF": "time and memory",
    "SEARCH": "many members compared",
}
"""The families of findings: the letters that a code begins with."""


class Remedy(NamedTuple):
    """What to do: a sentence, and the settings of a recipe that it changes, if any.

    change: setting -> how, such as {"optimizer.learning_rate": "/ 10"}: "/ x", "* x" or "= value".
    """

    do: str
    change: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    code: stable, such as LR003. confidence: 0 to 1, that it is so. message: one or two sentences with the numbers.
    member: trial it belongs to, None for all together. layer: "" for the whole network. step: where it shows, None
    for the run as a whole. split: train, dev or "". numbers: the evidence. remedies: in order of cost, cheapest first.
    consequence_of: the code of a finding that explains this one, or "".
    """

    code: str
    title: str
    severity: Severity
    confidence: float
    message: str
    member: int | None = 0
    layer: str = ""
    step: int | None = None
    split: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    remedies: tuple[Remedy, ...] = ()
    consequence_of: str = ""

    @property
    def family(self) -> str:
        """The letters of the code."""
        return self.code.rstrip("0123456789")

    def to_dict(self) -> dict[str, Any]:
        """Return strict JSON."""
        return {
            "code": self.code,
            "family": self.family,
            "title": self.title,
            "severity": self.severity,
            "confidence": round(self.confidence, 3),
            "message": self.message,
            "member": self.member,
            "layer": self.layer,
            "step": self.step,
            "split": self.split,
            "numbers": jsonable({name: float(value) for name, value in self.numbers.items()}),
            "remedies": [{"do": remedy.do, "change": dict(remedy.change)} for remedy in self.remedies],
            "consequence_of": self.consequence_of,
        }


def at_least(severity: Severity, limit: Severity) -> bool:
    """Whether a severity is `limit` or worse."""
    return SEVERITIES.index(severity) >= SEVERITIES.index(limit)
