"""L-BFGS and Newton: known minima, closed forms, products against torch's own Hessians, saving."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.optim import (
    Newton,
    lbfgs,
    load_optimizer_tensors,
    needs_closure,
    optimizer_tensors,
    second_order_step,
    sgd,
)
from caviar.optim.second_order import conjugate_gradients


def quadratic(size: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return root @ root.T + torch.eye(size), torch.randn(size, generator=generator, dtype=torch.float64)


def rosenbrock(point: Tensor) -> Tensor:
    return (1 - point[0]) ** 2 + 100 * (point[1] - point[0] ** 2) ** 2


def test_newton_solves_a_quadratic_in_one_step() -> None:
    matrix, right = quadratic()
    weight = torch.ones(12, dtype=torch.float64, requires_grad=True)
    Newton([weight], damping=0.0, tolerance=1e-14).step(lambda: weight @ matrix @ weight / 2 - right @ weight)
    torch.testing.assert_close(weight.detach(), torch.linalg.solve(matrix, right), rtol=1e-9, atol=1e-10)


def test_damping_is_added_to_the_diagonal() -> None:
    matrix, right = quadratic()
    weight = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    optimizer = Newton([weight], damping=3.0, tolerance=1e-14)
    optimizer.step(lambda: weight @ matrix @ weight / 2 - right @ weight)
    expected = torch.linalg.solve(matrix + 3.0 * torch.eye(12), right)
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(weight.grad, -right)


def test_gauss_newton_is_least_squares_in_one_step() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    targets = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    model = nn.Linear(5, 2).double()

    def closure() -> tuple[Tensor, Tensor]:
        outputs = model(inputs)
        return (outputs - targets).square().mean(), outputs

    Newton(model.parameters(), damping=0.0, tolerance=1e-14, curvature="gauss_newton").step(closure)
    with_ones = np.concatenate([inputs.numpy(), np.ones((40, 1))], axis=1)
    solution = np.linalg.lstsq(with_ones, targets.numpy(), rcond=None)[0]
    np.testing.assert_allclose(model.weight.detach().numpy(), solution[:5].T, atol=1e-10)
    np.testing.assert_allclose(model.bias.detach().numpy(), solution[5], atol=1e-10)


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_a_newton_step_of_a_network_equals_one_with_the_matrix_written_out(curvature: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    inputs, labels = torch.randn(20, 3).double(), torch.randint(3, (20,))
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def outputs_of(vector: Tensor) -> Tensor:
        pieces = vector.split([shape.numel() for shape in shapes])
        values = {name: piece.view(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
        result: Tensor = torch.func.functional_call(model, values, (inputs,))
        return result

    def loss_of(outputs: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, labels)

    gradient = torch.autograd.functional.jacobian(lambda vector: loss_of(outputs_of(vector)), flat)
    if curvature == "hessian":
        matrix = torch.autograd.functional.hessian(lambda vector: loss_of(outputs_of(vector)), flat)
    else:
        jacobian = torch.autograd.functional.jacobian(outputs_of, flat).reshape(60, -1)
        bent = torch.autograd.functional.hessian(lambda z: loss_of(z.view(20, 3)), outputs_of(flat).reshape(-1))
        matrix = jacobian.T @ bent @ jacobian
    damping = 2.0  # enough for the Hessian to be positive here
    expected = flat - torch.linalg.solve(matrix + damping * torch.eye(len(flat)), gradient)

    def closure() -> tuple[Tensor, Tensor]:
        outputs = model(inputs)
        return loss_of(outputs), outputs

    Newton(model.parameters(), damping=damping, tolerance=1e-13, curvature=curvature, line_search=False).step(closure)
    result = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-11)


def test_rosenbrocks_minimum_is_reached() -> None:
    point = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = Newton([point], damping=1e-4)
    losses = [float(optimizer.step(lambda: rosenbrock(point))) for _ in range(30)]
    assert all(b <= a for a, b in pairwise(losses))
    torch.testing.assert_close(point.detach(), torch.ones(2, dtype=torch.float64), rtol=1e-6, atol=1e-6)

    start = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    other = lbfgs([start])
    for _ in range(6):
        second_order_step(other, lambda: (rosenbrock(start), start))
    torch.testing.assert_close(start.detach(), torch.ones(2, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_conjugate_gradients_stop_at_negative_curvature() -> None:
    down = conjugate_gradients(lambda v: [-v[0]], [torch.ones(3).double()], 0.0, 10, 1e-10)
    assert torch.equal(down[0], torch.ones(3).double())
    matrix = torch.diag(torch.tensor([2.0, -1.0])).double()
    found = conjugate_gradients(lambda v: [matrix @ v[0]], [torch.tensor([1.0, 1e-3]).double()], 0.0, 10, 1e-10)
    assert float(found[0][0]) == pytest.approx(0.5, rel=1e-2)


def test_a_step_that_does_not_help_is_not_taken() -> None:
    weight = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    calls = iter([weight.square().sum(), *[torch.tensor(5.0)] * 40])
    Newton([weight], damping=0.0).step(lambda: next(calls))
    assert float(weight.detach()) == 1.0


def classify(seed: int = 0) -> tuple[nn.Module, Any]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))
    inputs = torch.randn(30, 3, generator=torch.Generator().manual_seed(5))
    labels = (inputs.sum(1) > 0).long()

    def forward() -> tuple[Tensor, Tensor]:
        outputs = model(inputs)
        return nn.functional.cross_entropy(outputs, labels), outputs

    return model, forward


@pytest.mark.parametrize("line_search", [True, False])
def test_lbfgs_saved_loaded_and_gone_on_equals_never_stopped(line_search: bool, tmp_path: Path) -> None:
    model, forward = classify()
    optimizer = lbfgs(model.parameters(), 1.0 if line_search else 0.1, 4, 5, line_search=line_search)
    for _ in range(3):
        second_order_step(optimizer, forward)
    tensors, data = optimizer_tensors(optimizer)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "state.safetensors")
    tensors, data = load_file(tmp_path / "state.safetensors"), json.loads(json.dumps(data, allow_nan=False))
    twin, twin_forward = classify()
    twin.load_state_dict(model.state_dict())
    resumed = lbfgs(twin.parameters(), 1.0 if line_search else 0.1, 4, 5, line_search=line_search)
    load_optimizer_tensors(resumed, tensors, data)
    for _ in range(4):
        assert torch.equal(second_order_step(optimizer, forward), second_order_step(resumed, twin_forward))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    del tensors["state/0/d"]
    with pytest.raises(InputError, match="state/0/d"):
        load_optimizer_tensors(resumed, tensors, data)


def test_newton_has_nothing_to_save() -> None:
    model, forward = classify()
    optimizer = Newton(model.parameters(), curvature="gauss_newton")
    first = float(second_order_step(optimizer, forward))
    tensors, data = optimizer_tensors(optimizer)
    assert tensors == {}
    load_optimizer_tensors(optimizer, tensors, json.loads(json.dumps(data)))
    assert float(second_order_step(optimizer, forward)) < first


def test_who_needs_a_closure() -> None:
    weight = [torch.zeros(2, requires_grad=True)]
    assert [needs_closure(each) for each in (sgd(weight), lbfgs(weight), Newton(weight))] == [False, True, True]


def test_wrong_closures_and_arguments_are_refused() -> None:
    weight = torch.ones(2, requires_grad=True)

    def with_backward() -> Tensor:
        loss = weight.pow(3).sum()
        loss.backward()
        return loss

    with pytest.raises(InputError, match="called backward"):
        Newton([weight]).step(with_backward)
    with pytest.raises(InputError, match="needs a closure"):
        Newton([weight]).step()
    with pytest.raises(InputError, match="without axes"):
        Newton([weight]).step(lambda: weight)
    with pytest.raises(InputError, match=r"\(loss, outputs\)"):
        Newton([weight], curvature="gauss_newton").step(lambda: weight.sum())
    with pytest.raises(InputError, match="one group"):
        Newton([{"params": [weight]}, {"params": [torch.ones(1, requires_grad=True)]}])
    bad: list[tuple[dict[str, Any], str]] = [
        ({"learning_rate": -1.0}, "learning_rate must be"),
        ({"learning_rate": torch.tensor([0.1])}, "one number"),
        ({"damping": -1.0}, "damping must be"),
        ({"tolerance": 1.0}, "tolerance must be"),
        ({"max_iterations": 0}, "max_iterations is 0"),
        ({"curvature": "fisher"}, "curvature is 'fisher'"),
    ]
    for options, words in bad:
        with pytest.raises(InputError, match=words):
            Newton([weight], **options)
    with pytest.raises(InputError, match="history is 0"):
        lbfgs([weight], history=0)
