"""How well caviar names what is wrong: faults put into working set-ups on real data, and healthy ones beside them.

    python benchmarks/diagnosis.py [--data FOLDER] [--jobs N] [--only WORDS] [--half open|aside|both]
                                   [--again | --reread] [--json]

Each set-up goes through `caviar.check`, then trains for some seconds in a loop as people write it, watched by
`caviar.watch`. Named is every check that fails and every finding of severity warning or worse. A fault is recognised
when one of its codes is named, its family when a code of that family is. Of each healthy set-up anything named is a
false alarm. Half of all set-ups, chosen by a hash of their names, is set aside: rules and thresholds are made on the
open half only, and both halves are reported.

What each set-up came to is kept in benchmarks/results/diagnosis/, so that a run can be stopped and goes on where it
was. --reread applies the rules anew to the records kept there; --again does everything anew.
"""

import argparse
import gzip
import hashlib
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from diagnosis_data import SHARED
from diagnosis_faults import FAULTS, SetUp
from diagnosis_healthy import HEALTHY
from diagnosis_works import Work, build_optimizer, squared, train
from rich.console import Console
from rich.table import Table
from torch import nn

import caviar
from caviar.core.jsonable import jsonable
from caviar.core.records import Record
from caviar.diagnose.engine import diagnose
from caviar.diagnose.facts import Facts
from caviar.diagnose.rules import CROSS_RULES
from caviar.diagnose.story import stories

RESULTS = Path(__file__).resolve().parent / "results" / "diagnosis"
SETUPS = {each.name: each for each in [*FAULTS, *HEALTHY]}
Result = dict[str, Any]
JUDGED = ("family", "code", "warned", "by_check", "by_rule", "first")


def is_aside(name: str) -> bool:
    """Whether a set-up is set aside, by a hash of its name."""
    return hashlib.blake2b(name.encode(), digest_size=1).digest()[0] % 2 == 1


def look_at(name: str, folder: Path) -> Result:
    """Check, train and watch one set-up; keep and return what was said."""
    torch.set_num_threads(1)
    setup, began = SETUPS[name], time.monotonic()
    result: Result = {"name": name, "codes": list(setup.codes), "aside": is_aside(name)}
    try:
        work = _built(setup, folder, 0)
        result["checks"] = _checked(work)
        result["checked_seconds"] = time.monotonic() - began
        result |= _searched(setup, work, folder) if work.members else _watched(work)
        result["findings"] = read_rules(result)
    except Exception:  # one set-up that cannot run must not end the others
        result["error"] = traceback.format_exc()
    result["seconds"] = time.monotonic() - began
    _keep(result)
    return result


def _built(setup: SetUp, folder: Path, seed: int) -> Work:
    torch.manual_seed(seed)
    return setup.build(folder)


def _searched(setup: SetUp, work: Work, folder: Path) -> Result:
    """Train every member of a search; of each record the first number is the member."""
    found: Result = {"figures": [], "records": []}
    for number, (change, seed) in enumerate(work.members):
        member = _built(setup, folder, seed)
        changed = change(member)
        one = _watched(changed if isinstance(changed, Work) else member)
        found["figures"].append(one["figures"])
        found["facts"] = one["facts"]
        found["records"] += [[number, *record[1:]] for record in one["records"]]
    return found


def _checked(work: Work) -> list[dict[str, str]]:
    report = caviar.check(
        work.model,
        work.data.train,
        work.loss,
        dev=work.data.dev,
        optimizer=None if work.late is not None else build_optimizer(work),
        penalty=work.penalty,
        augment=work.augment,
        batch_size=work.batch_size,
        progress=False,
    )
    return [{"code": each.code, "words": each.words} for each in report.failed]


