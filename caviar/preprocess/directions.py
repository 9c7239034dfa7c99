"""From a covariance to the directions of PCA, whitening and Gram-Schmidt, with those that do not vary left out.

Which directions vary: one whose variance is at most

    16 p 2^-52 lambda_max    (p columns: what eigenvalues of a covariance in float64 can tell from 0)

or at most what rounding of the columns gives it, sum_j v_j^2 r_j with r_j of `Covariance.rounding`, does not. Columns
of very different units should be scaled before: beside a column with a standard deviation of 1e6, one of 1e-2 is lost.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from caviar.core.errors import InputError
from caviar.preprocess.covariance import Covariance
from caviar.preprocess.moments import Floats

SAFETY = 16 * 2.0**-52


class Directions(NamedTuple):
    """A linear map of centred columns and the way back.

    forward: (columns, outputs). backward: (outputs, columns). variances: (columns,) of the principal directions,
    largest first, or of the orthogonal columns. rank: how many directions vary.
    """

    forward: Floats
    backward: Floats
    variances: Floats
    rank: int


def check_components(components: Any, columns: int) -> None:
    """Raise an InputError unless `components` is "all", a whole number from 1 to `columns`, or a share in (0, 1)."""
    number = isinstance(components, int | float) and not isinstance(components, bool)
    if components == "all" or (number and 0 < components < 1):
        return
    if not number or not float(components).is_integer() or isinstance(components, float) or components < 1:
        raise InputError(
            f"components is {components!r}; it must be a number of directions (1 to {columns}), a share of the "
            'variance (greater than 0 and below 1), or "all".'
        )
    if components > columns:
        raise InputError(f"components is {components}, but there are only {columns} columns; choose 1 to {columns}.")


def check_eps(eps: Any) -> None:
    """Raise an InputError unless `eps` is a finite number of at least 0."""
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not math.isfinite(eps) or eps < 0:
        raise InputError(f"eps is {eps!r}; it must be a finite number of at least 0, in units of variance.")


def principal(found: Covariance, components: int | float | str) -> tuple[Floats, Floats, int]:
    """Return eigenvectors (columns, kept), all eigenvalues (columns,), largest first, and the rank.

    Each vector's largest entry is positive, so that equal data give equal signs.
    """
    values, vectors = np.linalg.eigh(found.matrix)
    values, vectors = values[::-1].clip(min=0.0), vectors[:, ::-1]
    floor = SAFETY * max(len(values), 1) * values[0] + np.square(vectors).T @ found.rounding
    rank = int((values > floor).sum())
    kept = _num_kept(values[:rank], components)
    vectors = vectors[:, :kept]
    largest = np.abs(vectors).argmax(axis=0)
    return vectors * np.sign(vectors[largest, np.arange(kept)]), values, rank


def _num_kept(values: Floats, components: int | float | str) -> int:
    if isinstance(components, float) and len(values):
        share = np.cumsum(values) / values.sum()
        return int(np.searchsorted(share, components - 1e-12)) + 1
    return min(len(values), components) if isinstance(components, int) else len(values)


def principal_directions(
    found: Covariance, components: int | float | str, *, eps: float, whiten: bool, back: bool
) -> Directions:
    """Return the directions of PCA (whiten=False), of PCA whitening, or of ZCA whitening (back=True).

    When nothing varies there is one output, which is always 0 (ZCA: as many as columns).
    """
    vectors, values, rank = principal(found, components)
    spread = np.sqrt(values[: vectors.shape[1]] + eps) if whiten else np.ones(vectors.shape[1])
    forward, backward = vectors / spread, (vectors * spread).T
    if back:
        forward, backward = forward @ vectors.T, vectors @ backward
    elif not rank:
        forward, backward = np.zeros((len(vectors), 1)), np.zeros((1, len(vectors)))
    return Directions(forward, backward, values, rank)


def orthogonal_directions(found: Covariance) -> Directions:
    """Return the map of Gram-Schmidt: each column less its projections on the columns before it.

    With C = L D L^T (L unit lower triangular) the columns x L^-T are uncorrelated with variances D. A column that the
    ones before it determine, or that is constant, becomes 0; the way back restores it.
    """
    scale = np.sqrt(np.diagonal(found.matrix))
    safe = np.where(scale > 1e-155, scale, 1.0)  # float64 cannot hold the square of less
    lower, variances = _unit_lower(found.matrix / np.outer(safe, safe), found.rounding / safe**2)
    lower = lower * safe[:, None] / safe
    varies = variances > 0
    forward = np.asarray(np.linalg.inv(lower).T * varies, dtype=np.float64)
    return Directions(forward, lower.T * varies[:, None], variances * np.square(safe), int(varies.sum()))


def _unit_lower(correlation: Floats, rounding: Floats) -> tuple[Floats, Floats]:
    """Factor a correlation matrix as L D L^T; D is 0, and L's column that of the identity, where nothing new varies."""
    floor = SAFETY * len(correlation) * np.diagonal(correlation) + rounding
    try:
        factor = np.linalg.cholesky(correlation)
    except np.linalg.LinAlgError:
        return _eliminate(correlation, floor)
    pivots: Floats = np.diagonal(factor).astype(np.float64)
    squares: Floats = np.square(pivots)
    if (squares > floor).all():
        return factor / pivots, squares
    return _eliminate(correlation, floor)


def _eliminate(correlation: Floats, floor: Floats) -> tuple[Floats, Floats]:
    count = len(correlation)
    lower, variances, rest = np.eye(count), np.zeros(count), correlation.copy()
    for column, pivot in enumerate(np.diagonal(rest)):  # the diagonal is a view: it changes as columns are taken out
        if pivot <= floor[column]:
            continue
        variances[column] = pivot
        factors = rest[column + 1 :, column] / pivot
        lower[column + 1 :, column] = factors
        rest[column + 1 :, column + 1 :] -= np.outer(factors, rest[column, column + 1 :])
    return lower, variances
