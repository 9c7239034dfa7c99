"""The one optimiser: any rule of pieces behind torch's own interface."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from caviar.core.errors import InputError
from caviar.optim.bucket import Bucket
from caviar.optim.checks import check_hyperparameters, members_of
from caviar.optim.lists import Number
from caviar.optim.rules import Rule, advance, start

STEP = "step"

Counts = list[tuple[Bucket, dict[str, Number]]]

# What torch wraps around these methods imports torch.compile's machinery, 1,000 modules, for nothing.
_add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
_state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
_load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class Optimizer(torch.optim.Optimizer):
    """Updates parameters in place by a rule, in anybody's loop: a `torch.optim.Optimizer`.

    params: tensors, (name, tensor) pairs, or parameter groups (dicts). A group may set hyperparameters of its own by
    torch's names (lr, momentum, betas, eps, weight_decay, ...), and a rule of its own under "rule".
    rule: such as `adamw_rule(learning_rate=3e-4)`.
    members: the length of a leading members axis that all parameters have, None for none; found by itself where a
    hyperparameter is a tensor of shape [members]. Rules that look at a weight as a matrix need to know (Muon).

    Parameters without a gradient are skipped, and their step does not count. State has the type of its parameter. After
    the first step nothing of a parameter's size is allocated (but within Muon's iteration). Gradients are only read.

    Raises InputError: a hyperparameter out of range, or its members do not match the parameters' first axis.
    """

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]] | Any, rule: Rule, *, members: int | None = None
    ) -> None:
        self.rule = rule
        self.members = members
        self._rules: list[Rule] = []
        self._buckets: list[list[Bucket]] = []
        super().__init__(params, dict(rule.hyperparameters))

    @property
    def rule_name(self) -> str:
        """The names of the rules in use, in order of the groups; a stored state tells its rule by it."""
        return "+".join(dict.fromkeys(rule.name for rule in self._rules))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        rule: Rule = param_group.get("rule", self.rule)
        group = {key: value for key, value in param_group.items() if key != "rule"}
        given = {*group, *rule.hyperparameters}
        check_hyperparameters({**rule.hyperparameters, **group}, rule.hyperparameters)
        _add_param_group(self, {**rule.hyperparameters, **group})
        added = self.param_groups[-1]
        for name in self.defaults.keys() - given:  # torch gives every group the defaults of the first rule
            del added[name]
        try:
            _check_params(added["params"], rule, _members(added, rule, self.members))
        except InputError:
            self.param_groups.pop()
            raise
        self._rules.append(rule)
        self._buckets.append([])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; `closure`, if given, computes the loss and its gradients first, and its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for index, group in enumerate(self.param_groups):
            for bucket, gradients in self._with_gradients(index):
                advance(self._rules[index], bucket, gradients, group)
        return loss

    def counts(self) -> "Counts":
        """Return what the rules count (steps, products of numbers), as `rest` takes it; gradients must be there."""
        for index in range(len(self.param_groups)):
            self._with_gradients(index)
        buckets = [bucket for buckets in self._buckets for bucket in buckets]
        return [(bucket, {STEP: bucket.step, **bucket.numbers}) for bucket in buckets]

    def rest(self, members: Tensor, before: "Counts") -> None:
        """Put the counts of some members, given by their numbers, back to what they were before a step."""
        for bucket, counts in before:
            now = {STEP: bucket.step, **bucket.numbers}
            for name, count in counts.items():
                mixed = torch.as_tensor(now[name], dtype=torch.float64).expand(self.members or 1).clone()
                mixed[members] = torch.as_tensor(count, dtype=torch.float64).expand(len(mixed))[members]
                if name == STEP:
                    bucket.step = mixed
                else:
                    bucket.numbers[name] = mixed

    def _with_gradients(self, index: int) -> list[tuple[Bucket, list[Tensor]]]:
        """Return the buckets of a group whose parameters have gradients, and these."""
        ready, num_ready = [], 0
        for bucket in self._buckets[index]:
            gradients = [parameter.grad for parameter in bucket.params]
            if all(gradient is not None for gradient in gradients):
                ready.append((bucket, gradients))
                num_ready += len(gradients)
        if num_ready == len(self.param_groups[index]["params"]):
            return ready  # type: ignore[return-value]
        return self._regrouped(index)

    def _regrouped(self, index: int) -> list[tuple[Bucket, list[Tensor]]]:
        """Part what no longer goes together: parameters with gradients now and without, new ones and old ones."""
        self._write_numbers()
        kept, loose = [], set(self.param_groups[index]["params"])
        for bucket in self._buckets[index]:
            num_ready = sum(parameter.grad is not None for parameter in bucket.params)
            if num_ready in (0, len(bucket.params)):
                kept.append(bucket)
                loose -= set(bucket.params)
        ready = [p for p in self.param_groups[index]["params"] if p in loose and p.grad is not None]
        idle = [p for p in self.param_groups[index]["params"] if p in loose and p.grad is None and p in self.state]
        self._buckets[index] = [*kept, *self._make_buckets(index, ready), *self._make_buckets(index, idle)]
        return [
            (bucket, [p.grad for p in bucket.params if p.grad is not None])
            for bucket in self._buckets[index]
            if bucket.params[0].grad is not None
        ]

    def _make_buckets(self, index: int, params: Sequence[Tensor]) -> list[Bucket]:
        alike: dict[Any, list[Tensor]] = {}
        for parameter in params:
            if parameter.grad is not None and parameter.grad.layout != torch.strided:
                raise InputError(
                    f"a gradient of shape {tuple(parameter.grad.shape)} is sparse, which {self._rules[index].name} "
                    "cannot use. Build the embedding with sparse=False, or use torch.optim.SGD or SparseAdam for it."
                )
            numbers = {
                k: v for k, v in self.state.get(parameter, {}).items() if v.shape != parameter.shape or k == STEP
            }
            stands = tuple((name, *value.flatten().tolist()) for name, value in sorted(numbers.items()))
            alike.setdefault((parameter.dtype, parameter.device, stands), []).append(parameter)
        return [self._make_bucket(index, together) for together in alike.values()]

    def _make_bucket(self, index: int, params: list[Tensor]) -> Bucket:
        """Return a bucket whose state goes on from what `self.state` has for its parameters, and is there from now."""
        rule = self._rules[index]
        bucket = Bucket(params, _members(self.param_groups[index], rule, self.members))
        start(rule, bucket)
        before = [dict(self.state[parameter]) for parameter in params]
        for name, slot in bucket.slots.items():
            for part, parameter, state in zip(slot.parts, params, before, strict=True):
                if name in state:
                    part.copy_(state[name])
                self.state[parameter][name] = part
        if STEP in before[0]:
            count = before[0][STEP]
            bucket.step = count.double().clone() if count.dim() else int(count)
            for name in bucket.numbers:
                value = before[0][name]
                bucket.numbers[name] = value.clone() if value.dim() else float(value)
        return bucket

    def _write_numbers(self) -> None:
        """Write what buckets hold as Python numbers into the state of each parameter."""
        for buckets in self._buckets:
            for bucket in buckets:
                numbers = {STEP: bucket.step, **bucket.numbers}
                for parameter in bucket.params:
                    for name, value in numbers.items():
                        self.state[parameter][name] = torch.as_tensor(value, dtype=torch.float64).clone()

    def state_dict(self) -> dict[str, Any]:
        self._write_numbers()
        packed: dict[str, Any] = _state_dict(self)
        return packed

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        _load_state_dict(self, dict(state_dict))
        stored = [index for group in state_dict["param_groups"] for index in group["params"]]
        params = [parameter for group in self.param_groups for parameter in group["params"]]
        for parameter, index in zip(params, stored, strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                if value.dtype == torch.float64 != parameter.dtype:  # torch has rounded it to the parameter's type
                    self.state[parameter][name] = value.detach().clone()
        self._buckets = [[] for _ in self.param_groups]

    def __getstate__(self) -> dict[str, Any]:
        self._write_numbers()
        own = {"rule": self.rule, "members": self.members, "_rules": self._rules}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._buckets = [[] for _ in self.param_groups]


def _members(group: Mapping[str, Any], rule: Rule, members: int | None) -> int | None:
    found = members_of(group, rule.hyperparameters)
    if None not in (found, members) and found != members:
        raise InputError(f"members is {members}, but a hyperparameter has {found} values. Give one for each member.")
    return members if found is None else found


def _check_params(params: Sequence[Tensor], rule: Rule, members: int | None) -> None:
    for parameter in params:
        shape = tuple(parameter.shape)
        if not parameter.is_floating_point():
            raise InputError(f"a parameter of shape {shape} holds {parameter.dtype}; rules are for floating point.")
        if members is not None and (not shape or shape[0] != members):
            raise InputError(
                f"a parameter has shape {shape}, but its first axis must be that of the {members} members. "
                "Stack the members' parameters, or give single numbers as hyperparameters."
            )
        for piece in rule.pieces:
            if piece.check is not None:
                piece.check(parameter, members)
