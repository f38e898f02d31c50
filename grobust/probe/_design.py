"""The features as the solver sees them: standardized on the fly, block by block.

The stored features stay as they are. A product folds the standardization into its small factor; where that would
cancel digits (means of many standard deviations), and for float16, a block of rows is first copied, less its mean.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace, is_array, on_cuda, to_numpy
from grobust.device._cuda import cuda
from grobust.errors import ShapeError
from grobust.probe import _numba_rows
from grobust.probe._cuda_moments import mean_and_scale
from grobust.threads import Threads
from grobust.typing import Array

__all__ = ["DEVICE_BLOCK", "HOST_BLOCK", "LARGEST_OFFSET", "SMALL", "Design", "design"]

# Rows of a block: with the work arrays of its heads it stays in a core's cache.
HOST_BLOCK, DEVICE_BLOCK = 512, 32_768

# A mean of more standard deviations than this costs float32 products a digit: then blocks are centred.
LARGEST_OFFSET = 8.0
# Up to so many numbers, products are float64: they cost next to nothing.
SMALL = 1 << 16


@dataclass(frozen=True, eq=False)
class Design:
    """Features (n, d) and the mean and scale (d) float64 that standardize them: (x − mean) / scale.

    Parameters
    ----------
    features : (n, d), or anything with shape and dtype whose row slices are arrays
    compute : dtype of the products: float64 for float64 features and small problems, else float32
    shift : (d) of dtype `compute`, subtracted from a copied block; None where blocks are used as they are
    near : every mean is at most `LARGEST_OFFSET` standard deviations from 0
    """

    features: Any
    mean: Array
    scale: Array
    compute: Any
    shift: Array | None
    near: bool = False

    def in_float64(self) -> "Design":
        """The same with float64 products."""
        xp = array_namespace(self.mean)
        return replace(self, compute=xp.float64, shift=self.mean)

    def as_stored(self) -> "Design":
        """The features without standardization: for minibatches a shift of the features is another path of training."""
        xp = array_namespace(self.mean)
        shift = None if self.shift is None else xp.zeros_like(self.shift)
        return replace(self, mean=xp.zeros_like(self.mean), scale=xp.ones_like(self.scale), shift=shift)

    @property
    def rest(self) -> Array:
        """(d) float64 mean of the blocks as `block` gives them."""
        if self.shift is None:
            return self.mean
        return self.mean - array_namespace(self.mean).astype(self.shift, self.mean.dtype)

    def block(self, start: int, stop: int, scratch: NDArray[Any] | None = None) -> Array:
        """(b, d) rows in dtype `compute`, less `shift`; NumPy blocks may be written to `scratch`, (b, d) or larger."""
        rows = self.features[start:stop, :]
        if self.shift is None:
            return rows
        if not isinstance(rows, np.ndarray) or self.compute != np.float32:
            xp = array_namespace(rows)
            return xp.astype(rows, self.compute) - self.shift
        out = np.empty(rows.shape, dtype=np.float32) if scratch is None else scratch[: rows.shape[0]]
        if rows.dtype == np.float16:
            _numba_rows.widened(rows.view(np.int16), self.shift, out)
        else:
            _numba_rows.shifted(rows, self.shift, out)
        return out

    def fold(self, weights: Array) -> tuple[Array, Array]:
        """Weights (K, c, d + 1) on standardized features, the intercept last, as weights (K, c, d) and offsets (K, c)
        on blocks."""
        small = weights[:, :, :-1] / self.scale
        return small, weights[:, :, -1] - array_namespace(small).matmul(small, self.rest)

    def unfold(self, product: Array, ones: Array) -> Array:
        """(K, c, d + 1) products of residuals with standardized features and ones, from those with blocks (K, c, d)
        and with ones (K, c)."""
        xp = array_namespace(product)
        centred = (product - ones[:, :, None] * self.rest) / self.scale
        return xp.concat([centred, ones[:, :, None]], axis=2)

    def centred(self, weights: Array) -> Array:
        """Weights (K, c, d + 1) on features as those on standardized features."""
        xp = array_namespace(weights)
        bias = weights[:, :, -1] + weights[:, :, :-1] @ self.mean
        return xp.concat([weights[:, :, :-1] * self.scale, bias[:, :, None]], axis=2)

    def uncentred(self, weights: Array) -> Array:
        """Weights (K, c, d + 1) on standardized features as those on features."""
        xp = array_namespace(weights)
        inner = weights[:, :, :-1] / self.scale
        return xp.concat([inner, (weights[:, :, -1] - inner @ self.mean)[:, :, None]], axis=2)

    def standardized(self, rows: NDArray[Any]) -> Array:
        """(b, d) standardized rows, by index, in dtype `compute`."""
        xp = array_namespace(self.mean)
        taken = is_array(self.features) and not isinstance(self.features, np.ndarray)
        chosen = xp.take(self.features, xp.asarray(rows), axis=0) if taken else self.features[rows]
        wide = xp.astype(chosen, self.compute)
        centre = xp.astype(self.mean, self.compute)
        rest = xp.astype(self.mean - xp.astype(centre, xp.float64), self.compute)
        return (wide - centre - rest) * xp.astype(1 / self.scale, self.compute)

    def by_feature(self, rows: NDArray[Any]) -> NDArray[Any]:
        """(d, b) standardized rows on the host, by index, in dtype `compute`: a feature's values side by side."""
        features, numbers = self.features, rows
        if not isinstance(features, np.ndarray) or not np.issubdtype(features.dtype, np.floating):
            features, numbers = np.asarray(features[rows]), np.arange(rows.size)
            features = features if np.issubdtype(features.dtype, np.floating) else features.astype(self.compute)
        out = np.empty((self.mean.size, rows.size), dtype=self.compute)
        stored = features.view(np.int16) if features.dtype == np.float16 else features
        _numba_rows.gathered(stored, numbers, self.mean, 1 / self.scale, out)
        return out

    def rows(self, start: int, stop: int, step: int) -> Array:
        """(b, d) every step-th row in dtype `compute`, less `shift`."""
        chosen = self.features[start:stop:step, :]
        xp = array_namespace(chosen)
        if self.shift is None:
            return chosen
        return xp.astype(chosen, self.compute) - self.shift


