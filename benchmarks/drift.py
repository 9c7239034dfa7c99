"""Show how far long runs of one model drift apart, whoever trains it, and that a population's members do no worse.

    python benchmarks/drift.py [--work digits] [--cifar PATH] [--runs 20] [--steps 1000] [--seed S] [--json]

One member of a population of four is trained by every executor, and by an ordinary PyTorch loop on the same batches.
Beside them: as many ordinary runs as asked for, each with one weight, drawn at random, moved by one unit in the last
place before the first step. The table gives the largest relative L2 difference of any tensor of the weights from the
ordinary run after 1, 10, 100, ... steps, and the loss and accuracy on dev after the last, as the number of standard
deviations from the mean of the moved runs.

Two checks: after one step a member differs from the ordinary run by at most 1e-6; after the last, its loss and accuracy
lie inside the spread of the moved runs: between their least and largest, or at most three standard deviations from
their mean (of 21 alike runs, one is the lowest or highest of all with a chance of 2 in 21). Controls are ordinary runs
with something planted: the first check must see each of them, the second a learning rate a hundred times lower. What
else the second sees is printed as it comes out. Exit code 1 when a check fails or a control that must be seen is not.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cifar import cifar_arrays
from nets import plain_convnet, plain_mlp
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from caviar import InputError, Population
from caviar.data.samples import open_sample

MEMBERS, CHOSEN = 4, 2
"""Members of a population, and the one that is looked at."""
MOMENTUM = 0.9
STEP_LIMIT = 1e-6
"""Largest relative L2 difference of any tensor after one step in float32."""
DEVIATIONS = 3.0
EXECUTORS = ("singles", "stacked", "chain")


@dataclass(frozen=True)
class Work:
    """A network and what it learns. net: makes one, from torch's global generator."""

    title: str
    net: Callable[[], nn.Module]
    train: tuple[Tensor, Tensor]
    dev: tuple[Tensor, Tensor]
    batch_size: int
    learning_rate: float

    def batches(self, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield as many whole batches, in an order that follows the seed."""
        inputs, labels = self.train
        generator = torch.Generator().manual_seed(seed)
        rows = torch.empty(0, dtype=torch.int64)
        for _ in range(steps):
            if len(rows) < self.batch_size:
                rows = torch.randperm(len(labels), generator=generator)
            part, rows = rows[: self.batch_size], rows[self.batch_size :]
            yield inputs[part], labels[part]


class Course(NamedTuple):
    """What became of one model. weights: by name, after some numbers of steps."""

    weights: dict[int, dict[str, Tensor]]
    loss: float
    accuracy: float


def moments(steps: int) -> list[int]:
    """Return the numbers of steps that are looked at: powers of ten, and the last."""
    found = [10**power for power in range(9) if 10**power < steps]
    return [*found, steps]


def make_net(work: Work, member: int, seed: int) -> nn.Module:
    """Return a member's network before training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 * seed + member)
        return work.net()


def ordinary(work: Work, net: nn.Module, steps: int, seed: int, learning_rate: float | None = None) -> Course:
    """Train a network as anybody would."""
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate or work.learning_rate, momentum=MOMENTUM)
    kept, looks = {}, moments(steps)
    net.train()
    for step, (inputs, labels) in enumerate(work.batches(steps, seed), start=1):
        optimizer.zero_grad()
        functional.cross_entropy(net(inputs), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step in looks:
            kept[step] = _parameters(net)
    return Course(kept, *_evaluate(work, net))


def by_population(work: Work, kind: str, steps: int, seed: int) -> Course | str:
    """Train the chosen member among others by one executor; in words why it cannot, where it cannot."""
    nets = iter([make_net(work, member, seed) for member in range(MEMBERS)])
    optimizer = {"name": "sgd", "learning_rate": work.learning_rate, "momentum": MOMENTUM}
    population = Population(lambda: next(nets), MEMBERS, optimizer=optimizer, executor=kind)
    kept, looks = {}, moments(steps)
    try:
        for step, (inputs, labels) in enumerate(work.batches(steps, seed), start=1):
            population.step(inputs, labels)
            if step in looks:
                kept[step] = _parameters(population.member(CHOSEN))
        return Course(kept, *_evaluate(work, population.member(CHOSEN)))
    except InputError as reason:
        return str(reason)
    finally:
        population.close()


def _parameters(net: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


@torch.no_grad()
def _evaluate(work: Work, net: nn.Module) -> tuple[float, float]:
    """Return mean loss and accuracy on dev."""
    inputs, labels = work.dev
    outputs = torch.cat([net.eval()(part) for part in inputs.split(500)]).double()
    right = (outputs.argmax(1) == labels).double().mean()
    return float(functional.cross_entropy(outputs, labels)), float(right)


@torch.no_grad()
def moved(net: nn.Module, seed: int) -> nn.Module:
    """Move one weight, drawn at random, by one unit in the last place."""
    generator = torch.Generator().manual_seed(seed)
    parameters = list(net.parameters())
    sizes = torch.tensor([float(parameter.numel()) for parameter in parameters])
    flat = parameters[int(torch.multinomial(sizes, 1, generator=generator))].view(-1)
    place = int(torch.randint(len(flat), (1,), generator=generator))
    flat[place] = torch.nextafter(flat[place], torch.tensor(math.inf))
    return net


@torch.no_grad()
def planted(net: nn.Module) -> nn.Module:
    """Change the largest weight of the first layer by 0.1%."""
    flat = next(net.parameters()).view(-1)
    flat[int(flat.abs().argmax())] *= 1.001
    return net


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest relative L2 difference of any tensor."""
    pairs = [(found[name].double(), tensor.double()) for name, tensor in expected.items()]
    return max(float((a - b).norm() / b.norm().clamp_min(1e-300)) for a, b in pairs)


def compare(
    work: Work, *, runs: int, steps: int, seed: int, told: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Train everything, and return the rows of the table; `told` is called after each run."""

    def run(net: nn.Module, learning_rate: float | None = None) -> Course:
        course = ordinary(work, net, steps, seed, learning_rate)
        told()
        return course

    plain = run(make_net(work, CHOSEN, seed))
    others = [run(moved(make_net(work, CHOSEN, seed), number)) for number in range(runs)]
    rate = work.learning_rate
    controls = {
        "one weight changed by 0.1%": run(planted(make_net(work, CHOSEN, seed))),
        "learning rate 10% higher": run(make_net(work, CHOSEN, seed), 1.1 * rate),
        "learning rate 100 times lower": run(make_net(work, CHOSEN, seed), rate / 100),
    }
    members, reasons = {}, {}
    for kind in EXECUTORS:
        course = by_population(work, kind, steps, seed)
        told()
        if isinstance(course, str):
            reasons[kind] = course
        else:
            members[kind] = course
    rows = [_row(name, "member", course, plain, others) for name, course in members.items()]
    rows += [_row(name, "control", course, plain, others) for name, course in controls.items()]
    missed = [row["name"] for row in rows if row["kind"] == "member" and not (row["step_held"] and row["spread_held"])]
    missed += [row["name"] for row in rows if row["kind"] == "control" and row["step_held"]]
    missed += [rows[-1]["name"]] * (rows[-1]["spread_held"] and not rows[-1]["step_held"])
    return {
        "title": work.title,
        "steps": moments(steps),
        "moved": _moved_row(plain, others),
        "rows": rows,
        "not_run": reasons,
        "missed": missed,
    }


def _moved_row(plain: Course, others: list[Course]) -> dict[str, Any]:
    apart = {step: [distance(run.weights[step], plain.weights[step]) for run in others] for step in plain.weights}
    return {
        "runs": len(others),
        "distance_median": {step: statistics.median(found) for step, found in apart.items()},
        "distance_largest": {step: max(found) for step, found in apart.items()},
        **{name: _spread([getattr(run, name) for run in others]) for name in ("loss", "accuracy")},
    }


def _spread(values: list[float]) -> dict[str, float]:
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return {"least": min(values), "largest": max(values), "mean": mean, "deviation": deviation}


def _row(name: str, kind: str, course: Course, plain: Course, others: list[Course]) -> dict[str, Any]:
    apart = {step: distance(course.weights[step], plain.weights[step]) for step in plain.weights}
    row: dict[str, Any] = {"name": name, "kind": kind, "distance": apart, "step_held": apart[1] <= STEP_LIMIT}
    for measure in ("loss", "accuracy"):
        value, spread = getattr(course, measure), _spread([getattr(run, measure) for run in others])
        away = value - spread["mean"]
        score = 0.0 if away == 0 else away / spread["deviation"] if spread["deviation"] else math.inf
        between = spread["least"] <= value <= spread["largest"]
        row[measure] = {"value": value, "deviations": score, "between": between}
    row["spread_held"] = all(
        row[measure]["between"] or abs(row[measure]["deviations"]) <= DEVIATIONS for measure in ("loss", "accuracy")
    )
    return row


def digits() -> Work:
    """64-64-64-10 on scikit-learn's digits, batch 32."""
    raw = open_sample("digits")
    inputs, labels = raw.inputs.float() / 16, torch.from_numpy(raw.targets)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    inputs, labels = inputs[order], labels[order]
    train, dev = (inputs[:1440], labels[:1440]), (inputs[1440:], labels[1440:])
    return Work("64-64-64-10, digits, batch 32", lambda: plain_mlp([64, 64, 64, 10]), train, dev, 32, 0.1)


def pictures(source: Path | None) -> Work:
    """Two blocks of conv, batch norm, ReLU and pool on 2,000 pictures, batch 32."""
    pixels, numbers, what = cifar_arrays(source, 250)
    inputs, labels = torch.from_numpy(pixels).float() / 255, torch.from_numpy(numbers)
    inputs = (inputs - inputs.mean((0, 2, 3), keepdim=True)) / inputs.std((0, 2, 3), keepdim=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    inputs, labels = inputs[order], labels[order]
    train, dev = (inputs[:2000], labels[:2000]), (inputs[2000:], labels[2000:])
    return Work(f"conv net 4-8, {what}, batch 32", lambda: plain_convnet([4, 8]), train, dev, 32, 0.05)


def print_result(console: Console, result: dict[str, Any]) -> None:
    """Print one work's table."""
    table = Table(title=result["title"], title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for step in result["steps"]:
        table.add_column(f"{step:,} step{'s' if step > 1 else ''}", justify="right")
    for heading in ("dev loss", "deviations", "accuracy", "deviations"):
        table.add_column(heading, justify="right")
    table.add_column("step, spread")
    around = result["moved"]
    for word in ("median", "largest"):
        apart = [f"{around[f'distance_{word}'][step]:.0e}" for step in result["steps"]]
        shown = ("mean",) if word == "median" else ("least", "largest")
        ends = [" to ".join(f"{around[measure][key]:.4f}" for key in shown) for measure in ("loss", "accuracy")]
        table.add_row(f"{around['runs']} moved runs, {word}", *apart, ends[0], "", ends[1], "", "")
    for row in result["rows"]:
        apart = [f"{row['distance'][step]:.0e}" for step in result["steps"]]
        numbers = []
        for measure in ("loss", "accuracy"):
            numbers += [f"{row[measure]['value']:.4f}", f"{row[measure]['deviations']:+.1f}"]
        words = ("held", "held") if row["kind"] == "member" else ("not seen", "not seen")
        seen = "broken" if row["kind"] == "member" else "seen"
        verdict = [word if row[key] else seen for word, key in zip(words, ("step_held", "spread_held"), strict=True)]
        table.add_row(row["name"], *apart, *numbers, ", ".join(verdict))
    console.print(table)
    for kind, reason in result["not_run"].items():
        console.print(f"not run: {kind}: {reason}", markup=False, highlight=False)


def main() -> int:
    """Compare the works asked for, print what came out, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=("digits", "pictures"), action="append", help="only this work")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10: a folder with train/<class>/*, or the archive of one")
    parser.add_argument("--runs", type=int, default=20, help="ordinary runs with a moved weight (default 20)")
    parser.add_argument("--steps", type=int, default=1000, help="of every run (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the tables")
    chosen = parser.parse_args()
    if chosen.runs < 2 or chosen.steps < 1:
        parser.error("--runs must be at least 2 and --steps at least 1")
    makers = {"digits": digits, "pictures": lambda: pictures(chosen.cifar)}
    works = {name: makers[name]() for name in chosen.work or makers}
    results = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("runs", total=len(works) * (1 + chosen.runs + 3 + len(EXECUTORS)))
        for work in works.values():
            told = lambda: progress.advance(bar)  # noqa: E731
            results.append(compare(work, runs=chosen.runs, steps=chosen.steps, seed=chosen.seed, told=told))
    missed = [f"{result['title']}: {name}" for result in results for name in result["missed"]]
    if chosen.json:
        print(json.dumps({"format": "caviar drift", "version": 1, "works": results, "missed": missed}, indent=2))
    else:
        for result in results:
            print_result(Console(), result)
        print("missed: " + "; ".join(missed) if missed else "All is as it should be.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
