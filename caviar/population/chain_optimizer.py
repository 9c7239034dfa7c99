"""Every other first-order rule for a chain, penalties and clipping: over gradients that have memory of their own."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from caviar.nn import add_penalty_gradients, limit_norms
from caviar.optim import set_learning_rate, set_momentum
from caviar.optim.build_rule import rule_of
from caviar.optim.lists import Number, is_zero
from caviar.optim.optimizer import Optimizer
from caviar.optim.plain import plain
from caviar.population.chain_links import Stored
from caviar.population.chain_rule import Slot
from caviar.population.cohort import Cohort
from caviar.population.rules import load_optimizer_state, optimizer_state, rule_values
from caviar.population.stacked import clip_members


class _Part(NamedTuple):
    """What the optimiser has of a slot. cut: from a stored tensor to the part."""

    key: str
    cut: Any
    decays: bool


class Optimized:
    """caviar's optimiser over stored tensors, in parts that decay and parts that do not.

    Members that learn nothing from a batch are put back after the step, and so is what the rule counts for them.
    """

    def __init__(self, cohort: Cohort, stored: Mapping[str, Stored], slots: Mapping[str, Slot]) -> None:
        self.error_scale: Number = 1.0
        self._cohort, self._stored, self._slots = cohort.without_numbers(), stored, slots
        self._absent: Tensor | None = None
        self._l1 = cohort.value("l1", cohort.regularization.l1)
        self._l2 = cohort.value("l2", cohort.regularization.l2)
        self._clip = cohort.value("clip_norm", cohort.clip_norm)
        limit = cohort.value("max_norm", cohort.regularization.max_norm)
        self._limit = (
            None if isinstance(limit, str) else torch.as_tensor(limit, dtype=torch.float64).expand(len(cohort))
        )
        self._parts: dict[Tensor, _Part] = {}
        for key, each in stored.items():
            for part in _parts(key, each):
                weight = part.cut(slots[key].weight)
                weight.grad = part.cut(slots[key].target)
                self._parts[weight] = part
        self._optimizer = self._build()

    def _build(self) -> Optimizer:
        values = rule_values(self._cohort)
        decay = values.pop("weight_decay", getattr(self._cohort.optimizer, "weight_decay", 0.0))
        groups: list[dict[str, Any]] = [
            {"params": [weight for weight, part in self._parts.items() if part.decays], "weight_decay": decay},
            {"params": [weight for weight, part in self._parts.items() if not part.decays], "weight_decay": 0.0},
        ]
        rule = rule_of(cast(Any, self._cohort.optimizer), values)
        chosen = [group for group in groups if group["params"]]
        optimizer: Optimizer = plain(Optimizer)(chosen, rule, members=len(self._cohort))
        return optimizer

    def set(self, learning_rate: Number | None, momentum: Number | None, present: Tensor | None) -> None:
        if learning_rate is not None:
            set_learning_rate(self._optimizer, learning_rate)
        if momentum is not None:
            set_momentum(self._optimizer, momentum)
        self._absent = None if present is None else (~present).nonzero().flatten()

    def kept(self, slot: Slot) -> float:  # noqa: ARG002
        """Nothing of the last step's gradient."""
        return 0.0

    def finish(self) -> None:
        absent = self._absent
        before = None if absent is None else {name: tensor[absent] for name, tensor in self._live().items()}
        decayed = [weight for weight, part in self._parts.items() if part.decays]
        if not (is_zero(self._l1) and is_zero(self._l2)):
            add_penalty_gradients(decayed, self._l1, self._l2)
        if self._clip is not None:
            clip_members(cast(Any, list(self._parts)), self._clip)
        counts = self._optimizer.counts() if absent is not None else []
        self._optimizer.step()
        if absent is not None:
            self._optimizer.rest(absent, counts)
        if self._limit is not None:
            for key, stored in self._stored.items():
                limit_norms(stored.names(self._slots[key].weight).values(), self._limit)
        if absent is not None and before is not None:
            for name, tensor in self._live().items():
                tensor[absent] = before.get(name, 0)

    def _live(self) -> dict[str, Tensor]:
        """Return the weights and all that is remembered of them."""
        weights = {key: slot.weight for key, slot in self._slots.items()}
        remembered = optimizer_state(self._optimizer, self._names())
        return weights | {name: tensor for name, tensor in remembered.items() if tensor.dim() > 1}

    def _names(self) -> dict[Tensor, str]:
        return {weight: f"{number}" for number, weight in enumerate(self._parts)}

    def state(self) -> dict[str, dict[str, Tensor]]:
        found: dict[str, dict[str, Tensor]] = {}
        parts = list(self._parts.values())
        for name, tensor in optimizer_state(self._optimizer, self._names()).items():
            number, kind = name.split("/")
            key, cut, _ = parts[int(number)]
            if tensor.dim() <= 1:
                found.setdefault(kind, {})[key] = tensor.expand(len(self._cohort))
                continue
            whole = found.setdefault(kind, {}).setdefault(key, torch.zeros_like(self._slots[key].weight))
            cut(whole).copy_(tensor)
        return found

    def load(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        found = {}
        for number, (key, cut, _) in enumerate(self._parts.values()):
            for kind, tensors in state.items():
                tensor = tensors[key]
                found[f"{number}/{kind}"] = _common(tensor) if tensor.dim() == 1 else cut(tensor)
        load_optimizer_state(self._optimizer, self._names(), found)


def _parts(key: str, stored: Stored) -> list[_Part]:
    if stored.decays is None:
        return [_Part(key, lambda tensor: tensor, False)]
    if stored.rest is None:
        return [_Part(key, stored.decays, True)]
    return [_Part(key, stored.decays, True), _Part(key, stored.rest, False)]


def _common(count: Tensor) -> Tensor:
    """A count that is equal for all members is one number."""
    return count[0] if bool((count == count[0]).all()) else count
