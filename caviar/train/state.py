"""Where a run stands: everything that a resume needs to go on as if it had never stopped."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from caviar.core.checkpoint import Checkpoint
from caviar.core.errors import InputError
from caviar.optim import AveragedModel, is_better
from caviar.optim.state import load_optimizer_tensors, optimizer_tensors

Metric = Literal["loss", "accuracy", "r2"]


@dataclass
class Best:
    """The best epoch so far (0: none yet) and a copy of its weights and buffers."""

    epoch: int = 0
    step: int = 0
    value: float = math.nan
    weights: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class State:
    """Progress of a run. `epoch` is the one under way, from 1; `batch` counts its finished batches.

    losses: (batches of an epoch,), of which those of finished batches are known. They stand in one tensor because a
    small one for each step keeps the memory of its batch from being used again: 80 kB a step were lost on a table.

    schedule: the memory of a schedule that has one (plateau).
    """

    epoch: int = 1
    batch: int = 0
    step: int = 0
    waited: int = 0
    best: Best = field(default_factory=Best)
    losses: Tensor = field(default_factory=lambda: torch.zeros(0))
    schedule: dict[str, float] = field(default_factory=dict)

    def make_room(self, num_batches: int, device: torch.device) -> None:
        """Make sure that `losses` can hold an epoch; those of finished batches stay."""
        if len(self.losses) != num_batches:
            known = self.losses[: self.batch]
            self.losses = torch.zeros(num_batches, device=device)
            self.losses[: self.batch] = known


def improves(value: float, best: Best, metric: Metric) -> bool:
    """Whether `value` beats the best so far; NaN never does."""
    return is_better(value, best.value, grows=metric != "loss")


def remember_best(best: Best, model: nn.Module) -> None:
    """Copy the model's weights and buffers into `best`, reusing its memory."""
    for name, tensor in model.state_dict().items():
        if name in best.weights:
            best.weights[name].copy_(tensor)
        else:
            best.weights[name] = tensor.detach().clone()


def pack(
    state: State,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    average: AveragedModel | None = None,
    *,
    keep: bool,
) -> Checkpoint:
    """Gather weights, buffers, optimiser, average, generators, position and best-so-far into one checkpoint."""
    moments, settings = optimizer_tensors(optimizer)
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in moments.items()}
    tensors |= {f"best/{name}": tensor for name, tensor in state.best.weights.items()}
    tensors |= {f"generator/{name}": tensor for name, tensor in generator_states(device).items()}
    if average is not None:
        tensors |= {f"average/{name}": tensor for name, tensor in average.state().items()}
    tensors["losses"] = state.losses[: state.batch]
    best = {"epoch": state.best.epoch, "step": state.best.step, "value": _word(state.best.value)}
    data = {
        "epoch": state.epoch,
        "batch": state.batch,
        "waited": state.waited,
        "best": best,
        "optimizer": settings,
        "schedule": state.schedule,
        "keep": keep,
    }
    return Checkpoint(tensors, data)


def unpack(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    average: AveragedModel | None = None,
) -> State:
    """Put a checkpoint's weights, optimiser, average and generators back and return the state to go on from.

    Raises:
        InputError: it belongs to another model or optimiser, or lacks something.
    """
    try:
        if average is not None:
            average.load(_under(checkpoint.tensors, "average/"))
        return _unpack(checkpoint, model, optimizer, device)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the checkpoint lacks what a resume needs ({type(error).__name__}: {error}).") from error


def _unpack(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> State:
    data, tensors = checkpoint.data, checkpoint.tensors
    load_weights(model, _under(tensors, "model/"), "the checkpoint")
    load_optimizer_tensors(optimizer, _under(tensors, "optimizer/"), data["optimizer"])
    set_generator_states(_under(tensors, "generator/"), device)
    best = Best(data["best"]["epoch"], data["best"]["step"], _number(data["best"]["value"]))
    current = model.state_dict()
    for name, tensor in _under(tensors, "best/").items():
        best.weights[name] = torch.empty_like(current[name]).copy_(tensor)
    losses = tensors["losses"].to(device)
    return State(data["epoch"], data["batch"], data["step"], data["waited"], best, losses, data.get("schedule", {}))


def load_weights(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Copy weights and buffers into the model in place; names or shapes that differ are an InputError."""
    check_weights(model, weights, where)
    model.load_state_dict(weights)


def check_weights(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Raise an InputError when names or shapes of weights and buffers are not the model's."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wanted == given:
        return
    differing = [
        f"{name} ({given.get(name, 'absent')} there, {wanted.get(name, 'absent')} in the module)"
        for name in sorted(wanted.keys() | given.keys())
        if wanted.get(name) != given.get(name)
    ]
    more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
    raise InputError(
        f"the weights in {where} do not fit this {type(model).__name__}: they differ in "
        f"{', '.join(differing[:4])}{more}."
    )


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's own generators, which dropout and modules of the user draw from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_generator_states(states: dict[str, Tensor], device: torch.device) -> None:
    """Set torch's own generators; those of a device that is not used are left alone."""
    setters: dict[str, Callable[[Tensor], Any]] = {
        "cpu": torch.set_rng_state,
        "cuda": lambda state: torch.cuda.set_rng_state(state, device),
        "mps": torch.mps.set_rng_state,
    }
    for name, state in states.items():
        if name in ("cpu", device.type):
            setters[name](state)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _word(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _number(value: float | str) -> float:
    return float(value)
