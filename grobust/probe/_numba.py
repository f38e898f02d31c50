"""The element-wise stage on the CPU: compiled loops over one block of rows, float32 in, float64 sums out.

NumPy would walk the block a dozen times; these loops walk it once, with exponentials and logarithms that the compiler
can vectorize. They release the interpreter lock, so that several threads can each work on their own rows. They equal
`grobust.probe._objective` (by test) to float32 rounding.
"""

# mypy: disallow_untyped_decorators=false
from typing import Any

import numpy as np
from numba import njit

from grobust.probe._numba_products import backward, forward
from grobust.probe._numba_rows import as_float, bits, pattern

__all__ = [
    "advance",
    "class_totals",
    "count_correct",
    "encode",
    "evaluate",
    "expand",
    "minibatches",
]

# Sums may be reordered, which vectorization needs; NaN and infinities keep their meaning.
MATH = {"reassoc", "nsz", "arcp", "contract"}
LOG2_E = np.float32(1.4426950408889634)
# ln 2 in two parts, the first with trailing zeros, so that k times it is exact.
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
LN2 = np.float32(0.6931471805599453)
SMALLEST = np.float32(-87.0)
CODES = 256


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH, inline="always")
def _exp(x: Any) -> Any:
    """e^x for x ≤ 0, to 2 ulp: 2^k times the Taylor series on |f| ≤ ln 2 / 2."""
    x = max(x, SMALLEST)
    k = np.int32(x * LOG2_E - np.float32(0.5))
    f = x - np.float32(k) * LN2_HIGH - np.float32(k) * LN2_LOW
    p = np.float32(1 / 5040)
    p = p * f + np.float32(1 / 720)
    p = p * f + np.float32(1 / 120)
    p = p * f + np.float32(1 / 24)
    p = p * f + np.float32(1 / 6)
    p = p * f + np.float32(0.5)
    p = p * f + np.float32(1)
    p = p * f + np.float32(1)
    return p * bits(np.int32((k + np.int32(127)) << np.int32(23)))


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH, inline="always")
def _log1p(e: Any) -> Any:
    """log(1 + e) for 0 ≤ e ≤ 1: 2 atanh(e / (2 + e)), whose argument is at most 1/3."""
    s = e / (np.float32(2) + e)
    q = s * s
    p = np.float32(2 / 15)
    p = p * q + np.float32(2 / 13)
    p = p * q + np.float32(2 / 11)
    p = p * q + np.float32(2 / 9)
    p = p * q + np.float32(2 / 7)
    p = p * q + np.float32(2 / 5)
    p = p * q + np.float32(2 / 3)
    p = p * q + np.float32(2)
    return p * s


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH, inline="always")
def _log1p_of_any(x: Any) -> Any:
    """log(1 + x) for x ≥ 0: k ln 2 and the series of 1 + x = 2^k (1 + e)."""
    t = np.float32(1) + x
    k = (pattern(t) >> np.int32(23)) - np.int32(127)
    e = t * bits((np.int32(127) - k) << np.int32(23)) - np.float32(1)
    return np.float32(k) * LN2 + _log1p(x if k == 0 else e)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH)
