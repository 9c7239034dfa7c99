"""The contract of the population engine, checked on every layer, update rule and executor.

1. The same run twice is the same to the byte; so is a run that was stopped and resumed.
2. A member does not depend on how many or which members stand beside it: difference 0 within an executor.
3. One step of the population equals one ordinary PyTorch step of each member from equal state: relative L2 of every
   weight and buffer at most 1e-6 in float32, 1e-13 in float64.
And a negative control: one weight of one member changed by 0.1% must fail each of them.

The ordinary step is written out with torch.nn and, where torch has the rule, torch.optim.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from caviar.core.jsonable import jsonable
from caviar.optim import build_optimizer
from caviar.optim.settings import OPTIMIZERS
from caviar.population.cases import CASES, Case, batch_of
from caviar.population.cohort import Cohort, Executor, Step
from caviar.population.executors import Layout, build_executor
from caviar.population.modules import stack_weights
from caviar.population.population import loss_settings, optimizer_settings
from caviar.population.singles import under

LIMITS: Final = {torch.float32: 1e-6, torch.float64: 1e-13}
MEMBERS = 5
STEPS = 3
LAYOUTS: Final = (
    Layout("singles", MEMBERS),
    Layout("stacked", MEMBERS),
    Layout("chain", MEMBERS),
    Layout("singles", 3, 2),
    Layout("stacked", 3, 2),
    Layout("chain", 3, 2),
)
RULES: Final = tuple(name for name in OPTIMIZERS if name not in ("lbfgs", "newton"))
TORCH_RULES: Final[dict[str, Callable[..., torch.optim.Optimizer]]] = {
    "sgd": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9),
    "adam": lambda params, lr: torch.optim.Adam(params, lr=lr),
    "adamw": lambda params, lr: torch.optim.AdamW(params, lr=lr, weight_decay=0.0),
    "adagrad": lambda params, lr: torch.optim.Adagrad(params, lr=lr),
    "rmsprop": lambda params, lr: torch.optim.RMSprop(params, lr=lr),
    "radam": lambda params, lr: torch.optim.RAdam(params, lr=lr),
}
"""Rules that torch has, called as caviar's settings have them: the independent witness.

(Not NAdam: torch keeps a product of its numbers in float32, which in float64 is seen in the tenth digit.)
"""

RULE_CASE = "three linear layers"
"""The network that every rule is tried on: its gradients are far from 0, so that no rule makes steps of rounding."""


@dataclass(frozen=True)
class Row:
    """One promise on one case. worst: the largest difference that was found; reason: why an executor cannot run it."""

    promise: str
    case: str
    executor: str
    worst: float
    limit: float
    control: float = float("inf")
    reason: str = ""

    @property
    def held(self) -> bool:
        """Whether the promise holds, and a planted change of 0.1% is seen."""
        return bool(self.reason) or (self.worst <= self.limit and self.control > self.limit)

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON-able data; infinity as a word."""
        return dict(jsonable({**asdict(self), "held": self.held}))


def verify_all(
    layouts: Sequence[Layout] = LAYOUTS, progress: Callable[[int, int, str], None] | None = None
) -> Iterator[Row]:
    """Check every promise on every case, executor and rule, and yield a row for each."""
    rules = [(_case(RULE_CASE), rule) for rule in RULES]
    work = [*((case, "sgd") for case in CASES), *rules]
    for number, (case, rule) in enumerate(work):
        if progress is not None:
            progress(number, len(work), f"{case.name}, {rule}")
        for layout in layouts:
            yield from verify_case(case, rule, layout)