def design(
    features: Any,
    *,
    standardize: bool,
    threads: Threads,
    block_rows: int,
    small: int = SMALL,
    moment_weights: NDArray[Any] | None = None,
    moments: tuple[Array, Array] | None = None,
) -> Design:
    """Mean and standard deviation of all rows in float64; a feature that does not vary keeps scale 1.

    Centring without standardization changes nothing but the intercept, so it is always done.

    `small` is the number of features times rows up to which products are float64; `moment_weights` (n) weight the rows
    in the moments, None counts them alike; `moments` are used in their place.

    Raises
    ------
    ShapeError
        If a feature is not finite, or given moments do not fit.
    """
    first = features[:1, :]
    xp = array_namespace(first)
    n, d = features.shape
    if moment_weights is not None:
        mean, scale = _weighted_moments(features, moment_weights, block_rows)
    elif isinstance(first, np.ndarray):
        mean, scale = _host_moments(features, threads, block_rows)
    elif on_cuda(first) and first.dtype != xp.float64:
        mean, scale = mean_and_scale(cuda(), features, n if is_array(features) else block_rows)
    else:
        mean, scale = _moments(features, block_rows)
    if not bool(xp.all(xp.isfinite(mean + scale))):
        raise ShapeError(f"Row {_first_bad(features, block_rows)} of the features is not finite.")
    if moments is not None:
        mean, scale = (xp.asarray(each, dtype=xp.float64) for each in moments)
        if mean.shape != (d,) or scale.shape != (d,) or not bool(xp.all(xp.isfinite(mean) & (scale > 0))):
            raise ShapeError(f"moments must be a finite mean and a positive deviation, both ({d},).")
    largest = xp.max(xp.abs(mean) / xp.where(scale > 0, scale, xp.ones_like(scale)))
    # Rounding leaves a constant feature with a deviation of some ulps of its mean: dividing by it would make noise.
    constant = scale <= 1e-7 * xp.maximum(xp.abs(mean), xp.ones_like(mean) * 1e-30)
    scale = xp.where(constant, xp.ones_like(scale), scale) if standardize else xp.ones_like(scale)
    compute = xp.float64 if first.dtype == xp.float64 or n * d <= small else xp.float32
    near = float(largest) <= LARGEST_OFFSET
    copied = first.dtype != compute or not near
    return Design(features, mean, scale, compute, xp.astype(mean, compute) if copied else None, near)


