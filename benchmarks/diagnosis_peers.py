"""What other open tools for PyTorch say of the set-ups of benchmarks/diagnosis.py.

    python benchmarks/diagnosis_peers.py [--data FOLDER] [--only WORDS] [--half open|aside|both] [--once]
                                         [--again | --kept] [--json]

Tools that are not installed are left out and named; none of them is needed for anything else. torchtest2 and torchdiag
are asked before training, with one batch; torcheck, torch-audit, torchmortem and neural-observatory watch one training
run together, in the loop of the suite; PyTorch's own anomaly mode trains once more where a loss or weight was not
finite, as it can say nothing elsewhere. Each is used as its own documentation shows, with its defaults.

A finding (warning or worse, as the tool itself calls it) stands for every code that its words could mean, so tools that
speak in general terms are judged kindly: diagnosis_peer_tools.py has the list. Advice that stands for none of the
suite's faults (tensor cores, weight decay of biases) is passed over. Of each healthy set-up any other finding is a
false alarm. caviar's row is read from what benchmarks/diagnosis.py has kept, for the same set-ups.
"""

import argparse
import contextlib
import gzip
import hashlib
import importlib.metadata
import io
import json
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diagnosis import RESULTS, SETUPS, family, is_aside, judge, kept
from diagnosis_data import SHARED
from diagnosis_peer_tools import ANOMALY, BEFORE, DURING, Said, anomaly, before, during, installed
from diagnosis_works import Work
from rich.console import Console
from rich.table import Table

PEERS = RESULTS.parent / "peers"
Result = dict[str, Any]


def look_at(name: str, folder: Path, tools: Sequence[str]) -> Result | None:
    """Ask every tool about one set-up; keep and return what they said; None for a search: they look at one model."""
    began = time.monotonic()
    if _build(name, folder).members:
        return None
    said: dict[str, Any] = {}
    for tool in (each for each in tools if each in BEFORE):
        said[tool] = _ask(lambda tool=tool: before(tool, _build(name, folder)))  # type: ignore[misc]
    watching, finite = [each for each in tools if each in DURING], True
    try:
        with _silence():
            together, finite = during(watching, _build(name, folder))
        said |= {tool: _plain(found) for tool, found in together.items()}
    except Exception:  # one of them broke the loop: each alone, then
        for tool in watching:
            said[tool] = _ask(lambda tool=tool: during([tool], _build(name, folder))[0][tool])  # type: ignore[misc]
        finite = False
    said[ANOMALY] = [] if finite else _ask(lambda: anomaly(_build(name, folder)))
    result = {"name": name, "codes": list(SETUPS[name].codes), "said": said, "seconds": time.monotonic() - began}
    PEERS.mkdir(parents=True, exist_ok=True)
    _file(name).write_bytes(gzip.compress(json.dumps(result).encode()))
    return result


def _ask(question: Any) -> Any:
    """Return what a tool says, or why it broke: {"error": ...}."""
    try:
        with _silence():
            return _plain(question())
    except Exception:
        return {"error": traceback.format_exc().splitlines()[-1][:300]}


def _build(name: str, folder: Path) -> Work:
    torch.manual_seed(0)
    return SETUPS[name].build(folder)


@contextlib.contextmanager
def _silence() -> Any:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def _plain(found: Sequence[Said]) -> list[list[Any]]:
    return [[each.words, list(each.codes)] for each in found]


def _file(name: str) -> Path:
    return PEERS / f"{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}.json.gz"


def kept_of_peers(name: str) -> Result | None:
    """Return what tools said of a set-up before, if they did."""
    if not _file(name).exists():
        return None
    found: Result = json.loads(gzip.decompress(_file(name).read_bytes()))
    return found if found["codes"] == list(SETUPS[name].codes) else None


def figures(tool: str, results: Sequence[Result]) -> dict[str, int]:
    """Return how many faults a tool named in any way, by family and by code, and its false alarms."""
    found = dict.fromkeys(("faults", "healthy", "named", "family", "code", "false_alarms", "broke"), 0)
    for result in results:
        said = result["said"].get(tool, [])
        if isinstance(said, dict):
            found["broke"] += 1
            said = []
        said = [(words, codes) for words, codes in said if codes]  # what stands for no fault is no false alarm either
        could = {code for _, codes in said for code in codes}
        wanted = set(result["codes"])
        found["faults" if wanted else "healthy"] += 1
        if wanted:
            found["named"] += bool(said)
            found["family"] += bool({family(code) for code in wanted} & {family(code) for code in could})
            found["code"] += bool(wanted & could)
        else:
            found["false_alarms"] += bool(said)
    return found


