"""The battery: convergence, witnesses, members, saving, dtypes, groups, missing gradients, allocation, bad values."""

import copy
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.optim import Optimizer, build_optimizer, load_optimizer_tensors, optimizer_tensors, rules, sgd
from caviar.optim.rules import Rule
from caviar.optim.settings import SGDSettings
from tests.optim.rule_cases import CASES, Case

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
SHAPES = [(3, 4), (5, 3), (2, 3, 2, 2)]


@pytest.fixture
def _doubles() -> Iterator[None]:
    """Torch's NAdam keeps its product of momenta in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def parameters(case: Case, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [s for s in SHAPES if len(s) == 2] if case.name == "muon" else [*SHAPES, (4,), ()]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def give_gradients(params: list[Tensor], step: int, skip: frozenset[int] = frozenset()) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for index, parameter in enumerate(params):
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        gradient = (noise + 0.3 * parameter.detach().double()).to(parameter.dtype)
        parameter.grad = None if index in skip else gradient


def run(optimizer: torch.optim.Optimizer, params: list[Tensor], steps: range) -> None:
    for step in steps:
        give_gradients(params, step)
        optimizer.step()


def distance(ours: list[Tensor], theirs: list[Tensor]) -> float:
    gaps = (
        (a.double() - b.double()).detach().norm() / b.double().detach().norm()
        for a, b in zip(ours, theirs, strict=True)
    )
    return max(float(gap) for gap in gaps)


@every_case
@pytest.mark.usefixtures("_doubles")
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-5), (torch.bfloat16, 0.15)], ids=str
)
def test_fifty_steps_equal_torch(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    if case.witness is None:
        pytest.skip("torch has none; tests/reference has the formula")
    ours, theirs = parameters(case, dtype), parameters(case, dtype)
    rule = case.rule(dtype=torch.bfloat16) if case.name == "muon" else case.rule()  # torch's Muon multiplies in bf16
    run(Optimizer(ours, rule), ours, range(50))
    run(case.witness(theirs), theirs, range(50))
    assert distance(ours, theirs) < (0.02 if case.name == "muon" and dtype != torch.bfloat16 else tolerance)


@every_case
def test_a_quadratic_is_minimised(case: Case) -> None:
    generator = torch.Generator().manual_seed(3)
    scales = torch.tensor([1.0, 3.0, 10.0]).double()
    target = torch.randn(3, 3, generator=generator).double()
    weight = torch.zeros(3, 3).double().requires_grad_()
    no_decay = {} if case.name.startswith("lookahead") else {"weight_decay": 0.0}
    optimizer = Optimizer([weight], case.rule(learning_rate=case.quadratic, **no_decay))
    for step in range(800):
        optimizer.param_groups[0]["lr"] = case.quadratic * (1 - step / 800)
        optimizer.zero_grad()
        (scales * (weight - target) ** 2).sum().div(2).backward()
        optimizer.step()
    assert float((weight - target).abs().max().detach()) < 1e-2


@every_case
def test_rosenbrocks_valley_is_descended(case: Case) -> None:
    point = torch.tensor([[-1.2, 1.0]]).double().requires_grad_()
    no_decay = {} if case.name.startswith("lookahead") else {"weight_decay": 0.0}
    optimizer = Optimizer([point], case.rule(learning_rate=case.rosenbrock, **no_decay))
    height = torch.tensor(0.0)
    for step in range(case.steps):
        optimizer.param_groups[0]["lr"] = case.rosenbrock * (1 - step / case.steps)
        optimizer.zero_grad()
        x, y = point[0]
        height = (1 - x) ** 2 + 100 * (y - x**2) ** 2
        height.backward()
        optimizer.step()
    assert float(height.detach()) < 0.5  # from 24.2; the valley's floor is long and flat


def member_values(case: Case) -> Iterator[dict[str, Any]]:
    """Each argument alone as [members], then all together; members 0 and 2 have the case's value, 1 the other one."""
    plain = case.rule().hyperparameters
    names = {"learning_rate": "lr", "decay": "alpha", "alpha": "slow_step"}

    def stacked(first: Any, second: Any) -> Any:
        if isinstance(first, tuple):
            return tuple(stacked(a, b) for a, b in zip(first, second, strict=True))
        return torch.tensor([first, second, first], dtype=torch.float64)

    values = {name: stacked(plain[names.get(name, name)], other) for name, other in case.members.items()}
    yield from ({name: value} for name, value in values.items())
    yield values


