"""Problems that the probes' tests share, and the stated objective written down anew."""

import numpy as np
from scipy.special import logsumexp


def problem(n: int, d: int, k: int, *, seed: int = 0, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Features with a large mean, a decaying spectrum and a constant column; noisy linear labels."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.5
    logits = x @ rng.standard_normal((d, k)) * 2
    y = np.argmax(logits + noise * rng.gumbel(size=(n, k)), axis=1)
    y[:k] = np.arange(k)
    x[:, -1] = 0
    return (x + 10).astype(np.float32), y


def standardized(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    spread = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(spread < 1e-6, 1, spread)


def objective(x: np.ndarray, y: np.ndarray, weights: np.ndarray, l2: float, w: np.ndarray, b: np.ndarray) -> float:
    """The stated objective, written down anew: w (k, d) on standardized features."""
    logits = x @ w.T + b
    loss = logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
    return float(weights @ loss / weights.sum() + 0.5 * l2 * (w**2).sum())


def row_weights(kind: str, y: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    if kind == "equal":
        return np.ones(len(y))
    if kind == "class":
        return 1 / np.bincount(y)[y]
    kept = rng.random(len(y)) < 0.5
    kept[: int(y.max()) + 1] = True
    return np.where(kept, rng.exponential(size=len(y)), 0.0)


def learnt_by_heart(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (n, k) float32, labels, and a head (1, c, k + 1) that gives every row's class almost all probability."""
    rng = np.random.default_rng(k)
    y, columns = np.arange(600) % k, 1 if k == 2 else k
    x = np.eye(k)[y] * rng.uniform(10, 18, size=(600, 1)) + 0.1 * rng.standard_normal((600, k))
    w = np.concatenate([np.eye(k)[-columns:], np.zeros((columns, 1))], axis=1)[None]
    # One column is the logit of class 1 less that of class 0.
    return x.astype(np.float32), y, w if k > 2 else np.array([[[-1.0, 1.0, 0.0]]])
