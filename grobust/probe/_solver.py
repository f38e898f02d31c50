"""Batched L-BFGS: K heads in lock step, one product with the features forward and one back per iteration.

The line search works on cached logits (they are linear in the step), so it never touches the features. All heads share
a preconditioner: with second moments G = U diag(e) Uᵀ, the Hessian of head k is at most c G + λ_k I, whose inverse is
applied for every λ_k from one eigendecomposition. Losses, dots and products are float64.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace, to_numpy
from grobust.probe._design import Design
from grobust.probe._objective import losses
from grobust.settings import LBFGS
from grobust.typing import Array

__all__ = ["Solution", "solve"]

# Sufficient decrease and curvature of the line search (Nocedal & Wright, chapter 3).
DECREASE, CURVATURE = 1e-4, 0.5
MAX_TRIALS = 25
# An eigendecomposition of more features costs more than it saves.
MAX_PRECONDITIONED = 4096
# Relative decrease below which float64 losses cannot be told apart.
ROUNDING = 1e-14


@dataclass(frozen=True, eq=False)
class Solution:
    """Weights (d + 1, K, c) float64, the last row the intercepts, and (K) arrays on the host."""

    weights: Array
    objective: NDArray[Any]
    gap: NDArray[Any]
    grad_norm: NDArray[Any]
    grad_norm_at_zero: NDArray[Any]
    n_iter: NDArray[Any]
    converged: NDArray[Any]


@dataclass(eq=False)
class _State:
    """The heads still running."""

    heads: NDArray[Any]
    w: Array
    z: Array
    g: Array
    f: Array
    s: Array
    l2: Array
    history: list[tuple[Array, Array, Array]]

    def keep(self, mask: NDArray[Any]) -> None:
        """Drop the heads outside `mask`."""
        xp = array_namespace(self.w)
        index = xp.asarray(np.flatnonzero(mask))
        self.heads = self.heads[mask]
        self.w, self.z, self.g = self.w[:, index], self.z[:, index], self.g[:, index]
        self.f, self.s, self.l2 = self.f[index], self.s[:, index], self.l2[index]
        self.history = [(a[:, index], b[:, index], r[index]) for a, b, r in self.history]


def solve(design: Design, labels: Array, weights: Array, l2: Array, *, columns: int, settings: LBFGS) -> Solution:
    """Minimize Σ_i s_ik ℓ_i + ½ λ_k ‖W_k‖² for every head k.

    Parameters
    ----------
    design : features
    labels : (n) int64
    weights : (n, K) float64, columns summing to 1
    l2 : (K) float64, effective strengths λ on the columns used
    columns : c, columns of logits per head
    """
    xp = array_namespace(design.features)
    d, n_heads = design.features.shape[1], weights.shape[1]
    w = xp.zeros((d + 1, n_heads, columns), dtype=xp.float64)
    z = xp.zeros((labels.shape[0], n_heads, columns), dtype=xp.float64)
    loss, residual = losses(z, labels, weights)
    g = _gradient(design, residual, w, l2)
    state = _State(np.arange(n_heads), w, z, g, loss, weights, l2, [])
    start_norm = to_numpy(_norm(g))
    precondition = _preconditioner(design, weights, columns)
    result = Solution(
        xp.zeros_like(w), np.zeros(n_heads), np.zeros(n_heads), np.zeros(n_heads), start_norm,
        np.zeros(n_heads, dtype=np.int64), np.zeros(n_heads, dtype=bool),
    )  # fmt: skip
    for iteration in range(settings.max_iter + 1):
        norms = to_numpy(_norm(state.g))
        gap = _gap(norms, to_numpy(state.l2))
        near = (gap <= settings.rtol * to_numpy(state.f)) | ~np.isfinite(gap)
        converged = (norms <= settings.gtol * start_norm[state.heads]) & near
        stuck = np.zeros_like(converged)
        if iteration < settings.max_iter and not converged.all():
            stuck = ~_step(state, design, labels, precondition, settings.memory) & ~converged
        finished = converged | stuck | (iteration == settings.max_iter)
        if finished.any():
            # A converged head may have taken one step more, with the others: a decrease, measured anew.
            _store(result, state, finished, converged, iteration)
            if finished.all():
                break
            state.keep(~finished)
    return result


def _store(result: Solution, state: _State, finished: NDArray[Any], converged: NDArray[Any], iteration: int) -> None:
    xp = array_namespace(state.w)
    heads = state.heads[finished]
    index = xp.asarray(np.flatnonzero(finished))
    result.weights[:, xp.asarray(heads)] = state.w[:, index]
    norms = to_numpy(_norm(state.g[:, index]))
    result.objective[heads] = to_numpy(state.f[index])
    result.grad_norm[heads] = norms
    result.gap[heads] = _gap(norms, to_numpy(state.l2[index]))
    result.n_iter[heads] = iteration
    result.converged[heads] = converged[finished]


def _step(state: _State, design: Design, labels: Array, precondition: Any, memory: int) -> NDArray[Any]:
    """One L-BFGS step of every head; (K) bool, whether it made progress."""
    xp = array_namespace(state.w)
    direction = -_two_loop(state, precondition)
    slope = _dot(direction, state.g)
    # Rounding in the history can spoil a direction: fall back to the preconditioned gradient for that head.
    bad = slope >= 0
    if bool(xp.any(bad)):
        direction = xp.where(bad[None, :, None], -precondition(state.g, state.l2), direction)
        slope = _dot(direction, state.g)
    dz = design.forward(xp.reshape(direction, (direction.shape[0], -1)))
    dz = xp.reshape(dz, state.z.shape)
    t, f, residual, moved = _line_search(state, labels, direction, dz, slope)
    step = t[None, :, None] * direction
    state.w = state.w + step
    state.z = state.z + t[None, :, None] * dz
    g = _gradient(design, residual, state.w, state.l2)
    change = g - state.g
    curvature = _dot(step, change)
    usable = curvature > 1e-300
    inverse = xp.where(usable, 1 / xp.where(usable, curvature, xp.ones_like(curvature)), xp.zeros_like(curvature))
    state.history = (
        [*state.history[-(memory - 1) :], (step, change, inverse)] if memory > 1 else [(step, change, inverse)]
    )
    state.g, state.f = g, f
    return to_numpy(moved)


def _two_loop(state: _State, precondition: Any) -> Array:
    """Inverse Hessian estimate times the gradient (Nocedal & Wright, algorithm 7.4), for every head."""
    xp = array_namespace(state.w)
    q = state.g
    alphas = []
    for step, change, inverse in reversed(state.history):
        alpha = inverse * _dot(step, q)
        alphas.append(alpha)
        q = q - alpha[None, :, None] * change
    if state.history:
        step, change, inverse = state.history[-1]
        smoothed = precondition(change, state.l2)
        denominator = _dot(change, smoothed)
        known = (inverse > 0) & (denominator > 0)
        one = xp.ones_like(denominator)
        scale = xp.where(known, _dot(step, change) / xp.where(known, denominator, one), one)
    else:
        scale = xp.ones(q.shape[1], dtype=q.dtype)
    r = scale[None, :, None] * precondition(q, state.l2)
    for (step, change, inverse), alpha in zip(state.history, reversed(alphas), strict=True):
        beta = inverse * _dot(change, r)
        r = r + (alpha - beta)[None, :, None] * step
    return r


def _line_search(
    state: _State, labels: Array, direction: Array, dz: Array, slope: Array
) -> tuple[Array, Array, Array, Array]:
    """Step lengths by safeguarded secants on φ', which is convex's derivative and so increasing.

    Returns
    -------
    t, f : (K) step and objective; residual : (n, K, c) there; moved : (K) bool
    """
    xp = array_namespace(state.w)
    ww, wd = _dot(state.w[:-1], state.w[:-1]), _dot(state.w[:-1], direction[:-1])
    dd = _dot(direction[:-1], direction[:-1])
    t = xp.ones_like(slope)
    low, high = xp.zeros_like(slope), xp.full_like(slope, xp.inf)
    slope_low, slope_high = slope, xp.zeros_like(slope)
    tolerance = ROUNDING * xp.abs(state.f)
    for _ in range(MAX_TRIALS):
        loss, residual = losses(state.z + t[None, :, None] * dz, labels, state.s)
        f = loss + 0.5 * state.l2 * (ww + 2 * t * wd + t * t * dd)
        derivative = xp.sum(residual * dz, axis=(0, 2)) + state.l2 * (wd + t * dd)
        enough = (f <= state.f + DECREASE * t * slope + tolerance) & (xp.abs(derivative) <= CURVATURE * xp.abs(slope))
        if bool(xp.all(enough)):
            break
        beyond = (derivative > 0) | ~xp.isfinite(f)
        high, slope_high = xp.where(beyond & ~enough, t, high), xp.where(beyond & ~enough, derivative, slope_high)
        low, slope_low = xp.where(~beyond & ~enough, t, low), xp.where(~beyond & ~enough, derivative, slope_low)
        width = high - low
        bracketed = xp.isfinite(width)
        safe = xp.where(bracketed, width, xp.ones_like(width))
        drop = slope_high - slope_low
        secant = low + safe * (-slope_low) / xp.where(drop > 0, drop, xp.ones_like(drop))
        inside = xp.minimum(xp.maximum(secant, low + 0.1 * safe), low + 0.9 * safe)
        t = xp.where(enough, t, xp.where(bracketed, inside, 2 * t))
    # A head without a usable step stays where it is.
    moved = f < state.f
    t = xp.where(f <= state.f + tolerance, t, xp.zeros_like(t))
    if not bool(xp.all(t > 0)):
        loss, residual = losses(state.z + t[None, :, None] * dz, labels, state.s)
        f = loss + 0.5 * state.l2 * (ww + 2 * t * wd + t * t * dd)
    return t, f, residual, moved


def _gradient(design: Design, residual: Array, w: Array, l2: Array) -> Array:
    xp = array_namespace(w)
    g = xp.reshape(design.adjoint(xp.reshape(residual, (residual.shape[0], -1))), w.shape)
    g[:-1] += l2[None, :, None] * w[:-1]
    return g


def _preconditioner(design: Design, weights: Array, columns: int) -> Any:
    """(gradient (d + 1, K, c), λ (K)) → gradient times (c G + λ I)⁻¹, intercepts by their own curvature."""
    xp = array_namespace(weights)
    # Largest curvature of the loss by a logit: ¼ for the sigmoid, and that of a uniform softmax otherwise.
    curvature = 0.25 if columns == 1 else (1 - 1 / columns) / columns
    d = design.features.shape[1]
    if d > MAX_PRECONDITIONED:
        return lambda g, l2: g
    values, vectors = xp.linalg.eigh(design.second_moments(xp.mean(weights, axis=1)))
    values = curvature * xp.maximum(values, xp.zeros_like(values)) + 1e-10 * xp.max(values) + 1e-30

    def apply(g: Array, l2: Array) -> Array:
        flat = vectors.T @ xp.reshape(g[:-1], (d, -1))
        scaled = xp.reshape(flat, g[:-1].shape) / (values[:, None, None] + l2[None, :, None])
        back = xp.reshape(vectors @ xp.reshape(scaled, (d, -1)), g[:-1].shape)
        return xp.concat([back, g[-1:] / curvature], axis=0)

    return apply


def _gap(norms: NDArray[Any], l2: NDArray[Any]) -> NDArray[Any]:
    out = np.full(norms.shape, np.inf)
    np.divide(norms**2, 2 * l2, out=out, where=l2 > 0)
    return out


def _dot(a: Array, b: Array) -> Array:
    xp = array_namespace(a)
    return xp.sum(a * b, axis=(0, 2))


def _norm(g: Array) -> Array:
    xp = array_namespace(g)
    return xp.sqrt(_dot(g, g))
