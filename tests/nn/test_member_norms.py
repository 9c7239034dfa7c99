import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from caviar.core.errors import InputError
from caviar.nn import MembersBatchNorm, batch_moments, members_batch_norm, members_group_norm, members_layer_norm
from caviar.nn import weighted_batch_norm as weighted

SHAPES = {"rows": (3, 8, 5), "pictures": (3, 8, 5, 4, 6)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs_of(kind: str, seed: int = 0) -> Tensor:
    return 3 + 2 * torch.randn(SHAPES[kind], generator=seeded(seed), dtype=torch.float64)


def torch_norm(kind: str, **options: Any) -> nn.BatchNorm1d | nn.BatchNorm2d:
    norm = (nn.BatchNorm1d if kind == "rows" else nn.BatchNorm2d)(5, **options).double()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2, generator=seeded(8))
        norm.bias.uniform_(-1, 1, generator=seeded(9))
    return norm


def stacked(singles: list[Any], **options: Any) -> MembersBatchNorm:
    norm = MembersBatchNorm(3, 5, **options).double()
    norm.load_state_dict({k: torch.stack([s.state_dict()[k] for s in singles]) for k in singles[0].state_dict()})
    return norm


@pytest.mark.parametrize("kind", SHAPES)
def test_members_equal_torchs_batch_norm_one_by_one(kind: str) -> None:
    singles = [torch_norm(kind) for _ in range(3)]
    norm = stacked(singles)
    for step in range(3):
        x = inputs_of(kind, step).requires_grad_()
        y = x.detach().clone().requires_grad_()
        together = norm(x)
        alone = torch.stack([single(y[i]) for i, single in enumerate(singles)])
        torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
        (grad,), (expected,) = (torch.autograd.grad(o.pow(3).sum(), i) for o, i in ((together, x), (alone, y)))
        torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-9)
    for name, value in norm.state_dict().items():
        torch.testing.assert_close(value, torch.stack([s.state_dict()[name] for s in singles]), rtol=1e-12, atol=1e-12)
    norm.eval()
    x = inputs_of(kind, 7)
    expected = torch.stack([single.eval()(x[i]) for i, single in enumerate(singles)])
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", SHAPES)
def test_momentum_and_eps_may_differ_between_members(kind: str) -> None:
    momenta, eps = (0.0, 0.1, 1.0), (1e-5, 0.5, 2.0)
    singles = [torch_norm(kind, momentum=m, eps=e) for m, e in zip(momenta, eps, strict=True)]
    numbers = [torch.tensor(v, dtype=torch.float64) for v in (momenta, eps)]
    norm = stacked(singles, momentum=numbers[0], eps=numbers[1])
    x = inputs_of(kind)
    torch.testing.assert_close(norm(x), torch.stack([s(x[i]) for i, s in enumerate(singles)]))
    torch.testing.assert_close(norm.running_var, torch.stack([s.running_var for s in singles]))


@pytest.mark.parametrize("kind", SHAPES)
def test_a_member_does_not_depend_on_its_neighbours(kind: str) -> None:
    x = inputs_of(kind).float()
    weights = torch.rand(3, 8, generator=seeded(1))
    for given in (None, weights):
        together = batch_moments(x, given)
        for order in ([0], [2, 1], [1, 0, 2]):
            some = batch_moments(x[order], None if given is None else given[order])
            assert all(torch.equal(a, b[order]) for a, b in zip(some, together, strict=True))


