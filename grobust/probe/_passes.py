"""One pass over the features per iteration: logits of a direction, residuals at its end, and their gradient.

A block of rows is read once: its product with the directions, the element-wise stage and the product back with the
residuals all happen while it is in the cache. Logits are linear in the step, so other step lengths need no features.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace, to_numpy
from grobust.probe._design import Design
from grobust.probe._objective import losses
from grobust.probe._weights import WeightTable
from grobust.typing import Array

__all__ = [
    "CURVATURE_HEADS", "ArrayPasses", "Evaluation", "Passes", "WithMoments", "mean_curvature", "some_heads",
]  # fmt: skip


# Heads whose curvature is averaged for the preconditioner.
CURVATURE_HEADS = 16


class Evaluation(NamedTuple):
    """Per head, without penalty: loss (K) float64, its slope along the direction (K) float64, and its gradient
    (K, c, d + 1) float64 by weights on standardized features and intercept, where asked for."""

    loss: Array
    slope: Array
    gradient: Array | None


@runtime_checkable
class Passes(Protocol):
    """Logits z of K heads, and dz of a direction, for all rows; both begin as zeros."""

    @property
    def weighting(self) -> NDArray[Any]:
        """(K) the number of each head's weighting."""

    def advance(self, direction: Array) -> Evaluation:
        """Go to z + step · dz, take a new direction (K, c, d + 1), and evaluate at its end, with gradient."""

    def evaluate(self, heads: NDArray[Any], step: NDArray[Any], *, gradient: bool) -> Evaluation:
        """Evaluate the listed heads at z + step · dz."""

    def take(self, step: NDArray[Any]) -> None:
        """The step (K) to go at the next call of `advance`."""

    def keep(self, heads: NDArray[Any]) -> None:
        """Drop the other heads."""

    def curvature(self, stride: int) -> Array:
        """(b) float64 mean over some heads of w_i p_i (1 − p_i), at z + step · dz, of every stride-th row."""


@runtime_checkable
class WithMoments(Protocol):
    """Passes that know a better way to the preconditioner's moments than rows of the features in one piece."""

    def moments(self, stride: int) -> tuple[Array, Array]:
        """(d, d) float32 mean Hessian of the running heads on standardized features, the intercepts' part taken out,
        and its second derivative () by the intercept, from every stride-th row."""


