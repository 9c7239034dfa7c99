"""How well `caviar diagnose RUN --prove` mends what is wrong, and `caviar train --care` with it.

    python benchmarks/proof.py [--data FOLDER] [--only WORDS] [--half open|aside|both] [--care] [--again] [--json]

Each fault breaks one thing in a recipe that works. The broken recipe is trained; `caviar.prove` is asked for a remedy,
as `caviar diagnose RUN --prove` does; the recipe with that remedy is trained from scratch to its end. Mended is what
then reaches 95% of the working recipe's best dev metric (accuracy, or R2 for numbers). A fault that does not bring the
run below that is none, and is not counted. With --care the broken recipe is trained with `care=True` instead, and what
that run hands over is compared.

Half of the faults, chosen by a hash of their names, is set aside: remedies and rules are made on the open half only,
and both halves are reported. What each came to is kept in benchmarks/results/proof/, so that a run can be stopped and
goes on where it was.
"""

import argparse
import hashlib
import json
import math
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from proof_faults import FAULTS, WORKS, Fault, Settings
from rich.console import Console
from rich.table import Table

import caviar
from caviar.core.errors import CaviarError, InputError
from caviar.core.findings import at_least
from caviar.recipe import merge, parse_assignment
from caviar.workflow.diagnose import diagnose_run
from caviar.workflow.prove import prove

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
RESULTS = Path(__file__).resolve().parent / "results" / "proof"
ENOUGH = 0.95
"""Share of the working recipe's metric that a mended run reaches."""
Result = dict[str, Any]


def is_aside(name: str) -> bool:
    """Whether a fault is set aside, by a hash of its name."""
    return hashlib.blake2b(name.encode(), digest_size=1).digest()[0] % 2 == 1


def train(source: str, settings: Settings, place: Path, name: str, *, care: bool = False) -> tuple[float, Settings]:
    """Train, and return the best dev metric (NaN where it failed) and the run's summary."""
    try:
        run = caviar.train(source, settings=settings, care=care, runs_dir=place, name=name, progress=False)
    except InputError:
        raise
    except CaviarError:
        return math.nan, {}
    best = run.summary["best"]
    return next(float(best[key]) for key in ("dev_accuracy", "dev_r2") if key in best), run.summary


def working(work: str, shared: Path) -> float:
    """Return what a working recipe comes to; it is trained once."""
    path = _file(f"working {work}", WORKS[work].settings)
    if not path.exists():
        with tempfile.TemporaryDirectory() as place:
            metric = train(WORKS[work].source(shared, RESULTS), WORKS[work].settings, Path(place), "it")[0]
        _write(path, {"name": work, "metric": metric})
    return float(json.loads(path.read_text())["metric"])


def look_at(fault: Fault, shared: Path, *, care: bool) -> Result:
    """Break, prove (or care), train with the remedy; keep and return what it came to."""
    torch.set_num_threads(1)
    result: Result = {"name": fault.name, "aside": is_aside(fault.name), "settings": fault.settings}
    began = time.monotonic()
    try:
        result["working"] = working(fault.work, shared)
        source = WORKS[fault.work].source(shared, RESULTS)
        with tempfile.TemporaryDirectory() as place:
            settings = {**WORKS[fault.work].settings, **fault.settings}
            result["broken"] = train(source, settings, Path(place), "broken")[0]
            result["train_seconds"] = time.monotonic() - began
            if not result["broken"] >= ENOUGH * result["working"]:
                result |= _cared(source, settings, Path(place)) if care else _proved(Path(place))
    except Exception:  # one fault that cannot run must not end the others
        result["error"] = traceback.format_exc()
    result["seconds"] = time.monotonic() - began
    _write(_file(fault.name, fault.settings, care=care), result)
    return result


def _proved(place: Path) -> Result:
    found = diagnose_run(place / "broken").diagnosis.findings
    codes = [f.code for f in found if at_least(f.severity, "warning") and not f.consequence_of]
    result: Result = {"codes": codes, "mended": math.nan}
    began = time.monotonic()
    try:
        proof = prove(place / "broken", progress=False)
    except InputError as error:
        return result | {"said": str(error)}
    result |= {"proof": proof.to_dict(), "prove_seconds": time.monotonic() - began}
    if proof.winner is None:
        return result
    remedy = merge(*map(parse_assignment, proof.winner.settings)).values
    mended = train(str(place / "broken" / "recipe.toml"), remedy, place, "mended")[0]
    return result | {"remedy": list(proof.winner.settings), "mended": mended}


def _cared(source: str, settings: Settings, place: Path) -> Result:
    began = time.monotonic()
    mended, summary = train(source, settings, place, "cared", care=True)
    acts = [act["settings"] for act in summary.get("interventions") or []]
    return {"mended": mended, "remedy": acts, "prove_seconds": time.monotonic() - began}


def _file(name: str, settings: Settings, *, care: bool = False) -> Path:
    key = json.dumps([name, settings, care], sort_keys=True).encode()
    return RESULTS / f"{hashlib.blake2b(key, digest_size=8).hexdigest()}.json"


