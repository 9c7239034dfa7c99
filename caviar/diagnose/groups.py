"""Findings of many members, those of one code together."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from caviar.core.findings import SEVERITIES, Finding


class Group(NamedTuple):
    """What several members have in common. finding: the worst of theirs. members: trials, () for all together."""

    finding: Finding
    members: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return strict JSON: the worst finding, and the members."""
        return {**self.finding.to_dict(), "members": list(self.members)}


def grouped(findings: Iterable[Finding]) -> list[Group]:
    """Return findings by code, consequences of others apart: the worst first, then what most members have."""
    found: dict[tuple[str, bool], list[Finding]] = {}
    for finding in findings:
        found.setdefault((finding.code, bool(finding.consequence_of)), []).append(finding)
    groups = [
        Group(max(own, key=_badness), tuple(sorted({f.member for f in own if f.member is not None})))
        for own in found.values()
    ]
    return sorted(groups, key=_rank)


def _badness(finding: Finding) -> tuple[int, float]:
    return SEVERITIES.index(finding.severity), finding.confidence


def _rank(group: Group) -> tuple[bool, int, int, float, str]:
    finding = group.finding
    worst_first = -SEVERITIES.index(finding.severity)
    return bool(finding.consequence_of), worst_first, -len(group.members), -finding.confidence, finding.code


def spans(numbers: Sequence[int]) -> str:
    """Write numbers in words: "0, 3 to 7 and 9"."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    words: list[str] = []
    for part in parts:
        words += [f"{part[0]} to {part[-1]}"] if len(part) > 2 else [str(number) for number in part]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def line_of(finding: Mapping[str, Any], total: int) -> str:
    """Return what `Group.to_dict` or `Finding.to_dict` gave in one line; total: members of the run."""
    members = finding.get("members", ())
    words = members_in_words(members, total)
    of = f" in {words}" if words else ""
    worst = f"trial {finding['member']}: " if len(members) > 1 else ""
    return f"{finding['severity']} {finding['code']} {finding['title']}{of}: {worst}{finding['message']}"


def members_in_words(members: Sequence[int], total: int) -> str:
    """Write which of all members: "all 32 trials", "trial 3", "7 of 32 trials (25 to 31)"; "" for none."""
    if not members:
        return ""
    if len(members) == total:
        return f"all {total} trials"
    return f"trial {members[0]}" if len(members) == 1 else f"{len(members)} of {total} trials ({spans(members)})"
