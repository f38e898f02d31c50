"""l1 and elastic-net heads against scikit-learn's saga, their duality gap, and sparsity."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from probe_problems import objective, problem, row_weights, standardized
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from grobust.arrays import to_numpy
from grobust.errors import ConfigError, ShapeError
from grobust.probe import (
    LBFGS,
    FitStatus,
    Head,
    _lasso,
    _numba_l1,
    feature_moments,
    fit_probe,
    fit_probes,
    largest_l1,
)
from grobust.probe._design import Design


def one_column(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's single column as two."""
    return (np.vstack([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])) if len(weight) == 1 else (
        weight, bias)  # fmt: skip


@pytest.mark.parametrize("weighting", ["equal", "class", "subset"])
@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize(("n", "d", "k"), [(300, 25, 2), (300, 20, 3), (70, 120, 2)])
def test_objective_and_support_are_scikit_learns(n: int, d: int, k: int, share: float, weighting: str) -> None:
    x, y = problem(n, d, k)
    weights = row_weights(weighting, y)
    if weighting == "subset":
        # saga does not converge on weights that differ much: rows in or out, cut out for it.
        weights = (weights > 0).astype(float)
    xs, kept = standardized(x), weights > 0
    strength = 0.01
    l1, l2 = share * strength, (1 - share) * strength * (2 if k == 2 else 1)
    fit = fit_probe(x, y, n_classes=k, weights=weights, l1=l1, l2=l2, solver=LBFGS(rtol=1e-9))
    # Float32 features: their products bound the gap that can be shown.
    assert fit.gap <= 1e-6 * fit.objective
    model = LogisticRegression(
        C=1 / (strength * kept.sum()), l1_ratio=share, solver="saga", tol=1e-8, max_iter=30_000, random_state=0
    )
    with warnings.catch_warnings():
        # Where saga crawls, its objective still has to agree.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(xs[kept], y[kept], sample_weight=weights[kept] / weights[kept].mean())
    w, b = one_column(model.coef_, model.intercept_)

    def value(w: np.ndarray, b: np.ndarray) -> float:
        return objective(xs, y, weights, l2, w, b) + l1 * float(np.abs(w).sum())

    spread = np.where(x.astype(np.float64).std(axis=0) < 1e-6, 1, x.astype(np.float64).std(axis=0))
    ours = to_numpy(fit.probe.weight) * spread
    bias = to_numpy(fit.probe.bias) + to_numpy(fit.probe.weight) @ x.astype(np.float64).mean(axis=0)
    assert value(ours, bias) == pytest.approx(fit.objective, rel=1e-6)
    assert fit.objective == pytest.approx(value(w, b), rel=1e-6)
    clear = np.abs(w) > 1e-3
    assert (ours[clear] != 0).all()
    assert (np.abs(ours[w == 0]) < 1e-3).all()


def test_any_weights_by_a_bounded_solver() -> None:
    """Weights of every size, by scipy on w = u - v with u, v ≥ 0, where the objective is smooth."""
    x, y = problem(200, 10, 2)
    weights, xs, l1 = row_weights("subset", y), standardized(x), 0.02
    signs = 2.0 * y - 1

    def split(v: np.ndarray) -> tuple[float, np.ndarray]:
        z = xs @ (v[:10] - v[10:20]) + v[20]
        residual = -signs * weights / weights.sum() / (1 + np.exp(signs * z))
        value = weights @ np.logaddexp(0, -signs * z) / weights.sum() + l1 * v[:20].sum()
        slope = residual @ xs
        return float(value), np.concatenate([slope + l1, l1 - slope, [residual.sum()]])

    bounds = [(0, None)] * 20 + [(None, None)]
    best = minimize(split, np.zeros(21), jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-14}).fun
    fit = fit_probe(x, y, n_classes=2, weights=weights, l1=l1, l2=0.0)
    assert fit.objective == pytest.approx(best, rel=1e-6)


