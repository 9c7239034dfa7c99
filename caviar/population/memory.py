"""How much memory a cohort takes, before it is taken."""

from typing import NamedTuple

import torch
from torch import Tensor

from caviar.optim.settings import OptimizerSettings
from caviar.population.cohort import Cohort
from caviar.population.executors import Layout
from caviar.population.modules import make_member
from caviar.population.objective import member_loss
from caviar.population.views import Shared, member_of

SLOTS = {
    "sgd": 1, "adagrad": 1, "rmsprop": 1, "lion": 1, "muon": 1, "adam": 2, "adamw": 2, "nadam": 2, "radam": 2,
    "ranger": 3, "lookahead": 3,
}  # fmt: skip
"""Tensors of a parameter's size that each rule remembers, at most."""

SHARE = 0.8
"""Of the memory that is free, what a population may take."""


class Memory(NamedTuple):
    """Bytes of a whole cohort: weights and buffers, gradients, what the rule remembers, one set of activations."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return sum(self)


def predict_memory(cohort: Cohort, layout: Layout, inputs: Shared, targets: Shared) -> Memory:
    """Return what a cohort laid out so will take for batches like this one.

    Activations are what autograd keeps for one member's loss, measured, times the members that are computed at once.
    """
    trained = {name for name, p in cohort.template.named_parameters() if p.requires_grad}
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in cohort.weights.items()}
    gradients = sum(size for name, size in sizes.items() if name in trained)
    together = layout.threads * (1 if layout.kind == "singles" else layout.size)
    activations = saved_bytes(cohort, inputs, targets) * min(together, len(cohort))
    return Memory(sum(sizes.values()), gradients, gradients * slots_of(cohort.optimizer), activations)


def slots_of(settings: OptimizerSettings) -> int:
    """Return how many tensors of a parameter's size an update rule remembers."""
    if settings.name == "sgd" and not getattr(settings, "momentum", 0):
        return 0
    return SLOTS.get(settings.name, 3)


def saved_bytes(cohort: Cohort, inputs: Shared, targets: Shared) -> int:
    """Return the bytes that autograd keeps between one member's forward and backward.

    Neither the weights nor the batch count: the one is counted elsewhere, the other common to all members.
    """
    module = make_member(cohort.template, cohort.weights, 0).train()
    example, wanted = member_of(inputs, 0), member_of(targets, 0)
    known = [example, wanted, *module.state_dict().values()]
    own = {tensor.untyped_storage().data_ptr() for tensor in known}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        member_loss(cohort, 0)(module(example), wanted, None)
    return sum(seen.values())


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that is free on a device, or None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            words = dict(line.split(":") for line in file)
        return int(words["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def fitting(cohort: Cohort, layouts: list[Layout], inputs: Shared, targets: Shared) -> list[Layout]:
    """Return layouts that fit into memory: parts of those that do not are halved until they do.

    Never the batch size is changed, only how many members are computed at once.
    """
    free = free_bytes(inputs.device)
    if free is None:
        return layouts
    found: list[Layout] = []
    for layout in layouts:
        while predict_memory(cohort, layout, inputs, targets).total > SHARE * free and layout.size > 1:
            if layout.kind == "singles":
                break
            layout = layout._replace(size=-(-layout.size // 2))
        if layout not in found:
            found.append(layout)
    return found


def describe_memory(memory: Memory) -> str:
    """Say in words what a population takes."""
    parts = {"weights": memory.weights, "gradients": memory.gradients, "optimiser": memory.optimizer}
    named = ", ".join(f"{name} {_size(size)}" for name, size in parts.items())
    return f"{_size(memory.total)} of memory ({named}, activations {_size(memory.activations)})"


def _size(count: int) -> str:
    for unit, size in (("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
