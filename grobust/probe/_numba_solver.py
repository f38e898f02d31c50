"""L-BFGS's recursion on the CPU in one compiled call: a head's vectors stay in a core's cache between pairs.

The general code of `_solver` says the same in dozens of small operations, which for few heads take as long as the
features do. Everything is float64.
"""

# mypy: disallow_untyped_decorators=false
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from grobust.threads import Threads

__all__ = ["two_loop"]

# Sums may be reordered, which vectorization needs; NaN and infinities keep their meaning.
MATH = {"reassoc", "nsz", "arcp", "contract"}
# Numbers of all heads together from which threads are worth waking.
SHARED_NUMBERS = 1 << 15


def two_loop(
    history: Sequence[Sequence[NDArray[Any]]], gradient: NDArray[Any], preconditioned: NDArray[Any], threads: Threads
) -> NDArray[Any]:
    """Inverse Hessian estimate times the gradient, as `_solver` has it.

    Parameters
    ----------
    history : of pairs, oldest first: step, change, preconditioned change (K, c, d + 1), and 1 / (step · change) (K)
    gradient, preconditioned : (K, c, d + 1) float64
    """
    if not history:
        return preconditioned
    heads = gradient.shape[0]
    # Alive until the call is over, as the compiled code knows addresses only.
    kept = [[np.ascontiguousarray(part, dtype=np.float64) for part in pair] for pair in history]
    addresses = np.array([[part.ctypes.data for part in pair[:3]] for pair in kept], dtype=np.uint64)
    inverse = np.stack([pair[3] for pair in kept])
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
