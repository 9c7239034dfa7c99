"""Tracing a forward."""

import threading

import torch
from torch import nn

from caviar.nn.graph import trace


def test_modules_that_run_on_other_threads_never_notice() -> None:
    traced, other = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    errors: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            while not done.is_set():
                other(torch.zeros(2, 3))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(50):
        graph = trace(traced)
        assert graph is not None
        assert [node.target for node in graph.nodes if node.op == "call_module"] == ["0", "1"]
    done.set()
    thread.join()
    assert not errors
