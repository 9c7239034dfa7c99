"""The observer that looks inside some steps of a population, at all members at once."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from caviar.core.observer import Moment
from caviar.core.records import Record
from caviar.diagnose.quantities.layout import Layout
from caviar.diagnose.quantities.machine import Clock
from caviar.diagnose.quantities.members_look import Kind, Part, Subject
from caviar.diagnose.quantities.members_signals import Memory
from caviar.diagnose.quantities.pending import Key, MembersPending
from caviar.diagnose.quantities.schedule import Schedule
from caviar.diagnose.quantities.structure import modes
from caviar.population import Cohort, Executor, Population, Step
from caviar.population.lower import lower
from caviar.population.memory import step_bytes
from caviar.population.modules import copy_template, manners, stack_weights
from caviar.population.views import member_of

LOOK_BYTES = 1 << 28
"""Activations and gradients of the members that a thread looks at together take at most so much."""

EARLY = 64
"""Up to this step looks at a power of two also measure what hardly changes."""


class MembersWatcher:
    """Measures on a schedule what goes on inside the members of a population, and never waits for them.

    A look runs the members forward and backward on the batch of the step to come, on copies of their weights and
    generators, where they are trained; and compares the weights after the step with those before it. Weights and random
    draws are as without it, bit for bit. `before_step` and `on_step` are to be called around every step, `drain` where
    the steps have been waited for (`Population.losses`).

    everything: look at the outputs of layers with weights as well. first_step: steps taken so far. numbers: trials of
    the records, by the population's trials; the same by default. looks: the steps that were looked at since somebody
    emptied the list.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        first_step: int = 0,
        everything: bool = False,
        numbers: Sequence[int] | None = None,
    ) -> None:
        self._schedule, self._everything, self._numbers = schedule, everything, numbers
        self.pending = MembersPending()
        self._clock = Clock(first_step)
        self._next = schedule.next_after(first_step)
        self._population: Population | None = None
        self._subject: Subject | None = None
        self._modes: dict[Key, float] = {}
        self._memories: dict[int, Memory] = {}
        self._parts: dict[int, Part] = {}
        self._kind: Kind | None = None
        self._step: Step | None = None
        self._num_looks = 0
        self.looks: list[int] = []

    def before_step(self, population: Population, step: Step, number: int) -> None:
        """Look at the members before the step of this number (counted from 1), if it is time."""
        pair = self._kind is not None and self._kind.follow
        full = number >= self._next
        self._kind = None
        if not (full or pair):
            return
        if population is not self._population:
            self._adopt(population, step)
        self._num_looks += full
        early = self._schedule.is_early(number)
        follow = full and not (early and self._schedule.early)
        kind = self._kind = Kind(full, pair, follow, early and number <= EARLY, number == 1, self._num_looks)
        self._step = step

        def look(executor: Executor, first: int) -> None:
            end = first + executor.num_members
            self._part(first, end).before(executor, step.slice(first, end), kind)

        population.visit(look, step)

    def on_step(self, moment: Moment) -> None:
        """After every step: finish a look."""
        kind, population, step = self._kind, self._population, self._step
        if kind is None or population is None or step is None:
            return
        population.visit(lambda executor, first: self._parts[first].after(executor, moment, self.pending), step)
        if kind.full:
            self._note_numbers(population, step, moment)
            self.looks.append(moment.step)
            self._next = self._schedule.next_after(moment.step)
        self._step = None

    def drain(self) -> list[Record]:
        """Return everything measured since the last call."""
        return self.pending.drain()

    def _part(self, first: int, end: int) -> Part:
        if first not in self._parts:
            assert self._population is not None
            assert self._subject is not None
            trials = self._trials(self._population)[first:end]
            memories = [self._memories.setdefault(trial, Memory()) for trial in trials]
            self._parts[first] = Part(self._subject, self._population.cohort.slice(first, end), trials, memories)
        return self._parts[first]

    def _adopt(self, population: Population, step: Step) -> None:
        """Take on a population whose threads have nothing to do yet, or have done everything."""
        layout = population.prepare([step])
        if (
            self._subject is None
            or self._population is None
            or self._population.cohort.template is not population.cohort.template
        ):
            most = None if layout.kind == "singles" else layout.size
            self._subject = subject_of(population.cohort, most, step, everything=self._everything)
            self._modes = modes(self._subject.layout, next(iter(self._subject.layout.names)))
        self._population, self._parts = population, {}

    def _trials(self, population: Population) -> Sequence[int]:
        numbers = self._numbers
        return population.trials if numbers is None else [numbers[trial] for trial in population.trials]

    def _note_numbers(self, population: Population, step: Step, moment: Moment) -> None:
        machine = self._clock.read(moment.step, len(step.inputs), step.inputs.device)
        numbers = hyperparameters(population.cohort, step)
        for place, trial in enumerate(self._trials(population)):
            own = {key: values[place] for key, values in numbers.items()} | self._modes
            self.pending.add_numbers(moment, trial, own | machine)
            machine = {}  # it is one machine


def subject_of(cohort: Cohort, most: int | None, step: Step, *, everything: bool) -> Subject:
    """Return what looks need of an architecture. most: members that are computed at once; None as plain modules."""
    template = copy_template(cohort.template).train()
    layout = Layout.of(template, everything=everything)
    names = {id(parameter): name for name, parameter in template.named_parameters()}
    known = manners(cohort.template, member_of(step.inputs, 0))
    lowered = None if most is None or any(known) else lower(template)
    cumulative = any(isinstance(module, _BatchNorm) and module.momentum is None for module in template.modules())
    if isinstance(lowered, str) or cumulative:
        lowered = None
    one = replace(cohort.slice(0, 1), weights=stack_weights([template]))  # the executor holds the members' own
    own = sum(tensor.nbytes for tensor in one.weights.values())
    kept = step_bytes(one, step.inputs, step.targets) + 2 * own
    chunk = min(most or 1, max(1, LOOK_BYTES // max(kept, 1)))  # less where memory was short for more
    return Subject(layout, [names[id(p)] for p in layout.parameters], lowered, chunk, known, everything)


def hyperparameters(cohort: Cohort, step: Step) -> dict[Key, Sequence[float]]:
    """Return learning rate, weight decay and momentum of each member, as far as the update rule has them."""
    betas = getattr(cohort.optimizer, "betas", None)
    momentum = getattr(cohort.optimizer, "momentum", None) if betas is None else cohort.value("beta1", betas[0])
    given = {
        "learning_rate": step.learning_rate
        if step.learning_rate is not None
        else cohort.value("learning_rate", cohort.optimizer.learning_rate),
        "weight_decay": cohort.value("weight_decay", getattr(cohort.optimizer, "weight_decay", None)),
        "momentum": step.momentum if step.momentum is not None else cohort.value("momentum", momentum),
    }
    found: dict[Key, Sequence[float]] = {}
    for name, value in given.items():
        if isinstance(value, Tensor | float | int):
            numbers = torch.as_tensor(value, dtype=torch.float64).expand(len(cohort))
            found[Key(name, split="")] = numbers.tolist()
    return found