def _case(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def verify_case(case: Case, rule: str, layout: Layout) -> list[Row]:
    """Check the promises on one network, rule and executor."""
    named, place = f"{case.name}, {rule}", str(layout)
    example = batch_of(case, 0, torch.float32)[0]
    built = build_executor(_cohort(case, rule, torch.float32), layout, example)
    if isinstance(built, str):
        return [Row("runs", named, place, 0.0, 0.0, reason=built)]
    built.close()
    rows = [
        Row("repeats", named, place, *_repeats(case, rule, layout)),
        Row("resumes", named, place, *_resumes(case, rule, layout)),
        Row("stands alone", named, place, *_stands_alone(case, rule, layout)),
    ]
    for dtype, limit in LIMITS.items():
        word = "float32" if dtype == torch.float32 else "float64"
        worst, control = _equals_a_plain_step(case, rule, layout, dtype)
        rows.append(Row(f"equals a plain step, {word}", named, place, worst, limit, control))
    return rows


def _repeats(case: Case, rule: str, layout: Layout) -> tuple[float, float, float]:
    first, second = (_trained(case, rule, layout) for _ in range(2))
    return _difference(first, second), 0.0, _difference(first, _trained(case, rule, layout, planted=True))


def _resumes(case: Case, rule: str, layout: Layout) -> tuple[float, float, float]:
    whole = _trained(case, rule, layout, 2 * STEPS)
    states = []
    for planted in (False, True):
        state = _trained(case, rule, layout)
        if planted:
            _plant(under(state, "model/"))
        executor = _built(_cohort(case, rule, torch.float32), layout, case)
        executor.load(state)
        _take(executor, case, range(STEPS, 2 * STEPS), torch.float32)
        states.append(executor.state())
        executor.close()
    return _difference(whole, states[0]), 0.0, _difference(whole, states[1])


def _stands_alone(case: Case, rule: str, layout: Layout) -> tuple[float, float, float]:
    """Compare members among all with the same ones among fewer, and alone."""
    whole = _trained(case, rule, layout)
    worst, control = 0.0, float("inf")
    for start, end in ((0, 1), (1, 3), (2, MEMBERS)):
        few = Layout(layout.kind, min(layout.size, end - start), 1)
        part = _trained(case, rule, few, members=range(start, end))
        expected = {name: tensor[start:end] for name, tensor in whole.items()}
        worst = max(worst, _difference(expected, part))
        changed = _trained(case, rule, few, members=range(start, end), planted=True)
        control = min(control, _difference(expected, changed))
    return worst, 0.0, control


def _equals_a_plain_step(case: Case, rule: str, layout: Layout, dtype: torch.dtype) -> tuple[float, float]:
    cohort = _cohort(case, rule, dtype)
    executor = _built(cohort, layout, case)
    _take(executor, case, range(1), dtype)
    found = under(executor.state(), "model/")
    executor.close()
    expected = _plain_steps(case, rule, dtype)
    worst = max(_relative(found[name], expected[name]) for name in expected)
    _plant(found)
    return worst, max(_relative(found[name], expected[name]) for name in expected)


def _plain_steps(case: Case, rule: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Take one step of every member as anybody would by hand, and return the weights."""
    inputs, targets = batch_of(case, 0, dtype)
    modules = _modules(case, dtype, range(MEMBERS))
    for member, module in enumerate(modules):
        settings = _rule_settings(rule).model_copy(update={"learning_rate": float(_rates()[member])})
        make = TORCH_RULES.get(rule)
        optimizer = (
            build_optimizer(settings, module) if make is None else make(module.parameters(), settings.learning_rate)
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_draws_seed(member))
            loss = functional.cross_entropy(module.train()(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return stack_weights(modules)


def _trained(
    case: Case,
    rule: str,
    layout: Layout,
    steps: int = STEPS,
    *,
    members: Sequence[int] = range(MEMBERS),
    planted: bool = False,
) -> dict[str, Tensor]:
    """Train some of the members for a few steps and return their state."""
    cohort = _cohort(case, rule, torch.float32, members)
    if planted:
        _plant(cohort.weights)
    executor = _built(cohort, layout, case)
    _take(executor, case, range(steps), torch.float32, members)
    state = executor.state()
    executor.close()
    return state


def _take(
    executor: Executor, case: Case, steps: Sequence[int], dtype: torch.dtype, members: Sequence[int] = range(MEMBERS)
) -> None:
    for number in steps:
        executor.step(Step(*batch_of(case, number, dtype), learning_rate=_rates()[list(members)]))


def _built(cohort: Cohort, layout: Layout, case: Case) -> Executor:
    dtype = next(t.dtype for t in cohort.weights.values() if t.is_floating_point())
    executor = build_executor(cohort, layout, batch_of(case, 0, dtype)[0])
    assert not isinstance(executor, str), executor
    return executor


def _cohort(case: Case, rule: str, dtype: torch.dtype, members: Sequence[int] = range(MEMBERS)) -> Cohort:
    modules = _modules(case, dtype, members)
    return Cohort(
        template=copy.deepcopy(modules[0]),
        weights=stack_weights(modules),
        optimizer=_rule_settings(rule),
        loss=loss_settings("cross_entropy"),
        draws=tuple(torch.Generator().manual_seed(_draws_seed(member)) for member in members),
        values={"learning_rate": _rates()[list(members)]},
    )


def _modules(case: Case, dtype: torch.dtype, members: Sequence[int]) -> list[nn.Module]:
    """Make members whose parameters are all away from 0: a bias that starts there would hide or blow up differences."""
    modules = []
    for member in members:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(member)
            module = case.make()
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        modules.append(module.to(dtype))
    return modules


def _rule_settings(rule: str) -> Any:
    momentum = {"momentum": 0.9} if rule == "sgd" else {}
    decay = {"weight_decay": 0.0} if rule == "adamw" else {}
    return optimizer_settings({"name": rule, "learning_rate": 0.01, **momentum, **decay})


def _rates() -> Tensor:
    return torch.linspace(0.004, 0.02, MEMBERS, dtype=torch.float64)


def _draws_seed(member: int) -> int:
    return 1000 + member


def _plant(weights: dict[str, Tensor]) -> None:
    """Change one weight of the last member by 0.1%: the largest of the first tensor."""
    tensor = next(tensor for tensor in weights.values() if tensor.is_floating_point())
    flat = tensor[-1].flatten()
    place = int(flat.abs().argmax())
    with torch.no_grad():
        tensor[-1].view(-1)[place] *= 1.001


def _difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Return the largest relative L2 difference of any tensor of two states; infinite where names or types differ."""
    if first.keys() != second.keys():
        return float("inf")
    return max(_relative(second[name], first[name]) for name in first)


def _relative(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    if torch.equal(found, expected):
        return 0.0
    norm = expected.double().norm().clamp_min(1e-300)
    return float((found.double() - expected.double()).norm() / norm)