def _host_moments(features: Any, threads: Threads, block_rows: int) -> tuple[NDArray[Any], NDArray[Any]]:
    n, d = features.shape
    shift = np.asarray(features[: min(n, block_rows), :], dtype=np.float64).mean(axis=0)

    def work(start: int, stop: int) -> NDArray[Any]:
        sums = np.zeros((2, d))
        for lo in range(start, stop, block_rows):
            rows = features[lo : min(lo + block_rows, stop), :]
            wide = rows.astype(np.float32) if rows.dtype == np.float16 else rows
            _numba_rows.moments(wide, shift, sums[0], sums[1])
        return sums

    with np.errstate(all="ignore"):
        total = np.sum(threads.ranges(work, n, block_rows), axis=0) / n
        return shift + total[0], np.sqrt(np.maximum(total[1] - total[0] ** 2, 0))


def _moments(features: Array, block_rows: int) -> tuple[Array, Array]:
    n = features.shape[0]
    xp = array_namespace(features[:1, :])
    shift = xp.mean(xp.astype(features[: min(n, block_rows), :], xp.float64), axis=0)
    first, second = xp.zeros_like(shift), xp.zeros_like(shift)
    for lo in range(0, n, block_rows):
        block = xp.astype(features[lo : min(lo + block_rows, features.shape[0]), :], xp.float64) - shift
        first, second = first + xp.sum(block, axis=0), second + xp.sum(block * block, axis=0)
    first, second = first / n, second / n
    return shift + first, xp.sqrt(xp.maximum(second - first * first, xp.zeros_like(first)))


def _weighted_moments(features: Array, weights: NDArray[Any], block_rows: int) -> tuple[Array, Array]:
    n = features.shape[0]
    given = np.asarray(weights, dtype=np.float64)
    if given.shape != (n,) or not (np.isfinite(given).all() and (given >= 0).all() and given.any()):
        raise ShapeError(f"moment_weights must be ({n},), finite, not negative and not all zero; got {given.shape}.")
    share = given / given.sum()
    xp = array_namespace(features[:1, :])
    shift = xp.mean(xp.astype(features[: min(n, block_rows), :], xp.float64), axis=0)
    first, second = xp.zeros_like(shift), xp.zeros_like(shift)
    for lo in range(0, n, block_rows):
        block = xp.astype(features[lo : min(lo + block_rows, n), :], xp.float64) - shift
        part = xp.asarray(share[lo : lo + block_rows])
        first, second = first + part @ block, second + part @ (block * block)
    return shift + first, xp.sqrt(xp.maximum(second - first * first, xp.zeros_like(first)))


def _first_bad(features: Any, block_rows: int) -> int:
    for lo in range(0, features.shape[0], block_rows):
        block = features[lo : min(lo + block_rows, features.shape[0]), :]
        finite = to_numpy(array_namespace(block).isfinite(block)).all(axis=1)
        if not finite.all():
            return lo + int(np.argmin(finite))
    raise AssertionError("moments overflow float64, but every feature is finite")