def test_a_path_goes_from_nothing_to_much() -> None:
    x, y = problem(400, 30, 2)
    strengths = (1.0, 0.1, 0.03, 0.01, 0.001)
    fits = fit_probes(x, y, [Head(l1=l1, l2=0.0) for l1 in strengths], n_classes=2)
    sizes = [int((to_numpy(fit.probe.weight)[0] != 0).sum()) for fit in fits]
    assert sizes[0] == 0
    assert sizes == sorted(sizes)
    assert sizes[-1] > 5
    assert all(fit.status is FitStatus.CONVERGED for fit in fits)
    assert all(fit.gap <= 1e-6 * fit.objective for fit in fits)


def test_blocks_and_heads_make_no_difference() -> None:
    x, y = problem(500, 30, 3)
    heads = [Head(l1=l1, l2=l2, weights=row_weights("subset", y)) for l1, l2 in ((0.01, 0.0), (0.003, 0.01))]
    whole = fit_probes(x, y, heads, n_classes=3)
    pieces = fit_probes(x, y, heads, n_classes=3, max_bytes=8 * 30 * 64)
    for a, b, head in zip(whole, pieces, heads, strict=True):
        alone = fit_probe(x, y, n_classes=3, weights=head.weights, l1=head.l1, l2=head.l2)
        assert a.objective == pytest.approx(b.objective, rel=2e-6)
        assert a.objective == pytest.approx(alone.objective, rel=2e-6)


def test_status_says_what_to_try() -> None:
    x, y = problem(400, 30, 2)
    fit = fit_probe(x, y, n_classes=2, l1=1e-4, l2=0.0, solver=LBFGS(max_iter=1))
    assert fit.status is FitStatus.MAX_ITER
    assert "raise max_iter" in fit.message


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [2, 3])
def test_features_that_repeat_and_more_features_than_rows(k: int, dtype: type) -> None:
    """Second derivatives are singular; the duality gap proves the objective all the same."""
    x, y = problem(60, 50, k)
    x = np.concatenate([x, x, 2 * x[:, :20]], axis=1).astype(dtype)
    fits = fit_probes(x, y, [Head(l1=l1, l2=0.0) for l1 in (0.1, 0.01, 1e-3, 2e-4)], n_classes=k)
    for fit in fits:
        assert fit.status is FitStatus.CONVERGED
        assert 0 <= fit.gap <= 1e-6 * fit.objective
    once = fit_probes(x[:, :50], y, [Head(l1=l1, l2=0.0) for l1 in (0.1, 0.01, 1e-3, 2e-4)], n_classes=k)
    # Standardized copies add nothing.
    assert [fit.objective for fit in fits] == pytest.approx([fit.objective for fit in once], rel=3e-6)


def test_the_model_of_a_step_is_minimized() -> None:
    """Against scipy on w = u - v, and by the optimality conditions; also from a start with other signs."""
    rng = np.random.default_rng(3)
    root = rng.standard_normal((12, 9))
    hessian, gradient, at = root.T @ root / 12, rng.standard_normal(9), rng.standard_normal(9) * (np.arange(9) % 2)
    penalized, l1, l2 = np.arange(9) < 8, 0.4, 0.1
    delta = np.empty(9)
    _numba_l1.minimize(hessian, gradient, at, penalized, l1, l2, 1e-12, delta)
    w, slope = at + delta, gradient + hessian @ delta + l2 * penalized * (at + delta)
    assert slope[~penalized] == pytest.approx(0, abs=1e-8)
    zero = penalized & (w == 0)
    assert zero.any()
    assert (np.abs(slope[zero]) <= l1 * (1 + 1e-6)).all()
    assert slope[penalized & ~zero] == pytest.approx(-l1 * np.sign(w[penalized & ~zero]), abs=1e-8)


def test_kernels_equal_numpy() -> None:
    rng = np.random.default_rng(0)
    columns, residual = rng.standard_normal((5, 33)).astype(np.float32), rng.standard_normal((3, 33))
    wide = columns.astype(np.float64)
    out = np.ones((3, 5))
    _numba_l1.dots(columns, residual, out)
    np.testing.assert_allclose(out, 1 + residual @ wide.T, rtol=1e-13)
    out = np.ones((3, 5))
    _numba_l1.weighted_rows(np.ascontiguousarray(columns.T), residual, out)
    np.testing.assert_allclose(out, 1 + residual @ wide.T, rtol=1e-13)
    out, weights = np.ones((3, 33)), rng.standard_normal((3, 5))
    _numba_l1.add_columns(columns, weights, out)
    np.testing.assert_allclose(out, 1 + weights @ wide, rtol=1e-13)


