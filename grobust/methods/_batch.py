"""Standardized rows in memory, and softmax losses with gradients of K heads on them: what full-batch methods share.

Products are of the features' dtype: float64 where they are few, else float32. Sums over rows are float64.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.methods.method import Features
from grobust.probe import Probe, feature_moments

__all__ = ["Standard", "log_softmax", "probabilities", "row_losses"]

# Up to so many numbers rows are float64.
LARGEST_FLOAT64 = 1 << 20


@dataclass(frozen=True, eq=False)
class Standard:
    """Standardized features.

    Parameters
    ----------
    x : (n, d + 1), the last column ones
    mean, scale : (d) float64
    """

    x: NDArray[Any]
    mean: NDArray[Any]
    scale: NDArray[Any]

    @classmethod
    def of(cls, rows: Features, moments: tuple[NDArray[Any], NDArray[Any]] | None = None) -> "Standard":
        """Features by their own moments, or by given ones."""
        mean, scale = feature_moments(rows.values) if moments is None else moments
        n, d = rows.values.shape
        x = np.ones((n, d + 1), dtype=np.float64 if n * d <= LARGEST_FLOAT64 else np.float32)
        np.subtract(rows.values, mean, out=x[:, :-1], casting="same_kind")
        x[:, :-1] /= scale.astype(x.dtype)
        return cls(x, mean, scale)

    def inner(self, probe: Probe) -> NDArray[Any]:
        """(k, d + 1) float64 weights on standardized features of a head on raw ones, the intercept last."""
        bias = probe.bias + probe.weight @ self.mean
        return np.concatenate([probe.weight * self.scale, bias[:, None]], axis=1)

    def probe(self, inner: NDArray[Any]) -> Probe:
        """The head on raw features of weights (k, d + 1) on standardized ones."""
        weight = inner[:, :-1].astype(np.float64) / self.scale
        return Probe(weight, inner[:, -1].astype(np.float64) - weight @ self.mean)


def log_softmax(logits: NDArray[Any], *, axis: int = -1) -> NDArray[Any]:
    """Log-probabilities over an axis, the classes, in the logits' dtype; the first axis is the fastest."""
    shifted: NDArray[Any] = logits - logits.max(axis=axis, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return shifted


def probabilities(probe: Probe, rows: Features) -> NDArray[Any]:
    """(n, k) float64 probabilities of a head."""
    return np.asarray(np.exp(log_softmax(probe.logits(rows.values))))


def row_losses(probe: Probe, rows: Features) -> NDArray[Any]:
    """(n) float64 cross-entropy of a head at each row."""
    return np.asarray(-log_softmax(probe.logits(rows.values))[rows.rows, rows.labels])
