"""Second order, for small problems and whole batches: L-BFGS with line search, Newton and Gauss-Newton by CG.

These have no [members] form: how many iterations, products and trial steps a step takes follows from what it finds, so
members would wait for the slowest, and none would gain from standing side by side. Train them one after another.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from caviar.core.errors import InputError
from caviar.optim.checks import check_number

Curvature = Literal["hessian", "gauss_newton"]
Product = Callable[[Sequence[Tensor]], list[Tensor]]

SUFFICIENT = 1e-4
"""A step must lower the loss by this share of what the slope promises (Armijo)."""
MOST_HALVINGS = 20


def lbfgs(
    params: Iterable[Tensor],
    learning_rate: float = 1.0,
    max_iterations: int = 20,
    history: int = 10,
    *,
    line_search: bool = True,
) -> torch.optim.LBFGS:
    """Return torch's L-BFGS with a line search for the strong Wolfe conditions (Liu and Nocedal 1989).

    The curvature is estimated from the last `history` steps; one `step(closure)` takes up to max_iterations of them.
    The closure zeroes gradients, computes the loss, calls backward and returns the loss; a step calls it several times.
    When: smooth problems of up to some 10,000 parameters and all data in one batch; noise between batches and dropout
    break the estimate. Without line_search each iteration goes the learning rate times the direction.
    Raises InputError when an argument is out of range.
    """
    _check_rate(learning_rate)
    _check_count("max_iterations", max_iterations)
    _check_count("history", history)
    options: dict[str, Any] = {"max_iter": max_iterations, "history_size": history}
    search = "strong_wolfe" if line_search else None
    return torch.optim.LBFGS(params, learning_rate, line_search_fn=search, **options)


class Newton(torch.optim.Optimizer):
    """Newton's method: w -= lr d with (H + damping I) d = g, solved by conjugate gradients (Martens 2010).

    The matrix is never formed: products with it cost about two gradients each, by differentiating twice.

    curvature: "hessian" (H, the loss's own), or "gauss_newton" (J^T H_L J, with J the Jacobian of the outputs and H_L
    the Hessian of the loss in them: never negative for convex losses, so always a descent direction).
    damping: at least 0; larger is safer and nearer to gradient descent. 0 solves a quadratic in one step.
    max_iterations, tolerance: of conjugate gradients, which stop when the residual has fallen to tolerance times the
    gradient's norm, or when they meet a direction of negative curvature.
    line_search: halve the step until the loss falls as it should; without such a step the parameters stay.

    `step(closure)` needs a closure that computes and returns the loss without calling backward; for "gauss_newton" it
    returns (loss, outputs). When: small problems, all data in one batch, at best in float64.
    Raises InputError: an argument out of range, a closure that does not fit.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        learning_rate: float = 1.0,
        damping: float = 1e-3,
        max_iterations: int = 100,
        tolerance: float = 1e-6,
        *,
        curvature: Curvature = "hessian",
        line_search: bool = True,
    ) -> None:
        _check_rate(learning_rate)
        check_number("damping", damping, least=0.0)
        check_number("tolerance", tolerance, least=0.0, below=1.0)
        _check_count("max_iterations", max_iterations)
        if curvature not in ("hessian", "gauss_newton"):
            raise InputError(f"curvature is {curvature!r}; it must be 'hessian' or 'gauss_newton'.")
        values = {"damping": damping, "max_iterations": max_iterations, "tolerance": tolerance}
        super().__init__(params, {"lr": learning_rate, **values, "curvature": curvature, "line_search": line_search})
        if len(self.param_groups) > 1:
            raise InputError("Newton solves for all parameters together; give them as one group.")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step and return the loss before it; see the class for what `closure` does."""
        if closure is None:
            raise InputError("Newton needs a closure: step(closure), where closure returns the loss.")
        group = self.param_groups[0]
        params: list[Tensor] = [parameter for parameter in group["params"] if parameter.requires_grad]
        with torch.enable_grad():
            loss, outputs = _evaluated(closure, group["curvature"])
            gradients = _gradients(loss, params)
            product = _product(loss, outputs, gradients, params)
            flat = [gradient.detach() for gradient in gradients]
            direction = conjugate_gradients(
                product, flat, group["damping"], group["max_iterations"], group["tolerance"]
            )
        del gradients, product
        for parameter, gradient in zip(params, flat, strict=True):
            parameter.grad = gradient.clone()
        _move(params, direction, flat, loss.detach(), closure if group["line_search"] else None, group)
        return loss.detach()


def conjugate_gradients(
    product: Product, right: Sequence[Tensor], damping: float, max_iterations: int, tolerance: float
) -> list[Tensor]:
    """Return x with (A + damping I) x = right, where `product` multiplies with the symmetric A (Hestenes et al. 1952).

    Stops at max_iterations, when the residual's norm is at most tolerance times that of `right`, or at a direction of
    no positive curvature: then x is what has been found so far, or `right` itself, the way straight down.
    """
    solution = [torch.zeros_like(tensor) for tensor in right]
    residual = [tensor.clone() for tensor in right]
    search = [tensor.clone() for tensor in right]
    size = start = _dot(residual, residual)
    for iteration in range(max_iterations):
        if float(size) <= tolerance**2 * float(start):
            break
        image = product(search)
        torch._foreach_add_(image, search, alpha=damping)
        bend = float(_dot(search, image))
        if not bend > 0:
            return solution if iteration else search
        length = float(size) / bend
        torch._foreach_add_(solution, search, alpha=length)
        torch._foreach_add_(residual, image, alpha=-length)
        size, before = _dot(residual, residual), size
        torch._foreach_mul_(search, float(size / before))
        torch._foreach_add_(search, residual)
    return solution


def _evaluated(closure: Callable[[], Any], curvature: Curvature) -> tuple[Tensor, Tensor | None]:
    result = closure()
    loss, outputs = result if isinstance(result, tuple) else (result, None)
    if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
        raise InputError("Newton's closure must return the loss, a tensor without axes that depends on the parameters.")
    if curvature == "gauss_newton" and outputs is None:
        raise InputError(
            "Gauss-Newton's closure must return (loss, outputs): it differentiates the loss by the outputs."
        )
    return loss, outputs if curvature == "gauss_newton" else None


def _gradients(loss: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    try:
        found = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
    except RuntimeError as error:
        if "second time" not in str(error):
            raise
        raise InputError("Newton's closure called backward; it must only compute and return the loss.") from error
    return _filled(found, params)


def _filled(found: Iterable[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(one) if grad is None else grad for grad, one in zip(found, like, strict=True)]


def _product(loss: Tensor, outputs: Tensor | None, gradients: list[Tensor], params: Sequence[Tensor]) -> Product:
    """Return the product with the Hessian, or with the Gauss-Newton matrix where outputs are given."""
    if outputs is None:
        curved = [gradient for gradient in gradients if gradient.requires_grad]

        def times_hessian(vector: Sequence[Tensor]) -> list[Tensor]:
            if not curved:
                return [torch.zeros_like(one) for one in params]
            along = [part for part, gradient in zip(vector, gradients, strict=True) if gradient.requires_grad]
            found = torch.autograd.grad(curved, params, along, retain_graph=True, allow_unused=True)
            return _filled(found, params)

        return times_hessian

    (slope,) = torch.autograd.grad(loss, outputs, create_graph=True)
    probe = torch.ones_like(outputs, requires_grad=True)
    back = _filled(torch.autograd.grad(outputs, params, probe, create_graph=True, allow_unused=True), params)
    linear = [part for part in back if part.requires_grad]

    def times_gauss_newton(vector: Sequence[Tensor]) -> list[Tensor]:
        along = [part for part, gradient in zip(vector, back, strict=True) if gradient.requires_grad]
        (forward,) = torch.autograd.grad(linear, probe, along, retain_graph=True)  # J v, by differentiating J^T u by u
        bent = torch.zeros_like(forward)
        if slope.requires_grad:
            (bent,) = torch.autograd.grad(slope, outputs, forward, retain_graph=True)
        return _filled(torch.autograd.grad(outputs, params, bent, retain_graph=True, allow_unused=True), params)

    return times_gauss_newton


def _move(
    params: list[Tensor],
    direction: list[Tensor],
    gradients: list[Tensor],
    loss: Tensor,
    closure: Callable[[], Any] | None,
    group: dict[str, Any],
) -> None:
    before = [parameter.detach().clone() for parameter in params] if closure is not None else []
    length = float(group["lr"])
    torch._foreach_add_(params, direction, alpha=-length)
    if closure is None:
        return
    slope = float(_dot(direction, gradients))
    for _ in range(MOST_HALVINGS):
        result = closure()
        new = float(result[0] if isinstance(result, tuple) else result)
        if new <= float(loss) - SUFFICIENT * length * slope:
            return
        length /= 2
        torch._foreach_copy_(params, before)
        torch._foreach_add_(params, direction, alpha=-length)
    torch._foreach_copy_(params, before)


def _dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    return torch.stack([(one.double() * other.double()).sum() for one, other in zip(first, second, strict=True)]).sum()


def _check_rate(learning_rate: object) -> None:
    check_number("learning_rate", learning_rate, least=0.0)
    if isinstance(learning_rate, Tensor):
        raise InputError("second-order methods solve for all parameters together; learning_rate must be one number.")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} is {value!r}; it must be a whole number of at least 1.")


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Say whether `optimizer` evaluates the loss itself, so that a training loop must hand it a closure."""
    return isinstance(optimizer, torch.optim.LBFGS | Newton)


def second_order_step(optimizer: torch.optim.Optimizer, forward: Callable[[], tuple[Tensor, Tensor]]) -> Tensor:
    """Take a step of L-BFGS or Newton and return the loss before it.

    forward: computes (loss, outputs) of the batch, anew at each call. At a learning rate of 0, where schedules may end,
    nothing is done: torch's line search would divide by it.
    """
    if optimizer.param_groups[0]["lr"] == 0:
        return forward()[0].detach()
    if isinstance(optimizer, Newton):
        first: Tensor = optimizer.step(forward)
        return first

    def closure() -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss, _ = forward()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    before: Any = optimizer.step(closure)
    loss: Tensor = before.detach()
    return loss
