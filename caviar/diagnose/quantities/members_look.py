"""One look at consecutive members of a population, in the thread that trains them, on copies of their weights."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from caviar.core.observer import Moment
from caviar.core.seeds import set_generator
from caviar.diagnose.quantities.inputs import read_inputs, read_scales
from caviar.diagnose.quantities.layout import Layout
from caviar.diagnose.quantities.members_signals import MembersSignals, Memory
from caviar.diagnose.quantities.pending import Emit, Entry, Key, MembersPending
from caviar.diagnose.quantities.signals import Signals
from caviar.diagnose.quantities.structure import Measure, emit_as, learning, of_weights
from caviar.diagnose.quantities.updates import emit_norms, emit_pair
from caviar.population import Cohort, Executor, Step
from caviar.population.layers import Context
from caviar.population.lower import Lowered
from caviar.population.modules import Manners
from caviar.population.objective import members_loss
from caviar.population.singles import Single
from caviar.population.views import Shared, stack_of


class Kind(NamedTuple):
    """What a look is for. full: everything; pair: its gradient is compared with that of the step before.

    follow: the gradient is kept for the next step. early: with what hardly changes; first: of fresh weights. num_looks:
    full ones so far, this one included.
    """

    full: bool
    pair: bool
    follow: bool
    early: bool
    first: bool
    num_looks: int


@dataclass(frozen=True)
class Subject:
    """What all members share. layout: of a module of the architecture; names: of its parameters, in their order.

    lowered: the stacked form of that module, None where members are looked at as plain modules. chunk: members looked
    at together. known: how modules behave. everything: as in `Layout.of`.
    """

    layout: Layout
    names: Sequence[str]
    lowered: Lowered | None
    chunk: int
    known: Manners
    everything: bool


class Part:
    """Looks at some members: `before` a step, on copies of their weights and generators, and `after` it.

    Nothing of the members is written to, and none of their random numbers is drawn. Memory: one copy of the weights,
    the gradients of `chunk` members, and those of all from a look to the step after it.
    """

    def __init__(self, subject: Subject, cohort: Cohort, trials: Sequence[int], memories: Sequence[Memory]) -> None:
        self._subject, self._cohort, self._trials, self._memories = subject, cohort, trials, memories
        self._all = slice(0, len(trials))
        self._old: dict[str, Tensor] = {}
        self._shown: Sequence[int | None] = trials
        self._entries: list[Entry] = []
        self._norms: list[tuple[slice, list[int], Tensor]] = []
        self._gradients: list[dict[int, Tensor]] = []

    def before(self, executor: Executor, step: Step, kind: Kind) -> None:
        """Look at the members as they are, with the batch of the step that comes."""
        self._copy(executor)
        self._shown, self._entries, self._norms = self._present(step), [], []
        earlier, self._gradients = self._gradients, []
        size = 1 if self._subject.lowered is None else self._subject.chunk
        for number, first in enumerate(range(0, len(self._trials), size)):
            own = slice(first, min(first + size, len(self._trials)))
            gradients = self._differentiate(step.slice(own.start, own.stop), own, kind)
            if kind.full:
                self._norms.append((own, list(gradients), _norms(list(gradients.values()), len(self._trials[own]))))
            if kind.pair and number < len(earlier):
                self._compare(own, earlier[number], gradients, len(step.inputs))
            if kind.follow:
                self._gradients.append(gradients)
        if kind.full and kind.early:
            self._weights(first=kind.first)
            if self._subject.lowered is not None:
                self._inputs(step.inputs)

    @torch.no_grad()
    def after(self, executor: Executor, moment: Moment, pending: MembersPending) -> None:
        """Hand over what was seen, and what the step has made of the weights."""
        names, rows = self._subject.names, []
        for first, live in executor.live() if self._norms and names else ():
            new = [live[name].detach() for name in names]
            own = slice(first, first + len(new[0]))
            steps = [self._old[name][own].sub_(now) for name, now in zip(names, new, strict=True)]
            rows.append(torch.cat([_norms(new, len(new[0])), _norms(steps, len(new[0]))], dim=1))
        moved = torch.cat(rows) if rows else torch.zeros(len(self._trials), 0)
        for own, reached, norms in self._norms:
            if names:
                self.add(own, torch.cat([norms, moved[own]], dim=1), emit_norms(self._subject.layout, reached))
        pending.add(moment, self._entries)
        self._entries, self._norms = [], []

    def add(self, own: slice, values: Tensor, emit: Emit) -> None:
        """Keep numbers (members, n) of the members `own`."""
        self._entries.append(Entry(self._shown[own], values, lambda _, read: emit(read)))

    def _present(self, step: Step) -> Sequence[int | None]:
        """Return the trials, None for those that this step passes over."""
        if step.weights is None:
            return self._trials
        present = (step.weights != 0).any(dim=1).tolist()
        return [trial if here else None for trial, here in zip(self._trials, present, strict=True)]

    @torch.no_grad()
    def _copy(self, executor: Executor) -> None:
        for first, live in executor.live():
            for name, tensor in live.items():
                if name not in self._old:
                    self._old[name] = tensor.new_empty(self._cohort.weights[name].shape)
                self._old[name][first : first + len(tensor)].copy_(tensor)

    def _differentiate(self, step: Step, own: slice, kind: Kind) -> dict[int, Tensor]:
        """Run some members forward and backward; return gradients (members, ...) by the number of the parameter."""
        cohort = replace(
            self._cohort.slice(own.start, own.stop),
            weights={name: tensor[own] for name, tensor in self._old.items()},
            draws=tuple(_copied(generator) for generator in self._cohort.draws[own]),
        )
        if self._subject.lowered is None:
            return self._plain(cohort, step, own, kind)
        return self._stacked(self._subject.lowered, cohort, step, own, kind)

    def _stacked(self, lowered: Lowered, cohort: Cohort, step: Step, own: slice, kind: Kind) -> dict[int, Tensor]:
        layout, names = self._subject.layout, self._subject.names
        tensors = {name: cohort.weights[name].detach().clone() for name in dict.fromkeys(lowered.names.values())}
        for name, parameter in zip(names, layout.parameters, strict=True):
            tensors[name] = cohort.weights[name].detach().requires_grad_(parameter.requires_grad)
        signals = MembersSignals(layout, self._memories[own], kind.num_looks)
        listen = signals.listen if kind.full else None
        context = Context(tensors, cohort.draws, cohort.value("dropout", None), True, step.weights, listen)
        with torch.autocast(step.inputs.device.type, dtype=torch.bfloat16, enabled=cohort.autocast):
            outputs = lowered(step.inputs, context)
            losses = members_loss(cohort)(outputs, stack_of(step.targets), step.weights)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        if kind.full:
            for measured in signals.collect(outputs.detach(), cohort.weights, tensors, early=kind.early):
                self.add(own, *measured)
        found = {place: tensors[name].grad for place, name in enumerate(names)}
        return {place: gradient for place, gradient in found.items() if gradient is not None}

    def _plain(self, cohort: Cohort, step: Step, own: slice, kind: Kind) -> dict[int, Tensor]:
        """One member as a plain module, with the hooks of a single run."""
        single = Single(cohort, 0, self._subject.known)
        layout = Layout.of(single.module.train(), everything=self._subject.everything)
        signals = Signals(single.module, layout, self._memories[own.start].silent, kind.num_looks - 1)
        if kind.full:
            signals.attach(inside=True)
        single.differentiate(step, 0)
        if kind.full:
            signals.collect(NOWHEN, _Sink(self, own), early=kind.early)  # type: ignore[arg-type]
            signals.detach()
        found = {place: parameter.grad for place, parameter in enumerate(layout.parameters)}
        return {place: g.unsqueeze(0) for place, g in found.items() if g is not None and g.layout == torch.strided}

    @torch.no_grad()
    def _compare(self, own: slice, first: Mapping[int, Tensor], second: Mapping[int, Tensor], batch_size: int) -> None:
        if list(first) != list(second) or not first:
            return
        products = [(a * b).flatten(1).sum(dim=1) for a, b in zip(first.values(), second.values(), strict=True)]
        norms = [_norms(list(each.values()), len(self._trials[own])).norm(dim=1) for each in (first, second)]
        values = torch.stack([torch.stack(products).sum(dim=0).float(), *norms], dim=1)
        memories = dict(zip(self._trials[own], self._memories[own], strict=True))

        def emit(trial: int, read: list[float]) -> Iterable[tuple[Key, float]]:
            return emit_pair(memories[trial].noise, batch_size)(read)

        self._entries.append(Entry(self._shown[own], values, emit))

    @torch.no_grad()
    def _weights(self, *, first: bool) -> None:
        """What the weights themselves tell, and which of them learn."""
        layout, names = self._subject.layout, self._subject.names
        weights = {layer.name: self._old[names[layer.parameters[0]]] for layer in layout.layers}
        wanted = of_weights(layout, first=first)
        if wanted:
            values = [
                _each(measure, weights[key.layer], whole=key.name != "looks_fresh") for key, measure in wanted.items()
            ]
            self.add(self._all, torch.stack(values, dim=1), emit_as(list(wanted)))
        for own, reached, norms in self._norms:
            facts = learning(layout, set(reached), range(len(names)))
            self.add(own, torch.tensor([list(facts.values())]).expand(len(norms), -1), emit_as(list(facts)))

    @torch.no_grad()
    def _inputs(self, inputs: Shared) -> None:
        views = (
            [(inputs, self._all)]
            if isinstance(inputs, Tensor)
            else [(inputs.member(member), slice(member, member + 1)) for member in range(len(self._trials))]
        )
        for batch, own in views:
            read_inputs(batch, NOWHEN, _Sink(self, own))  # type: ignore[arg-type]
            read_scales(batch, NOWHEN, _Sink(self, own))  # type: ignore[arg-type]


class _Sink:
    """Takes what functions of single runs hand over, for some members."""

    def __init__(self, part: Part, own: slice) -> None:
        self._part, self._own = part, own

    def add(self, moment: Moment, values: Tensor, emit: Emit) -> None:  # noqa: ARG002
        self._part.add(self._own, values.reshape(1, -1).expand(self._own.stop - self._own.start, -1), emit)


NOWHEN = Moment(0, 0, 0, 0)
"""The moment is known after the step only."""


def _norms(tensors: Sequence[Tensor], members: int) -> Tensor:
    """Return the root of the sum of squares of each member's part of each tensor (members, ...): (members, tensors)."""
    if not tensors:
        return torch.zeros(members, 0)
    axes = [tuple(range(1, tensor.dim())) for tensor in tensors]
    norm = torch.linalg.vector_norm
    return torch.stack(
        [norm(t, dim=a, dtype=torch.float32) if a else t.float().abs() for t, a in zip(tensors, axes, strict=True)],
        dim=1,
    )


def _copied(generator: torch.Generator) -> torch.Generator:
    found = torch.Generator(generator.device)
    set_generator(found, generator.get_state())
    return found


def _each(measure: Measure, weights: Tensor, *, whole: bool) -> Tensor:
    """Measure the weight of every member; whole: in one go, which a measure that looks at single numbers cannot do."""
    measured: Tensor = torch.vmap(measure)(weights) if whole else torch.stack([measure(weight) for weight in weights])
    return measured
