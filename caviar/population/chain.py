"""Members whose module is a chain of layers, trained without autograd: the fastest form there is on a CPU."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from caviar.core.seeds import set_generator
from caviar.optim.lists import Number
from caviar.optim.settings import MuonSettings
from caviar.population.chain_find import NoChainError, find_links
from caviar.population.chain_group import Common, Group
from caviar.population.chain_links import Batch, Link
from caviar.population.chain_loss import Loss, build_chain_loss
from caviar.population.chain_onednn import has_onednn, onednn_is_faster
from caviar.population.chain_products import members_empty
from caviar.population.cohort import Blocks, Cohort, Step, Task
from caviar.population.lower import canonical_names
from caviar.population.views import Shared, Views

GROUP_BYTES = 5_000_000
"""Weights and momenta of the members that a step takes together: what a core's share of the cache holds well."""

AHEAD, AHEAD_BYTES = 32, 8_000_000
"""Steps that a group takes one after another while it is in the cache, before the next group has its turn; fewer where
their batches are larger than this together.
"""


def build_chain(cohort: Cohort, example: Shared, *, onednn: bool | None = None) -> "Chain | str":
    """Return the executor of a cohort, or in words why its members cannot be trained so.

    example: a batch of inputs of the usual size. onednn: have large products done by oneDNN, see `onednn_product`; None
    for where it is faster.
    """
    if isinstance(example, Views):
        return "its members see the batch in different ways"
    if onednn is None:
        onednn = _like(cohort).dtype == torch.float32 and onednn_is_faster()
    reason = _unsuited(cohort) or (_without_onednn(cohort) if onednn else "")
    if reason:
        return reason
    try:
        links, num_outputs = find_links(cohort.template, example, cohort.value("dropout", None), onednn=onednn)
    except NoChainError as why:
        return str(why)
    tied = next(
        (f"{name} and {first}" for name, first in canonical_names(cohort.template).items() if name != first), ""
    )
    if tied:
        return f"{tied} are one tensor"
    parameters = {name for link in links for name in _parameters(link)}
    for name, parameter in cohort.template.named_parameters():
        if name not in parameters or not parameter.requires_grad:
            return f"{name} " + ("is frozen" if name in parameters else "belongs to no layer of the chain")
    loss = build_chain_loss(cohort, num_outputs, _like(cohort))
    return loss if isinstance(loss, str) else Chain(cohort, links, num_outputs, loss)