@pytest.mark.parametrize("kind", SHAPES)
def test_examples_of_weight_zero_have_no_influence(kind: str) -> None:
    singles = [torch_norm(kind) for _ in range(3)]
    norm = stacked(singles)
    kept = torch.rand(3, 8, generator=seeded(4)) > 0.4
    x = inputs_of(kind)
    wild = torch.where(kept.view(3, 8, *[1] * (x.dim() - 2)), x, torch.inf)
    outputs = norm(wild, kept.double())
    for i, single in enumerate(singles):
        torch.testing.assert_close(outputs[i][kept[i]], single(x[i][kept[i]]), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(norm.running_mean[i], single.running_mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(norm.running_var[i], single.running_var, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", SHAPES)
def test_equal_weights_of_any_size_are_no_weights(kind: str) -> None:
    x = inputs_of(kind)
    norms = [MembersBatchNorm(3, 5).double() for _ in range(2)]
    torch.testing.assert_close(norms[0](x), norms[1](x, torch.full((8,), 0.25)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norms[0].running_var, norms[1].running_var, rtol=1e-12, atol=0)


def test_a_member_without_any_weight_stands_still() -> None:
    norm = MembersBatchNorm(2, 3)
    norm.running_mean.fill_(2.0)
    x = torch.randn(2, 4, 3, generator=seeded()).requires_grad_()
    outputs = norm(x, torch.tensor([[0.0] * 4, [1.0] * 4]))
    torch.testing.assert_close(outputs[0], (x[0] - 2) / (1 + 1e-5) ** 0.5)
    assert (norm.running_mean[0] == 2).all()
    assert (norm.running_mean[1] != 2).all()
    assert norm.num_batches_tracked.tolist() == [0, 1]
    outputs.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_weights_are_weighted_moments() -> None:
    x = inputs_of("rows")
    weights = torch.rand(3, 8, generator=seeded(2), dtype=torch.float64)
    moments = batch_moments(x, weights)
    for i in range(3):
        w = (weights[i] / weights[i].sum()).unsqueeze(1)
        mean = (w * x[i]).sum(0)
        torch.testing.assert_close(moments.mean[i], mean)
        torch.testing.assert_close(moments.variance[i], (w * (x[i] - mean) ** 2).sum(0))


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("kind", SHAPES)
def test_torchs_own_batch_norm_takes_weights(kind: str, momentum: float | None) -> None:
    norm = torch_norm(kind, momentum=momentum)
    twin = copy.deepcopy(norm)
    kept = torch.arange(8) % 3 != 1
    for step in range(2):
        x = inputs_of(kind, step)[0]
        torch.testing.assert_close(weighted(norm, x, kept.double())[kept], twin(x[kept]), rtol=1e-12, atol=1e-12)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name], value, rtol=1e-12, atol=1e-12)
    assert torch.equal(weighted(norm.eval(), x, kept.double())[kept][:1].isfinite(), torch.ones_like(x[:1]) > 0)
    torch.testing.assert_close(weighted(norm, x, kept.double()), twin.eval()(x), rtol=1e-12, atol=1e-12)


def test_layer_and_group_norm_of_members() -> None:
    rows, pictures = inputs_of("rows"), inputs_of("pictures")
    weight, bias = torch.randn(2, 3, 5, generator=seeded(3), dtype=torch.float64)
    layered = members_layer_norm(rows, weight, bias)
    for i in range(3):
        torch.testing.assert_close(layered[i], functional.layer_norm(rows[i], (5,), weight[i], bias[i]))
    for groups in (1, 5):
        grouped = members_group_norm(pictures, groups, weight, bias)
        for i in range(3):
            expected = functional.group_norm(pictures[i], groups, weight[i], bias[i])
            torch.testing.assert_close(grouped[i], expected)
    expected = torch.stack([functional.instance_norm(pictures[i]) for i in range(3)])
    torch.testing.assert_close(members_group_norm(pictures, 5), expected)


def test_what_does_not_fit_is_refused() -> None:
    norm = MembersBatchNorm(2, 3)
    with pytest.raises(InputError, match="do not fit a batch norm of 2 members and 3 features"):
        norm(torch.zeros(2, 5, 4))
    with pytest.raises(InputError, match="no members axis"):
        members_batch_norm(torch.zeros(5, 4), None, None)
    with pytest.raises(InputError, match=r"example weights of shape \(4,\)"):
        norm(torch.zeros(2, 5, 3), torch.ones(4))
    with pytest.raises(InputError, match="groups must divide the 5 channels"):
        members_group_norm(torch.zeros(2, 3, 5), 2)
    for options in ({"momentum": 1.5}, {"eps": 0.0}):
        with pytest.raises(InputError, match="must be"):
            MembersBatchNorm(2, 3, **options)
    with pytest.raises(InputError, match="LayerNorm arrived"):
        weighted(nn.LayerNorm(3), torch.zeros(2, 3), torch.ones(2))


@pytest.mark.parametrize("shape", [(2, 1, 3), (2, 0, 3), (2, 0, 3, 4, 4)])
def test_a_batch_without_spread_is_refused_unless_it_is_weighted(shape: tuple[int, ...]) -> None:
    norm = MembersBatchNorm(2, 3)
    with pytest.raises(InputError, match=f"hold {shape[1]} examples.*Give at least 2"):
        norm(torch.randn(shape))
    assert torch.equal(norm.running_var, torch.ones(2, 3))
    assert norm.eval()(torch.randn(shape)).shape == shape
    pixels = MembersBatchNorm(2, 3)(torch.randn(2, 1, 3, 4, 4))
    assert pixels.mean().abs() < 1e-6