def own_figures(names: Sequence[str]) -> dict[str, int]:
    """Return the same of caviar, from what benchmarks/diagnosis.py has kept."""
    results = [result for name in names if (result := kept(name)) is not None]
    judged = [(bool(result["codes"]), judge(result)) for result in results]
    faults, healthy = [each for fault, each in judged if fault], [each for fault, each in judged if not fault]
    return {
        "faults": len(faults),
        "healthy": len(healthy),
        "named": sum(bool(each["said"]) or each["code"] for each in faults),  # the right one counts as info as well
        "family": sum(each["family"] for each in faults),
        "code": sum(each["code"] for each in faults),
        "false_alarms": sum(bool(each["said"]) for each in healthy),
        "broke": sum("error" in result for result in results),
    }


def version(tool: str) -> str:
    """Return a tool's version."""
    if tool == ANOMALY:
        return f"PyTorch {torch.__version__.split('+')[0]}"
    return "" if tool == "caviar" else importlib.metadata.version(tool)


def table(summary: dict[str, dict[str, int]]) -> Table:
    """Return what a person reads."""
    found = Table(title="What tools say", title_justify="left")
    for heading in ("tool", "version", "faults", "named at all", "right family", "right code", "false alarms", "broke"):
        found.add_column(heading, justify="left" if heading in ("tool", "version") else "right")
    for tool, row in summary.items():
        faults, healthy = max(1, row["faults"]), max(1, row["healthy"])
        shares = [f"{row[key]} ({row[key] / faults:.0%})" for key in ("named", "family", "code")]
        alarms = f"{row['false_alarms']} of {row['healthy']} ({row['false_alarms'] / healthy:.0%})"
        found.add_row(tool, version(tool), str(row["faults"]), *shares, alarms, str(row["broke"]))
    return found


def main() -> int:
    """Ask about every chosen set-up, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED, help="folder with the tables and cifar10.tar.gz")
    parser.add_argument("--only", nargs="*", default=[], help="set-ups whose names or codes hold one of these words")
    parser.add_argument("--half", choices=["open", "aside", "both"], default="both", help="which half")
    parser.add_argument("--once", action="store_true", help="each fault in one set-up, healthy ones on small networks")
    parser.add_argument("--again", action="store_true", help="do everything anew")
    parser.add_argument("--kept", action="store_true", help="only print what is kept")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    tools, say = installed(), Console(stderr=True, highlight=False, markup=False)
    absent = [name for name in (*BEFORE, *DURING) if name not in tools]
    if absent:
        say.print(f"Not installed here, and left out: {', '.join(absent)}.")
    setups = [s for s in SETUPS.values() if chosen.half == "both" or is_aside(s.name) == (chosen.half == "aside")]
    names = [s.name for s in setups if not chosen.only or any(w in s.name or w in s.codes for w in chosen.only)]
    names = _once(names) if chosen.once else names
    results: list[Result] = []
    for number, name in enumerate(names, start=1):
        result = None if chosen.again else kept_of_peers(name)
        if result is None and not chosen.kept and (result := look_at(name, chosen.data, tools)) is not None:
            heard = {tool: "broke" if isinstance(said, dict) else len(said) for tool, said in result["said"].items()}
            say.print(f"{number}/{len(names)} {name}: {heard} ({result['seconds']:.0f} s)")
        results += [] if result is None else [result]
    summary = {"caviar": own_figures([result["name"] for result in results])}
    summary |= {tool: figures(tool, results) for tool in (*tools, ANOMALY)}
    if chosen.json:
        print(json.dumps({"format": "caviar diagnosis of peers", "version": 1, "tools": summary, "absent": absent}))
    else:
        Console(highlight=False, markup=False, width=140).print(table(summary))
    return 0


def _once(names: Sequence[str]) -> list[str]:
    """Return the first set-up of each fault, not on CIFAR-10, and the healthy ones on small networks; in any order."""
    small = [name for name in names if "cifar" not in name and (SETUPS[name].codes or name.endswith(" mlp"))]
    first = {name.rpartition(", ")[0] if SETUPS[name].codes else name: name for name in reversed(small)}
    return sorted(first.values(), key=lambda name: hashlib.blake2b(name.encode()).digest())


if __name__ == "__main__":
    sys.exit(main())
