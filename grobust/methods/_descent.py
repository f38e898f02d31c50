"""Full-batch gradient descent of K heads at once, towards a reference head: AFR's way of training.

    Σ_i μ_i ℓ_i(W, b) + λ (‖W − W_0‖² + ‖b − b_0‖²)

from (W_0, b_0) with a fixed step, the gradient's norm clipped to 1, no momentum. One product of the features serves all
heads. For two classes the two rows of W − W_0 are opposite at every step, so only one is kept.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from grobust.methods._batch import log_softmax

__all__ = ["descend"]

LARGEST_NORM = 1.0


def descend(
    x: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any], strengths: NDArray[Any], start: NDArray[Any],
    *, learning_rate: float, steps: int, every: int,
) -> Iterator[tuple[int, NDArray[Any]]]:  # fmt: skip
    """Steps taken and weights (K, k, d + 1) after every so many steps, and at last; the start is not among them.

    Parameters
    ----------
    x : (n, d + 1) features and a column of ones
    weights : (K, n) μ of each head, each summing to 1
    strengths : (K) λ
    start : (k, d + 1) the reference head
    """
    run = _binary if start.shape[0] == 2 else _multiclass
    yield from run(x, labels, weights, strengths, start, learning_rate, steps, every)


def _clip(gradient: NDArray[Any], norms: NDArray[Any]) -> NDArray[Any]:
    """Gradients (…, K, d + 1) scaled to norms (K) of at most 1."""
    factor = np.minimum(1.0, LARGEST_NORM / np.maximum(norms, 1e-30))
    scaled: NDArray[Any] = gradient * factor[:, None]
    return scaled


def _multiclass(
    x: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any], strengths: NDArray[Any], start: NDArray[Any],
    learning_rate: float, steps: int, every: int,
) -> Iterator[tuple[int, NDArray[Any]]]:  # fmt: skip
    heads, (k, width), n = weights.shape[0], start.shape, x.shape[0]
    # Classes first: reductions over them are then of whole arrays.
    base = (start.astype(x.dtype) @ x.T)[:, None]
    moved = np.zeros((k, heads, width))
    target = (labels == np.arange(k)[:, None]).astype(x.dtype)[:, None]
    shares = weights.astype(x.dtype)
    for step in range(1, steps + 1):
        shift = (moved.reshape(k * heads, width).astype(x.dtype) @ x.T).reshape(k, heads, n)
        residual = np.exp(log_softmax(base + shift, axis=0))
        residual -= target
        residual *= shares
        gradient = (residual.reshape(k * heads, n) @ x).reshape(k, heads, width).astype(np.float64)
        gradient += 2 * strengths[:, None] * moved
        moved -= learning_rate * _clip(gradient, np.sqrt((gradient**2).sum(axis=(0, 2))))
        if step % every == 0 or step == steps:
            yield step, start + moved.transpose(1, 0, 2)


def _binary(
    x: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any], strengths: NDArray[Any], start: NDArray[Any],
    learning_rate: float, steps: int, every: int,
) -> Iterator[tuple[int, NDArray[Any]]]:  # fmt: skip
    heads, width = weights.shape[0], start.shape[1]
    base = x @ (start[1] - start[0]).astype(x.dtype)
    moved = np.zeros((heads, width))
    shares, target = weights.astype(x.dtype), labels.astype(x.dtype)
    for step in range(1, steps + 1):
        margin = base + 2 * (moved.astype(x.dtype) @ x.T)
        gradient = (((expit(margin) - target) * shares) @ x).astype(np.float64)
        gradient += 2 * strengths[:, None] * moved
        moved -= learning_rate * _clip(gradient, np.sqrt(2 * (gradient**2).sum(axis=1)))
        if step % every == 0 or step == steps:
            yield step, start + np.stack([-moved, moved], axis=1)
