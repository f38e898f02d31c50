"""`GroupGeometry`: mean and principal axes of one group, and what two groups have to do with each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from grobust.arrays import array_namespace, to_numpy
from grobust.errors import ConfigError, ShapeError
from grobust.spectrum._eigen import largest_eigenvalues
from grobust.spectrum._gram import CentredRows, gram
from grobust.spectrum._staging import Piece
from grobust.threads import Threads, one_thread, threads
from grobust.typing import Array

__all__ = [
    "GroupGeometry",
    "bures_distance",
    "generalized_ratio",
    "group_geometry",
    "neural_collapse",
    "subspace_overlap",
]

# Eigenvalues below this share of the largest are rounding; their vectors would be noise.
RANK_CUT = 1e-12
# The ridge of `generalized_ratio`, as a share of the mean eigenvalue of the majority.
RIDGE = 1e-3


@dataclass(frozen=True, eq=False)
class GroupGeometry:
    """Mean and thin eigendecomposition of the covariance (divided by n) of one group.

    Parameters
    ----------
    n : rows
    mean : (d) float64
    eigenvalues : (r) float64, descending, those above rounding; r ≤ min(n − 1, d)
    vectors : (d, r) float64, orthonormal columns
    """

    n: int
    mean: Array
    eigenvalues: Array
    vectors: Array

    @property
    def dim(self) -> int:
        """d."""
        return int(self.mean.shape[0])

    @property
    def trace(self) -> float:
        """Σ λ, the total variance."""
        xp = array_namespace(self.eigenvalues)
        return float(xp.sum(self.eigenvalues))

    @property
    def values(self) -> NDArray[np.float64]:
        """(r) eigenvalues on the host."""
        return to_numpy(self.eigenvalues)

    def spread(self, directions: Float[Array, "d m"]) -> Float[Array, " m"]:
        """(m) wᵀΣw of directions (d, m), not normalized."""
        xp = array_namespace(self.vectors)
        seen = self.vectors.T @ directions
        return xp.sum(self.eigenvalues[:, None] * seen**2, axis=0)


def group_geometry(features: Array) -> GroupGeometry:
    """Geometry of rows (n, d), n ≥ 2, by the smaller of the d × d covariance and the n × n Gram matrix.

    Raises
    ------
    ShapeError
        If there are fewer than two rows, or one of them is not finite.
    """
    if features.ndim != 2 or features.shape[0] < 2:
        raise ShapeError(f"A covariance needs two rows; the features have shape {tuple(features.shape)}.")
    piece = Piece(features, np.arange(features.shape[0]), np.arange(features.shape[0]))
    if not isinstance(features, np.ndarray):
        return _decompose(CentredRows.of([[piece]]), one_thread())
    with threads() as team:
        return _decompose(CentredRows.of([[piece]]), team)


def _decompose(centred: CentredRows, team: Threads) -> GroupGeometry:
    rows, n = centred.rows, centred.n
    xp = array_namespace(rows)
    dual = n < rows.shape[1]
    values, vectors = xp.linalg.eigh(gram(rows if dual else rows.T, team) / n)
    values, vectors = xp.flip(values), xp.flip(vectors, axis=1)
    kept = int(xp.sum(xp.astype(values > RANK_CUT * max(float(values[0]), 0.0), xp.int64)))
    kept = min(kept, n - 1) if float(values[0]) > 0 else 0
    values, vectors = values[:kept], vectors[:, :kept]
    if dual:
        vectors = xp.astype(rows.T, xp.float64) @ (vectors / xp.sqrt(n * values)[None, :])
    return GroupGeometry(n, centred.means[0, :], values, vectors)


def subspace_overlap(first: GroupGeometry, second: GroupGeometry, *, k: int = 10) -> float:
    """‖V₁ᵀV₂‖²_F / k of the top k axes: 1 for the same subspace, k / d on average for random ones.

    k is cut to the smaller rank; NaN if that is 0.
    """
    k = min(k, first.eigenvalues.shape[0], second.eigenvalues.shape[0])
    if k == 0:
        return float("nan")
    crossed = first.vectors[:, :k].T @ second.vectors[:, :k]
    return float(array_namespace(crossed).sum(crossed**2)) / k


def generalized_ratio(minority: GroupGeometry, majority: GroupGeometry) -> float:
    """Top eigenvalue of (Σ_maj + εI)⁻¹Σ_min with ε = 1e-3 · tr Σ_maj / d: the largest relative spread.

    Invariant to linear maps of the features as ε → 0. Grows with d / n_maj by sampling alone. From the thin
    decompositions by Woodbury's identity, so that no d × d matrix is inverted. NaN if the majority does not vary.
    """
    ridge = RIDGE * majority.trace / majority.dim
    if ridge <= 0 or minority.eigenvalues.shape[0] == 0:
        return float("nan")
    xp = array_namespace(minority.vectors)
    crossed = xp.sqrt(minority.eigenvalues)[:, None] * (minority.vectors.T @ majority.vectors)
    damping = majority.eigenvalues / (majority.eigenvalues + ridge)
    matrix = (_diagonal(minority.eigenvalues) - (crossed * damping[None, :]) @ crossed.T) / ridge
    return float(largest_eigenvalues((matrix + matrix.T) / 2, 1).values[0])


def bures_distance(first: GroupGeometry, second: GroupGeometry) -> float:
    """‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁^½ Σ₂ Σ₁^½)^½), the squared Bures (2-Wasserstein) distance of two Gaussians.

    The last trace is the nuclear norm of Σ₁^½Σ₂^½ (Olkin & Pukelsheim 1982). In the squared unit of the features.
    """
    xp = array_namespace(first.vectors)
    crossed = first.vectors.T @ second.vectors
    crossed = xp.sqrt(first.eigenvalues)[:, None] * crossed * xp.sqrt(second.eigenvalues)[None, :]
    nuclear = float(xp.sum(xp.linalg.svdvals(crossed))) if min(crossed.shape) else 0.0
    means = float(xp.sum((first.mean - second.mean) ** 2))
    return means + max(first.trace + second.trace - 2 * nuclear, 0.0)


def neural_collapse(cells: Sequence[GroupGeometry], labels: Sequence[int] | None = None) -> float:
    """NC1 (Papyan, Han & Donoho 2020): (1/K) tr(Σ_W Σ_B⁺) of K classes; tends to 0 as features collapse.

    Σ_W is the within-class covariance pooled over rows, Σ_B the covariance (divided by K) of the class means about
    their own mean.

    Parameters
    ----------
    cells : groups
    labels : the class of each group; None makes every group a class of its own (the group version)

    Returns
    -------
    NaN with fewer than two classes, or if all class means coincide.
    """
    labels = range(len(cells)) if labels is None else labels
    if len(labels) != len(cells):
        raise ConfigError(f"{len(cells)} groups have {len(labels)} labels.")
    classes = sorted(set(labels))
    if len(classes) < 2:
        return float("nan")
    xp = array_namespace(cells[0].mean)
    members = {y: [c for c, label in zip(cells, labels, strict=True) if label == y] for y in classes}
    sizes = {y: sum(c.n for c in own) for y, own in members.items()}
    centres = {y: sum(c.mean * (c.n / sizes[y]) for c in own) for y, own in members.items()}
    stacked = xp.stack([centres[y] for y in classes])
    stacked = stacked - xp.mean(stacked, axis=0)[None, :]
    _, singular, axes = xp.linalg.svd(stacked, full_matrices=False)
    between = to_numpy(singular) ** 2 / len(classes)
    # Rounding: the K means about their mean span K − 1 directions.
    kept = between > 1e-20 * max(between.max(), np.finfo(np.float64).tiny)
    if between.max() <= 0:
        return float("nan")
    directions = axes[: int(kept.sum()), :].T
    within = np.zeros(int(kept.sum()))
    for y, own in members.items():
        for cell in own:
            offset = (cell.mean - centres[y]) @ directions
            within += cell.n * to_numpy(cell.spread(directions) + offset**2)
    return float(np.sum(within / sum(sizes.values()) / between[kept]) / len(classes))


def _diagonal(values: Array) -> Array:
    xp = array_namespace(values)
    return xp.eye(values.shape[0], dtype=values.dtype, device=values.device) * values[None, :]
