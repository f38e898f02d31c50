"""How much of the label's head direction is the attribute's, beside what a permuted attribute would give."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular

from grobust.groups import Groups

__all__ = ["Alignment", "alignment"]

# Of the mean eigenvalue of the within-group covariance, added to its diagonal: for fewer rows than features.
RIDGE = 1e-3
# A feature whose standard deviation is smaller, relative to its mean and to the largest one, does not vary but for
# rounding; a head's weight on it means nothing.
CONSTANT = 1e-6
# Wider features would need a d × d factor of more than a quarter of a gigabyte.
MAX_DIM = 4096
BLOCK = 50


@dataclass(frozen=True)
class Alignment:
    """Cosine of the attribute's direction and the label's, with the range that permuted attributes give.

    Parameters
    ----------
    metric : ``within-group`` (each direction as a score, correlated over rows of one group) or ``standardized`` (angle
        of the weights on standardized features)
    attribute : value whose direction it is, against the others
    cosine : 0 … 1, of the attribute's direction and the nearest one of the label's head (for two classes there is one)
    null_low, null_high : 2.5–97.5% of the same with attributes permuted within classes
    p_value : share of permutations with as large a cosine, with the +1 correction
    permutations : their number
    """

    metric: str
    attribute: str
    cosine: float
    null_low: float
    null_high: float
    p_value: float
    permutations: int


def alignment(
    features: NDArray[Any], groups: Groups, weight: Float[np.ndarray, "k d"], *, permutations: int = 500, seed: int = 0
) -> tuple[Alignment, ...]:
    """Compare the label's head with the direction that tells the attribute apart within classes.

    The attribute's direction is its discriminant within classes, Σ⁻¹δ, with Σ the pooled within-group covariance and δ
    the mean over classes of the difference of attribute means; so a correlation of label and attribute is not in it.
    With more than two attribute values the one of the largest cosine counts, in the permutations as well.

    Parameters
    ----------
    features : (n, d) rows that the head was fitted to, on the host
    groups : their groups
    weight : (k, d) of the head, on raw features
    permutations : of attributes within classes
    seed : of the permutations

    Returns
    -------
    One in each metric; none if no class has two attribute values, or d exceeds 4096.
    """
    plan = _contrasts(groups)
    if not plan or features.shape[1] > MAX_DIM:
        return ()
    sd = features.std(axis=0, dtype=np.float64)
    varying = sd > CONSTANT * (np.abs(features.mean(axis=0, dtype=np.float64)) + sd.max())
    centred = _class_centred(features[:, varying] / sd[varying], groups)
    factor = _within_factor(centred, groups)
    heads = ((weight - weight.mean(axis=0)).astype(np.float64) * sd).T[varying]
    spans = (_span(factor.T @ heads), _span(heads))
    observed = _cosines(centred, np.stack([c for _, c in plan], axis=1), factor, spans)
    rng = np.random.default_rng(seed)
    null = np.zeros((2, permutations))
    for lo in range(0, permutations, BLOCK):
        hi = min(lo + BLOCK, permutations)
        orders = [_permuted_within(groups, rng) for _ in range(lo, hi)]
        drawn = np.stack([c[order] for order in orders for _, c in plan], axis=1)
        null[:, lo:hi] = _cosines(centred, drawn, factor, spans).reshape(2, hi - lo, -1).max(axis=2)
    found = []
    for m, metric in enumerate(("within-group", "standardized")):
        best = int(np.argmax(observed[m]))
        low, high = np.quantile(null[m], [0.025, 0.975])
        p_value = (1 + int((null[m] >= observed[m, best]).sum())) / (permutations + 1)
        found.append(
            Alignment(metric, plan[best][0], float(observed[m, best]), float(low), float(high), p_value, permutations)
        )
    return tuple(found)


def _contrasts(groups: Groups) -> list[tuple[str, NDArray[np.float64]]]:
    """Name and coefficients c (n) with δ = Xᵀc, for each attribute value; one of two values is enough."""
    values = range(groups.n_attributes if groups.n_attributes > 2 else 1)
    plan = []
    for value in values:
        own = groups.attributes == value
        coefficients = np.zeros(len(groups))
        used = 0
        for label in range(groups.n_classes):
            inside = groups.labels == label
            n_own, n_other = int((inside & own).sum()), int((inside & ~own).sum())
            if min(n_own, n_other) == 0:
                continue
            used += 1
            coefficients[inside & own] = 1 / n_own
            coefficients[inside & ~own] = -1 / n_other
        if used:
            plan.append((groups.attribute_names[value], coefficients / used))
    return plan


def _class_centred(features: NDArray[Any], groups: Groups) -> NDArray[np.float32]:
    """Features less the mean of their class, which no contrast sees; float32 loses no digits to an offset then."""
    out = np.empty(features.shape, dtype=np.float32)
    for label in range(groups.n_classes):
        rows = groups.labels == label
        if rows.any():
            block = features[rows]
            out[rows] = block - block.mean(axis=0, dtype=np.float64)
    return out


def _within_factor(centred: NDArray[np.float32], groups: Groups) -> NDArray[np.float64]:
    """Lower Cholesky factor of the pooled within-group covariance plus a ridge, float64."""
    d = centred.shape[1]
    total = np.zeros((d, d))
    for g in np.flatnonzero(groups.counts).tolist():
        rows = centred[groups.ids == g].astype(np.float64)
        rows -= rows.mean(axis=0)
        total += rows.T @ rows
    total /= len(groups)
    scale = float(np.trace(total)) / d
    total[np.diag_indices(d)] += RIDGE * scale if scale > 0 else 1.0
    return np.asarray(cholesky(total, lower=True, overwrite_a=True))


def _span(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(d, r) orthonormal basis of columns (d, k)."""
    left, singular, _ = np.linalg.svd(directions, full_matrices=False)
    return np.asarray(left[:, singular > 1e-10 * max(float(singular[0]), np.finfo(np.float64).tiny)])


def _cosines(
    centred: NDArray[np.float32], coefficients: NDArray[np.float64], factor: NDArray[np.float64],
    spans: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> NDArray[np.float64]:  # fmt: skip
    """(2, m) cosines of m contrasts with the spans of the heads, in both metrics."""
    means = (centred.T @ coefficients.astype(np.float32)).astype(np.float64)
    white = solve_triangular(factor, means, lower=True)
    scaled = cho_solve((factor, True), means)
    rows = []
    for directions, span in ((white, spans[0]), (scaled, spans[1])):
        norm = np.linalg.norm(directions, axis=0)
        rows.append(np.linalg.norm(span.T @ directions, axis=0) / np.where(norm > 0, norm, 1.0))
    return np.stack(rows)


def _permuted_within(groups: Groups, rng: np.random.Generator) -> NDArray[np.int64]:
    order = np.arange(len(groups))
    for label in range(groups.n_classes):
        rows = np.flatnonzero(groups.labels == label)
        order[rows] = rng.permutation(rows)
    return order
