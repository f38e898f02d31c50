"""Batched L-BFGS: K heads in lock step, one pass over the features per iteration.

Heads that have converged leave the batch. A step of 1 is evaluated together with its gradient; other lengths are
found on cached logits and cost a second pass for their heads only. A shared preconditioner is bought when the passes
so far have cost as much as it does (rent or buy: at most twice the better choice); where that is long, one from few
rows, for half a pass, comes first. Weights, dots, sums and history are float64; products with the features are of the
design's dtype.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace, on_cuda, to_numpy
from grobust.device._cuda import cuda
from grobust.probe import _cuda_solver, _numba_solver
from grobust.probe._design import Design
from grobust.probe._few_rows import from_few_rows
from grobust.probe._passes import Evaluation, Passes
from grobust.probe._precondition import Preconditioner, build, references
from grobust.probe._purchase import Purchase, passes_to_come
from grobust.settings import LBFGS
from grobust.threads import Threads
from grobust.typing import Array

__all__ = ["Solution", "at_zero", "solve"]

# Sufficient decrease and curvature of the line search (Nocedal & Wright, chapter 3).
DECREASE, CURVATURE = 1e-4, 0.9
MAX_TRIALS = 25
# The quasi-Newton estimate of the distance from the minimum may be this much too small: 45 times has been seen where
# labels are learnt by heart and strengths tiny, and no more with a preconditioner that knows few rows.
SAFETY, SAFETY_OF_FEW_ROWS = 50.0, 100.0
# So may the bound by the gradient, which the intercept, that no strength holds, is outside of: 3.7 times has been seen.
SAFETY_OF_GAP = 4.0
# A head stalls when its loss has not decreased by more than rounding for so many iterations.
PATIENCE = 10
# Relative rounding of the losses.
ROUNDING_FLOAT32, ROUNDING_FLOAT64 = 1e-7, 1e-14


@dataclass(frozen=True, eq=False)
class Solution:
    """Weights (K, c, d + 1) float64, the last the intercepts, and (K) arrays on the host."""

    weights: Array
    objective: NDArray[Any]
    gap: NDArray[Any]
    decrement: NDArray[Any]
    grad_norm: NDArray[Any]
    grad_norm_at_zero: NDArray[Any]
    n_iter: NDArray[Any]
    converged: NDArray[Any]

    def replace(self, heads: NDArray[Any], other: "Solution") -> None:
        """Take another solution of some heads, adding up iterations."""
        _put(self.weights, heads, other.weights)
        self.n_iter[heads] += other.n_iter
        for name in ("objective", "gap", "decrement", "grad_norm", "converged"):
            getattr(self, name)[heads] = getattr(other, name)


class _Pair(NamedTuple):
    """A step, the gradient's change over it, the preconditioned change, and 1 / (step · change) or 0; for NumPy arrays
    where the first three are."""

    step: Array
    change: Array
    smoothed: Array
    inverse: Array
    places: NDArray[Any] | None


def _pair(step: Array, change: Array, smoothed: Array, inverse: Array) -> _Pair:
    if not isinstance(step, np.ndarray):
        return _Pair(step, change, smoothed, inverse, None)
    step, change, smoothed = (np.ascontiguousarray(part) for part in (step, change, smoothed))
    return _Pair(step, change, smoothed, inverse, _numba_solver.places(step, change, smoothed))


@dataclass(eq=False)
class _State:
    """The heads still running: weights w, gradient g, objective f, strengths, and pairs of steps and changes."""

    heads: NDArray[Any]
    w: Array
    g: Array
    pg: Array
    f: NDArray[Any]
    l2: NDArray[Any]
    still: NDArray[Any]
    decrement: NDArray[Any]
    history: list[_Pair] = field(default_factory=list)

    def keep(self, chosen: NDArray[Any]) -> None:
        xp = array_namespace(self.w)
        index = xp.asarray(chosen)
        self.heads, self.f, self.l2 = self.heads[chosen], self.f[chosen], self.l2[chosen]
        self.still, self.decrement = self.still[chosen], self.decrement[chosen]
        self.w, self.g = xp.take(self.w, index, axis=0), xp.take(self.g, index, axis=0)
        self.pg = xp.take(self.pg, index, axis=0)
        self.history = [_pair(*(xp.take(part, index, axis=0) for part in pair[:4])) for pair in self.history]


def solve(
    design: Design, passes: Passes, start: Array, l2: NDArray[Any], *, settings: LBFGS, threads: Threads
) -> Solution:
    """Minimize Σ_i s_ik ℓ_i + ½ λ_k ‖W_k‖² for every head k.

    Parameters
    ----------
    design : features
    passes : over them, at z = 0
    start : (K, c, d + 1) float64 initial weights
    l2 : (K) float64, effective strengths λ on the columns used
    """
    xp = array_namespace(start)
    n_heads = start.shape[0]
    state, start_norm = _begin(passes, start, l2)
    at_first = _gap(start_norm, l2) / state.f
    result = _empty(start, start_norm)
    purchase = Purchase(
        design.features.shape, columns=start.shape[1], heads=n_heads, references=references(l2)[0].size
    )  # fmt: skip
    precondition: Preconditioner | None = None
    safety = SAFETY
    rounding = ROUNDING_FLOAT64 if design.compute == xp.float64 else ROUNDING_FLOAT32
    moved = np.ones(n_heads, dtype=bool)
    for iteration in range(settings.max_iter + 1):
        norms = _host_norm(state.g)
        gap = _gap(norms, state.l2)
        if purchase.wanted(iteration, partial(_to_come, gap, state, at_first, settings.rtol, iteration)):
            precondition = build(design, passes, state.heads, l2[state.heads], purchase.rows, threads)
            purchase.bought()
            safety = SAFETY
            state.history = []
            state.pg = precondition(state.g, state.heads)
        elif iteration == 0 and purchase.few_rows and isinstance(start, np.ndarray):
            precondition = from_few_rows(design, passes, state.heads, l2, purchase.few_rows, threads)
            if precondition is not None:
                safety = SAFETY_OF_FEW_ROWS
                state.pg = precondition(state.g, state.heads)
        direction, slope = _descent(state, threads)
        # The larger of two in a row: one alone may be small by luck.
        latest = np.maximum(-slope / 2, 0)
        decrement, state.decrement = np.maximum(latest, state.decrement), latest
        estimate = np.minimum(SAFETY_OF_GAP * gap, np.inf if precondition is None else safety * decrement)
        converged = (norms <= settings.gtol * start_norm[state.heads]) & (estimate <= settings.rtol * state.f)
        finished = converged | ~moved | (iteration == settings.max_iter)
        if finished.any():
            _store(result, state, np.flatnonzero(finished), gap, decrement, norms, converged, iteration)
            if finished.all():
                break
            left = np.flatnonzero(~finished)
            state.keep(left)
            passes.keep(left)
            direction, slope = xp.take(direction, xp.asarray(left), axis=0), slope[left]
        moved = _step(state, passes, direction, slope, settings.memory, precondition, rounding)
        purchase.spend(state.heads.size)
    return result


def _begin(passes: Passes, start: Array, l2: NDArray[Any]) -> tuple[_State, NDArray[Any]]:
    """The heads at their start, and gradient norms (K) at zero weights."""
    xp = array_namespace(start)
    n_heads = start.shape[0]
    zero = at_zero(passes)
    assert zero.gradient is not None
    w, g, none = xp.zeros_like(start), zero.gradient, np.zeros(n_heads, dtype=np.int64)
    state = _State(np.arange(n_heads), w, g, g, to_numpy(zero.loss), l2, none, np.full(n_heads, np.inf))
    norm = _host_norm(zero.gradient)
    if bool(xp.any(start != 0)):
        state.w = start
        first = passes.advance(start)
        assert first.gradient is not None
        passes.take(np.ones(n_heads))
        state.f = to_numpy(first.loss) + 0.5 * l2 * to_numpy(_dot(start[:, :, :-1], start[:, :, :-1]))
        state.g = state.pg = _penalized(first.gradient, start, l2)
    return state, norm


def _empty(start: Array, start_norm: NDArray[Any]) -> Solution:
    """A solution to be filled in as heads finish."""
    n_heads = start.shape[0]
    objective, gap, decrement, norm = np.zeros((4, n_heads))
    return Solution(
        array_namespace(start).zeros_like(start), objective, gap, decrement, norm, start_norm,
        np.zeros(n_heads, dtype=np.int64), np.zeros(n_heads, dtype=bool),
    )  # fmt: skip


def _descent(state: _State, threads: Threads) -> tuple[Array, NDArray[Any]]:
    """Directions (K, c, d + 1) that go down, and their slopes (K)."""
    xp = array_namespace(state.w)
    direction = -_two_loop(state, threads)
    slope = to_numpy(_dot(direction, state.g))
    uphill = slope >= 0
    if uphill.any():
        # Rounding can spoil a preconditioner or the history: those heads go down the gradient.
        direction = xp.where(xp.asarray(uphill)[:, None, None], -state.g, direction)
        slope = to_numpy(_dot(direction, state.g))
    return direction, slope


def at_zero(passes: Passes) -> Evaluation:
    """Evaluation of every head at z = 0, where heads of one weighting are alike: no product forward, and one head per
    weighting in the product back."""
    _, first, of = np.unique(passes.weighting, return_index=True, return_inverse=True)
    found = passes.evaluate(first, np.zeros(first.size), gradient=True)
    xp = array_namespace(found.loss)
    return Evaluation(*(xp.take(part, xp.asarray(of), axis=0) for part in found))


def _to_come(gap: NDArray[Any], state: _State, at_first: NDArray[Any], rtol: float, iteration: int) -> float:
    return passes_to_come(gap / state.f, at_first[state.heads], rtol, iteration)


def _store(
    result: Solution, state: _State, finished: NDArray[Any], gap: NDArray[Any], decrement: NDArray[Any],
    norms: NDArray[Any], converged: NDArray[Any], iteration: int,
) -> None:  # fmt: skip
    heads = state.heads[finished]
    _put(result.weights, heads, array_namespace(state.w).take(state.w, _index(state.w, finished), axis=0))
    result.objective[heads] = state.f[finished]
    result.grad_norm[heads] = norms[finished]
    result.gap[heads] = gap[finished]
    result.decrement[heads] = decrement[finished]
    result.n_iter[heads] = iteration
    result.converged[heads] = converged[finished]


def _step(
    state: _State,
    passes: Passes,
    direction: Array,
    slope: NDArray[Any],
    memory: int,
    precondition: Preconditioner | None,
    rounding: float,
) -> NDArray[Any]:
    """One step of every head; (K) bool, whether it made progress."""
    xp = array_namespace(state.w)
    w, d = state.w[:, :, :-1], direction[:, :, :-1]
    lam = state.l2
    end = passes.advance(direction)
    assert end.gradient is not None
    ww, wd, dd, loss, loss_slope = _fetch(_dot(w, w), _dot(w, d), _dot(d, d), end.loss, end.slope)
    t = np.ones(slope.size)
    f = loss + 0.5 * lam * (ww + 2 * wd + dd)
    derivative = loss_slope + lam * (wd + dd)
    gradient = end.gradient
    tolerance = rounding * np.abs(state.f)
    enough = _accept(f, derivative, state.f, slope, t, tolerance)
    if not enough.all():
        heads = np.flatnonzero(~enough)
        found, good = _line_search(
            passes, heads, state.f[heads], slope[heads], f[heads], derivative[heads], lam[heads], ww[heads], wd[heads],
            dd[heads], tolerance[heads],
        )  # fmt: skip
        t[heads] = np.where(good, found, 0.0)
        again = passes.evaluate(heads, t[heads], gradient=True)
        assert again.gradient is not None
        f[heads] = to_numpy(again.loss) + 0.5 * lam[heads] * (ww + 2 * t * wd + t * t * dd)[heads]
        _put(gradient, heads, again.gradient)
    passes.take(t)
    step = xp.asarray(t)[:, None, None] * direction
    state.w = state.w + step
    g = _penalized(gradient, state.w, lam)
    change = g - state.g
    curvature = _dot(step, change)
    usable = curvature > 1e-300
    inverse = xp.where(usable, 1 / xp.where(usable, curvature, xp.ones_like(curvature)), xp.zeros_like(curvature))
    pg = g if precondition is None else precondition(g, state.heads)
    state.history = [*state.history, _pair(step, change, pg - state.pg, inverse)][-memory:]
    before, state.g, state.pg, state.f = state.f, g, pg, f
    state.still = np.where(before - f > tolerance, 0, state.still + 1)
    return (t > 0) & (state.still < PATIENCE)


def _accept(
    f: NDArray[Any], derivative: NDArray[Any], f0: NDArray[Any], slope: NDArray[Any], t: NDArray[Any], tolerance: Any
) -> NDArray[Any]:
    accepted = (f <= f0 + DECREASE * t * slope + tolerance) & (np.abs(derivative) <= CURVATURE * np.abs(slope))
    return np.asarray(accepted)


def _line_search(
    passes: Passes, heads: NDArray[Any], f0: NDArray[Any], slope: NDArray[Any], f: NDArray[Any],
    derivative: NDArray[Any], lam: NDArray[Any], ww: NDArray[Any], wd: NDArray[Any], dd: NDArray[Any],
    tolerance: NDArray[Any],
) -> tuple[NDArray[Any], NDArray[Any]]:  # fmt: skip
    """Step lengths by safeguarded secants on φ', which increases; (h) steps and whether they are acceptable."""
    t = np.ones(heads.size)
    low, high = np.zeros(heads.size), np.full(heads.size, np.inf)
    slope_low, slope_high = slope.copy(), np.zeros(heads.size)
    good = np.zeros(heads.size, dtype=bool)
    for _ in range(MAX_TRIALS):
        beyond = ~good & ((derivative > 0) | ~np.isfinite(f))
        before = ~good & ~beyond
        high[beyond], slope_high[beyond] = t[beyond], derivative[beyond]
        low[before], slope_low[before] = t[before], derivative[before]
        bracketed = np.isfinite(high)
        width = np.where(bracketed, high - low, 1.0)
        drop = np.where(np.isfinite(slope_high), slope_high, np.inf) - slope_low
        secant = low - width * slope_low / np.where(drop > 0, drop, 1.0)
        inside = np.clip(secant, low + 0.1 * width, low + 0.9 * width)
        outward = np.where(bracketed, inside, 4 * t)
        t = np.where(good, t, outward)
        open_ = np.flatnonzero(~good)
        tried = passes.evaluate(heads[open_], t[open_], gradient=False)
        to = t[open_]
        f = f.copy()
        derivative = derivative.copy()
        loss, loss_slope = _fetch(tried.loss, tried.slope)
        f[open_] = loss + 0.5 * lam[open_] * (ww[open_] + 2 * to * wd[open_] + to * to * dd[open_])
        derivative[open_] = loss_slope + lam[open_] * (wd[open_] + to * dd[open_])
        good[open_] = _accept(f[open_], derivative[open_], f0[open_], slope[open_], to, tolerance[open_])
        if good.all():
            break
    return t, good


