"""The small typed facts that training emits."""

from typing import NamedTuple


class Record(NamedTuple):
    """One number: what it is (`name`), where it was measured, and when.

    `step` counts optimiser steps finished since the start of the run; `epoch` counts from 1 (0: before training).
    `split` is train, dev, test or "" where it does not apply; `layer` is "" for facts of the whole network.
    """

    trial: int
    step: int
    epoch: int
    split: str
    layer: str
    name: str
    value: float
