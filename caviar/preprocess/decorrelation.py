"""PCA, Gram-Schmidt orthogonalisation, PCA and ZCA whitening. The `fit_...` functions make the module."""

from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from caviar.core.errors import InputError
from caviar.core.settings import Settings
from caviar.preprocess.batches import Batches, bad_value, matrices, no_examples
from caviar.preprocess.covariance import MAX_COLUMNS, Covariance
from caviar.preprocess.directions import check_components, check_eps, orthogonal_directions, principal_directions

DecorrelationName = Literal["pca", "gram_schmidt", "whiten_pca", "whiten_zca"]
Components = int | float | Literal["all"]
KEEPS_SHAPE = ("gram_schmidt", "whiten_zca")


class DecorrelationState(Settings):
    """What a bundle's JSON says of a fitted decorrelation; the numbers are in the buffers."""

    kind: Literal["decorrelation"] = "decorrelation"
    """what this is the state of"""
    name: DecorrelationName
    """which one"""
    inputs: Annotated[int, Field(ge=1, le=MAX_COLUMNS)]
    """values of one example"""
    outputs: Annotated[int, Field(ge=1, le=MAX_COLUMNS)]
    """values that it becomes"""
    rank: Annotated[int, Field(ge=0, le=MAX_COLUMNS)]
    """directions that varied in training"""

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        if max(self.outputs, self.rank) > self.inputs:
            raise ValueError("there are more outputs or directions than inputs")
        if self.name in KEEPS_SHAPE and self.outputs != self.inputs:
            raise ValueError(f"{self.name} has as many outputs as inputs")
        return self


class Decorrelation(nn.Module):
    """A linear map of centred examples to uncorrelated ones: z = (x - mean) A.

    With C = E D E^T the covariance of the training examples (population; columns of E are directions, largest variance
    first) and C = L S L^T (L unit lower triangular, S diagonal),

        pca:           A = E_k                      k outputs, uncorrelated, variances D_k
        whiten_pca:    A = E_k (D_k + eps)^-1/2     k outputs, covariance D_k / (D_k + eps): the identity
        whiten_zca:    A = E_k (D_k + eps)^-1/2 E_k^T   as many outputs as columns: the whitening nearest to x
        gram_schmidt:  A = L^-T                     each column less its projections on those before it, variances S

    computed in float64; float64 input stays float64, everything else becomes float32. Directions that do not vary (rank
    deficiency, constant columns; the rule is in `caviar.preprocess.directions`) are left out by pca and whiten_pca and
    are 0 in the others: nothing is divided by 0 and nothing is blown up. When nothing varies at all, the output is 0.

    x is (n, columns), or (n, ...) with as many values an example; z is (n, outputs) for pca and whiten_pca, and of the
    shape of x for the others.

    Sources: Pearson (1901) for PCA; Bell and Sejnowski (1997) for ZCA; Kessy, Lewin and Strimmer (2018) compare them.

    Attributes:
        mean: (inputs,). forward_matrix: (inputs, outputs). backward_matrix: (outputs, inputs). float64 buffers.
        variances: (inputs,) float64 buffer: D (all of it), or S for gram_schmidt.
    """

    mean: Tensor
    forward_matrix: Tensor
    backward_matrix: Tensor
    variances: Tensor

    def __init__(self, state: DecorrelationState, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.state = state
        shapes = {
            "mean": (state.inputs,),
            "forward_matrix": (state.inputs, state.outputs),
            "backward_matrix": (state.outputs, state.inputs),
            "variances": (state.inputs,),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))

    def forward(self, values: Tensor) -> Tensor:
        """Turn examples (n, ...) of any real type into uncorrelated ones."""
        flat = self._wide(values.flatten(1), self.state.inputs)
        found = (flat - self.mean) @ self.forward_matrix.to(flat.dtype)
        return _float_as(found.view(values.shape) if self.state.name in KEEPS_SHAPE else found, values)

    def inverse(self, outputs: Tensor) -> Tensor:
        """Return examples (n, inputs), or of the outputs' shape where that is kept.

        With directions left out this is the nearest example (least squares) that has these outputs.
        """
        flat = self._wide(outputs.flatten(1), self.state.outputs)
        found = flat @ self.backward_matrix.to(flat.dtype) + self.mean
        return _float_as(found.view(outputs.shape) if self.state.name in KEEPS_SHAPE else found, outputs)

    def _wide(self, values: Tensor, columns: int) -> Tensor:
        if values.shape[1] != columns:
            raise InputError(
                f"examples have {values.shape[1]} columns, but this {self.state.name} was fitted for {columns}."
            )
        return values.to(torch.promote_types(values.dtype, self.mean.dtype))

    @property
    def share(self) -> Tensor:
        """Each variance as a share of their sum, (inputs,); 0 where nothing varies."""
        return self.variances / self.variances.sum().clamp_min(torch.finfo(self.variances.dtype).tiny)

    @property
    def dependent(self) -> list[int]:
        """Of gram_schmidt, the columns (from 0) that are constant or that those before them determine; else []."""
        if self.state.name != "gram_schmidt":
            return []
        places: list[int] = (self.variances == 0).nonzero().flatten().tolist()
        return places

    def config(self) -> dict[str, Any]:
        """Return everything but the buffers as JSON-able data for `caviar.preprocess.rebuild`."""
        return self.state.model_dump(mode="json")

    def extra_repr(self) -> str:
        """Say what is done with how many columns."""
        state = self.state
        return f"{state.name}, inputs={state.inputs}, outputs={state.outputs}, rank={state.rank}"


