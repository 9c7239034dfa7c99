"""Members as one stack of tensors: one forward, one backward and one update for all of them."""

import contextlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from caviar.core.members import over_members
from caviar.core.seeds import set_generator
from caviar.nn import add_penalty_gradients, limit_norms, regularised_weights
from caviar.optim import parameter_groups, set_learning_rate, set_momentum
from caviar.optim.build_rule import rule_of
from caviar.optim.optimizer import Optimizer
from caviar.optim.plain import plain
from caviar.optim.settings import MuonSettings
from caviar.population.average import average_of, state_of
from caviar.population.cohort import Blocks, Cohort, Step, Task
from caviar.population.layers import Context, NotLoweredError
from caviar.population.lower import Lowered, canonical_names, lower
from caviar.population.modules import make_member, own_draws
from caviar.population.objective import members_loss
from caviar.population.rules import check_first_order, load_optimizer_state, optimizer_state, rule_values
from caviar.population.singles import under
from caviar.population.views import Shared, member_of, slice_of, stack_of

AGREEMENT = 1e-3
"""Largest difference of outputs, relative to their size, between a stacked form and its module before it is used."""


def build_stacked(cohort: Cohort, example: Shared) -> "Stacked | str":
    """Return the executor of a cohort, or in words why its members cannot be stacked.

    example: a batch of inputs, for a trial of the stacked form against the first member's module.
    """
    check_first_order(cohort.optimizer)
    if isinstance(cohort.optimizer, MuonSettings):
        return "muon tells hidden weights from others by the module"
    lowered = lower(cohort.template)
    if isinstance(lowered, str):
        return lowered
    try:
        return _compared(cohort, lowered, example)
    except NotLoweredError as reason:
        return str(reason)
    except Exception as error:  # whatever a layer of the user's own may do
        words = f"{type(error).__name__}: {error}".splitlines()[0]
        return f"the stacked form fails ({words[:200]})"


def _compared(cohort: Cohort, lowered: Lowered, example: Shared) -> "Stacked | str":
    """Run the stacked form of two members in both modes, and the plain one of the first: they must agree.

    In training mode the gradients must agree too: a graph does not show all that a forward says of them.
    """
    few = cohort.slice(0, min(2, len(cohort)))
    for training in (False, True):
        tensors = {name: few.weights[name].clone() for name in dict.fromkeys(lowered.names.values())}
        trained = [name for name, parameter in few.template.named_parameters() if parameter.requires_grad]
        own = [tensors[name].requires_grad_(training) for name in trained]
        draws = [torch.Generator() for _ in range(len(few))]
        context = Context(tensors, draws, few.value("dropout", None), training)
        module = make_member(few.template, few.weights, 0).train(training)
        rate = few.value("dropout", None)
        own_draws(module, torch.Generator(), None if rate is None else float(rate[0]))
        with torch.set_grad_enabled(training):
            given = member_of(example, 0).clone()
            expected = module(given)
            if not torch.equal(given, member_of(example, 0)):
                return "its forward changes its inputs"
            found = lowered(slice_of(example, 0, len(few)), context)[0]
        if found.shape != expected.shape:
            return f"its stacked form gives outputs of shape {tuple(found.shape)}, the module {tuple(expected.shape)}"
        scale = expected.abs().max().clamp_min(1e-6)
        if not bool(((found - expected).abs().max() <= AGREEMENT * scale) | ~torch.isfinite(expected).all()):
            return "its stacked form gives other outputs than the module"
        if training:
            plain_ones = [parameter for parameter in module.parameters() if parameter.requires_grad]
            pairs = zip(_gradients(found, own), _gradients(expected, plain_ones), strict=True)
            if not _agree([(a[0] if a.dim() > b.dim() else a, b) for a, b in pairs]):
                return "its stacked form gives other gradients than the module"
    return Stacked(cohort, lowered)