def _two_loop(state: _State, threads: Threads) -> Array:
    """Inverse Hessian estimate times the gradient (Nocedal & Wright, algorithm 7.4), for every head.

    The preconditioner is linear: its product with the gradient and those with the changes kept give all others.
    """
    if isinstance(state.w, np.ndarray):
        return _numba_solver.two_loop(state.history, state.g, state.pg, threads)
    xp = array_namespace(state.w)
    if on_cuda(state.w):
        fused = _cuda_solver.two_loop(cuda(), state.history, state.g, state.pg)
        if fused is not None:
            return fused
    q = state.g
    alphas = []
    for pair in reversed(state.history):
        alpha = pair.inverse * _dot(pair.step, q)
        alphas.append(alpha)
        q = q - alpha[:, None, None] * pair.change
    r = state.pg
    for pair, alpha in zip(reversed(state.history), alphas, strict=True):
        r = r - alpha[:, None, None] * pair.smoothed
    if state.history:
        last = state.history[-1]
        denominator = _dot(last.change, last.smoothed)
        known = (last.inverse > 0) & (denominator > 0)
        one = xp.ones_like(denominator)
        scale = xp.where(known, _dot(last.step, last.change) / xp.where(known, denominator, one), one)
        r = scale[:, None, None] * r
    for pair, alpha in zip(state.history, reversed(alphas), strict=True):
        beta = pair.inverse * _dot(pair.change, r)
        r = r + (alpha - beta)[:, None, None] * pair.step
    return r