def one_member(value: Any, member: int) -> Any:
    if isinstance(value, tuple):
        return tuple(one_member(entry, member) for entry in value)
    return float(value[member])


@every_case
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-5), (torch.bfloat16, 0.15)], ids=str
)
def test_members_equal_separate_runs(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    for values in member_values(case):
        params = [parameters(case, dtype, seed) for seed in range(3)]
        stack = [torch.stack([p.detach() for p in each]).requires_grad_() for each in zip(*params, strict=True)]
        optimizer = Optimizer(stack, case.rule(**values))
        alone = [
            Optimizer(params[member], case.rule(**{name: one_member(value, member) for name, value in values.items()}))
            for member in range(3)
        ]
        for step in range(12):
            for member in range(3):
                give_gradients(params[member], step + 100 * member)
            for index, parameter in enumerate(stack):
                parameter.grad = torch.stack([params[member][index].grad for member in range(3)])  # type: ignore[misc]
            for each in (optimizer, *alone):
                each.step()
        for member in range(3):
            assert distance([parameter[member] for parameter in stack], params[member]) < tolerance, values


@every_case
def test_a_member_that_diverges_leaves_the_others_byte_identical(case: Case) -> None:
    values = list(member_values(case))[-1]
    results = []
    for spoilt in (False, True):
        stack = [torch.stack([p.detach()] * 3).requires_grad_() for p in parameters(case)]
        optimizer = Optimizer(stack, case.rule(**values))
        for step in range(6):
            give_gradients(stack, step)
            for parameter in stack:
                gradient = parameter.grad
                assert gradient is not None
                gradient[1] = torch.nan if spoilt and step > 1 else gradient[1]
            optimizer.step()
        results.append([parameter.detach()[[0, 2]] for parameter in stack])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def through_file(optimizer: Optimizer, folder: Path) -> tuple[dict[str, Tensor], Any]:
    tensors, data = optimizer_tensors(optimizer)
    save_file(tensors, folder / "state.safetensors")
    return load_file(folder / "state.safetensors"), json.loads(json.dumps(data, allow_nan=False))


@every_case
@pytest.mark.parametrize("form", ["numbers", "members"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_save_load_go_on_is_never_having_stopped(case: Case, form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    def fresh() -> tuple[list[Tensor], Optimizer]:
        params = parameters(case, dtype)
        if form == "members":
            params = [torch.stack([p.detach()] * 3).requires_grad_() for p in params]
        values = list(member_values(case))[-1] if form == "members" else {}
        return params, Optimizer(params, case.rule(**values))

    params, optimizer = fresh()
    run(optimizer, params, range(7))
    tensors, data = through_file(optimizer, tmp_path)
    resumed_params, resumed = fresh()
    for parameter, value in zip(resumed_params, params, strict=True):
        parameter.data.copy_(value.detach())
    load_optimizer_tensors(resumed, tensors, data)
    by_torch_params, by_torch = fresh()
    for parameter, value in zip(by_torch_params, params, strict=True):
        parameter.data.copy_(value.detach())
    by_torch.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, own in ((optimizer, params), (resumed, resumed_params), (by_torch, by_torch_params)):
        run(each, own, range(7, 20))
    for other in (resumed_params, by_torch_params):
        assert all(torch.equal(a, b) for a, b in zip(params, other, strict=True))
    first, second = optimizer_tensors(optimizer)[0], optimizer_tensors(resumed)[0]
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@every_case
def test_parameters_without_gradients_are_skipped(case: Case) -> None:
    """Each parameter alone must go its own way, whatever the others get: steps count for each by itself."""
    skips = [frozenset({0}), frozenset[int](), frozenset({1}), frozenset({0, 1}), *[frozenset[int]()] * 4]
    params = parameters(case)
    together = Optimizer(params, case.rule())
    for step, skip in enumerate(skips):
        give_gradients(params, step, skip)
        together.step()
    for index in range(len(params)):
        single_params = parameters(case)
        single = Optimizer([single_params[index]], case.rule())
        for step, skip in enumerate(skips):
            give_gradients(single_params, step, skip)
            single.step()
        torch.testing.assert_close(single_params[index], params[index], rtol=1e-12, atol=0)


@every_case
def test_groups_have_values_and_rules_of_their_own(case: Case) -> None:
    first, second, third = (parameters(case, seed=seed) for seed in range(3))
    groups = [
        {"params": first},
        {"params": second, "lr": 0.007},
        {"params": third, "rule": rules.sgd_rule(0.01, 0.5), "lr": 0.02},
    ]
    optimizer = Optimizer(groups, case.rule())
    assert set(optimizer.param_groups[2]) - {"params"} == {"lr", "momentum", "weight_decay"}
    run(optimizer, [*first, *second, *third], range(10))
    again = [parameters(case, seed=seed) for seed in range(3)]
    whole = [*again[0], *again[1], *again[2]]
    singles = [
        Optimizer(again[0], case.rule()), Optimizer(again[1], case.rule(learning_rate=0.007)),
        Optimizer(again[2], rules.sgd_rule(0.02, 0.5)),
    ]  # fmt: skip
    for step in range(10):
        give_gradients(whole, step)
        for single in singles:
            single.step()
    assert distance([*first, *second, *third], whole) < 1e-12


def largest_allocation(profile: torch.profiler.profile) -> int:
    return max((event.self_cpu_memory_usage for event in profile.events()), default=0)


def test_the_witness_sees_an_allocation() -> None:
    parameter = torch.randn(40, 50)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        parameter.sqrt()
    assert largest_allocation(profile) >= parameter.numel() * 4


@every_case
@pytest.mark.parametrize("form", ["numbers", "members"])
def test_a_step_allocates_nothing_of_a_parameters_size(case: Case, form: str) -> None:
    params = [torch.randn(3, 40, 50, requires_grad=True) for _ in range(4)]
    values = list(member_values(case))[-1] if form == "members" else {}
    optimizer = Optimizer(params, case.rule(**values))
    if case.name == "muon":
        pytest.skip("the Newton-Schulz iteration works in temporary matrices")
    run(optimizer, params, range(10))
    addresses = [slot.data_ptr() for state in optimizer.state.values() for slot in state.values() if slot.dim() > 1]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        optimizer.step()
    assert largest_allocation(profile) < params[0].numel() * 4 / 10
    after = [slot.data_ptr() for state in optimizer.state.values() for slot in state.values() if slot.dim() > 1]
    assert addresses == after


@every_case
def test_gradients_are_only_read(case: Case) -> None:
    params = parameters(case)
    optimizer = Optimizer(params, case.rule())
    for step in range(8):
        give_gradients(params, step)
        before = [parameter.grad.clone() for parameter in params if parameter.grad is not None]
        optimizer.step()
        assert all(torch.equal(a, p.grad) for a, p in zip(before, params, strict=True) if p.grad is not None)


@every_case
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("learning_rate", -0.1, "learning_rate must be at least 0, but -0.1 arrived"),
        ("learning_rate", float("nan"), "learning_rate must be at least 0, but nan arrived"),
        ("learning_rate", "fast", "learning_rate is 'fast'"),
        ("learning_rate", torch.tensor([0.1, -1.0]), "-1 arrived for member 1"),
        ("learning_rate", True, "learning_rate is True"),
        ("momentum", 1.0, "momentum must be at least 0 and below 1, but 1 arrived"),
        ("betas", (0.9, 1.0), r"betas\[1\] must be at least 0 and below 1, but 1 arrived"),
        ("betas", (-0.1, 0.9), r"betas\[0\] must be"),
        ("betas", 0.9, "betas is 0.9; it must be a pair"),
        ("betas", (0.9, 0.9, 0.9), "must be a pair"),
        ("decay", 1.0, "decay must be at least 0 and below 1"),
        ("eps", -1e-8, "eps must be at least 0"),
        ("weight_decay", -1.0, "weight_decay must be at least 0"),
        ("alpha", 0.0, "alpha must be greater than 0 and at most 1"),
        ("momentum_decay", -1.0, "momentum_decay must be"),
    ],
)
def test_bad_values_are_refused_by_name(case: Case, name: str, value: Any, words: str) -> None:
    if name not in {"learning_rate", *case.arguments, *case.members}:
        pytest.skip(f"{case.name} has no {name}")
    if name == "momentum" and case.name == "lookahead-sgd":
        pytest.skip("the same check as in momentum")
    with pytest.raises(InputError, match=words):
        case.rule(**{name: value})


def test_torchs_interface_is_kept() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = Optimizer(net[0].parameters(), rules.adamw_rule(0.01))
    optimizer.add_param_group({"params": net[1].parameters(), "lr": 0.02})
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.02]
    inputs = torch.ones(2, 3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = net(inputs).square().sum()
        loss.backward()
        return loss

    first, second = optimizer.step(closure), optimizer.step(closure)
    assert float(second.detach()) < float(first.detach())
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step(closure)
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.005, 0.01]
    twin = copy.deepcopy(optimizer)
    assert twin.rule_name == "adamw"
    twin_params = [p for group in twin.param_groups for p in group["params"]]
    originals = [p for group in optimizer.param_groups for p in group["params"]]
    for ours, theirs in itertools.product([originals], [twin_params]):
        for step in range(3):
            give_gradients(ours, step)
            give_gradients(theirs, step)
            optimizer.step()
            twin.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_frozen_net_steps_without_harm() -> None:
    parameter = torch.ones(2, requires_grad=True)
    optimizer = Optimizer([parameter], rules.adam_rule())
    optimizer.step()
    assert not optimizer.state
    assert torch.equal(parameter.detach(), torch.ones(2))


def test_sparse_gradients_are_refused_in_words() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    optimizer = Optimizer(table.parameters(), rules.adam_rule())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match="sparse=False"):
        optimizer.step()