def _write(path: Path, result: Result) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    half.write_text(json.dumps(result, indent=1))
    half.replace(path)


def is_fault(result: Result) -> bool:
    """Whether a fault is one: it cannot do as well as the working recipe."""
    return "error" in result or not result["broken"] >= ENOUGH * result["working"]


def is_mended(result: Result) -> bool:
    """Whether the remedy brought the run to what the working recipe comes to."""
    return "error" not in result and result["mended"] >= ENOUGH * result["working"]


def summarise(results: Sequence[Result]) -> dict[str, Any]:
    """Return the figures by half."""
    faults = [each for each in results if is_fault(each)]
    halves = {"open": [r for r in faults if not r["aside"]], "aside": [r for r in faults if r["aside"]], "both": faults}
    return {name: _figures(some) for name, some in halves.items()} | {"no_fault": len(results) - len(faults)}


def _figures(faults: Sequence[Result]) -> dict[str, Any]:
    times = sorted(r["prove_seconds"] / r["train_seconds"] for r in faults if "prove_seconds" in r)
    return {
        "faults": len(faults),
        "with_a_remedy": sum(bool(r.get("remedy")) for r in faults),
        "mended": sum(map(is_mended, faults)),
        "median_times_a_run": times[len(times) // 2] if times else math.nan,
    }


def tables(results: Sequence[Result], summary: dict[str, Any]) -> Iterable[Any]:
    """Yield what a person reads."""
    table = Table(title="Faults mended", title_justify="left")
    for heading in ("fault", "half", "working", "broken", "mended", "of working", "s", "remedy"):
        table.add_column(heading, justify="left" if heading in ("fault", "half", "remedy") else "right")
    for r in results:
        if is_fault(r):
            share = r.get("mended", math.nan) / r.get("working", math.nan)
            numbers = [f"{r.get(key, math.nan):.3f}" for key in ("working", "broken", "mended")]
            said = r.get("error", r.get("said", "")).strip().splitlines()[-1:]
            remedy = " ".join(map(str, r.get("remedy", ()))) or (said[0] if said else "none found")
            mark = "" if is_mended(r) else " !"
            seconds = f"{r.get('prove_seconds', math.nan):.0f}"
            table.add_row(r["name"], "aside" if r["aside"] else "open", *numbers, f"{share:.0%}{mark}", seconds, remedy)
    yield table
    for name in ("open", "aside", "both"):
        row = summary[name]
        yield (
            f"{name}: {row['mended']} of {row['faults']} faults mended ({row['mended'] / max(1, row['faults']):.0%}), "
            f"a remedy found for {row['with_a_remedy']}; a proof takes {row['median_times_a_run']:.1f} times the run."
        )
    yield f"{summary['no_fault']} more set-ups did as well as the working recipe: no fault."


def main() -> int:
    """Look at every chosen fault, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED, help="folder with the tables and cifar10.tar.gz")
    parser.add_argument("--only", nargs="*", default=[], help="faults whose names hold one of these words")
    parser.add_argument("--half", choices=["open", "aside", "both"], default="both", help="which half")
    parser.add_argument("--care", action="store_true", help="train with care instead of proving")
    parser.add_argument("--again", action="store_true", help="do everything anew")
    parser.add_argument("--kept", action="store_true", help="only show what is kept")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    chosen = parser.parse_args()
    results = []
    RESULTS.mkdir(parents=True, exist_ok=True)
    say = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    for fault in _chosen(chosen.only, chosen.half):
        path = _file(fault.name, fault.settings, care=chosen.care)
        if path.exists() and not chosen.again:
            results.append(json.loads(path.read_text()))
        elif not chosen.kept:
            results.append(look_at(fault, chosen.data, care=chosen.care))
            say.print(_line(results[-1]))
    summary = summarise(results)
    if chosen.json:
        print(json.dumps({"faults": results, **summary}, indent=2))
    else:
        console = Console(highlight=False, markup=False, width=max(180, Console().width))
        for thing in tables(results, summary):
            console.print(thing)
    return 1 if any("error" in each for each in results) else 0


def _line(r: Result) -> str:
    if "error" in r:
        return f"{r['name']}: {r['error'].strip().splitlines()[-1]}"
    if not is_fault(r):
        return f"{r['name']}: no fault, {r['broken']:.3f} of {r['working']:.3f} ({r['seconds']:.0f} s)"
    verdict = "mended" if is_mended(r) else "NOT MENDED"
    found = " ".join(map(str, r.get("remedy", ()))) or r.get("said", "no remedy")
    return (
        f"{r['name']}: {verdict}: {r['broken']:.3f} -> {r['mended']:.3f} of {r['working']:.3f} by {found} "
        f"[{' '.join(r.get('codes', ()))}] ({r['seconds']:.0f} s)"
    )


def _chosen(words: Sequence[str], half: str) -> list[Fault]:
    wanted = [fault for fault in FAULTS if not words or any(word in fault.name for word in words)]
    return [fault for fault in wanted if half == "both" or is_aside(fault.name) == (half == "aside")]


if __name__ == "__main__":
    sys.exit(main())
