from types import SimpleNamespace
from typing import Any

import torch

from caviar.core.examples import Examples
from caviar.workflow.plan import example_batch


def test_examples_of_a_long_table_lie_inside_it() -> None:
    """Float32 has no number for row 20,000,000 less 1: it would round up to one row too many."""
    rows = 20_000_000
    inputs = torch.zeros(1).expand(rows, 1)
    prepared: Any = SimpleNamespace(examples={"train": Examples(inputs, torch.zeros(1).expand(rows))})
    assert example_batch(prepared, torch.device("cpu"), count=3).shape == (3, 1)
