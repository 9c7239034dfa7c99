"""What is known of every rule: its page and its thresholds, read from the TOML files beside. Nothing heavy here."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from caviar.core.errors import unknown_name
from caviar.core.findings import FAMILIES, Remedy

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Threshold:
    """A number that a rule compares with, and what it is."""

    name: str
    value: float
    meaning: str


@dataclass(frozen=True)
class Page:
    """One rule: what it sees, why that matters, what it shows as evidence, what to do (cheapest first), when not to.

    explained_by: codes of findings that, where they are made too, are the cause of this one.
    """

    code: str
    title: str
    sees: str
    why: str
    evidence: str
    remedies: tuple[Remedy, ...]
    ignore: str
    source: str
    explained_by: tuple[str, ...]
    thresholds: tuple[Threshold, ...]

    @property
    def family(self) -> str:
        return self.code.rstrip("0123456789")


@cache
def pages() -> Mapping[str, Page]:
    """Return every page by its code, families in their order."""
    limits = tomllib.loads((HERE / "thresholds.toml").read_text(encoding="utf-8"))
    found = {}
    for family in (*FAMILIES, "checks"):
        path = HERE / "pages" / f"{family.lower()}.toml"
        for code, values in tomllib.loads(path.read_text(encoding="utf-8")).items():
            found[code] = _page(code, values, limits.get(code, {}))
    return MappingProxyType(found)


def _page(code: str, values: Mapping[str, Any], limits: Mapping[str, Any]) -> Page:
    remedies = tuple(
        Remedy(entry) if isinstance(entry, str) else Remedy(entry[0], entry[1]) for entry in values["remedies"]
    )
    thresholds = tuple(Threshold(name, float(value), meaning) for name, (value, meaning) in limits.items())
    texts = {name: str(values[name]) for name in ("title", "sees", "why", "evidence", "ignore", "source")}
    return Page(code, **texts, remedies=remedies, explained_by=tuple(values.get("because", ())), thresholds=thresholds)


def page_of(code: str) -> Page:
    """Return a rule's page; InputError with the nearest code where there is none."""
    found = pages().get(code.upper())
    if found is None:
        raise unknown_name("code of a finding", code, pages())
    return found


@cache
def limits_of(code: str) -> Mapping[str, float]:
    """Return a rule's thresholds by name."""
    return MappingProxyType({threshold.name: threshold.value for threshold in pages()[code].thresholds})


def to_dict(page: Page) -> dict[str, Any]:
    """Return a page as JSON."""
    return {
        "code": page.code,
        "family": page.family,
        "title": page.title,
        "sees": page.sees,
        "why": page.why,
        "evidence": page.evidence,
        "remedies": [{"do": remedy.do, "change": dict(remedy.change)} for remedy in page.remedies],
        "ignore": page.ignore,
        "source": page.source,
        "explained_by": list(page.explained_by),
        "thresholds": [{"name": t.name, "value": t.value, "meaning": t.meaning} for t in page.thresholds],
    }


def documents() -> dict[str, str]:
    """Return every page as Markdown by its file's name, CODE.md, and a list of them as README.md."""
    return {"README.md": _contents(), **{f"{code}.md": markdown(page) for code, page in pages().items()}}


def _contents() -> str:
    lines = ["# Findings", "", "One page for each code; `caviar explain CODE` prints the same.", ""]
    for family, meaning in FAMILIES.items():
        own = [page for page in pages().values() if page.family == family]
        lines += [f"## {family}: {meaning}", "", *(f"- [{page.code}]({page.code}.md) {page.title}" for page in own), ""]
    return "\n".join(lines)


def markdown(page: Page) -> str:
    """Return a page as Markdown."""
    lines = [f"# {page.code}: {page.title}", "", f"Family {page.family}: {FAMILIES[page.family]}.", ""]
    for heading, text in _sections(page):
        lines += [f"## {heading}", "", text, ""]
    return "\n".join(lines)


def plain(page: Page) -> str:
    """Return a page as text for a terminal."""
    lines = [f"{page.code}  {page.title}", f"family {page.family}: {FAMILIES[page.family]}"]
    for heading, text in _sections(page):
        lines += ["", heading, *(f"  {line}" if line else "" for line in text.splitlines())]
    return "\n".join(lines)


def _sections(page: Page) -> list[tuple[str, str]]:
    remedies = "\n".join(f"{i}. {_remedy(remedy)}" for i, remedy in enumerate(page.remedies, start=1))
    limits = "\n".join(f"- `{t.name}` = {t.value:g}: {t.meaning}" for t in page.thresholds)
    parts = [
        ("What it sees", page.sees),
        ("Why it matters", page.why),
        ("Evidence", page.evidence),
        ("What to do, cheapest first", remedies),
        ("When to ignore it", page.ignore),
        ("Thresholds", limits),
        ("Explained by", ", ".join(page.explained_by)),
        ("Source", page.source),
    ]
    return [(heading, text) for heading, text in parts if text]


def _remedy(remedy: Remedy) -> str:
    settings = ", ".join(f"`{name}` {how}" for name, how in remedy.change.items())
    return f"{remedy.do} ({settings})" if settings else remedy.do
