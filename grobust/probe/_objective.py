"""Weighted logistic loss of K heads on the same rows: values and residuals from logits, in general array code.

A head of two classes has one column (the logit of class 1), a head of k > 2 classes has k. With class weights
W = [−u/2, u/2] the softmax of two columns is the sigmoid of u, and ½ λ ‖W‖² = ¼ λ ‖u‖²: both forms are the same
objective, and one column is half the work.
"""

from typing import Any

from grobust.arrays import array_namespace
from grobust.typing import Array

__all__ = ["columns_per_head", "effective_l2", "losses"]


def columns_per_head(n_classes: int) -> int:
    """Columns of logits that a head needs."""
    return 1 if n_classes == 2 else n_classes


def effective_l2(l2: Any, n_classes: int) -> Any:
    """Strength on the columns used, so that the objective is that of a softmax over all classes."""
    return l2 / 2 if n_classes == 2 else l2


def losses(logits: Array, labels: Array, weights: Array) -> tuple[Array, Array]:
    """Loss of each head and its derivative by the logits.

    Parameters
    ----------
    logits : (K, c, n) floating, c columns per head
    labels : (n) integers
    weights : (K, n) of the dtype of the logits

    Returns
    -------
    loss : (K) float64, Σ_i w_i · cross-entropy_i, summed in float64
    residual : (K, c, n), w_i · (probability − target)
    """
    xp = array_namespace(logits)
    if logits.shape[1] == 1:
        z = logits[:, 0, :]
        # The logit of the other class: its probability has the digits that 1 − p has not where p is almost 1.
        sign = 1 - 2 * xp.astype(labels, z.dtype)[None, :]
        other, small = sign * z, xp.exp(-xp.abs(z))
        loss = xp.log1p(small) + xp.maximum(other, xp.zeros_like(z))
        wrong = xp.where(other >= 0, xp.ones_like(z), small) / (1 + small)
        return xp.sum(loss * weights, axis=1, dtype=xp.float64), (sign * wrong * weights)[:, None, :]
    classes = xp.arange(logits.shape[1], dtype=labels.dtype, device=labels.device)
    target = xp.astype(classes[:, None] == labels[None, :], logits.dtype)[None, :, :]
    shifted = logits - xp.max(logits, axis=1, keepdims=True)
    exponentials = xp.exp(shifted)
    own, at_target = (xp.sum(part * target, axis=1, keepdims=True) for part in (exponentials, shifted))
    exponentials = exponentials * (1 - target)
    others = xp.sum(exponentials, axis=1, keepdims=True)
    beyond_one = xp.where(at_target < 0, others + own - 1, others)
    loss = (xp.log1p(beyond_one) - at_target)[:, 0, :]
    residual = (exponentials - others * target) / (others + own) * weights[:, None, :]
    return xp.sum(loss * weights, axis=1, dtype=xp.float64), residual
