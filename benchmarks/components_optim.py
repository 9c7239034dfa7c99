"""Time a step of caviar's update rules against torch.optim's foreach versions, on lists of 200 tensors.

    python benchmarks/components_optim.py [--rounds N] [--json]

Small tensors (64 x 64) show what calls cost, larger ones (256 x 256) what memory costs. All sides take turns within a
round; a ratio is taken within a round and the median over the rounds counts. At most 1.1 where torch has a fused kernel
too, below 1 elsewhere. The last rows have a learning rate for each of 64 members in one stack, against 64 optimisers.
Exit code 1 when a target is missed.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from caviar.optim import Optimizer, rules
from caviar.optim.rules import Rule

NUM_TENSORS = 200
SIDES = (64, 256)
MEMBERS = 64
T = torch.optim
Torchs = Callable[[list[Tensor]], torch.optim.Optimizer]

PAIRS: list[tuple[str, Rule, Torchs, float]] = [
    ("SGD", rules.sgd_rule(0.01), lambda p: T.SGD(p, 0.01, foreach=True), 1.1),
    ("momentum", rules.sgd_rule(0.01, 0.9), lambda p: T.SGD(p, 0.01, 0.9, foreach=True), 1.1),
    (
        "Nesterov, L2",
        rules.sgd_rule(0.01, 0.9, nesterov=True, weight_decay=0.01),
        lambda p: T.SGD(p, 0.01, 0.9, nesterov=True, weight_decay=0.01, foreach=True),
        1.1,
    ),
    ("AdaGrad", rules.adagrad_rule(), lambda p: T.Adagrad(p, foreach=True), 1.1),
    ("Adam", rules.adam_rule(), lambda p: T.Adam(p, foreach=True), 1.1),
    ("AdamW", rules.adamw_rule(), lambda p: T.AdamW(p, foreach=True), 1.1),
    ("RMSProp", rules.rmsprop_rule(), lambda p: T.RMSprop(p, foreach=True), 1.0),
    (
        "RMSProp, centred, momentum",
        rules.rmsprop_rule(momentum=0.9, centered=True),
        lambda p: T.RMSprop(p, momentum=0.9, centered=True, foreach=True),
        1.0,
    ),
    ("NAdam", rules.nadam_rule(), lambda p: T.NAdam(p, foreach=True), 1.0),
    ("RAdam", rules.radam_rule(), lambda p: T.RAdam(p, foreach=True), 1.0),
]


def measure(rounds: int = 15) -> list[dict[str, Any]]:
    """Return one row a comparison: name, milliseconds of both, ratio (median), range, limit, whether it is met."""
    rows = []
    for side in SIDES:
        for name, rule, torchs, limit in PAIRS:
            ours, theirs = Optimizer(parameters(side), rule), torchs(parameters(side))
            rows.append(_compare(f"{name}, {NUM_TENSORS} x {side} x {side}", ours.step, theirs.step, rounds, limit))
    rows.append(_muon(rounds))
    rows += [_members(name, make, rounds) for name, make in (("momentum", _momentum), ("AdamW", rules.adamw_rule))]
    return rows


def parameters(side: int) -> list[Tensor]:
    """Return the list of tensors, each with a gradient."""
    generator = torch.Generator().manual_seed(0)
    found = [torch.randn(side, side, generator=generator).requires_grad_() for _ in range(NUM_TENSORS)]
    for parameter in found:
        parameter.grad = torch.randn(side, side, generator=generator)
    return found


def _momentum(learning_rate: float | Tensor) -> Rule:
    return rules.sgd_rule(learning_rate, 0.9)


def _muon(rounds: int) -> dict[str, Any]:
    """Muon, which torch has one by one only, in bfloat16 as torch computes it."""
    count = 20
    ours = Optimizer(parameters(64)[:count], rules.muon_rule(dtype=torch.bfloat16))
    theirs = T.Muon(parameters(64)[:count], 0.02)
    return _compare(f"Muon, {count} x 64 x 64", ours.step, theirs.step, min(rounds, 7), 1.0)


def _members(name: str, make: Callable[..., Rule], rounds: int) -> dict[str, Any]:
    """A rate for each member of a stack, against torch's foreach on one member after another."""
    shapes = [(50, 64), (50,), (10, 50), (10,)]
    torch.manual_seed(0)
    stack = [torch.randn(MEMBERS, *shape).requires_grad_() for shape in shapes]
    alone = [[torch.randn(shape).requires_grad_() for shape in shapes] for _ in range(MEMBERS)]
    for parameter in (*stack, *(parameter for member in alone for parameter in member)):
        parameter.grad = torch.randn_like(parameter)
    ours = Optimizer(stack, make(torch.linspace(1e-4, 1e-2, MEMBERS)))
    kind = T.SGD if name == "momentum" else T.AdamW
    options: dict[str, Any] = {"momentum": 0.9} if name == "momentum" else {}
    theirs = [kind(member, 1e-3, foreach=True, **options) for member in alone]

    def one_after_another() -> None:
        for optimizer in theirs:
            optimizer.step()

    return _compare(f"{name}, {MEMBERS} members with rates of their own", ours.step, one_after_another, rounds, 1.0)


def _compare(
    name: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int, limit: float
) -> dict[str, Any]:
    seconds: tuple[list[float], list[float]] = ([], [])
    repeats = _repeats(theirs)
    for _ in range(10):  # RAdam takes shorter steps at first
        ours()
        theirs()
    for _ in range(rounds):
        for spent, work in zip(seconds, (ours, theirs), strict=True):
            start = time.perf_counter()
            for _ in range(repeats):
                work()
            spent.append((time.perf_counter() - start) / repeats)
    ratios = [a / b for a, b in zip(*seconds, strict=True)]
    middle = statistics.median(ratios)
    return {
        "name": name,
        "ours": 1e3 * statistics.median(seconds[0]),
        "theirs": 1e3 * statistics.median(seconds[1]),
        "unit": "ms a step",
        "ratio": middle,
        "lowest": min(ratios),
        "highest": max(ratios),
        "limit": limit,
        "met": middle <= limit,
    }


def _repeats(work: Callable[[], object]) -> int:
    """Return how many steps take about 30 milliseconds."""
    work()
    start = time.perf_counter()
    work()
    return max(1, min(50, int(0.03 / (time.perf_counter() - start))))


def main() -> int:
    """Measure, print what came out, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    arguments = parser.parse_args()
    rows = measure(arguments.rounds)
    if arguments.json:
        print(json.dumps(rows, indent=2))
    for row in () if arguments.json else rows:
        print(
            f"{row['name']}: {row['ours']:.3f} : {row['theirs']:.3f} {row['unit']}, ratio {row['ratio']:.2f} "
            f"({row['lowest']:.2f} to {row['highest']:.2f}), at most {row['limit']:.1f}: "
            f"{'met' if row['met'] else 'missed'}"
        )
    return 0 if all(row["met"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
