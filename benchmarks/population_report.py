"""What the rounds of benchmarks/population.py came to: ratios, targets, tables."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from population_works import Work
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

NEVER_BELOW = 0.98
LINEAR = 1.15
"""What a member may cost with more members than the best number, beside the cost there."""
MEMORY = 1.2
LEAST_MEMORY = 64 << 20
"""Bytes that a population should take for its memory to be judged: below, queues and libraries take most of it."""

ALONE = "one after another"
HAND = "hand-written"

LEGEND = """ms: milliseconds per trial and epoch, median over the rounds
x hand, x alone: how many times faster a member is than the hand-written loop, and than caviar's own plain loop, which
trains one after another; median over the rounds, and its range
peak: share of the machine's float32 product peak; memory: bytes taken as a share of parameters, gradients, the
optimiser's memory and one set of activations; runs: the executor, members at a time, and threads"""

Round = Mapping[str, float]
Spread = dict[str, float]


def summary(
    name: str,
    work: Work,
    members: Sequence[int],
    turns: Mapping[str, list[dict[str, float]]],
    others: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what a work came to, with every target and whether it is met.

    others: what the contenders said of themselves ("about"), peers that took no part ("absent"), bytes ("memory").
    """
    about, failed = others["about"], {n: a["error"] for n, a in others["about"].items() if "error" in a}
    populations = {}
    for number in members:
        mine = turns[f"caviar {number}"]
        if f"caviar {number}" not in failed and mine:
            populations[number] = _population(mine, turns, failed) | about[f"caviar {number}"]
            populations[number]["memory"] = others["memory"].get(number)
    best = max(populations, key=lambda number: populations[number].get("against_hand", {}).get("median", 0), default=0)
    peers = {
        peer: {"ms": _spread([_ms(r) for r in own]), "ratio": _ratio(own, turns[f"caviar {best}"])}
        for peer, own in turns.items()
        if best and own and peer not in failed and not peer.startswith("caviar ")
    }
    targets = _targets(work, populations, best, about)
    return {
        "work": name,
        "title": work.title,
        "rows": work.rows,
        "epochs": work.epochs,
        "rounds": max((len(own) for own in turns.values()), default=0),
        "members": populations,
        "best": best,
        "peers": peers,
        "absent": others["absent"],
        "failed": failed,
        "targets": targets,
        "met": bool(targets) and all(target["met"] for target in targets) and not failed,
    }


def _population(
    mine: list[dict[str, float]], turns: Mapping[str, list[Any]], failed: Mapping[str, str]
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "ms": _spread([_ms(one) for one in mine]),
        "gflops": _spread([one["flops"] / 1e9 for one in mine]),
        "peak_gflops": _spread([one["peak"] / 1e9 for one in mine]),
        "of_peak": _spread([one["flops"] / one["peak"] for one in mine]),
    }
    for key, other in (("against_hand", HAND), ("against_alone", ALONE)):
        if other not in failed and turns.get(other):
            found[key] = _ratio(turns[other], mine)
    return found


def _targets(work: Work, populations: Mapping[int, dict[str, Any]], best: int, about: Mapping[str, Any]) -> list[Any]:
    if not best:
        return []
    on_gpu = about[ALONE].get("device") == "cuda"
    wanted = work.gpu_speed if on_gpu else work.speed
    top = populations[best]
    targets = []
    if "against_hand" in top:
        targets.append(_target(f"speed of a member of {best}, hand-written 1", top["against_hand"], wanted))
    if work.peak is not None and not on_gpu:
        targets.append(_target(f"share of the product peak, {best} members", top["of_peak"], work.peak))
    for number, one in populations.items():
        if "against_alone" in one:
            targets.append(
                _target(f"speed of a member of {number}, one after another 1", one["against_alone"], NEVER_BELOW)
            )
    if 1 in populations and "against_hand" in populations[1]:
        targets.append(_target("speed of a single member, hand-written 1", populations[1]["against_hand"], NEVER_BELOW))
    for number, one in populations.items():
        if number > best:
            ratio = one["ms"]["median"] / top["ms"]["median"]
            targets.append(_target(f"cost of a member of {number}, of {best} 1", _spread([ratio]), LINEAR, most=True))
        memory = one["memory"]
        if memory and memory.get("taken") is not None and memory["should"] >= LEAST_MEMORY:
            ratio = memory["taken"] / memory["should"]
            targets.append(
                _target(f"memory of {number} members, what it should be 1", _spread([ratio]), MEMORY, most=True)
            )
    return targets


def _target(what: str, found: Spread, limit: float, *, most: bool = False) -> dict[str, Any]:
    median = found["median"]
    return {"what": what, **found, "limit": limit, "most": most, "met": median <= limit if most else median >= limit}


def _ms(one: Round) -> float:
    return 1000 * one["seconds"] / one["trial_epochs"]


def _ratio(theirs: Sequence[Round], mine: Sequence[Round]) -> Spread:
    """How many times faster `mine` was, round by round."""
    return _spread([_ms(a) / _ms(b) for a, b in zip(theirs, mine, strict=True)])


def _spread(values: Sequence[float]) -> Spread:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def print_result(result: Mapping[str, Any], console: Console) -> None:
    """Print the tables of a work."""
    console.print(f"\n[bold]{result['work']}: {result['title']}[/]; {result['data']}, {result['rounds']} rounds")
    console.print(_members_table(result))
    console.print(_peers_table(result))
    console.print(_targets_table(result))


def _members_table(result: Mapping[str, Any]) -> Table:
    table = _table("caviar")
    for heading in ("members", "ms", "x hand", "range", "x alone", "peak", "memory", "runs"):
        table.add_column(heading, justify="left" if heading == "runs" else "right", no_wrap=True)
    for number, one in result["members"].items():
        memory = one["memory"] or {}
        share = f"{memory['taken'] / memory['should']:.2f}" if memory.get("taken") and memory.get("should") else ""
        ratios = [*_cells(one.get("against_hand")), _cells(one.get("against_alone"))[0]]
        share_of_peak, runs = f"{one['of_peak']['median']:.0%}", "{} {} on {}".format(*one["layout"])
        table.add_row(str(number), _time(one["ms"]), *ratios, share_of_peak, share, runs)
    return table


def _peers_table(result: Mapping[str, Any]) -> Table:
    table = _table(f"others; x: how many times faster caviar is with {result['best']} members")
    for heading in ("", "ms", "x", "range"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, peer in result["peers"].items():
        table.add_row(name, _time(peer["ms"]), *_cells(peer["ratio"]))
    for name, reason in result["absent"].items():
        table.add_row(f"{name}: {reason}")
    for name, reason in result["failed"].items():
        table.add_row(f"[red]{name} failed:[/] {escape(reason[:60])}")
    return table


def _targets_table(result: Mapping[str, Any]) -> Table:
    table = _table("targets")
    for heading in ("", "measured", "wanted", " "):
        table.add_column(heading, justify="right" if heading.strip() else "left", no_wrap=True)
    for target in result["targets"]:
        wanted = f"at {'most' if target['most'] else 'least'} {target['limit']:g}"
        met = "[green]met[/]" if target["met"] else "[red]missed[/]"
        table.add_row(target["what"], f"{target['median']:.3g}", wanted, met)
    return table


def _time(spread: Spread) -> str:
    median = spread["median"]
    return f"{median:,.0f}" if median >= 100 else f"{median:.3g}"


def _cells(spread: Spread | None) -> tuple[str, str]:
    if spread is None:
        return "", ""
    return f"{spread['median']:.2f}", f"{spread['lowest']:.2f}-{spread['highest']:.2f}"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
