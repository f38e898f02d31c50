"""How much of the label's head direction is the attribute's, beside what a permuted attribute would give."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular

from grobust.groups import Groups

__all__ = ["STANDARDIZED", "WITHIN_GROUP", "Alignment", "alignment"]

WITHIN_GROUP, STANDARDIZED = "within-group", "standardized"
# Of the mean eigenvalue of the within-group covariance, added to its diagonal: for fewer rows than features.
RIDGE = 1e-3
# A feature whose standard deviation is smaller, relative to its mean and to the largest one, does not vary but for
# rounding; a head's weight on it means nothing.
CONSTANT = 1e-6
# Wider features would need a d × d factor of more than a quarter of a gigabyte.
MAX_DIM = 4096
BLOCK = 50
BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Alignment:
    """The attribute's direction and the label's in one metric, with the ranges that permuted attributes give.

    Parameters
    ----------
    metric : ``within-group`` (each direction as a score, correlated over rows of one group) or ``standardized`` (angle
        of the weights on standardized features)
    attribute : value whose direction it is, against the others
    cosine : 0 … 1, of the attribute's direction and the nearest one of the label's head (for two classes there is one)
    cosine_low, cosine_high : 2.5–97.5% of the same with attributes permuted within classes: what a direction of noise
        has in so few or many dimensions
    shift : length of the attribute's direction along the label's head; in the within-group metric how far the label's
        score moves with the attribute inside a class, in standard deviations of a group
    shift_low, shift_high : 2.5–97.5% of that with attributes permuted
    p_value : share of permutations with as large a shift, with the +1 correction: of the hypothesis that inside a class
        the features, and so the label's score, know nothing of the attribute
    permutations : their number
    """

    metric: str
    attribute: str
    cosine: float
    cosine_low: float
    cosine_high: float
    shift: float
    shift_low: float
    shift_high: float
    p_value: float
    permutations: int


def alignment(
    features: NDArray[Any], groups: Groups, weight: Float[np.ndarray, "k d"], *, permutations: int = 500, seed: int = 0
) -> tuple[Alignment, ...]:
    """Compare the label's head with the direction that tells the attribute apart within classes.

    The attribute's direction is its discriminant within classes, Σ⁻¹δ, with Σ the pooled within-group covariance and δ
    the mean over classes of the difference of attribute means; so a correlation of label and attribute is not in it.
    With more than two attribute values the one of the largest shift counts, in the permutations as well.

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
    mean, sd = _moments(features)
    varying = sd > CONSTANT * (np.abs(mean) + sd.max())
    centred = _class_centred(features, groups, varying, sd)
    factor = _within_factor(centred, groups)
    heads = ((weight - weight.mean(axis=0)).astype(np.float64) * sd).T[varying]
    spans = (_span(factor.T @ heads), _span(heads))
    shift, length = _projections(centred, np.stack([c for _, c in plan], axis=1), factor, spans)
    drawn_shift, drawn_cosine = np.zeros((2, permutations)), np.zeros((2, permutations))
    rng = np.random.default_rng(seed)
    for lo in range(0, permutations, BLOCK):
        hi = min(lo + BLOCK, permutations)
        orders = [_permuted_within(groups, rng) for _ in range(lo, hi)]
        drawn = np.stack([c[order] for order in orders for _, c in plan], axis=1)
        along, of_all = (v.reshape(2, hi - lo, len(plan)) for v in _projections(centred, drawn, factor, spans))
        top = along.argmax(axis=2)[:, :, None]
        drawn_shift[:, lo:hi] = np.take_along_axis(along, top, axis=2)[:, :, 0]
        drawn_cosine[:, lo:hi] = np.take_along_axis(along / of_all, top, axis=2)[:, :, 0]
    found = []
    for m, metric in enumerate((WITHIN_GROUP, STANDARDIZED)):
        best = int(np.argmax(shift[m]))
        reached = int((drawn_shift[m] >= shift[m, best]).sum())
        found.append(
            Alignment(
                metric, plan[best][0], float(shift[m, best] / length[m, best]), *_range(drawn_cosine[m]),
                float(shift[m, best]), *_range(drawn_shift[m]), (1 + reached) / (permutations + 1), permutations,
            )
        )  # fmt: skip
    return tuple(found)


def _range(drawn: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


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


def _moments(features: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(d) mean and standard deviation in float64, a block of rows at a time."""
    n = features.shape[0]
    mean = features.mean(axis=0, dtype=np.float64)
    total = np.zeros(features.shape[1])
    for lo in range(0, n, BLOCK_ROWS):
        total += ((features[lo : lo + BLOCK_ROWS] - mean) ** 2).sum(axis=0)
    return mean, np.sqrt(total / n)


def _class_centred(
    features: NDArray[Any], groups: Groups, varying: NDArray[np.bool_], sd: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Varying features over their deviation, less the mean of their class, which no contrast sees; float32 loses no
    digits to an offset then."""
    out = np.empty((features.shape[0], int(varying.sum())), dtype=np.float32)
    for label in range(groups.n_classes):
        rows = np.flatnonzero(groups.labels == label)
        if rows.size == 0:
            continue
        centre = np.mean(features[rows], axis=0, dtype=np.float64)
        for lo in range(0, rows.size, BLOCK_ROWS):
            block = rows[lo : lo + BLOCK_ROWS]
            out[block] = ((features[block] - centre) / np.where(varying, sd, 1.0))[:, varying]
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


def _projections(
    centred: NDArray[np.float32], coefficients: NDArray[np.float64], factor: NDArray[np.float64],
    spans: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
    """(2, m) lengths of m attribute directions along the spans of the heads, and in all, in both metrics."""
    means = (centred.T @ coefficients.astype(np.float32)).astype(np.float64)
    directions = (solve_triangular(factor, means, lower=True), cho_solve((factor, True), means))
    along = np.stack([np.linalg.norm(span.T @ d, axis=0) for span, d in zip(spans, directions, strict=True)])
    of_all = np.stack([np.linalg.norm(d, axis=0) for d in directions])
    return along, np.maximum(of_all, np.finfo(np.float64).tiny)


def _permuted_within(groups: Groups, rng: np.random.Generator) -> NDArray[np.int64]:
    order = np.arange(len(groups))
    for label in range(groups.n_classes):
        rows = np.flatnonzero(groups.labels == label)
        order[rows] = rng.permutation(rows)
    return order