def test_rows_in_many_blocks_give_the_same_heads() -> None:
    x, y = problem(300, 40, 3)
    heads = [Head(l1=l1, l2=1e-3) for l1 in (0.02, 0.004)]
    whole = fit_probes(x, y, heads, n_classes=3)
    pieces = fit_probes(x, y, heads, n_classes=3, max_bytes=64_000)
    for one, other in zip(whole, pieces, strict=True):
        assert one.objective == pytest.approx(other.objective, rel=1e-7)
        np.testing.assert_allclose(one.probe.weight, other.probe.weight, atol=1e-5)


@pytest.mark.parametrize("k", [2, 3])
def test_products_may_be_on_a_device(k: int) -> None:
    """Rows in another array namespace: products there, the descent on the host, the same heads."""
    xp = pytest.importorskip("array_api_strict")
    x, y = problem(400, 30, k)
    heads = [
        Head(l1=l1, l2=l2, weights=row_weights(kind, y))
        for kind in ("class", "subset")
        for l1, l2 in ((0.03, 0.0), (0.005, 0.01))
    ]
    heads.append(Head(l1=0.01, start=fit_probe(xp.asarray(x), xp.asarray(y), n_classes=k).probe))
    plain = [replace(head, start=None) for head in heads]
    for a, b in zip(
        fit_probes(xp.asarray(x), xp.asarray(y), heads, n_classes=k, max_bytes=8 * 30 * 150),
        fit_probes(x, y, plain, n_classes=k),
        strict=True,
    ):
        assert a.status is FitStatus.CONVERGED
        assert a.objective == pytest.approx(b.objective, rel=2e-6)
        assert a.gap <= 1e-6 * a.objective


def test_classes_that_take_turns_reach_the_same_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = problem(300, 25, 4)
    heads = [Head(l1=l1, l2=1e-3) for l1 in (0.02, 0.004)]
    together = fit_probes(x, y, heads, n_classes=4)
    monkeypatch.setattr(_lasso, "MOST_TOGETHER", 10)
    for one, other in zip(together, fit_probes(x, y, heads, n_classes=4), strict=True):
        assert other.status is FitStatus.CONVERGED
        assert other.n_iter > one.n_iter
        assert one.objective == pytest.approx(other.objective, rel=2e-6)


@pytest.mark.parametrize(("n", "d", "k"), [(300, 25, 2), (1500, 20, 3), (70, 120, 2)])
def test_the_largest_strength_is_where_the_first_weight_appears(n: int, d: int, k: int) -> None:
    x, y = problem(n, d, k)
    weights = [None, row_weights("class", y), row_weights("subset", y)]
    largest = largest_l1(x, y, weights, n_classes=k)
    elsewhere = pytest.importorskip("array_api_strict").asarray(x)
    np.testing.assert_allclose(largest_l1(elsewhere, y, weights, n_classes=k), largest, rtol=1e-5)
    xs = standardized(x)
    for weighting, found in zip(weights, largest, strict=True):
        w = np.ones(n) if weighting is None else weighting
        w = w / w.sum()
        shares = np.bincount(y, weights=w, minlength=k)
        residual = w[:, None] * (shares - (y[:, None] == np.arange(k)))
        assert found == pytest.approx(np.abs(residual.T @ xs).max(), rel=1e-5)
        above, below = (fit_probe(x, y, n_classes=k, weights=weighting, l1=s * found, l2=0.0) for s in (1.01, 0.95))
        assert not above.probe.weight.any()
        assert below.probe.weight.any()


