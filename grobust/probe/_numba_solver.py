"""L-BFGS's recursion on the CPU in one compiled call: a head's vectors stay in a core's cache between pairs.

The general code of `_solver` says the same in dozens of small operations, which for few heads take as long as the
features do. Everything is float64.
"""

# mypy: disallow_untyped_decorators=false
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from grobust.threads import Threads

__all__ = ["cholesky", "places", "two_loop"]

# Sums may be reordered, which vectorization needs; NaN and infinities keep their meaning.
MATH = {"reassoc", "nsz", "arcp", "contract"}
# Numbers of all heads together from which threads are worth waking.
SHARED_NUMBERS = 1 << 15


class Pair(Protocol):
    """What the recursion reads of a pair: `inverse` (K), 1 / (step · change) or 0, and the `places` of its vectors."""

    @property
    def inverse(self) -> NDArray[Any]: ...

    @property
    def places(self) -> NDArray[Any] | None: ...


def places(step: NDArray[Any], change: NDArray[Any], smoothed: NDArray[Any]) -> NDArray[Any]:
    """(3) uint64 addresses of a pair's vectors, float64 without gaps; they hold as long as the arrays live."""
    parts = (step, change, smoothed)
    assert all(part.dtype == np.float64 and part.flags.c_contiguous for part in parts)
    return np.array([part.ctypes.data for part in parts], dtype=np.uint64)


def two_loop(
    history: Sequence[Pair], gradient: NDArray[Any], preconditioned: NDArray[Any], threads: Threads
) -> NDArray[Any]:
    """Inverse Hessian estimate times the gradient, as `_solver` has it.

    Parameters
    ----------
    history : pairs of vectors like the gradient, oldest first
    gradient, preconditioned : (K, c, d + 1) float64
    """
    if not history:
        return preconditioned
    heads = gradient.shape[0]
    addresses, inverse = np.array([pair.places for pair in history]), np.array([pair.inverse for pair in history])
    g, pg = (np.ascontiguousarray(a, dtype=np.float64).reshape(heads, -1) for a in (gradient, preconditioned))
    out = np.empty_like(g)
    if g.size < SHARED_NUMBERS:
        _recursion(addresses, inverse, g, pg, 0, heads, out)
    else:
        threads.ranges(lambda start, stop: _recursion(addresses, inverse, g, pg, start, stop, out), heads, 1)
    return out.reshape(gradient.shape)


@intrinsic
def _pointer(typingctx: Any, address: Any) -> Any:
    """The void pointer of an address."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(address), build


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH, inline="always")
def _at(address: Any, shape: Any) -> Any:
    return carray(_pointer(address), shape, np.float64)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH)
def _dot(a: Any, b: Any) -> Any:
    total = 0.0
    for j in range(a.size):
        total += a[j] * b[j]
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH)
def _add(scale: Any, a: Any, out: Any) -> None:
    for j in range(out.size):
        out[j] += scale * a[j]


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH)
def _recursion(addresses: Any, inverse: Any, g: Any, pg: Any, start: int, stop: int, out: Any) -> None:
    """Heads start … stop: addresses (m, 3) of arrays like g (K, size), and inverse (m, K)."""
    pairs, size = inverse.shape[0], g.shape[1]
    alphas, q = np.empty(pairs), np.empty(size)
    for k in range(start, stop):
        r = out[k]
        for j in range(size):
            q[j], r[j] = g[k, j], pg[k, j]
        for p in range(pairs - 1, -1, -1):
            alphas[p] = inverse[p, k] * _dot(_at(addresses[p, 0], g.shape)[k], q)
            _add(-alphas[p], _at(addresses[p, 1], g.shape)[k], q)
            _add(-alphas[p], _at(addresses[p, 2], g.shape)[k], r)
        last = pairs - 1
        change = _at(addresses[last, 1], g.shape)[k]
        denominator = _dot(change, _at(addresses[last, 2], g.shape)[k])
        if inverse[last, k] > 0 and denominator > 0:
            scale = _dot(_at(addresses[last, 0], g.shape)[k], change) / denominator
            for j in range(size):
                r[j] *= scale
        for p in range(pairs):
            beta = inverse[p, k] * _dot(_at(addresses[p, 1], g.shape)[k], r)
            _add(alphas[p] - beta, _at(addresses[p, 0], g.shape)[k], r)


@njit(nogil=True, cache=True, error_model="numpy")
def cholesky(matrix: Any) -> Any:
    """Lower factor of a symmetric matrix (d, d) of finite numbers, in its dtype; threads can factor side by side.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the matrix is not positive definite.
    """
    return np.linalg.cholesky(matrix)
