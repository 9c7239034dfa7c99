"""One process of benchmarks/population.py: a contender that trains when it is told to, and says what it took.

It is started with a request as JSON, answers with one line of JSON when it is ready, and then one for every line that
arrives: {"seconds": s}, about how long to train. It ends when there are no more.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from population_peers import PEERS
from population_works import Task, load_task, the_work

Turn = Callable[[float], dict[str, Any]]


def main() -> None:
    """Do what the request says, until standard input ends."""
    request = json.loads(sys.argv[1])
    answers = _kept_output()
    torch.set_num_threads(request["threads"])
    os.environ["POPULATION_DATA"] = request["data"]
    try:
        work = the_work(request["work"], quick=request["quick"])
        task = load_task(work, Path(request["data"]), request["device"])
        about, turn = _members(task, request) if "members" in request else ({}, _peer(task, request["peer"]))
        _answer(answers, about)
        for line in sys.stdin:
            gc.collect()
            _answer(answers, turn(json.loads(line)["seconds"]))
    except Exception as error:  # whatever a library raises is one line of the report
        _answer(answers, {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"})


def _kept_output() -> int:
    """Return a descriptor for answers; what libraries print goes to standard error."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return kept


def _answer(descriptor: int, answer: dict[str, Any]) -> None:
    os.write(descriptor, (json.dumps(answer) + "\n").encode())


def _members(task: Task, request: dict[str, Any]) -> tuple[dict[str, Any], Turn]:
    from population_members import Session, measure_memory, product_peak

    from caviar.population import Layout

    layout = None if request["layout"] is None else Layout(*request["layout"])
    if request["memory"]:
        assert layout is not None
        return measure_memory(task, request["members"], layout), lambda _: {}
    session = Session(task, request["members"], request["kind"], layout)

    def turn(seconds: float) -> dict[str, Any]:
        peak = product_peak(task.inputs.device)
        return {**session.turn(seconds), "peak": max(peak, product_peak(task.inputs.device))}

    return session.describe(), turn


def _peer(task: Task, name: str) -> Turn:
    peer = PEERS[name]

    def turn(_: float) -> dict[str, Any]:
        with peer.make(task) as train:
            gc.collect()
            started = time.perf_counter()
            train()
            return {"seconds": time.perf_counter() - started, "trial_epochs": peer.trials * task.epochs}

    return turn


if __name__ == "__main__":
    main()
