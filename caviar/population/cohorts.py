"""Models of different architectures and update rules on common batches: alike ones train as one population."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.core.partition import partition
from caviar.nn.settings import LossSettings
from caviar.optim.settings import OptimizerSettings
from caviar.population.cohort import Cohort, Number
from caviar.population.modules import copy_template, stack_weights
from caviar.population.population import (
    Population,
    Source,
    check_values,
    loss_settings,
    make_module,
    member_draws,
    optimizer_settings,
)
from caviar.population.rules import RULE_VALUES
from caviar.population.structure import structure

Rule = OptimizerSettings | Mapping[str, Any] | str
STACKED = (*RULE_VALUES, "betas")
"""Settings of a rule that members of one population may differ in."""


class Cohorts:
    """Trains any models on common batches; those of one structure and update rule are one population.

        cohorts = Cohorts([small, small, large], optimizer=["sgd", "sgd", "adamw"])   # functions that make modules
        for inputs, targets in batches:
            cohorts.step(inputs, targets)
        best = cohorts.member(int(cohorts.losses()[-1].argmin()))

    Args:
        sources: for each member a module, whose weights it begins with, or a function that makes one for its seed.
            Modules are never changed.
        optimizer: a name, dict or settings for all, or a list with one for each member.
        hyperparameters, loss, seed, executor: as of `Population`. Member i draws by (seed, trial i), so it is what it
            would be in a population by itself.

    `populations` are those of the cohorts, `members` the numbers of each one's members. Raises InputError as
    `Population` does.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        hyperparameters: Mapping[str, Tensor | Sequence[float]] | None = None,
        optimizer: Rule | Sequence[Rule] = "sgd",
        loss: LossSettings | Mapping[str, Any] | str = "cross_entropy",
        seed: int = 0,
        executor: str = "auto",
    ) -> None:
        if not len(sources):
            raise InputError("there is no member: give at least one module, or function that makes one.")
        values = check_values(hyperparameters or {}, len(sources))
        rules = _rules(optimizer, len(sources))
        modules = [make_module(source, seed, trial) for trial, source in enumerate(sources)]
        keys = [(structure(module), _in_common(rule)) for module, rule in zip(modules, rules, strict=True)]
        self.members = partition(keys)
        self.populations = tuple(
            _population(members, modules, rules, values, loss_settings(loss), seed, executor)
            for members in self.members
        )

    def __len__(self) -> int:
        return sum(map(len, self.members))

    def step(
        self,
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor | None = None,
        *,
        learning_rate: Number | None = None,
        momentum: Number | None = None,
    ) -> None:
        """Train every member on one batch, as `Population.step` does; one population after another."""
        for members, population in zip(self.members, self.populations, strict=True):
            own = None if weights is None else weights[list(members)]
            rate, pace = _of(learning_rate, members), _of(momentum, members)
            population.step(inputs, targets, own, learning_rate=rate, momentum=pace)

    def losses(self) -> Tensor:
        """Wait, and return the losses (steps since the last call, members), on the CPU."""
        return self._gathered([population.losses() for population in self.populations], 1)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Wait, and return every member's outputs (members, batch, ...) in evaluation mode."""
        return self._gathered([population.outputs(inputs) for population in self.populations], 0)

    def member(self, number: int) -> nn.Module:
        """Return a plain module with the weights and buffers that a member has now; a copy."""
        cohort, place = self._home(number)
        return self.populations[cohort].member(place)

    def select(self, members: Sequence[int]) -> "Cohorts":
        """Return some members as they are now, in this order."""
        homes = [self._home(number) for number in members]
        found = Cohorts.__new__(Cohorts)
        kept = [cohort for cohort in range(len(self.populations)) if any(home[0] == cohort for home in homes)]
        found.members = tuple(tuple(i for i, home in enumerate(homes) if home[0] == cohort) for cohort in kept)
        found.populations = tuple(
            self.populations[cohort].select([home[1] for home in homes if home[0] == cohort]) for cohort in kept
        )
        return found

    def close(self) -> None:
        """End threads; training may go on, which starts them again."""
        for population in self.populations:
            population.close()

    def _home(self, number: int) -> tuple[int, int]:
        for cohort, members in enumerate(self.members):
            if number in members:
                return cohort, members.index(number)
        raise InputError(f"there is no member {number}; here are members 0 to {len(self) - 1}.")

    def _gathered(self, parts: list[Tensor], axis: int) -> Tensor:
        order = torch.tensor([number for members in self.members for number in members]).argsort()
        joined = torch.cat(parts, dim=axis)
        return joined.index_select(axis, order.to(joined.device))


def _population(
    members: tuple[int, ...],
    modules: Sequence[nn.Module],
    rules: Sequence[Any],
    values: Mapping[str, Tensor],
    loss: LossSettings,
    seed: int,
    executor: str,
) -> Population:
    index, own = torch.tensor(members), [modules[number] for number in members]
    cohort = Cohort(
        template=copy_template(own[0]),
        weights=stack_weights(own),
        optimizer=rules[members[0]],
        loss=loss,
        draws=tuple(member_draws(seed, number) for number in members),
        values=_differing([rules[number] for number in members]) | {n: value[index] for n, value in values.items()},
    )
    return Population.of(cohort, members, executor, seed)


def _rules(given: Rule | Sequence[Rule], count: int) -> list[OptimizerSettings]:
    if not isinstance(given, list | tuple):
        return [optimizer_settings(given)] * count  # type: ignore[arg-type]
    if len(given) != count:
        raise InputError(f"optimizer has {len(given)} entries for {count} members; give one for each.")
    return [optimizer_settings(each) for each in given]


def _in_common(rule: Any) -> str:
    return repr({name: value for name, value in rule.model_dump().items() if name not in STACKED})


def _differing(rules: Sequence[Any]) -> dict[str, Tensor]:
    """Return what rules of one kind differ in, as hyperparameters of members."""
    columns = {name: [getattr(rule, name) for rule in rules] for name in STACKED if hasattr(rules[0], name)}
    betas = columns.pop("betas", None)
    if betas is not None:
        columns |= {f"beta{place + 1}": [pair[place] for pair in betas] for place in range(2)}
    return {name: torch.tensor(column, dtype=torch.float64) for name, column in columns.items() if len(set(column)) > 1}


def _of(number: Number | None, members: tuple[int, ...]) -> Number | None:
    return number[list(members)] if isinstance(number, Tensor) and number.dim() else number


__all__ = ["Cohorts"]
