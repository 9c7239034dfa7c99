"""Rules applied to stories: what is found, and which rules had to stay silent."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from caviar.core.findings import SEVERITIES, Finding, Severity, at_least
from caviar.diagnose.pages import limits_of, pages
from caviar.diagnose.rules import CROSS_RULES, RULES, Found
from caviar.diagnose.story import LackingError, Story

CAUSE_CONFIDENCE = 0.5
"""A finding explains another one when it is at least so sure."""


class Silent(NamedTuple):
    """A rule that could not speak, and why."""

    code: str
    member: int | None
    reason: str


@dataclass(frozen=True)
class Diagnosis:
    """What rules made of records: findings, causes first and the worst first; and the rules that stayed silent."""

    findings: tuple[Finding, ...]
    silent: tuple[Silent, ...]

    def worst(self) -> Severity | None:
        """Return the worst severity, None where nothing was found."""
        return max((f.severity for f in self.findings), key=SEVERITIES.index, default=None)

    def at_least(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of a severity or worse."""
        return tuple(f for f in self.findings if at_least(f.severity, severity))


def diagnose(stories: Mapping[int, Story], *, compare: bool = True) -> Diagnosis:
    """Apply every rule to every member, and with `compare` the comparing rules to all of them."""
    findings: list[Finding] = []
    silent: list[Silent] = []
    for member, story in stories.items():
        found: list[Finding] = []
        for code, rule in RULES.items():
            try:
                with np.errstate(all="ignore"):  # a curve may hold anything
                    found += [_finding(code, each, member) for each in rule(story, limits_of(code))]
            except Exception as error:  # a rule must never end a training run
                silent.append(Silent(code, member, _reason(error)))
        findings += _with_causes(found)
    for code, cross_rule in CROSS_RULES.items() if compare else ():
        try:
            with np.errstate(all="ignore"):
                findings += [_finding(code, each, None) for each in cross_rule(stories, limits_of(code))]
        except Exception as error:
            silent.append(Silent(code, None, _reason(error)))
    return Diagnosis(tuple(sorted(findings, key=_rank)), tuple(silent))


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, LackingError) else f"it failed on these records ({error!r})"


def _finding(code: str, found: Found, member: int | None) -> Finding:
    page = pages()[code]
    return Finding(
        code=code,
        title=page.title,
        severity=found.severity,
        confidence=float(found.confidence),
        message=found.message[:1].upper() + found.message[1:],
        member=member,
        layer=found.layer,
        step=found.step,
        split=found.split,
        numbers={name: float(value) for name, value in found.numbers.items()},
        remedies=page.remedies,
    )


def _with_causes(findings: list[Finding]) -> Iterator[Finding]:
    """Name the cause of a finding where a rule that explains it has spoken too."""
    sure = {f.code for f in findings if at_least(f.severity, "warning") and f.confidence >= CAUSE_CONFIDENCE}
    for finding in findings:
        cause = next((code for code in pages()[finding.code].explained_by if code in sure), "")
        yield replace(finding, consequence_of=cause)


def _rank(finding: Finding) -> tuple[int, bool, int, float, str, str]:
    member = -1 if finding.member is None else finding.member
    worst_first = -SEVERITIES.index(finding.severity)
    return (member, bool(finding.consequence_of), worst_first, -finding.confidence, finding.code, finding.layer)
