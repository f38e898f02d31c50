"""Probes against scikit-learn's optimum, finite differences, and properties of the objective."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from grobust.arrays import to_numpy
from grobust.errors import ConfigError, GroupError, ShapeError
from grobust.probe import LBFGS, FitStatus, Head, fit_probe, fit_probes
from grobust.probe._design import design
from grobust.probe._objective import losses

STRENGTHS = (1e-5, 1e-3, 1e-1)


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


def sklearn_optimum(x: np.ndarray, y: np.ndarray, weights: np.ndarray, l2: float) -> float:
    k = int(y.max()) + 1
    scale = (2 if k == 2 else 1) / (l2 * weights.sum())
    model = LogisticRegression(C=scale, tol=1e-11, max_iter=50_000, solver="newton-cholesky")
    model.fit(x, y, sample_weight=weights)
    w, b = model.coef_, model.intercept_
    if k == 2:
        w, b = np.vstack([-w / 2, w / 2]), np.concatenate([-b / 2, b / 2])
    return objective(x, y, weights, l2, w - w.mean(axis=0), b - b.mean())


def row_weights(kind: str, y: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    if kind == "equal":
        return np.ones(len(y))
    if kind == "class":
        return 1 / np.bincount(y)[y]
    kept = rng.random(len(y)) < 0.5
    kept[: int(y.max()) + 1] = True
    return np.where(kept, rng.exponential(size=len(y)), 0.0)


@pytest.mark.parametrize("weighting", ["equal", "class", "subset"])
@pytest.mark.parametrize(
    ("n", "d", "k", "noise"),
    [(500, 20, 2, 1.0), (600, 15, 3, 1.0), (60, 90, 2, 1.0), (80, 60, 4, 0.1), (400, 12, 2, 0.0), (300, 8, 10, 1.0)],
)
def test_objective_is_scikit_learns(n: int, d: int, k: int, noise: float, weighting: str) -> None:
    x, y = problem(n, d, k, noise=noise)
    weights = row_weights(weighting, y)
    xs = standardized(x)
    fits = fit_probes(x, y, [Head(weights=weights, l2=l2) for l2 in STRENGTHS], n_classes=k)
    for fit in fits:
        reference = sklearn_optimum(xs, y, weights, fit.l2)
        assert fit.status is FitStatus.CONVERGED, fit.message
        assert fit.objective == pytest.approx(reference, rel=1e-6)
        # The probe works on raw features: its objective, taken from its own logits, is the one reported.
        spread = np.where(x.astype(np.float64).std(axis=0) < 1e-6, 1, x.astype(np.float64).std(axis=0))
        w = to_numpy(fit.probe.weight) * spread
        b = to_numpy(fit.probe.bias) + to_numpy(fit.probe.weight) @ x.astype(np.float64).mean(axis=0)
        assert objective(xs, y, weights, fit.l2, w, b) == pytest.approx(fit.objective, rel=1e-9)


@pytest.mark.parametrize("columns", [1, 3])
def test_residuals_are_derivatives(columns: int) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((6, 2, columns)) * 3
    labels = rng.integers(max(2, columns), size=6)
    weights = rng.random((6, 2))
    _, residual = losses(logits, labels, weights)
    for index in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[index] = 1e-6
        upper, lower = losses(logits + step, labels, weights)[0], losses(logits - step, labels, weights)[0]
        assert residual[index] == pytest.approx((upper - lower)[index[1]] / 2e-6, abs=1e-8)


def test_extreme_logits_stay_finite() -> None:
    for columns in (1, 3):
        logits = np.array([[-1e4], [1e4], [800.0]])[:, :, None] * np.ones((1, 1, columns))
        logits[:, :, 0] *= -1
        loss, residual = losses(logits, np.array([0, 1, 0]), np.ones((3, 1)))
        assert np.isfinite(loss).all()
        assert np.isfinite(residual).all()


def test_products_are_those_of_standardized_features() -> None:
    x, _ = problem(9000, 7, 2)
    rng = np.random.default_rng(2)
    data, xs = design(x, standardize=True), standardized(x)
    w, r = rng.standard_normal((8, 3)), rng.standard_normal((9000, 3))
    np.testing.assert_allclose(data.forward(w), xs @ w[:-1] + w[-1], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(data.adjoint(r), np.vstack([xs.T @ r, r.sum(axis=0)]), rtol=1e-9, atol=1e-8)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(2, 4))
def test_properties(seed: int, k: int) -> None:
    """Order of rows, scale of weights and repetition instead of weight make no difference."""
    x, y = problem(120, 6, k, seed=seed)
    rng = np.random.default_rng(seed)
    repeats = rng.integers(1, 4, size=120)
    fit = fit_probe(x, y, n_classes=k, weights=repeats.astype(float), l2=1e-2)
    order = rng.permutation(120)
    permuted = fit_probe(x[order], y[order], n_classes=k, weights=repeats[order] * 7.5, l2=1e-2)
    assert permuted.objective == pytest.approx(fit.objective, rel=2e-6)
    np.testing.assert_allclose(permuted.probe.logits(x), fit.probe.logits(x), atol=2e-2)
    raw = fit_probe(x, y, n_classes=k, weights=repeats.astype(float), l2=1e-2, standardize=False)
    doubled = np.repeat(np.arange(120), repeats)
    repeated = fit_probe(x[doubled], y[doubled], n_classes=k, l2=1e-2, standardize=False)
    assert repeated.objective == pytest.approx(raw.objective, rel=2e-6)


def test_many_heads_equal_one_at_a_time() -> None:
    x, y = problem(300, 12, 3)
    heads = [Head(weights=row_weights(kind, y), l2=l2) for kind in ("equal", "class", "subset") for l2 in STRENGTHS]
    together = fit_probes(x, y, heads, n_classes=3)
    in_turns = fit_probes(x, y, heads, n_classes=3, max_bytes=1)
    for head, one, other in zip(heads, together, in_turns, strict=True):
        alone = fit_probe(x, y, n_classes=3, weights=head.weights, l2=head.l2)
        assert one.objective == pytest.approx(alone.objective, rel=2e-6)
        assert other.objective == pytest.approx(alone.objective, rel=2e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_inputs_of_any_width_are_left_unchanged(dtype: type) -> None:
    x, y = problem(200, 6, 2)
    x = (x - 10).astype(dtype)
    before, labels = x.copy(), y.copy()
    fit = fit_probe(x, y, n_classes=2, l2=1e-3)
    assert fit.objective == pytest.approx(sklearn_optimum(standardized(x), y, np.ones(200), 1e-3), rel=1e-6)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(y, labels)


def test_status_says_what_to_try() -> None:
    x, y = problem(300, 12, 3)
    fit = fit_probe(x, y, n_classes=3, l2=1e-5, solver=LBFGS(max_iter=2))
    assert fit.status is FitStatus.MAX_ITER
    assert fit.n_iter == 2
    assert "raise max_iter or l2" in fit.message
    assert fit_probe(x, y, n_classes=3, l2=1e-2).relative_gradient <= 1e-6


def test_certificate_bounds_the_distance_from_the_optimum() -> None:
    x, y = problem(300, 12, 3)
    best = sklearn_optimum(standardized(x), y, np.ones(300), 1e-2)
    fit = fit_probe(x, y, n_classes=3, l2=1e-2, solver=LBFGS(gtol=1e-2, rtol=1.0))
    assert fit.objective - best <= fit.gap * 1.5


def test_no_heads_no_fits() -> None:
    x, y = problem(20, 3, 2)
    assert fit_probes(x, y, [], n_classes=2) == ()


X, Y = problem(30, 4, 2)
NAN = X.copy()
NAN[7, 1] = np.nan


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"features": NAN}, ShapeError, "Row 7 "),
        ({"labels": Y[:5]}, ShapeError, "do not fit"),
        ({"labels": Y + 5}, GroupError, "expected 0 to 1"),
        ({"n_classes": 1}, ConfigError, "at least 2 classes"),
        ({"weights": np.where(Y == 1, 0.0, 1.0)}, GroupError, "class 1 has no row"),
        ({"weights": -np.ones(30)}, ShapeError, "not negative"),
        ({"weights": np.ones(3)}, ShapeError, "weights have shape"),
        ({"l2": -1.0}, ConfigError, "l2 must be"),
        ({"l2": float("nan")}, ConfigError, "l2 must be"),
    ],
)
def test_bad_input(arguments: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        fit_probe(**{"features": X, "labels": Y, "n_classes": 2, **arguments})


@pytest.mark.gpu
@pytest.mark.parametrize("k", [2, 3])
def test_cupy_equals_numpy(k: int) -> None:
    from grobust.arrays import to_device

    x, y = problem(500, 20, k)
    heads = [Head(weights=row_weights("class", y), l2=l2) for l2 in STRENGTHS]
    on_host = fit_probes(x, y, heads, n_classes=k)
    on_device = fit_probes(to_device(x, "cuda"), to_device(y, "cuda"), heads, n_classes=k)
    for a, b in zip(on_host, on_device, strict=True):
        assert b.objective == pytest.approx(a.objective, rel=1e-7)
        np.testing.assert_allclose(to_numpy(b.probe.logits(to_device(x, "cuda"))), a.probe.logits(x), atol=1e-2)