def _watched(work: Work) -> Result:
    optimizer = build_optimizer(work)
    loss = "cross_entropy" if isinstance(work.loss, nn.CrossEntropyLoss) else ""
    loss = "mean_squared_error" if work.loss is squared else loss
    figures: dict[str, float] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with caviar.watch(work.model, optimizer, loss=loss, epochs=work.epochs, quiet=True) as watch:
            figures = train(work, optimizer, watch)
    return {
        "figures": figures,
        "facts": watch.facts.to_dict(),
        "records": [[*each] for each in watch.records],
    }


def read_rules(result: Result) -> list[dict[str, Any]]:
    """Return what the rules find in a set-up's records; of a search only what comparing its members shows."""
    records = (Record(*entry[:6], float(entry[6])) for entry in result["records"])
    told = stories(records, Facts.from_dict(result["facts"]))
    findings = [finding.to_dict() for finding in diagnose(told).findings]
    return findings if len(told) == 1 else [each for each in findings if each["code"] in CROSS_RULES]


def _file(name: str) -> Path:
    return RESULTS / f"{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}.json.gz"


def _keep(result: Result) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = _file(result["name"])
    half = path.with_suffix(".part")
    half.write_bytes(gzip.compress(json.dumps(jsonable(result)).encode(), 5))
    half.replace(path)


def kept(name: str) -> Result | None:
    """Return what a set-up came to before, if it did."""
    path = _file(name)
    if not path.exists():
        return None
    found: Result = json.loads(gzip.decompress(path.read_bytes()))
    return found if found["codes"] == list(SETUPS[name].codes) else None


def named(result: Result) -> list[str]:
    """Return the codes that were named: checks that failed, then findings of severity warning or worse."""
    findings = [each["code"] for each in result.get("findings", ()) if each["severity"] != "info"]
    return list(dict.fromkeys([*(each["code"] for each in result.get("checks", ())), *findings]))


def family(code: str) -> str:
    """Return the letters of a code."""
    return code.rstrip("0123456789")


def judge(result: Result) -> dict[str, Any]:
    """Say whether a fault's code and family were named, by checks, by rules and first of all.

    For its own code a finding of severity info counts too: that is how grave some faults are (a short run).
    """
    codes, said = set(result["codes"]), named(result)
    checks = [each["code"] for each in result.get("checks", ())]
    rules = [each["code"] for each in result.get("findings", ())]
    causes = [
        each["code"] for each in result.get("findings", ()) if each["severity"] != "info" and not each["consequence_of"]
    ]
    families = {family(code) for code in codes}
    return {
        "code": bool(codes & {*checks, *rules}),
        "warned": bool(codes & set(said)),
        "family": bool(families & {family(code) for code in said} or codes & set(rules)),
        "by_check": bool(codes & set(checks)),
        "by_rule": bool(codes & set(rules)),
        "first": bool(codes & set(checks[:1] + causes[:1])),
        "said": said,
    }


def summarise(results: Sequence[Result]) -> dict[str, Any]:
    """Return the figures of faults and healthy set-ups, by half and by family."""
    halves = {"open": [r for r in results if not r["aside"]], "aside": [r for r in results if r["aside"]]}
    halves["both"] = list(results)
    return {
        "format": "caviar diagnosis",
        "version": 1,
        **{name: _figures(some) for name, some in halves.items()},
        "families": {
            each: _figures([r for r in results if r["codes"] and family(r["codes"][0]) == each])
            for each in dict.fromkeys(family(r["codes"][0]) for r in results if r["codes"])
        },
        "missed": {r["name"]: judge(r)["said"] for r in results if r["codes"] and not judge(r)["code"]},
        "false_alarms": {r["name"]: named(r) for r in results if not r["codes"] and named(r)},
        "errors": {r["name"]: r["error"].splitlines()[-1] for r in results if "error" in r},
    }


