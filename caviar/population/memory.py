"""How much memory a cohort takes, before it is taken."""

import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
    """Bytes of a whole cohort: weights and buffers, gradients, what the rule remembers, one set of activations.

    Where weights are averaged, their averages count among them.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return sum(self)


def predict_memory(cohort: Cohort, layout: Layout, inputs: Shared, targets: Shared) -> Memory:
    """Return what a cohort laid out so will take for batches like this one.

    Activations are what a step of one member holds at most, measured, times the members that are computed at once.
    """
    trained = {name for name, p in cohort.template.named_parameters() if p.requires_grad}
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in cohort.weights.items()}
    gradients = sum(size for name, size in sizes.items() if name in trained)
    together = layout.threads * (1 if layout.kind == "singles" else layout.size)
    activations = step_bytes(cohort, inputs, targets) * min(together, len(cohort))
    copies = 2 if cohort.average else 1
    return Memory(copies * sum(sizes.values()), gradients, gradients * slots_of(cohort.optimizer), activations)


def slots_of(settings: OptimizerSettings) -> int:
    """Return how many tensors of a parameter's size an update rule remembers."""
    if settings.name == "sgd" and not getattr(settings, "momentum", 0):
        return 0
    return SLOTS.get(settings.name, 3)


def step_bytes(cohort: Cohort, inputs: Shared, targets: Shared) -> int:
    """Return the most bytes that forward and backward of one member hold at once, counted in such a step.

    Neither the weights, their gradients nor the batch count: the ones are counted elsewhere, the other common to all.
    """
    module = make_member(cohort.template, cohort.weights, 0).train()
    example, wanted = member_of(inputs, 0), member_of(targets, 0)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    loss = member_loss(cohort, 0)
    live = Live([example, wanted, *module.state_dict().values()])
    with torch.random.fork_rng(devices=[]), live:
        with torch.autocast(example.device.type, torch.bfloat16, enabled=cohort.autocast):
            value = loss(module(example), wanted, None)
        forward = live.most
        torch.autograd.grad(value, trained, allow_unused=True)
    return max(live.most - sum(parameter.nbytes for parameter in trained), forward)


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that torch makes and that somebody still holds; most: at any moment so far.

    known: tensors that do not count.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most: int = 0
        self._now: int = 0
        self._seen = {tensor.untyped_storage().data_ptr() for tensor in known}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return results

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if place and place not in self._seen:
            self._seen.add(place)
            self._now += size
            self.most = max(self.most, self._now)
            weakref.finalize(storage, self._gone, place, size)

    def _gone(self, place: int, size: int) -> None:
        self._seen.discard(place)
        self._now -= size


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


def with_less_memory(layout: Layout, num_members: int) -> Layout | None:
    """Return a layout with about half as many members computed at once, or None where it is one at a time already."""
    if layout.kind != "singles" and layout.size > 1:
        return layout._replace(size=-(-layout.size // 2))
    threads = layout.threads // 2
    if threads < 1:
        return None
    return Layout(layout.kind, -(-num_members // threads) if layout.kind == "singles" else layout.size, threads)


def describe_memory(memory: Memory) -> str:
    """Say in words what a population takes."""
    parts = {"weights": memory.weights, "gradients": memory.gradients, "optimiser": memory.optimizer}
    named = ", ".join(f"{name} {describe_size(size)}" for name, size in parts.items())
    return f"{describe_size(memory.total)} of memory ({named}, activations {describe_size(memory.activations)})"


def describe_size(count: int) -> str:
    """Write a number of bytes with its unit."""
    for unit, size in (("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
