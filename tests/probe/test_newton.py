"""Newton steps to rounding, and weighted moments."""

import numpy as np
import pytest
from probe_problems import problem, row_weights, standardized
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from grobust.errors import ShapeError
from grobust.probe import Head, fit_probe, fit_probes
from grobust.settings import LBFGS


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("n", [20, 5000])
@pytest.mark.parametrize("kind", ["equal", "class", "subset"])
def test_gradient_vanishes_to_rounding(k: int, n: int, kind: str) -> None:
    x, y = problem(n, 40, k)
    x, weights = x.astype(np.float64), row_weights(kind, y)
    fit = fit_probe(x, y, n_classes=k, weights=weights, l2=1e-3, solver=LBFGS(newton=256))
    plain = fit_probe(x, y, n_classes=k, weights=weights, l2=1e-3)
    assert fit.objective <= plain.objective * (1 + 1e-14)
    assert fit.objective == pytest.approx(plain.objective, rel=1e-6)
    spread = np.where(x.std(axis=0) < 1e-6, 1, x.std(axis=0))
    logits = fit.probe.logits(x)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    residual = (p - (y[:, None] == np.arange(k))) * (weights / weights.sum())[:, None]
    gradient = residual.T @ standardized(x) + 1e-3 * fit.probe.weight * spread
    assert np.abs(gradient).max() < 1e-13
    assert np.abs(residual.sum(axis=0)).max() < 1e-13
    assert fit.gap < 1e-20
    assert fit.status == "converged"


@pytest.mark.parametrize("l2", [1e-3, 0.0])
def test_large_and_unpenalized_heads_are_left_alone(l2: float) -> None:
    x, y = problem(300, 10, 3, noise=3.0)
    x = x.astype(np.float64)
    size = 3 * 11 - (1 if l2 else 0)
    one = fit_probe(x, y, n_classes=3, l2=l2, solver=LBFGS(newton=size))
    other = fit_probe(x, y, n_classes=3, l2=l2)
    np.testing.assert_array_equal(one.probe.weight, other.probe.weight)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_moment_weights(dtype: type) -> None:
    x, y = problem(400, 5, 2)
    x = (x - 10).astype(dtype)
    weights = np.random.default_rng(0).integers(0, 3, size=400).astype(float)
    head, solver = Head(weights=weights, l2=1e-2), LBFGS(newton=256)
    (fit,) = fit_probes(x, y, [head], n_classes=2, moment_weights=weights, solver=solver)
    scaler = StandardScaler().fit(x[:, :-1].astype(float), sample_weight=weights)
    theirs = LogisticRegression(C=2 / (1e-2 * weights.sum()), solver="newton-cholesky", tol=1e-12)
    theirs.fit(scaler.transform(x[:, :-1].astype(float)), y, weights)
    found = (fit.probe.weight[1] - fit.probe.weight[0])[:-1] * scaler.scale_
    np.testing.assert_allclose(found, theirs.coef_[0], atol=1e-3 if dtype is not np.float64 else 1e-7)
    for wrong in (weights[:-1], -weights, weights * 0, weights * np.nan):
        with pytest.raises(ShapeError, match="moment_weights must be"):
            fit_probes(x, y, [head], n_classes=2, moment_weights=wrong)