class ArrayPasses:
    """The same in general array code, in the dtype of the design: the reference, and the path of float64 and CuPy."""

    def __init__(self, design: Design, labels: Array, weights: WeightTable, columns: int, block: int) -> None:
        self._xp = array_namespace(labels)
        self._design, self._labels, self._weights, self._block = design, labels, weights, block
        shape = (weights.weighting.size, columns, labels.shape[0])
        self._z = self._xp.zeros(shape, dtype=design.compute)
        self._dz = self._xp.zeros(shape, dtype=design.compute)
        self._step = self._xp.zeros(shape[0], dtype=design.compute)

    @property
    def weighting(self) -> NDArray[Any]:
        return self._weights.weighting

    def advance(self, direction: Array) -> Evaluation:
        xp, n = self._xp, self._labels.shape[0]
        small, offset = self._design.fold(direction)
        heads, columns, d = small.shape
        flat = xp.astype(xp.reshape(small, (heads * columns, d)), self._design.compute)
        offset = xp.astype(offset, self._design.compute)[:, :, None]
        self._z += self._step[:, None, None] * self._dz
        self._step = xp.zeros_like(self._step)
        totals = self._totals(heads, columns, d)
        for lo in range(0, n, self._block):
            hi = min(lo + self._block, n)
            block = self._design.block(lo, hi)
            dz = xp.reshape(flat @ block.T, (heads, columns, hi - lo)) + offset
            self._dz[:, :, lo:hi] = dz
            totals = self._add(totals, self._z[:, :, lo:hi] + dz, dz, np.arange(heads), lo, hi, block)
        return self._evaluation(*totals)

    def evaluate(self, heads: NDArray[Any], step: NDArray[Any], *, gradient: bool) -> Evaluation:
        xp, n = self._xp, self._labels.shape[0]
        index = xp.asarray(heads)
        t = xp.asarray(step, dtype=self._design.compute)[:, None, None]
        totals = self._totals(heads.size, self._z.shape[1], self._design.features.shape[1])
        for lo in range(0, n, self._block):
            hi = min(lo + self._block, n)
            dz = xp.take(self._dz[:, :, lo:hi], index, axis=0)
            z = xp.take(self._z[:, :, lo:hi], index, axis=0) + t * dz
            totals = self._add(totals, z, dz, heads, lo, hi, self._design.block(lo, hi) if gradient else None)
        loss, slope, _, _ = totals
        return self._evaluation(*totals) if gradient else Evaluation(loss, slope, None)

    def take(self, step: NDArray[Any]) -> None:
        self._step = self._xp.asarray(step, dtype=self._design.compute)

    def keep(self, heads: NDArray[Any]) -> None:
        index = self._xp.asarray(heads)
        self._z, self._dz, self._step = (self._xp.take(a, index, axis=0) for a in (self._z, self._dz, self._step))
        self._weights = self._weights.take(heads)

    def curvature(self, stride: int) -> NDArray[Any]:
        heads = some_heads(self._z.shape[0])
        z = self._z[heads, :, ::stride] + self._step[heads][:, None, None] * self._dz[heads, :, ::stride]
        return mean_curvature(to_numpy(z), self._weights, heads, stride)

    def _totals(self, heads: int, columns: int, d: int) -> tuple[Array, Array, Array, Array]:
        zeros = self._xp.zeros
        f64 = self._xp.float64
        return (
            zeros(heads, dtype=f64), zeros(heads, dtype=f64), zeros((heads * columns, d), dtype=f64),
            zeros((heads, columns), dtype=f64),
        )  # fmt: skip

    def _add(
        self, totals: tuple[Array, ...], z: Array, dz: Array, heads: NDArray[Any], lo: int, hi: int, block: Array | None
    ) -> tuple[Array, Array, Array, Array]:
        xp = self._xp
        weights = self._weights.rows(lo, hi)[self._weights.weighting[heads]]
        part, residual = losses(z, self._labels[lo:hi], xp.asarray(weights, dtype=z.dtype))
        loss, slope, product, ones = totals
        loss, slope = loss + part, slope + xp.sum(residual * dz, axis=(1, 2), dtype=xp.float64)
        if block is not None:
            flat = xp.reshape(residual, (product.shape[0], hi - lo))
            product = product + xp.astype(flat @ block, xp.float64)
            ones = ones + xp.sum(residual, axis=2, dtype=xp.float64)
        return loss, slope, product, ones

    def _evaluation(self, loss: Array, slope: Array, product: Array, ones: Array) -> Evaluation:
        heads, columns = ones.shape
        product = self._xp.reshape(product, (heads, columns, product.shape[1]))
        return Evaluation(loss, slope, self._design.unfold(product, ones))


def some_heads(heads: int) -> slice:
    """At most `CURVATURE_HEADS` heads, evenly spaced."""
    return slice(None, None, -(-heads // CURVATURE_HEADS))


def mean_curvature(z: NDArray[Any], weights: WeightTable, heads: slice, stride: int) -> NDArray[Any]:
    """(b) float64 mean over heads and columns of w p (1 − p), from logits (h, c, b)."""
    if z.shape[1] == 1:
        small = np.exp(-np.abs(z))
        curvature = small / (1 + small) ** 2
    else:
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        curvature = p * (1 - p)
    rows = weights.rows(0, weights.codes.shape[1], stride)[weights.weighting[heads]]
    return np.asarray(np.einsum("kcb,kb->b", curvature, rows, dtype=np.float64) / (z.shape[0] * z.shape[1]))