def _figures(results: Sequence[Result]) -> dict[str, Any]:
    faults, healthy = [r for r in results if r["codes"]], [r for r in results if not r["codes"]]
    judged = [judge(r) for r in faults]
    alarms = [r for r in healthy if named(r)]
    found: dict[str, Any] = {"faults": len(faults), "healthy": len(healthy), "false_alarms": len(alarms)}
    for key in JUDGED:
        found[key] = sum(each[key] for each in judged)
    found["codes_a_fault"] = sum(len(each["said"]) for each in judged) / max(1, len(judged))
    return found


def tables(summary: dict[str, Any]) -> Iterable[Any]:
    """Yield what a person reads."""
    table = Table(title="Faults recognised", title_justify="left")
    for heading in (
        "",
        "faults",
        "right family",
        "right code",
        "as a warning",
        "by checks",
        "by rules",
        "first of all",
        "codes named",
    ):
        table.add_column(heading, justify="left" if not heading else "right")
    rows = {name: summary[name] for name in ("open", "aside", "both")} | summary["families"]
    for name, row in rows.items():
        count = max(1, row["faults"])
        shares = [f"{row[key]} ({row[key] / count:.0%})" for key in JUDGED]
        table.add_row(name, str(row["faults"]), *shares, f"{row['codes_a_fault']:.1f}")
    yield table
    for name in ("open", "aside", "both"):
        row = summary[name]
        yield f"False alarms, {name}: {row['false_alarms']} of {row['healthy']} healthy set-ups."
    for heading, entries in (("Missed", summary["missed"]), ("False alarms", summary["false_alarms"])):
        yield f"{heading}:" if entries else f"{heading}: none"
        yield from (f"  {name}: named {', '.join(codes) or 'nothing'}" for name, codes in entries.items())
    yield from (f"Could not run: {name}: {why}" for name, why in summary["errors"].items())


def main() -> int:
    """Look at every chosen set-up, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED, help="folder with the tables and cifar10.tar.gz")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="set-ups at a time, one thread each")
    parser.add_argument("--only", nargs="*", default=[], help="set-ups whose names or codes hold one of these words")
    parser.add_argument("--half", choices=["open", "aside", "both"], default="both", help="which half")
    parser.add_argument("--again", action="store_true", help="do everything anew")
    parser.add_argument("--reread", action="store_true", help="apply the rules anew to the records that are kept")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    chosen = parser.parse_args()
    results = _collect(_chosen(chosen.only, chosen.half), chosen)
    summary = summarise(results)
    if chosen.json:
        print(json.dumps(summary, indent=2))
    else:
        console = Console(highlight=False, markup=False, width=max(120, Console().width))
        for thing in tables(summary):
            console.print(thing)
    return 1 if summary["errors"] else 0


def _chosen(words: Sequence[str], half: str) -> list[SetUp]:
    wanted = [s for s in SETUPS.values() if not words or any(w in s.name or w in s.codes for w in words)]
    return [s for s in wanted if half == "both" or is_aside(s.name) == (half == "aside")]


def _collect(setups: Sequence[SetUp], chosen: argparse.Namespace) -> list[Result]:
    say = Console(stderr=True, highlight=False, markup=False)
    found = {} if chosen.again else {s.name: r for s in setups if (r := kept(s.name)) is not None}
    if chosen.reread:
        for result in found.values():
            if "records" in result:
                result["findings"] = read_rules(result)
                _keep(result)
    waiting = [s.name for s in setups if s.name not in found]
    with ProcessPoolExecutor(max(1, chosen.jobs), mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(look_at, name, chosen.data) for name in waiting]
        for number, future in enumerate(as_completed(futures), start=1):
            result = future.result()
            found[result["name"]] = result
            said = ", ".join(named(result)) or "nothing"
            wanted = ", ".join(result["codes"]) or "nothing"
            say.print(f"{number}/{len(waiting)} {result['name']}: {said} (wanted {wanted}; {result['seconds']:.0f} s)")
    return [found[s.name] for s in setups]


if __name__ == "__main__":
    sys.exit(main())
