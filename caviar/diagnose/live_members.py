"""Rules at work while a population trains."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from caviar.core.records import Record
from caviar.diagnose.engine import Diagnosis, diagnose
from caviar.diagnose.facts import Facts
from caviar.diagnose.groups import Group, grouped, line_of
from caviar.diagnose.live import LEAST_SECONDS, worth_telling
from caviar.diagnose.story import Story, by_trial

COST_FACTOR = 100.0
"""Live rules rest for so many times as long as they took."""

GROWN = 2
"""A finding is told again when so many times as many members have it."""


class LiveMembers:
    """Takes in records of members as they come, and says what rules find in them: each finding once for many members.

    Members are read one after another, each as soon as there is time for it: one per cent of the time in all. Once
    all have been read it is told what two rounds in a row have found, and what is sure and grave at once. say: is given
    a line; None for silence until the end.
    """

    def __init__(
        self, facts: Mapping[int, Facts], say: Callable[[str], object] | None, before: Iterable[Record] = ()
    ) -> None:
        self.stories = {trial: Story(own, trial) for trial, own in facts.items()}
        self._say = say
        self._told: dict[str, int] = {}
        self._seen: set[tuple[int | None, str, str]] = set()
        self._waiting: list[int] = []
        self._round: list[Diagnosis] = []
        self._next = time.monotonic() + LEAST_SECONDS
        self._add(before)

    def _add(self, records: Iterable[Record]) -> None:
        for trial, own in by_trial(records).items():
            if trial in self.stories:
                self.stories[trial].add(own)

    def end(self, trial: int, *, diverged: bool) -> None:
        """Note that a member trains no more."""
        self.stories[trial].finished, self.stories[trial].failed = not diverged, diverged

    def take(self, records: Sequence[Record]) -> None:
        """Take in new records, and apply the rules to as many members as it is time for."""
        self._add(records)
        while self._say is not None and time.monotonic() >= self._next:
            began = time.monotonic()
            self._read_one()
            now = time.monotonic()
            self._next += COST_FACTOR * (now - began)
            if not self._waiting:
                self._next = max(self._next, now + LEAST_SECONDS)

    def _read_one(self) -> None:
        if not self._waiting:
            self._waiting = list(self.stories)
        trial = self._waiting.pop(0)
        self._round.append(diagnose({trial: self.stories[trial]}, compare=False))
        if not self._waiting:
            self._tell_round()

    def _tell_round(self) -> None:
        found = [finding for diagnosis in self._round for finding in worth_telling(diagnosis)]
        self._round = []
        told = [
            finding
            for finding in found
            if (finding.member, finding.code, finding.layer) in self._seen
            or (finding.severity == "error" and finding.confidence >= 0.9)
        ]
        self._seen = {(finding.member, finding.code, finding.layer) for finding in found}
        self._tell(grouped(told))

    def read(self, *, finished: bool, failed: bool = False) -> Diagnosis:
        """Apply the rules to all there is, and return what they say."""
        for story in self.stories.values():
            story.finished = story.finished or (finished and not story.failed)
            story.failed = story.failed or failed
        return diagnose({trial: story for trial, story in self.stories.items() if story.last_step})

    def tell_rest(self, diagnosis: Diagnosis) -> None:
        """Tell what has not been told yet."""
        self._tell(grouped(worth_telling(diagnosis)))

    def _tell(self, groups: Iterable[Group]) -> None:
        for group in groups:
            count, before = max(1, len(group.members)), self._told.get(group.finding.code, 0)
            if self._say is not None and count >= GROWN * before and count > before:
                self._told[group.finding.code] = count
                self._say(line_of(group.to_dict(), len(self.stories)))