@pytest.mark.parametrize(
    ("params", "rule", "members", "words"),
    [
        ([torch.zeros(4, 2)], rules.sgd_rule(torch.tensor([0.1, 0.2])), None, r"shape \(4, 2\).*2 members"),
        ([torch.zeros(())], rules.sgd_rule(torch.tensor([0.1, 0.2])), None, "2 members"),
        ([torch.zeros(2, 2)], rules.sgd_rule(torch.tensor([0.1, 0.2])), 3, "members is 3.*2 values"),
        ([torch.zeros(2, 2)], rules.muon_rule(), 2, "behind that of members"),
        ([torch.zeros(2)], rules.muon_rule(), None, "Muon is for weights"),
        ([torch.zeros(2, dtype=torch.complex64)], rules.sgd_rule(), None, "complex64"),
        (
            [torch.zeros(2, 2)],
            rules.sgd_rule(torch.tensor([0.1, 0.2]), torch.tensor([0.1, 0.2, 0.3])),
            None,
            "differ in their number of members",
        ),
    ],
)
def test_parameters_that_do_not_fit_are_refused(
    params: list[Tensor], rule: Rule, members: int | None, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        Optimizer([p.requires_grad_() for p in params], rule, members=members)


def test_channels_last_weights_keep_their_layout_and_values() -> None:
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        weight = torch.randn(4, 3, 3, 3).contiguous(memory_format=layout).requires_grad_()
        optimizer = Optimizer([weight], rules.adamw_rule(0.1))
        for step in range(5):
            give_gradients([weight], step)
            optimizer.step()
        assert weight.is_contiguous(memory_format=layout)
        assert optimizer.state[weight]["exp_avg"].stride() == weight.stride()
        results.append(weight.detach())
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-7)


def test_nesterov_needs_momentum() -> None:
    for more in ({}, {"rate_in_velocity": True}):
        with pytest.raises(InputError, match="nesterov looks ahead along the momentum, but momentum is 0"):
            sgd([torch.nn.Parameter(torch.zeros(1))], 0.1, nesterov=True, **more)
    with pytest.raises(InputError, match=r"optimizer\.nesterov looks ahead"):
        build_optimizer(SGDSettings(learning_rate=0.1, momentum=0.0, nesterov=True), torch.nn.Linear(1, 1))
