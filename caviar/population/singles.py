"""Members as plain modules, trained one after another: what every other executor is measured against."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from caviar.core.errors import InputError
from caviar.core.seeds import set_generator
from caviar.nn import Regularizer, build_regularizer
from caviar.optim import build_optimizer, clip_gradients, set_learning_rate, set_momentum
from caviar.population.average import average_of, state_of
from caviar.population.cohort import Blocks, Cohort, Number, Step, Task
from caviar.population.modules import (
    Manners,
    Weights,
    load_tensors,
    make_member,
    manners,
    own_draws,
    tensors_of,
    weigh_batch_norms,
)
from caviar.population.objective import MembersLoss, member_loss
from caviar.population.rules import (
    check_first_order,
    load_optimizer_state,
    member_penalties,
    member_rule,
    optimizer_state,
)
from caviar.population.views import Shared, member_of


class Single:
    """One member: a plain module, its rule, its loss, and the ordinary training step."""

    def __init__(self, cohort: Cohort, member: int, known: Manners) -> None:
        self.module = make_member(cohort.template, cohort.weights, member)
        self.generator = cohort.draws[member]
        self.weights = Weights()
        rate = cohort.value("dropout", None)
        # A module that draws from torch's stream anyway draws all from it, in the order of an ordinary run.
        own_draws(
            self.module, None if known.draws_globally else self.generator, None if rate is None else float(rate[member])
        )
        weigh_batch_norms(self.module, self.weights)
        self.optimizer: Optimizer = build_optimizer(member_rule(cohort, member), self.module)
        self.names = {parameter: name for name, parameter in self.module.named_parameters()}
        self._parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self._loss: MembersLoss = member_loss(cohort, member)
        self._regularizer: Regularizer | None = build_regularizer(member_penalties(cohort, member), self.module)
        clip = cohort.value("clip_norm", None)
        self._clip_norm = cohort.clip_norm if clip is None else float(clip[member])
        self._autocast = cohort.autocast
        self.average = average_of(cohort, lambda: tensors_of(self.module))
        self._known = known

    def step(self, step: Step, member: int) -> Tensor:
        """Take one training step and return the loss, which nothing has read yet."""
        loss = self._step(step, member)
        if step.average is not None and self.average is not None:
            self.average.take(step.average)
        return loss

    def _step(self, step: Step, member: int) -> Tensor:
        weights = None if step.weights is None else step.weights[member]
        if step.learning_rate is not None:
            set_learning_rate(self.optimizer, _of(step.learning_rate, member))
        if step.momentum is not None:
            set_momentum(self.optimizer, _of(step.momentum, member))
        if not self.module.training:
            self.module.train()
        if weights is not None and not bool(weights.any()):
            return self._passed_over(step, weights)
        loss = self.differentiate(step, member)
        if self._regularizer is not None:
            self._regularizer.add_gradients()
        if self._clip_norm is not None:
            clip_gradients(self._parameters, self._clip_norm)
        self.optimizer.step()
        if self._regularizer is not None:
            self._regularizer.constrain()
        for parameter in self._parameters:  # only the member whose turn it is has gradients
            parameter.grad = None
        return loss

    def differentiate(self, step: Step, member: int) -> Tensor:
        """Leave the gradients of the loss with the parameters, penalties not included, and return the loss."""
        weights = self.weights.now = None if step.weights is None else step.weights[member]
        for parameter in self._parameters:
            parameter.grad = None
        with self._drawing(), self._casting(step.inputs.device):
            outputs = self.module(self._own(member_of(step.inputs, member)))
            targets = member_of(step.targets, member)
            loss = self._loss(outputs, targets, weights)
        if loss.dim():
            sizes = f"outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)}"
            raise InputError(
                f"{sizes} do not come to one loss. Give targets that it takes, or a loss of your own: loss=function."
            )
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _passed_over(self, step: Step, weights: Tensor) -> Tensor:
        return torch.zeros((), device=step.inputs.device, dtype=weights.dtype)

    @torch.no_grad()
    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the outputs in evaluation mode."""
        if self.module.training:
            self.module.eval()
        with self._casting(inputs.device):
            outputs: Tensor = self.module(self._own(inputs))
        return outputs.float()

    @contextlib.contextmanager
    def _swapped(self) -> Iterator[None]:
        """Let torch's global generator be this member's: for modules whose draws cannot be redirected."""
        outside = torch.get_rng_state()
        torch.set_rng_state(self.generator.get_state())
        try:
            yield
        finally:
            self.generator.set_state(torch.get_rng_state())
            torch.set_rng_state(outside)

    def _own(self, inputs: Tensor) -> Tensor:
        """The batch is everybody's: a module that works in place gets a copy."""
        return inputs.clone() if self._known.changes_inputs else inputs

    def _drawing(self) -> contextlib.AbstractContextManager[None]:
        return self._swapped() if self._known.draws_globally else contextlib.nullcontext()

    def _casting(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        if self._autocast:
            return torch.autocast(device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()


class Singles:
    """Trains members one after another, each as a plain loop would: works for any module."""

    kind = "singles"

    def __init__(self, cohort: Cohort, example: Shared) -> None:
        check_first_order(cohort.optimizer)
        self.num_members = len(cohort)
        known = manners(cohort.template, member_of(example, 0))
        self.draws_globally = known.draws_globally
        self._members = [Single(cohort, member, known) for member in range(len(cohort))]
        self._losses: list[Tensor] = []

    def step(self, step: Step) -> None:
        found = [single.step(step, member) for member, single in enumerate(self._members)]
        self._losses.append(torch.stack(found))  # single numbers would lie scattered among the activations' memory

    def losses(self) -> Tensor:
        gathered, self._losses = self._losses, []
        if not gathered:
            return torch.zeros(0, self.num_members)
        return torch.stack(gathered).cpu()

    def outputs(self, inputs: Shared) -> Tensor:
        found = [single.outputs(member_of(inputs, member)) for member, single in enumerate(self._members)]
        return torch.stack(found)

    def visit(self, task: Task) -> None:
        task(self, 0)

    def live(self) -> Blocks:
        for member, single in enumerate(self._members):
            yield member, {name: t.detach().unsqueeze(0) for name, t in tensors_of(single.module).items()}

    def state(self) -> dict[str, Tensor]:
        found = [_state_of(single) for single in self._members]
        return {name: torch.stack([_at(state, found, name) for state in found]) for name in _names(found)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for member, single in enumerate(self._members):
            _load_into(single, {name: tensor[member] for name, tensor in state.items()})

    def close(self) -> None:
        """Nothing is held."""


def _state_of(single: Single) -> dict[str, Tensor]:
    state = {f"model/{name}": tensor.detach() for name, tensor in tensors_of(single.module).items()}
    remembered = optimizer_state(single.optimizer, single.names)
    state |= {f"optimizer/{name}": tensor for name, tensor in remembered.items()}
    return {**state, **state_of(single.average), "draws": single.generator.get_state()}


def _names(states: list[dict[str, Tensor]]) -> list[str]:
    return list(dict.fromkeys(name for state in states for name in state))


def _at(state: dict[str, Tensor], states: list[dict[str, Tensor]], name: str) -> Tensor:
    """A member that has not taken a step yet remembers nothing: zero."""
    if name in state:
        return state[name]
    return torch.zeros_like(next(other[name] for other in states if name in other))


def _load_into(single: Single, state: Mapping[str, Tensor]) -> None:
    load_tensors(single.module, under(state, "model/"))
    load_optimizer_state(single.optimizer, single.names, under(state, "optimizer/"))
    if single.average is not None:
        single.average.load(state)
    set_generator(single.generator, state["draws"])


def under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return what stands under a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _of(number: Number, member: int) -> float:
    return float(number[member]) if isinstance(number, Tensor) and number.dim() else float(number)
