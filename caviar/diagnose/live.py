"""Rules at work while training goes on."""

import time
from collections.abc import Callable, Iterable, Sequence

from caviar.core.findings import Finding, at_least
from caviar.core.records import Record
from caviar.diagnose.engine import Diagnosis, diagnose
from caviar.diagnose.facts import Facts
from caviar.diagnose.story import Story

LEAST_SECONDS = 3.0
COST_FACTOR = 200.0
"""Live rules rest for so many times as long as they took: half a per cent of the time."""


class LiveFindings:
    """Takes in records as they come, and says what rules find in them: each finding once.

    A finding is told when two looks in a row have made it, or at once when it is sure and grave. say: is given a line;
    None for silence until the end.
    """

    def __init__(self, facts: Facts, say: Callable[[str], object] | None, before: Iterable[Record] = ()) -> None:
        self.story = Story(facts)
        self.story.add(before)
        self._say = say
        self._told: set[tuple[str, str]] = set()
        self._seen: set[tuple[str, str]] = set()
        self._next = time.monotonic() + LEAST_SECONDS

    def take(self, records: Sequence[Record]) -> None:
        """Take in new records, and apply the rules when it is time."""
        self.story.add(records)
        began = time.monotonic()
        if self._say is None or began < self._next:
            return
        findings = worth_telling(diagnose({0: self.story}))
        for finding in findings:
            if _key(finding) in self._seen or (finding.severity == "error" and finding.confidence >= 0.9):
                self._tell(finding)
        self._seen = {_key(finding) for finding in findings}
        now = time.monotonic()
        self._next = now + max(LEAST_SECONDS, COST_FACTOR * (now - began))

    def read(self, *, finished: bool, failed: bool = False) -> Diagnosis:
        """Apply the rules to all there is, and return what they say."""
        self.story.finished, self.story.failed = finished, failed
        return diagnose({0: self.story})

    def tell_rest(self, diagnosis: Diagnosis) -> None:
        """Tell what has not been told yet."""
        for finding in worth_telling(diagnosis):
            self._tell(finding)

    def _tell(self, finding: Finding) -> None:
        if self._say is not None and _key(finding) not in self._told:
            self._told.add(_key(finding))
            self._say(finding_line(finding))


def worth_telling(diagnosis: Diagnosis) -> list[Finding]:
    """Return the findings that are worse than worth knowing, and no consequences of others."""
    return [f for f in diagnosis.findings if at_least(f.severity, "warning") and not f.consequence_of]


def finding_line(finding: Finding) -> str:
    """Return a finding in one line."""
    return f"{finding.severity} {finding.code} {finding.title}: {finding.message}"


def _key(finding: Finding) -> tuple[str, str]:
    return finding.code, finding.layer