def _gradients(outputs: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients of a weighted sum of outputs; 0 where there is none."""
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype, device=outputs.device).view(outputs.shape)
    found = torch.autograd.grad((outputs * weights).sum(), parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]


def _agree(pairs: list[tuple[Tensor, Tensor]]) -> bool:
    """Whether gradients are alike; next to the largest, what is left of one that is truly 0 is nothing."""
    largest = max((float(expected.norm()) for _, expected in pairs), default=0.0)
    return all(
        float((found - expected).norm()) <= AGREEMENT * max(float(expected.norm()), AGREEMENT * largest)
        or not bool(torch.isfinite(expected).all())
        for found, expected in pairs
    )


class Stacked:
    """Trains the members of a cohort as one stack, through autograd and caviar's optimiser over [members] tensors."""

    kind = "stacked"
    draws_globally = False

    def __init__(self, cohort: Cohort, lowered: Lowered) -> None:
        self.num_members = len(cohort)
        self._cohort, self._lowered = cohort.without_numbers(), lowered
        template = dict(cohort.template.named_parameters())
        self._tensors: dict[str, Tensor] = {}
        for name in dict.fromkeys(lowered.names.values()):
            stack = cohort.weights[name].clone()
            trained = name in template and template[name].requires_grad
            self._tensors[name] = nn.Parameter(stack) if trained else stack
        self._parameters = {n: t for n, t in self._tensors.items() if isinstance(t, nn.Parameter)}
        self._names = {parameter: name for name, parameter in self._parameters.items()}
        self._context = Context(self._tensors, cohort.draws, cohort.value("dropout", None))
        self._loss = members_loss(cohort)
        self._optimizer = self._build_optimizer()
        self._average = average_of(cohort, lambda: {n: self._tensors[first] for n, first in lowered.names.items()})
        self._losses: list[Tensor] = []

    def _build_optimizer(self) -> Optimizer:
        cohort = self._cohort
        values = rule_values(cohort)
        decay = values.pop("weight_decay", getattr(cohort.optimizer, "weight_decay", 0.0))
        template_names = {parameter: name for name, parameter in cohort.template.named_parameters()}
        groups = parameter_groups(cohort.template, 1.0 if isinstance(decay, Tensor) else decay)
        for group in groups:
            group["params"] = [self._parameters[template_names[p]] for p in group["params"]]
            if isinstance(decay, Tensor):
                group["weight_decay"] = decay if group["weight_decay"] else 0.0
        optimizer: Optimizer = plain(Optimizer)(groups, rule_of(cohort.optimizer, values), members=self.num_members)  # type: ignore[arg-type]
        return optimizer

    @cached_property
    def _penalised(self) -> list[Tensor]:
        names = {parameter: name for name, parameter in self._cohort.template.named_parameters()}
        return [self._parameters[names[weight]] for weight in regularised_weights(self._cohort.template)]

    def step(self, step: Step) -> None:
        idle = None if step.weights is None else _idle(step.weights)
        before = None if idle is None else {name: tensor[idle] for name, tensor in self._live_state().items()}
        if step.learning_rate is not None:
            set_learning_rate(self._optimizer, step.learning_rate)
        if step.momentum is not None:
            set_momentum(self._optimizer, step.momentum)
        for parameter in self._parameters.values():
            parameter.grad = None
        self._context.training, self._context.weights = True, step.weights
        with self._casting(step.inputs.device):
            losses = self._loss(self._lowered(step.inputs, self._context), stack_of(step.targets), step.weights)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self._update()
        self._losses.append(losses.detach())
        if idle is not None and before is not None:
            self._put_back(idle, before)
        if step.average is not None and self._average is not None:
            self._average.take(step.average)

    def _update(self) -> None:
        cohort = self._cohort
        l1 = cohort.value("l1", cohort.regularization.l1)
        l2 = cohort.value("l2", cohort.regularization.l2)
        if _is_on(l1) or _is_on(l2):
            add_penalty_gradients(self._penalised, l1, l2)
        clip = cohort.value("clip_norm", cohort.clip_norm)
        if clip is not None:
            clip_members(list(self._parameters.values()), clip)
        self._optimizer.step()
        most = cohort.value("max_norm", cohort.regularization.max_norm)
        if most != "none" if isinstance(most, str) else True:
            limit = most if isinstance(most, Tensor) else torch.full((self.num_members,), float(most))
            limit_norms(self._penalised, limit)

    def losses(self) -> Tensor:
        gathered, self._losses = self._losses, []
        return torch.stack(gathered).cpu() if gathered else torch.zeros(0, self.num_members)

    @torch.no_grad()
    def outputs(self, inputs: Shared) -> Tensor:
        self._context.training, self._context.weights = False, None
        with self._casting(inputs.device):
            return self._lowered(inputs, self._context).float()

    def _casting(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        if self._cohort.autocast:
            return torch.autocast(device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def visit(self, task: Task) -> None:
        task(self, 0)

    def live(self) -> Blocks:
        yield 0, {name: self._tensors[first].detach() for name, first in self._lowered.names.items()}

    def state(self) -> dict[str, Tensor]:
        found = {name: tensor.detach().clone() for name, tensor in self._live_state().items()}
        draws = torch.stack([generator.get_state() for generator in self._cohort.draws])
        return {**found, **state_of(self._average), "draws": draws}

    def _live_state(self) -> dict[str, Tensor]:
        """Weights, buffers and what the rule remembers, every tensor with members in front; not copies."""
        names = self._lowered.names
        found = {f"model/{name}": self._tensors[first].detach() for name, first in names.items()}
        for name, tensor in optimizer_state(self._optimizer, self._names).items():
            found[f"optimizer/{name}"] = tensor if tensor.dim() else tensor.expand(self.num_members)
        return found

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in under(state, "model/").items():
            if name in self._tensors:  # a tied weight has several names, and counts by the first
                self._tensors[name].copy_(tensor)
        remembered = {name: _common(tensor) for name, tensor in under(state, "optimizer/").items()}
        load_optimizer_state(self._optimizer, self._names, remembered)
        if self._average is not None:
            self._average.load(state)
        for generator, draws in zip(self._cohort.draws, state["draws"], strict=True):
            set_generator(generator, draws)

    @torch.no_grad()
    def _put_back(self, idle: Tensor, before: Mapping[str, Tensor]) -> None:
        """Undo the step for members without a single example in the batch."""
        now = self.state()
        for name, tensor in now.items():
            if name in before:
                tensor[idle] = before[name].to(tensor)
            elif name != "draws" and not name.startswith("average/"):
                tensor[idle] = 0
        self.load(now)

    def close(self) -> None:
        """Nothing is held."""


def _idle(weights: Tensor) -> Tensor | None:
    """Return which members' weights are all 0, or None when no member's are."""
    idle = weights.sum(dim=1) == 0
    return idle.nonzero().flatten() if bool(idle.any()) else None


def _common(tensor: Tensor) -> Tensor:
    """A count that is equal for all members is one number."""
    return tensor[0] if tensor.dim() == 1 and bool((tensor == tensor[0]).all()) else tensor


def _is_on(strength: Any) -> bool:
    return isinstance(strength, Tensor) or strength != 0


@torch.no_grad()
def clip_members(parameters: list[nn.Parameter], max_norm: float | Tensor) -> None:
    """Scale each member's gradients by min(1, max_norm / (norm + 1e-6)), the norm taken over all of its parameters."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    squares = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients])
    norms = torch.linalg.vector_norm(squares, dim=0)
    limit = max_norm.to(norms) if isinstance(max_norm, Tensor) else max_norm
    factors = (limit / (norms + 1e-6)).clamp_max(1.0)
    for gradient in gradients:
        gradient.mul_(torch.as_tensor(over_members(factors, gradient)))


__all__ = ["AGREEMENT", "Stacked", "build_stacked", "canonical_names", "clip_members"]