def _float_as(values: Tensor, given: Tensor) -> Tensor:
    return values.to(torch.float64 if given.dtype == torch.float64 else torch.float32)


def fit_pca(batches: Batches, components: Components = "all") -> Decorrelation:
    """Fit principal component analysis on training examples, in one pass with memory for columns x columns.

    Args:
        batches: see `caviar.preprocess.batches.Batches`.
        components: how many directions are kept: a number from 1 to the number of columns, a share of the variance
            (0 to 1, both excluded: the fewest directions that have at least so much of it), or "all" that vary. Never
            more than vary are kept.

    When: many correlated columns; a few directions carry most of what varies. Scale columns of different units first.

    Raises:
        InputError: no examples, uneven widths, NaN or infinity, more than 10,000 columns, components out of range.
    """
    return fit_decorrelation(batches, "pca", components)


def fit_whiten_pca(batches: Batches, components: Components = "all", eps: float = 1e-5) -> Decorrelation:
    """Fit PCA whitening: principal directions, each divided by sqrt(variance + eps). See `fit_pca`.

    `eps` (at least 0, in units of variance) keeps directions that hardly vary from being blown up to the size of the
    others: for columns that were z-scored 1e-5 touches noise only; for pictures 0.01 to 0.1 is usual.
    """
    return fit_decorrelation(batches, "whiten_pca", components, eps)


def fit_whiten_zca(batches: Batches, components: Components = "all", eps: float = 1e-5) -> Decorrelation:
    """Fit ZCA whitening: PCA whitening turned back, so that columns (pixels) stay themselves. See `fit_whiten_pca`."""
    return fit_decorrelation(batches, "whiten_zca", components, eps)


def fit_gram_schmidt(batches: Batches) -> Decorrelation:
    """Fit Gram-Schmidt orthogonalisation: each column loses what the columns before it explain. See `fit_pca`.

    The order of columns matters: the first stays as it is (centred). When: the columns have an order of importance, and
    later ones should only say what is new. Divide by sqrt(variances) for orthonormal columns.
    """
    return fit_decorrelation(batches, "gram_schmidt")


def fit_decorrelation(
    batches: Batches, name: DecorrelationName, components: Components = "all", eps: float = 1e-5
) -> Decorrelation:
    """Fit the decorrelation called `name`; see `fit_pca`, `fit_whiten_pca`, `fit_whiten_zca`, `fit_gram_schmidt`."""
    check_eps(eps)
    found: Covariance | None = None
    for block in matrices(batches):
        if found is None:
            check_components(components, block.shape[1])
            found = Covariance.of_width(block.shape[1])
        before = found.rows
        found.update(block)
        if not found.finite:
            raise bad_value(block, before)
    if found is None or not found.rows:
        raise no_examples()
    return decorrelation_of(found, name, components, eps)


def decorrelation_of(
    found: Covariance, name: DecorrelationName, components: Components = "all", eps: float = 1e-5
) -> Decorrelation:
    """Return the decorrelation that belongs to a covariance."""
    if not len(found.mean):
        raise InputError(f"examples without columns cannot be decorrelated by {name}.")
    check_components(components, len(found.mean))
    if name == "gram_schmidt":
        if components != "all":
            raise InputError(f'gram_schmidt keeps every column, so components must be "all", not {components!r}.')
        directions = orthogonal_directions(found)
    else:
        whiten, back = name != "pca", name == "whiten_zca"
        directions = principal_directions(found, components, eps=eps, whiten=whiten, back=back)
    inputs, outputs = directions.forward.shape
    module = Decorrelation(DecorrelationState(name=name, inputs=inputs, outputs=outputs, rank=directions.rank))
    module.mean.copy_(torch.from_numpy(found.mean))
    module.forward_matrix.copy_(torch.from_numpy(directions.forward))
    module.backward_matrix.copy_(torch.from_numpy(directions.backward))
    module.variances.copy_(torch.from_numpy(directions.variances.copy()))
    return module