def _penalized(gradient: Array, w: Array, l2: NDArray[Any]) -> Array:
    xp = array_namespace(w)
    lam = xp.asarray(l2)[:, None, None]
    return xp.concat([gradient[:, :, :-1] + lam * w[:, :, :-1], gradient[:, :, -1:]], axis=2)


def _gap(norms: NDArray[Any], l2: NDArray[Any]) -> NDArray[Any]:
    out = np.full(norms.shape, np.inf)
    np.divide(norms**2, 2 * l2, out=out, where=l2 > 0)
    return out


def _dot(a: Array, b: Array) -> Array:
    if isinstance(a, np.ndarray):
        return np.einsum("kcd,kcd->k", a, b)
    xp = array_namespace(a)
    fused = _cuda_solver.dots(cuda(), a, b) if on_cuda(a) else None
    return xp.sum(a * b, axis=(1, 2)) if fused is None else fused


def _fetch(*arrays: Array) -> tuple[NDArray[Any], ...]:
    """(K) float64 arrays on the host, by one transfer."""
    if on_cuda(arrays[0]):
        return tuple(to_numpy(array_namespace(arrays[0]).stack(arrays)))
    return tuple(to_numpy(array) for array in arrays)


def _index(array: Array, places: NDArray[Any]) -> Array:
    return array_namespace(array).asarray(places)


def _put(target: Array, places: NDArray[Any], source: Array) -> None:
    """target[places] = source, along the first axis; the array API has no such assignment."""
    if on_cuda(target) or isinstance(target, np.ndarray):
        target[_index(target, places)] = source
        return
    for at, place in enumerate(places.tolist()):
        target[place, ...] = source[at, ...]


def _host_norm(g: Array) -> NDArray[Any]:
    return np.asarray(np.sqrt(to_numpy(_dot(g, g))))
