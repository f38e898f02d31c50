"""The features as the solver sees them: standardized on the fly, in float64, block by block.

The stored features stay as they are (float16, float32 or float64). Each product casts one block of rows to float64 and
folds the standardization into the small factor, so no standardized copy exists and nothing cancels.
"""

from dataclasses import dataclass

from grobust.arrays import array_namespace
from grobust.typing import Array

__all__ = ["Design", "design"]

BLOCK_ROWS = 4096
# Rows per feature that suffice for the preconditioner's second moments.
SAMPLE_PER_FEATURE = 4


@dataclass(frozen=True, eq=False)
class Design:
    """Features (n, d) with the mean and scale (d) float64 that standardize them."""

    features: Array
    mean: Array
    scale: Array

    def forward(self, weights: Array) -> Array:
        """(n, m) float64 products of the standardized features, with a column of ones, and `weights` (d + 1, m)."""
        xp = array_namespace(self.features)
        scaled = weights[:-1, :] / self.scale[:, None]
        shift = weights[-1, :] - self.mean @ scaled
        n = self.features.shape[0]
        out = xp.empty((n, weights.shape[1]), dtype=xp.float64)
        for start in range(0, n, BLOCK_ROWS):
            block = xp.astype(self.features[start : start + BLOCK_ROWS], xp.float64)
            out[start : start + BLOCK_ROWS] = block @ scaled + shift
        return out

    def adjoint(self, residual: Array) -> Array:
        """(d + 1, m) float64 products of the transposed standardized features, with ones, and `residual` (n, m)."""
        xp = array_namespace(self.features)
        total = xp.zeros((self.features.shape[1], residual.shape[1]), dtype=xp.float64)
        for start in range(0, self.features.shape[0], BLOCK_ROWS):
            block = xp.astype(self.features[start : start + BLOCK_ROWS], xp.float64)
            total += block.T @ residual[start : start + BLOCK_ROWS]
        ones = xp.sum(residual, axis=0)
        return xp.concat([(total - self.mean[:, None] * ones) / self.scale[:, None], ones[None, :]], axis=0)

    def second_moments(self, weights: Array) -> Array:
        """(d, d) float64 weighted second moments of the standardized features, about their weighted mean.

        Strided rows, `SAMPLE_PER_FEATURE` per feature at most, suffice: the result only preconditions.
        """
        xp = array_namespace(self.features)
        d = self.features.shape[1]
        used = xp.nonzero(weights > 0)[0]
        rows = used[:: max(1, int(used.shape[0]) // (SAMPLE_PER_FEATURE * d))]
        block = (xp.astype(self.features[rows], xp.float64) - self.mean) / self.scale
        share = (weights[rows] / xp.sum(weights[rows]))[:, None]
        centred = (block - xp.sum(share * block, axis=0)) * xp.sqrt(share)
        return centred.T @ centred


def design(features: Array, *, standardize: bool) -> Design:
    """Mean and standard deviation of all rows, unweighted, in float64; a feature that does not vary keeps scale 1."""
    xp = array_namespace(features)
    n, d = features.shape
    if not standardize:
        return Design(features, xp.zeros(d, dtype=xp.float64), xp.ones(d, dtype=xp.float64))
    mean = xp.zeros(d, dtype=xp.float64)
    for start in range(0, n, BLOCK_ROWS):
        mean += xp.sum(xp.astype(features[start : start + BLOCK_ROWS], xp.float64), axis=0)
    mean /= n
    variance = xp.zeros(d, dtype=xp.float64)
    for start in range(0, n, BLOCK_ROWS):
        variance += xp.sum((xp.astype(features[start : start + BLOCK_ROWS], xp.float64) - mean) ** 2, axis=0)
    scale = xp.sqrt(variance / n)
    # Rounding leaves a constant feature with a deviation of some ulps of its mean: dividing by it would make noise.
    constant = scale <= 1e-7 * xp.maximum(xp.abs(mean), xp.ones_like(mean) * 1e-30)
    return Design(features, mean, xp.where(constant, xp.ones_like(scale), scale))
