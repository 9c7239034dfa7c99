"""Learning rates for a module, data and a loss of the user's own; nothing of theirs is changed."""

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.core.seeds import derive_seed, epoch_order
from caviar.core.settings import Settings
from caviar.diagnose.checks_setup import Batch
from caviar.nn import build_loss, has_batch_norm
from caviar.nn.build_loss import NUMBER_LOSSES
from caviar.nn.settings import LossSettings
from caviar.optim import build_optimizer, needs_closure
from caviar.population import Layout, Population, Step
from caviar.population.population import loss_settings, make_modules, optimizer_settings
from caviar.population.rules import check_first_order
from caviar.train.batching import batch_bounds
from caviar.workflow.check_given import check_runs, copied, rebuilder
from caviar.workflow.check_sample import sample_of
from caviar.workflow.find_lr import Start, Sweep, Together, Trainer, choose_layout, trial_rates

BATCH = 32
LossFunction = Callable[[Any, Tensor], Tensor]
Build = Callable[[nn.Module], torch.optim.Optimizer]


def given_start(
    model: Any, data: Any, loss: Any, optimizer: Any, batch_size: int | None, sweep: Sweep, seed: int
) -> Start:
    """Return the trials of a set-up: stacked where loss and rule are caviar's, else one module after another."""
    if data is None:
        raise InputError("find_lr(model, data, loss) needs data.")
    if isinstance(optimizer, torch.optim.Optimizer) and not isinstance(model, nn.Module):
        raise InputError("an optimizer belongs to one module, but a function makes new ones. Name a rule: 'adamw'.")
    modules = [_module(model, derive_seed(seed, "find learning rate", number)) for number in range(sweep.seeds)]
    device = next((each.device for each in modules[0].parameters()), torch.device("cpu"))
    size = batch_size or getattr(data, "batch_size", None) or BATCH
    train, _ = sample_of(data, "data", sweep.steps * size, seed, device)
    size = min(size, len(train))
    is_named = isinstance(loss, (str, Mapping, Settings))
    named = loss_settings(loss) if is_named else None
    function = _function(named) if named is not None else copied(loss, "loss") if isinstance(loss, nn.Module) else loss
    if not callable(function):
        raise InputError(f"loss={loss!r}: give a name such as 'cross_entropy', or (outputs, targets) -> one number.")
    check_runs(modules[0], function, train)
    bounds = batch_bounds(len(train), size, merge_single=has_batch_norm(modules[0]))
    build: Build
    if isinstance(optimizer, torch.optim.Optimizer):
        if needs_closure(optimizer):
            raise InputError(f"{type(optimizer).__name__} finds its own step length; there is no rate to look for.")
        build, rule = rebuilder(optimizer, model), None
    else:
        rule = optimizer_settings(optimizer)
        check_first_order(rule)
        build = partial(build_optimizer, rule)

    layouts: list[Layout] = []

    def start(number: int) -> tuple[Trainer, Iterator[Step]]:
        own = derive_seed(seed, "find learning rate", number)
        batches = partial(_batches, train, bounds, own)
        if named is None or rule is None:
            return OneByOne(modules[number], build, function, trial_rates(sweep), own), batches()
        population = Population(
            modules[number],
            hyperparameters={"learning_rate": trial_rates(sweep)},
            optimizer=rule,
            loss=named,
            seeds=[own] * (sweep.rates + 1),
        )
        if not layouts:
            layouts.append(choose_layout(population, batches(), sweep))
        return Together(population, layouts[0], next(batches())), batches()

    return start


def _module(model: Any, seed: int) -> nn.Module:
    if isinstance(model, nn.Module):
        module: nn.Module = copied(model, "model")
        return module
    return make_modules(model, 1, seed, [seed])[0]


def _function(settings: LossSettings) -> LossFunction:
    return build_loss(settings, "regression" if isinstance(settings, NUMBER_LOSSES) else "classification")


def _batches(train: Batch, bounds: list[tuple[int, int]], seed: int) -> Iterator[Step]:
    epoch = 0
    while True:
        epoch += 1
        order = epoch_order(seed, epoch, len(train)).to(train.inputs.device).long()
        for start, end in bounds:
            rows = order[start:end]
            yield Step(train.inputs[rows], train.targets[rows])


class OneByOne:
    """Trains copies of a module at several rates, one after another, all with the same random draws."""

    def __init__(self, module: nn.Module, build: Build, loss: LossFunction, rates: Tensor, seed: int) -> None:
        self._modules = [copy.deepcopy(module).train() for _ in rates]
        self._optimizers = [build(own) for own in self._modules]
        for optimizer, rate in zip(self._optimizers, rates.tolist(), strict=True):
            _set_rate(optimizer, rate)
        self._loss, self._seed, self._taken = loss, seed, 0
        self._losses: list[Tensor] = []

    def take(self, step: Step) -> None:
        """Train every copy on one batch."""
        for module, optimizer in zip(self._modules, self._optimizers, strict=True):
            torch.manual_seed(derive_seed(self._seed, "draws", self._taken))
            optimizer.zero_grad()
            assert isinstance(step.inputs, Tensor)
            assert isinstance(step.targets, Tensor)
            loss = self._loss(module(step.inputs), step.targets)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            self._losses.append(loss.detach().reshape(()))
        self._taken += 1

    def losses(self) -> Tensor:
        """Wait, and return the losses (steps since the last call, members)."""
        gathered, self._losses = self._losses, []
        return torch.stack(gathered).view(-1, len(self._modules)).cpu()

    def close(self) -> None:
        """Nothing is held."""


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give the group of the highest rate this one, and the others their share of it."""
    highest = max(float(group["lr"]) for group in optimizer.param_groups)
    for group in optimizer.param_groups:
        group["lr"] = rate * (float(group["lr"]) / highest if highest > 0 else 1.0)