def advance(
    z: Any, dz: Any, slots: Any, step: Any, new: Any, offset: Any, labels: Any, weights: Any, weighting: Any,
    residual: Any, sums: Any, work: Any,
) -> None:  # fmt: skip
    """Take the last step, store the new direction's logits, and evaluate at a step of 1 along it.

    Parameters
    ----------
    z, dz : (S, c, r or more) float32, of a block's r rows, updated: z += step · dz, dz = new + offset
    slots : (K) int64, where in them each head's are
    step : (K) float32; new : (K, c, r) float32; offset : (K, c) float32
    labels : (r) int32; weights : (U, r) float32; weighting : (K), the row of `weights` of each head
    residual : (K, c, r) float32, out
    sums : (K, 2 + c) float64, added to: loss, slope along dz, and residual sums
    work : (3, r or more) float32
    """
    heads, columns, rows = new.shape
    for k in range(heads):
        t, s = step[k], slots[k]
        for c in range(columns):
            shift = offset[k, c]
            for i in range(rows):
                d = new[k, c, i] + shift
                z[s, c, i] += t * dz[s, c, i]
                dz[s, c, i] = d
                residual[k, c, i] = z[s, c, i] + d
        _residuals(k, residual, labels, weights[weighting[k]], sums, work)
        sums[k, 1] += _slope(residual[k], dz[s])


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH)
def evaluate(
    z: Any, dz: Any, slots: Any, step: Any, labels: Any, weights: Any, weighting: Any, residual: Any, sums: Any,
    work: Any,
) -> None:  # fmt: skip
    """The same at z + step · dz; nothing is stored but residual and sums."""
    heads, columns, rows = residual.shape
    for k in range(heads):
        s = slots[k]
        for c in range(columns):
            for i in range(rows):
                residual[k, c, i] = z[s, c, i] + step[k] * dz[s, c, i]
        _residuals(k, residual, labels, weights[weighting[k]], sums, work)
        sums[k, 1] += _slope(residual[k], dz[s])


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH)
def _slope(residual: Any, dz: Any) -> Any:
    """Σ residual (c, r) · dz (c, r or more)."""
    columns, rows = residual.shape
    total = 0.0
    for c in range(columns):
        for i in range(rows):
            total += np.float64(residual[c, i]) * np.float64(dz[c, i])
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH)
def _residuals(k: int, residual: Any, labels: Any, weights: Any, sums: Any, work: Any) -> None:
    """Turn logits, given in `residual`, into weighted residuals; add up loss and residuals.

    A row's class has the residual −Σ of the others' probabilities, and its loss log(1 + their exponentials): digits
    that 1 − p and log p do not have where p is almost 1.
    """
    _, columns, rows = residual.shape
    loss = 0.0
    if columns == 1:
        total = 0.0
        for i in range(rows):
            z, w = residual[k, 0, i], weights[i]
            # The logit of the other class: probabilities near 1 less 1 would be rounding.
            sign = np.float32(1) - np.float32(2) * np.float32(labels[i])
            other = sign * z
            e = _exp(-abs(z))
            inverse = np.float32(1) / (np.float32(1) + e)
            r = (inverse if other >= 0 else e * inverse) * sign * w
            residual[k, 0, i] = r
            loss += np.float64((_log1p(e) + max(other, np.float32(0))) * w)
            total += np.float64(r)
        sums[k, 0] += loss
        sums[k, 2] += total
        return
    largest, others, target = work[0], work[1], work[2]
    for i in range(rows):
        largest[i] = residual[k, 0, i]
        others[i] = np.float32(0)
    for c in range(1, columns):
        for i in range(rows):
            largest[i] = max(largest[i], residual[k, c, i])
    for c in range(columns):
        for i in range(rows):
            shifted = residual[k, c, i] - largest[i]
            e = _exp(shifted)
            if labels[i] == c:
                target[i] = shifted
            else:
                others[i] += e
            residual[k, c, i] = e
    for i in range(rows):
        own = _exp(target[i])
        beyond_one = others[i] if target[i] == 0 else others[i] + own - np.float32(1)
        loss += np.float64((_log1p_of_any(beyond_one) - target[i]) * weights[i])
        largest[i] = weights[i] / (others[i] + own)
    sums[k, 0] += loss
    for c in range(columns):
        total = 0.0
        for i in range(rows):
            r = (-others[i] if labels[i] == c else residual[k, c, i]) * largest[i]
            residual[k, c, i] = r
            total += np.float64(r)
        sums[k, 2 + c] += total


@njit(nogil=True, cache=True, error_model="numpy")
def expand(codes: Any, values: Any, lo: int, out: Any) -> None:
    """out[u, i] = values[u, codes[u, lo + i]]."""
    weightings, rows = out.shape
    for u in range(weightings):
        for i in range(rows):
            out[u, i] = values[u, codes[u, lo + i]]


@njit(nogil=True, cache=True, error_model="numpy")
def encode(weights: Any, codes: Any, values: Any) -> int:
    """Write each weight's code and the distinct values; their number, or −1 if there are more than `CODES`."""
    known = 0
    for i in range(weights.size):
        w = weights[i]
        code = 0
        while code < known and values[code] != w:
            code += 1
        if code == known:
            if known == CODES:
                return -1
            values[known] = w
            known += 1
        codes[i] = code
    return known


@njit(nogil=True, cache=True, error_model="numpy")
def class_totals(codes: Any, labels: Any, counts: Any) -> None:
    """Add the rows of each code and class to counts (CODES, k)."""
    for i in range(codes.size):
        counts[codes[i], labels[i]] += 1