@pytest.mark.parametrize("shape", [(1, 1), (8, 16), (9, 33), (70, 5)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_gathered_by_feature(shape: tuple[int, int], dtype: type) -> None:
    """Any rows, in any order and more than once, standardized."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal(shape).astype(dtype)
    mean, scale, rows = rng.standard_normal(shape[1]), 1 + rng.random(shape[1]), rng.integers(shape[0], size=19)
    wide = np.float64 if dtype is np.float64 else np.float32
    data = Design(features, mean, scale, wide, None)
    expected = ((features[rows].astype(np.float64) - mean) / scale).T
    np.testing.assert_allclose(data.by_feature(rows), expected, rtol=1e-6 if wide is np.float32 else 1e-14, atol=1e-7)
    whole = Design(np.round(features * 9).astype(np.int32), mean, scale, wide, None)
    np.testing.assert_allclose(whole.by_feature(rows), ((whole.features[rows] - mean) / scale).T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("inverse", [1.0, 0.1, 0.02])
def test_penalized_intercept_is_liblinears(inverse: float) -> None:
    """Head by head, with a scaler that was fitted on other rows."""
    x, y = problem(300, 25, 2, seed=3)
    # By other rows' moments the constant feature would be a second intercept; far from the origin liblinear crawls.
    x, others = x[:, :-1], problem(500, 25, 2, seed=4)[0][:, :-1] * 1.5 - 4.8
    mean, scale = feature_moments(others)
    scaler = StandardScaler().fit(others.astype(np.float64))
    np.testing.assert_allclose(scaler.scale_, scale, rtol=1e-6)
    kept = np.arange(300) % 3 > 0
    head = Head(weights=kept.astype(float), l2=0.0, l1=1 / (inverse * kept.sum()), penalize_intercept=True)
    (fit,) = fit_probes(x.astype(np.float64), y, [head], n_classes=2, moments=(mean, scale), solver=LBFGS(rtol=1e-10))
    model = LogisticRegression(C=inverse, l1_ratio=1.0, solver="liblinear", tol=1e-10, max_iter=100_000, random_state=0)
    model.fit((x[kept] - mean) / scale, y[kept])
    weight, bias = fit.probe.weight[1] - fit.probe.weight[0], fit.probe.bias[1] - fit.probe.bias[0]
    np.testing.assert_allclose(weight * scale, model.coef_[0], atol=2e-6)
    assert bias + weight @ mean == pytest.approx(model.intercept_[0], abs=2e-6)
    assert model.intercept_[0] == 0 or abs(model.intercept_[0]) > 0.1


@pytest.mark.parametrize("k", [2, 3])
def test_penalized_and_free_intercepts_in_one_call(k: int) -> None:
    """The optimality conditions of a penalized intercept are those of a feature of ones."""
    x, y = problem(200, 10, k)
    heads = [Head(l1=0.02, l2=0.0, penalize_intercept=flag) for flag in (False, True)]
    free, held = fit_probes(x, y, heads, n_classes=k)
    assert free.objective < held.objective
    assert held.gap <= 1e-6 * held.objective
    xs = standardized(x)
    spread = np.where(x.astype(np.float64).std(axis=0) < 1e-6, 1, x.astype(np.float64).std(axis=0))
    w = np.column_stack([held.probe.weight * spread, held.probe.bias + held.probe.weight @ x.mean(axis=0, dtype=float)])
    ones = np.column_stack([xs, np.ones(200)])
    logits = ones @ w.T
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    slope = (p - np.eye(k)[y]).T @ ones / 200
    # Of two classes the penalty is on the one column that is their difference.
    limit = 0.02
    assert (np.abs(slope) <= limit * (1 + 1e-3)).all()
    used = np.abs(w) > 1e-3
    np.testing.assert_allclose(slope[used], -limit * np.sign(w[used]), rtol=2e-3)


def test_bad_moments_and_penalized_intercepts_without_l1() -> None:
    x, y = problem(50, 4, 2)
    with pytest.raises(ConfigError, match="penalize_intercept"):
        fit_probes(x, y, [Head(penalize_intercept=True)], n_classes=2)
    for moments in ((np.zeros(3), np.ones(3)), (np.zeros(4), np.zeros(4)), (np.full(4, np.nan), np.ones(4))):
        with pytest.raises(ShapeError, match="moments"):
            fit_probes(x, y, [Head()], n_classes=2, moments=moments)
