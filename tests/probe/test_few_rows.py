"""The preconditioner from few rows against a dense inverse, and heads that are solved with it."""

import numpy as np
import pytest
from probe_problems import objective, problem, row_weights, standardized
from sklearn.linear_model import LogisticRegression

from grobust.probe import LBFGS, FitStatus, Head, _solver, fit_probes
from grobust.probe._design import design
from grobust.probe._few_rows import UNSEEN, from_few_rows
from grobust.probe._host_passes import HostPasses
from grobust.probe._passes import ArrayPasses
from grobust.probe._precondition import references
from grobust.probe._weights import weight_table
from grobust.threads import threads


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("k", [2, 3])
def test_it_is_the_inverse_written_down_anew(dtype: type, k: int) -> None:
    """(Bᵀ B + τ I)⁻¹ by a dense solve in float64; symmetric and positive, as L-BFGS needs."""
    x, y = problem(600, 150, k)
    x, c = (x - 10 if dtype is np.float16 else x).astype(dtype), 1 if k == 2 else k
    rng = np.random.default_rng(3)
    heads, l2 = [np.ones(600), row_weights("class", y), row_weights("class", y)], np.array([1e-3, 1e-2, 1.0])
    table = weight_table(heads, ["a", "b", "c"], y, k)
    with threads() as pool:
        data = design(x, standardize=True, threads=pool, block_rows=256)
        passes = (ArrayPasses(data, y, table, c, 256) if dtype is np.float64
                  else HostPasses(data, y, table, c, pool, 256))  # fmt: skip
        passes.advance(rng.standard_normal((3, c, 151)) * 0.3)
        passes.take(np.ones(3))
        curvature = passes.curvature(7) * (600 / 86)
        apply = from_few_rows(data, passes, np.arange(3), l2, 84, pool)
        gradient = rng.standard_normal((3, c, 151))
        found = apply(gradient, np.arange(3))
        only = apply(gradient[1:2], np.array([1]))
    rows = standardized(x)[::7]
    rows = (rows - curvature @ rows / curvature.sum()) * np.sqrt(curvature)[:, None]
    moments, (strengths, nearest) = rows.T @ rows, references(l2)
    tolerance = 1e-9 if dtype is np.float64 else 2e-3
    for head in range(3):
        shift = strengths[nearest[head]] + UNSEEN * np.trace(moments) / 150
        expected = np.linalg.solve(moments + shift * np.eye(150), gradient[head, :, :-1].T).T
        np.testing.assert_allclose(found[head, :, :-1], expected, atol=tolerance * np.abs(expected).max())
        np.testing.assert_allclose(found[head, :, -1], gradient[head, :, -1] / curvature.sum())
        assert (found[head] * gradient[head]).sum() > 0
    np.testing.assert_allclose(only[0], found[1], rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("k", [2, 3])
def test_wide_features_are_solved_with_it(dtype: type, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same optimum as scikit-learn's, and bought once."""
    bought = []

    def counted(*arguments: object) -> object:
        bought.append(arguments)
        return from_few_rows(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(_solver, "from_few_rows", counted)
    x, y = problem(520, 300, k)
    x = (x - 10 if dtype is np.float16 else x).astype(dtype)
    fit = fit_probes(x, y, [Head(weights=row_weights("class", y), l2=1e-3)], n_classes=k)[0]
    assert len(bought) == 1
    assert fit.status is FitStatus.CONVERGED, fit.message
    weights = row_weights("class", y)
    model = LogisticRegression(
        C=(2 if k == 2 else 1) / (1e-3 * weights.sum()), tol=1e-11, max_iter=10_000, solver="newton-cholesky"
    ).fit(standardized(x), y, sample_weight=weights)
    logits = model.decision_function(standardized(x))
    w = model.coef_
    if k == 2:
        logits, w = np.stack([-logits / 2, logits / 2], axis=1), np.vstack([-w / 2, w / 2])
    loss = np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)) + logits.max(axis=1)
    loss -= logits[np.arange(520), y]
    w = w - w.mean(axis=0)
    assert fit.objective == pytest.approx(weights @ loss / weights.sum() + 0.5e-3 * (w**2).sum(), rel=1e-6)


@pytest.mark.parametrize(("n", "d", "period"), [(1000, 400, 2), (1500, 300, 5)])
def test_weights_that_step_with_the_rows_are_no_trap(n: int, d: int, period: int) -> None:
    """Folds by row number: every row that a stride meets may have weight 0."""
    x, _ = problem(n, d, 2)
    y = np.arange(n) // 2 % 2
    for left_out in range(period):
        weights = (np.arange(n) % period != left_out).astype(float)
        (fit,) = fit_probes(x, y, [Head(weights=weights, l2=1e-2)], n_classes=2)
        assert fit.status is FitStatus.CONVERGED
        assert np.isfinite(fit.probe.weight).all()


@pytest.mark.parametrize(("n", "d"), [(417, 384), (532, 500)])
def test_labels_learnt_by_heart_are_within_what_is_promised(n: int, d: int) -> None:
    """Random labels, nearly as many features as rows, tiny strengths: the distance from the minimum is hardest to tell.

    Against a solve to 1e-10.
    """
    x, _ = problem(n, d, 3, seed=1)
    x = standardized(x).astype(np.float32)
    y = np.random.default_rng(1).choice(3, n, p=[0.2, 0.3, 0.5])
    heads = [Head(weights=row_weights(kind, y), l2=l2) for kind in ("equal", "class", "some")
             for l2 in np.logspace(-5, -1.5, 8).tolist()]  # fmt: skip
    fits, exact = (
        fit_probes(x, y, heads, n_classes=3, standardize=False, solver=solver)
        for solver in (LBFGS(), LBFGS(rtol=1e-10, max_iter=5000))
    )
    for head, fit, best in zip(heads, fits, exact, strict=True):
        assert fit.status is FitStatus.CONVERGED
        found, least = (
            objective(x.astype(np.float64), y, np.asarray(head.weights), head.l2, f.probe.weight, f.probe.bias)
            for f in (fit, best)
        )
        assert (found - least) / least < 1e-6