@njit(nogil=True, cache=True, error_model="numpy", fastmath=MATH)
def minibatches(
    features: Any, rows: Any, offsets: Any, labels: Any, weights: Any, mean: Any, inverse: Any, w: Any, first: Any,
    second: Any, step: int, adam: bool, normalize: bool, rate: float, decay: float, beta1: float, beta2: float,
    epsilon: float, batch: int,
) -> Any:  # fmt: skip
    """Train one head on minibatches, one after another, in float32; the mean of their losses, in float64.

    Parameters
    ----------
    features : (n, d) float32 or float64, or float16's bits as int16
    rows : (s) rows drawn; offsets : (b + 1) where each minibatch begins; labels : (n) int32; weights : (s) float32
    mean, inverse : (d) float32; a feature is used as (x − mean) · inverse
    w : (c, d + 1) float32, the last column the intercepts, in and out. One column is a class's half of two opposite
        ones, so its logit is twice its product
    first, second : (c, d + 1) float32 momentum, or moments of Adam, in and out
    step : minibatches before these; adam : AdamW, else SGD, whose momentum is `beta1`
    normalize : divide a minibatch's loss by the sum of its weights, else by its size
    rate, decay : learning rate and weight decay (of the intercepts too), as in torch.optim
    batch : largest minibatch
    """
    columns, width = w.shape
    d = width - 1
    block = np.ones((batch, width), dtype=np.float32)
    room = np.empty(columns * batch, dtype=np.float32)
    gradient = np.empty((columns, width), dtype=np.float32)
    y, share = np.empty(batch, dtype=np.int32), np.empty(batch, dtype=np.float32)
    work, sums = np.empty((3, batch), dtype=np.float32), np.zeros((1, 2 + columns))
    slope = np.float32(2 if columns == 1 else 1)
    for s in range(offsets.size - 1):
        lo, size = offsets[s], offsets[s + 1] - offsets[s]
        total = np.float64(0)
        for i in range(size):
            row = rows[lo + i]
            y[i], share[i] = labels[row], weights[lo + i]
            total += np.float64(weights[lo + i])
            for j in range(d):
                block[i, j] = (as_float(features[row, j]) - mean[j]) * inverse[j]
        total = total if normalize else np.float64(size)
        for i in range(size):
            share[i] = np.float32(share[i] / total)
        residual = room[: columns * size].reshape(columns, size)
        forward(w, block[:size], residual)
        for c in range(columns):
            for i in range(size):
                residual[c, i] *= slope
        _residuals(0, residual.reshape(1, columns, size), y[:size], share[:size], sums, work)
        backward(residual, block[:size], gradient)
        if adam:
            t = step + s + 1
            scale = np.float32(rate / (1 - beta1**t))
            root = np.float32(1 / np.sqrt(1 - beta2**t))
            shrink, b1, b2 = np.float32(1 - rate * decay), np.float32(beta1), np.float32(beta2)
            eps = np.float32(epsilon)
            for c in range(columns):
                for j in range(width):
                    g = gradient[c, j]
                    m = b1 * first[c, j] + (np.float32(1) - b1) * g
                    v = b2 * second[c, j] + (np.float32(1) - b2) * g * g
                    first[c, j], second[c, j] = m, v
                    w[c, j] = shrink * w[c, j] - scale * m / (np.sqrt(v) * root + eps)
        else:
            lr, wd, momentum = np.float32(rate), np.float32(decay), np.float32(beta1)
            for c in range(columns):
                for j in range(width):
                    m = momentum * first[c, j] + gradient[c, j] + wd * w[c, j]
                    first[c, j] = m
                    w[c, j] -= lr * m
    return sums[0, 0] / max(offsets.size - 1, 1)


@njit(nogil=True, cache=True, error_model="numpy")
def count_correct(logits: Any, labels: Any, groups: Any, correct: Any) -> None:
    """Add the rows that each head gets right to correct (K, g), by group; logits (K, c, r), ties to the first class."""
    heads, columns, rows = logits.shape
    best, chosen = np.empty(rows, dtype=np.float32), np.empty(rows, dtype=np.int32)
    for k in range(heads):
        if columns == 1:
            for i in range(rows):
                chosen[i] = logits[k, 0, i] > 0
        else:
            for i in range(rows):
                best[i], chosen[i] = logits[k, 0, i], 0
            for c in range(1, columns):
                for i in range(rows):
                    better = logits[k, c, i] > best[i]
                    best[i] = logits[k, c, i] if better else best[i]
                    chosen[i] = c if better else chosen[i]
        for i in range(rows):
            correct[k, groups[i]] += chosen[i] == labels[i]