class Chain:
    """Trains members of a chain of layers by products that write where they are needed.

    A step runs group after group: as many members as fit into the cache with all that they remember, so few for large
    nets that it is one member after another. Several groups take some steps at a time, each all of them in turn.
    """

    kind = "chain"
    draws_globally = False

    def __init__(self, cohort: Cohort, links: Sequence[Link], num_outputs: int, loss: Loss) -> None:
        self.num_members = len(cohort)
        self._draws, self._num_outputs, self._loss, self._batch = cohort.draws, num_outputs, loss, Batch()
        self._present: Sequence[bool] | None = None
        one = sum(cohort.weights[name][0].nbytes for link in links for name in _parameters(link))
        size = max(1, GROUP_BYTES // (2 * one))
        common = Common(links, loss, self._batch)
        self._groups = [
            Group(cohort.slice(start, start + size), start, common) for start in range(0, len(cohort), size)
        ]
        self._log = _Log(_like(cohort), self.num_members)
        self._waiting: list[_Taken] = []

    def step(self, step: Step) -> None:
        taken = self._take(step)
        self._waiting.append(taken)
        most = min(AHEAD, AHEAD_BYTES // max(taken.inputs.nbytes, 1)) if len(self._groups) > 1 else 1
        if len(self._waiting) >= most:
            self._catch_up()

    def _take(self, step: Step) -> "_Taken":
        assert isinstance(step.inputs, Tensor)
        assert isinstance(step.targets, Tensor)
        inputs, targets, weights = step.inputs.flatten(1), step.targets, step.weights
        if len(inputs) == 1:
            inputs, targets, weights = _doubled(inputs, targets, weights, self.num_members)
        weighed = None if weights is None else weights.any(dim=1).tolist()
        present = None if weighed is None or all(weighed) else weighed
        rate, momentum = _number(step.learning_rate), _number(step.momentum)
        changes = not (rate is None and momentum is None and present == self._present)
        self._present = present
        return _Taken(inputs, targets, weights, len(step.inputs), present, changes, rate, momentum, step.average)

    def _catch_up(self) -> None:
        """Have every group take the steps that wait."""
        taken, self._waiting = self._waiting, []
        rows = self._log.rows(len(taken))
        factors: list[float] = []
        for group in self._groups:
            factors = [self._train(group, each, losses) for each, losses in zip(taken, rows, strict=True)]
        self._log.keep(factors)

    def _train(self, group: Group, taken: "_Taken", losses: Tensor) -> float:
        batch = self._batch
        batch.inputs, batch.weights, batch.size = taken.inputs, taken.weights, taken.size
        batch.present, batch.losses = taken.present, losses
        if taken.changes:
            chosen = None if taken.present is None else torch.tensor(taken.present)
            group.set(taken.learning_rate, taken.momentum, chosen)
        factor = self._loss.prepare(taken.targets, batch)
        group.step(len(taken.inputs))
        if taken.average is not None:
            group.average(taken.average)
        return factor

    def losses(self) -> Tensor:
        self._catch_up()
        return self._log.take()

    @torch.no_grad()
    def outputs(self, inputs: Shared) -> Tensor:
        self._catch_up()
        signal = (inputs.stacked() if isinstance(inputs, Views) else inputs.unsqueeze(0)).flatten(2)
        if len(inputs) == 1:
            signal = signal.expand(-1, 2, -1)
        features = signal.transpose(1, 2)
        if isinstance(inputs, Views):
            features = members_empty(features, *features.shape).copy_(features)
            found = torch.cat([group.evaluate(_of_group(features, group)) for group in self._groups])
        else:
            found = torch.cat([group.evaluate(features) for group in self._groups])
        return found[:, : self._num_outputs, : len(inputs)].transpose(1, 2).contiguous()

    def visit(self, task: Task) -> None:
        self._catch_up()
        task(self, 0)

    def live(self) -> Blocks:
        for group in self._groups:
            yield group.start, group.live()

    def state(self) -> dict[str, Tensor]:
        self._catch_up()
        parts = [group.state() for group in self._groups]
        state = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return {**state, "draws": torch.stack([generator.get_state() for generator in self._draws])}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        self._catch_up()
        for group in self._groups:
            own = slice(group.start, group.start + group.num_members)
            group.load({name: tensor[own] for name, tensor in state.items()})
        for generator, draws in zip(self._draws, state["draws"], strict=True):
            set_generator(generator, draws)

    def close(self) -> None:
        """Let go of the memory that steps work in."""
        self._catch_up()
        for group in self._groups:
            group.forget()


class _Taken(NamedTuple):
    """A step as groups take it. size: examples, without what was added to a batch of one.

    present: whether each member has any weight, or None where all have. changes: whether that or a rate has changed.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None
    size: int
    present: Sequence[bool] | None
    changes: bool
    learning_rate: Number | None
    momentum: Number | None
    average: float | None


class _Log:
    """The losses of steps that nobody has asked for yet."""

    def __init__(self, like: Tensor, num_members: int) -> None:
        self._rows = like.new_empty(256, num_members)
        self._factors: list[float] = []

    def rows(self, number: int) -> Tensor:
        """Return where the losses of the next steps go: (number, members)."""
        first = len(self._factors)
        while first + number > len(self._rows):
            self._rows = torch.cat([self._rows, torch.empty_like(self._rows)])
        return self._rows[first : first + number]

    def keep(self, factors: Sequence[float]) -> None:
        """Keep what the next steps' rows hold; factors: what they must be multiplied with."""
        self._factors += factors

    def take(self) -> Tensor:
        factors = self._rows.new_tensor(self._factors).unsqueeze(1)
        taken = self._rows[: len(self._factors)] * factors
        self._factors = []
        return taken


def _unsuited(cohort: Cohort) -> str:
    """Return what a chain cannot do for a cohort, or ""."""
    settings, like = cohort.optimizer, _like(cohort)
    if like.device.type != "cpu":
        return f"a chain works on the CPU, not on {like.device.type}"
    if any(tensor.dtype != like.dtype for tensor in cohort.weights.values() if tensor.is_floating_point()):
        return "its weights are of several number types"
    if like.dtype not in (torch.float32, torch.float64):
        return f"its weights are {like.dtype}"
    if cohort.autocast:
        return "it is to compute in bfloat16"
    if isinstance(settings, MuonSettings):
        return "muon tells hidden weights from others by the module"
    return ""


def _without_onednn(cohort: Cohort) -> str:
    if _like(cohort).dtype != torch.float32:
        return "oneDNN multiplies float32 only"
    return "" if has_onednn() else "this build of torch has no oneDNN"


def _like(cohort: Cohort) -> Tensor:
    return next(tensor for tensor in cohort.weights.values() if tensor.is_floating_point())


def _parameters(link: Link) -> list[str]:
    return [name for stored in link.stored.values() for name in stored.names(torch.empty(1, *stored.shape))]


def _number(number: Number | None) -> Number | None:
    return float(number) if isinstance(number, Tensor) and number.dim() == 0 else number


def _of_group(features: Tensor, group: Group) -> Tensor:
    return features[group.start : group.start + group.num_members]


def _doubled(
    inputs: Tensor, targets: Tensor, weights: Tensor | None, num_members: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Add an example of weight 0 to a batch of one: products with a single column round differently (see `Affine`)."""
    given = inputs.new_ones(num_members, 1) if weights is None else weights
    weights = functional.pad(given, (0, 1))
    return inputs.expand(2, -1), torch.cat([targets, targets]), weights


__all__ = ["Chain", "build_chain"]
