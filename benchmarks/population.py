"""Time caviar's population against what people use today to train many models: milliseconds per trial and epoch.

    python benchmarks/population.py [--work A] [--members 64] [--peers Optuna] [--rounds N] [--seconds S] [--quick]
                                    [--executor KIND] [--device cpu] [--cifar PATH] [--no-memory] [--json]

Every contender is a process of its own, caviar one for each number of members; all map the same float32 data, nobody
evaluates. They take turns, round by round, the first of which warms up, so that what else the machine does falls on all
of them; a ratio is taken within a round, and the tables show its median (and range). Peers train whole trials, caviar
for about --seconds on the usual batches. The large matrix products that give the machine's peak are timed before and
after each of caviar's turns, in the same process. Every option may be given again, to take pieces of the whole. Exit
code 1 when a target is missed or a peer fails.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from population_peers import PEERS, available
from population_report import ALONE, LEGEND, print_result, summary
from population_works import WORKS, Work, the_work, write_data
from rich.console import Console

MEMBERS = (1, 2, 4, 16, 64, 256)
ROUNDS, SECONDS = 7, 2.0
QUICK_ROUNDS, QUICK_SECONDS = 2, 0.2
WORKER = Path(__file__).with_name("population_worker.py")
OWN_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Turns = dict[str, list[dict[str, float]]]
"""What the turns of each contender came to, round by round."""


class Process:
    """A contender's process, which trains when it is told to."""

    def __init__(self, request: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> None:
        inherited = {name: value for name, value in os.environ.items() if name not in OWN_THREADS}
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**inherited, **(environment or {})},
            text=True,
        )
        self.about = self._answer()

    def turn(self, seconds: float) -> dict[str, Any]:
        """Train once, and return what it took, or an error."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"seconds": seconds}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"error": f"ended with code {self._process.wait()}"}

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()


def main() -> int:
    """Measure the works asked for, print what came out, and return the exit code."""
    arguments = _arguments()
    say = Console(stderr=True, highlight=False)
    results = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        for name in arguments.work or _works(arguments.device):
            folder = Path(temporary) / name.split("-")[0]
            work = the_work(name, quick=arguments.quick)
            data = write_data(name, work, folder, arguments.cifar)
            say.print(f"{name}: {work.title}; {data}")
            results.append({**_measure(name, work, folder, arguments, say), "data": data})
            if not arguments.json:
                print_result(results[-1], Console())
    if arguments.json:
        json.dump(_report(results, arguments), sys.stdout, indent=2)
        print()
    else:
        print(LEGEND)
    return 0 if all(result["met"] for result in results) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=WORKS, action="append", help="only this work; may be given again")
    parser.add_argument("--members", type=int, action="append", help=f"numbers of members ({MEMBERS})")
    parser.add_argument("--peers", choices=[*PEERS, "none"], action="append", help="peers beside the hand-written loop")
    parser.add_argument("--executor", default="auto", help="auto (by timing), singles, stacked or chain")
    parser.add_argument("--rounds", type=int, help=f"rounds of each work ({ROUNDS})")
    parser.add_argument("--seconds", type=float, help=f"about how long a turn of caviar's trains ({SECONDS})")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10: a folder with train/<class>/*, or the archive of one")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="a GPU where there is one, else cpu")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--quick", action="store_true", help="few rows and rounds: shows that it runs, proves little")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the tables")
    arguments = parser.parse_args()
    arguments.device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    arguments.rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS)
    arguments.seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS)
    return arguments


def _works(device: str) -> list[str]:
    return [name for name, work in WORKS.items() if device == "cpu" or work.gpu_members]


def _members(work: Work, arguments: argparse.Namespace) -> Sequence[int]:
    if arguments.members:
        return sorted(set(arguments.members))
    return MEMBERS if arguments.device == "cpu" else [work.gpu_members or 1]


def _peers(work: Work, arguments: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    """Return the peers that take part, the hand-written loop first, and why others do not."""
    wanted = [peer for peer in PEERS if not arguments.peers or peer in arguments.peers]
    wanted = [peer for peer in wanted if peer not in ("hand-written", "hand-written, bf16")]
    if arguments.device != "cpu":
        wanted = []
    absent = {peer: reason for peer in wanted if (reason := available(peer, work))}
    own = ["hand-written", *(["hand-written, bf16"] if work.bf16 else [])]
    return own + [peer for peer in wanted if peer not in absent], absent


def _measure(name: str, work: Work, folder: Path, arguments: argparse.Namespace, say: Console) -> dict[str, Any]:
    common = {
        "work": name,
        "quick": arguments.quick,
        "data": str(folder),
        "device": arguments.device,
        "threads": _cores(),
    }
    population = {**common, "memory": False, "layout": None, "kind": arguments.executor}
    members = _members(work, arguments)
    peers, absent = _peers(work, arguments)
    with contextlib.ExitStack() as stack:
        processes: dict[str, Process] = {}

        def start(contender: str, request: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> None:
            say.print(f"{name}: starting {contender}{' ' * 20}", end="\r")
            processes[contender] = Process(request, environment)
            stack.callback(processes[contender].close)

        start(ALONE, {**population, "members": 1, "kind": "singles"})
        for number in members:
            start(f"caviar {number}", {**population, "members": number})
        for peer in peers:
            start(peer, {**common, "peer": peer}, PEERS[peer].environment)
        about = {contender: process.about for contender, process in processes.items()}
        turns = _rounds(name, processes, arguments, say)
    memory = {}
    if not arguments.no_memory:
        for number in members:
            layout = about[f"caviar {number}"].get("layout")
            if layout is not None:
                say.print(f"{name}: memory of {number} members{' ' * 20}", end="\r")
                process = Process({**population, "members": number, "memory": True, "layout": layout})
                memory[number] = process.about
                process.close()
    say.print()
    return summary(name, work, members, turns, {"about": about, "absent": absent, "memory": memory})


def _rounds(name: str, processes: Mapping[str, Process], arguments: argparse.Namespace, say: Console) -> Turns:
    """Have all train in turn, forwards and backwards, until each has had its rounds, or failed."""
    turns: Turns = {contender: [] for contender in processes}
    for number in range(arguments.rounds + 1):
        for contender in list(processes)[:: 1 if number % 2 else -1]:
            say.print(f"{name}: round {number} of {arguments.rounds}, {contender}{' ' * 20}", end="\r")
            if "error" in processes[contender].about:
                continue
            answer = processes[contender].turn(arguments.seconds)
            if "error" in answer:
                processes[contender].about["error"] = answer["error"]
            elif number:  # the first round warms up
                turns[contender].append(answer)
    return turns


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _report(results: list[dict[str, Any]], arguments: argparse.Namespace) -> dict[str, Any]:
    machine = {"threads": _cores(), "torch": torch.__version__, "device": arguments.device}
    if arguments.device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    return {"format": "caviar benchmark population", "version": 1, "machine": machine, "works": results}


if __name__ == "__main__":
    sys.exit(main())
