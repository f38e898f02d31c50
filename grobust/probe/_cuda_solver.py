"""Steps of the solver on a GPU, one launch each: L-BFGS's recursion, inner products, and the preconditioner.

The general code of `_solver` and `_precondition` says the same in dozens of small operations, whose launches would
take longer than the products with the features.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.device._interface import Device, forward
from grobust.typing import Array

__all__ = ["FUSED_SIZE", "dots", "shared_product", "two_loop"]

THREADS = 256
# A head's vector that one block works on without being the slowest part of an iteration.
FUSED_SIZE = 1 << 15
# Pairs that the kernel has room for.
MOST_PAIRS = 64
# Elements of the products of gradients with all inverses at a time.
MOST_PRODUCTS = 1 << 26


def dots(device: Device, a: Array, b: Array) -> Array | None:
    """(K) float64 inner products of (K, c, d) float64 arrays, or None if their entries do not stand side by side."""
    heads, columns, width = a.shape
    if columns * width > FUSED_SIZE or a.strides[2] != 8 or b.strides[2] != 8:
        return None
    pitches = [np.int64(stride // 8) for array in (a, b) for stride in array.strides[:2]]
    out = device.xp.empty(heads, dtype=np.float64)
    device.launch(
        "dots", (heads,), (THREADS,), (a, *pitches[:2], b, *pitches[2:], np.int32(columns), np.int32(width), out)
    )
    return out


def two_loop(
    device: Device, history: Sequence[Sequence[Array]], gradient: Array, preconditioned: Array
) -> Array | None:
    """Inverse Hessian estimate times the gradient, as `_solver` has it; None where vectors or history are too large.

    Parameters
    ----------
    history : of pairs, oldest first: step, change, preconditioned change (K, c, d + 1), and 1 / (step · change) (K)
    gradient, preconditioned : (K, c, d + 1) float64
    """
    heads, pairs = gradient.shape[0], len(history)
    size = gradient[0].size
    if size > FUSED_SIZE or pairs > MOST_PAIRS:
        return None
    xp = device.xp
    kept = [[xp.ascontiguousarray(pair[part]) for pair in history] for part in range(4)]
    addresses = np.array([address(array) for part in kept for array in part], dtype=np.uint64)
    room, out = xp.empty((heads, size), dtype=np.float64), xp.empty(gradient.shape, dtype=np.float64)
    device.launch(
        "two_loop", (heads,), (THREADS,),
        (xp.asarray(addresses), np.int32(pairs), np.int64(size), xp.ascontiguousarray(gradient),
         xp.ascontiguousarray(preconditioned), room, out),
    )  # fmt: skip
    return out


def address(array: Array) -> int:
    """Where an array's first element is."""
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


def shared_product(device: Device, inverses: Array, gradient: Array, nearest: NDArray[Any], bias: float) -> Array:
    """Each head's gradient (K, c, d + 1) times the inverse (d, d) that `nearest` (K) names of `inverses` (R, d, d),
    which are symmetric; the intercepts' part divided by `bias`."""
    xp, (heads, columns, width) = device.xp, gradient.shape
    references, d = inverses.shape[0], width - 1
    out = xp.empty(gradient.shape, dtype=np.float64)
    of = xp.asarray(nearest, dtype=np.int32)
    turn = max(1, MOST_PRODUCTS // (columns * references * d))
    for start in range(0, heads, turn):
        part = xp.ascontiguousarray(gradient[start : start + turn])
        small = xp.ascontiguousarray(part[:, :, :-1].astype(np.float32)).reshape(-1, d)
        products = xp.empty((small.shape[0], references * d), dtype=np.float32)
        forward(device, inverses.reshape(references * d, d), small, products)
        device.launch(
            "choose_product", (small.shape[0],), (THREADS,),
            (products, part, of[start:], np.int32(references), np.int32(d), np.int32(columns), np.float64(bias),
             out[start:]),
        )  # fmt: skip
    return out
