"""Probes against scikit-learn's optimum, finite differences, and properties of the objective."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_problems import learnt_by_heart, objective, problem, row_weights, standardized
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from grobust.arrays import to_numpy
from grobust.errors import ConfigError, GroupError, ShapeError
from grobust.probe import LBFGS, FitStatus, Head, _host_passes, _numba_products, fit_path, fit_probe, fit_probes
from grobust.probe._design import design
from grobust.probe._host_passes import HostPasses
from grobust.probe._objective import losses
from grobust.probe._passes import ArrayPasses
from grobust.probe._solver import at_zero
from grobust.probe._weights import weight_table
from grobust.threads import threads

STRENGTHS = (1e-5, 1e-3, 1e-1)


def sklearn_optimum(x: np.ndarray, y: np.ndarray, weights: np.ndarray, l2: float) -> float:
    k = int(y.max()) + 1
    scale = (2 if k == 2 else 1) / (l2 * weights.sum())
    model = LogisticRegression(C=scale, tol=1e-11, max_iter=50_000, solver="newton-cholesky")
    model.fit(x, y, sample_weight=weights)
    w, b = model.coef_, model.intercept_
    if k == 2:
        w, b = np.vstack([-w / 2, w / 2]), np.concatenate([-b / 2, b / 2])
    return objective(x, y, weights, l2, w - w.mean(axis=0), b - b.mean())


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
        assert objective(xs, y, weights, fit.l2, w, b) == pytest.approx(fit.objective, rel=3e-7)


@pytest.mark.parametrize("columns", [1, 3])
def test_residuals_are_derivatives(columns: int) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, columns, 6)) * 3
    labels = rng.integers(max(2, columns), size=6)
    weights = rng.random((2, 6))
    _, residual = losses(logits, labels, weights)
    for index in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[index] = 1e-6
        upper, lower = losses(logits + step, labels, weights)[0], losses(logits - step, labels, weights)[0]
        assert residual[index] == pytest.approx((upper - lower)[index[0]] / 2e-6, abs=1e-8)


@pytest.mark.parametrize("k", [2, 3, 7])
@pytest.mark.parametrize("compiled", [True, False])
def test_rows_learnt_by_heart_keep_their_digits(k: int, compiled: bool) -> None:
    """Where a class's probability is almost 1, float32's 1 − p is rounding and log p is 0; neither is used."""
    x, y, w = learnt_by_heart(k)
    columns, table = w.shape[1], weight_table([np.random.default_rng(k).random(y.size)], ["a"], y, k)
    with threads() as pool:
        wide = design(x.astype(np.float64), standardize=False, threads=pool, block_rows=256)
        data = replace(wide, features=x, compute=np.float32, shift=wide.mean.astype(np.float32))
        reference = ArrayPasses(wide, y, table, columns, 256)
        passes = (
            HostPasses(data, y, table, columns, pool, 256) if compiled else ArrayPasses(data, y, table, columns, 256)
        )
        found, expected = passes.advance(wide.centred(w)), reference.advance(wide.centred(w))
    assert expected.loss[0] < 1e-3
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)
    np.testing.assert_allclose(found.slope, expected.slope, rtol=1e-5)
    largest = np.abs(expected.gradient).max()
    np.testing.assert_allclose(found.gradient, expected.gradient, rtol=1e-4, atol=1e-5 * largest)


def test_extreme_logits_stay_finite() -> None:
    for columns in (1, 3):
        logits = np.array([-1e4, 1e4, 800.0]) * np.ones((1, columns, 1))
        logits[:, 0] *= -1
        loss, residual = losses(logits, np.array([0, 1, 0]), np.ones((1, 3)))
        assert np.isfinite(loss).all()
        assert np.isfinite(residual).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("k", [2, 3])
def test_passes_equal_the_plain_objective(dtype: type, k: int) -> None:
    """Logits, losses, slopes and gradients of both kinds of passes, against the objective written down anew."""
    x, y = problem(1500, 7, k)
    x = (x if dtype != np.float16 else x - 10).astype(dtype)
    xs = standardized(x)
    rng = np.random.default_rng(2)
    heads = [rng.random(1500) for _ in range(2)] + [(rng.random(1500) < 0.5).astype(float)]
    table = weight_table(heads, ["a", "b", "c"], y, k)
    c = 1 if k == 2 else k
    w = rng.standard_normal((3, c, 8)) * 0.5
    tolerance = 1e-12 if dtype is np.float64 else 2e-5
    with threads() as pool:
        data = design(x, standardize=True, threads=pool, block_rows=256, small=0)
        kinds = [ArrayPasses(data, y, table, c, 256)]
        if dtype is not np.float64:
            kinds.append(HostPasses(data, y, table, c, pool, 256))
        for passes in kinds:
            # At zero heads of one weighting share their gradient, and no product with the features is needed.
            zero, plainly = at_zero(passes), passes.advance(np.zeros_like(w))
            np.testing.assert_allclose(zero.loss, plainly.loss, rtol=tolerance)
            np.testing.assert_allclose(zero.gradient, plainly.gradient, atol=tolerance)
            np.testing.assert_array_equal(zero.slope, 0)
            found = passes.advance(w)
            half = passes.evaluate(np.array([2, 0]), np.array([0.5, 0.25]), gradient=True)
            for got, head, at in [(found, 0, w[0]), (found, 1, w[1]), (half, 0, w[2] / 2), (half, 1, w[0] / 4)]:
                which = head if got is found else [2, 0][head]
                direction = w[which]
                weight = heads[which] / heads[which].sum()
                z = np.concatenate([xs, np.ones((1500, 1))], axis=1) @ at.T
                full = z if c > 1 else np.concatenate([np.zeros((1500, 1)), z], axis=1)
                p = np.exp(full - logsumexp(full, axis=1, keepdims=True))
                loss = weight @ -np.log(p[np.arange(1500), y])
                residual = weight[:, None] * (p - (y[:, None] == np.arange(k)))[:, -c:]
                gradient = residual.T @ np.concatenate([xs, np.ones((1500, 1))], axis=1)
                assert got.loss[head] == pytest.approx(loss, rel=tolerance)
                assert got.slope[head] == pytest.approx(float((gradient * direction).sum()), abs=10 * tolerance)
                np.testing.assert_allclose(got.gradient[head], gradient, atol=tolerance)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 90), st.integers(1, 40), st.sampled_from([2, 3]), st.booleans())
def test_compiled_passes_equal_those_in_pieces(seed: int, n: int, d: int, k: int, far: bool) -> None:
    """Contiguous features go through one compiled call, others block by block; any sizes, weights by code and dense."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k), rng.integers(k, size=300 * n)])
    x = rng.standard_normal((y.size, d)) + 20 * far
    heads = [np.ones(y.size), rng.random(y.size) + 0.1, rng.integers(1, 3, size=y.size).astype(float)]
    table, c = weight_table(heads, ["a", "b", "c"], y, k), 1 if k == 2 else k
    directions = rng.standard_normal((2, 3, c, d + 1)) / d
    for dtype in (np.float32, np.float16):
        found = []
        for features in (x.astype(dtype), np.asfortranarray(x.astype(dtype))):
            with threads() as pool, pytest.MonkeyPatch.context() as patch:
                patch.setattr(_host_passes, "READ_NUMBERS", 1500 * d)
                data = design(features, standardize=True, threads=pool, block_rows=256, small=0)
                passes = HostPasses(data, y, table, c, pool, 512)
                passes.advance(directions[0])
                passes.take(np.array([1.0, 0.5, 0.0]))
                found.append(passes.advance(directions[1]))
        for one, other in zip(*found, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)


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
    good = fit_probe(x, y, n_classes=3, l2=1e-2)
    assert min(good.gap, 10 * good.decrement) <= 1e-6 * good.objective


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


@pytest.mark.parametrize("k", [2, 3])
def test_general_code_runs_on_any_array_namespace(k: int) -> None:
    """The code that CuPy shares, held to the standard by a namespace that allows nothing else."""
    xp = pytest.importorskip("array_api_strict")
    x, y = problem(300, 12, k)
    heads = [Head(weights=row_weights("class", y), l2=l2) for l2 in STRENGTHS]
    for strict, plain in zip(
        fit_probes(xp.asarray(x), xp.asarray(y), heads, n_classes=k), fit_probes(x, y, heads, n_classes=k), strict=True
    ):
        assert strict.status is FitStatus.CONVERGED
        assert strict.objective == pytest.approx(plain.objective, rel=2e-6)


@pytest.mark.parametrize("n", [150, 290])
@pytest.mark.parametrize("k", [2, 3])
def test_fewer_rows_than_features_on_any_array_namespace(n: int, k: int) -> None:
    """n × n features formed where the rows are; 150 rows are few enough that the host solves them, 290 are not."""
    xp = pytest.importorskip("array_api_strict")
    x, y = problem(n, 500, k)
    heads = [Head(l2=1e-2), Head(weights=row_weights("class", y), l2=1e-3)]
    expected = fit_probes(x, y, heads, n_classes=k)
    there = [xp.asarray(x), xp.asarray(y)]
    found = fit_probes(*there, heads, n_classes=k)
    for a, b in zip(found, expected, strict=True):
        assert a.status is FitStatus.CONVERGED, a.message
        assert a.objective == pytest.approx(b.objective, rel=2e-6)
        logits = [np.asarray(fit.probe.logits(array)) for fit, array in ((a, xp.asarray(x)), (b, x))]
        np.testing.assert_allclose(*logits, atol=0.05)
    warm = fit_probes(*there, [Head(l2=1e-2, start=found[0].probe)], n_classes=k)[0]
    assert warm.n_iter <= found[0].n_iter / 2 + 1


@pytest.mark.parametrize(("n", "d"), [(2000, 60), (150, 600)])
@pytest.mark.parametrize("k", [2, 3])
def test_warm_starts_begin_where_they_are_told(n: int, d: int, k: int) -> None:
    """From the solution a fit needs next to no iterations, in the primal and in the n × n form; a path is warm."""
    x, y = problem(n, d, k)
    cold = fit_probe(x, y, n_classes=k, l2=1e-3)
    warm = fit_probe(x, y, n_classes=k, l2=1e-3, start=cold.probe)
    assert cold.status is warm.status is FitStatus.CONVERGED
    assert warm.n_iter < cold.n_iter / 2
    assert warm.objective == pytest.approx(cold.objective, rel=2e-6)
    path = fit_path(x, y, Head(), [1e-3, 1e-1, 1e-2], n_classes=k)
    assert path[0].objective == pytest.approx(cold.objective, rel=2e-6)
    assert [fit.l2 for fit in path] == [1e-3, 1e-1, 1e-2]


def test_small_supports_are_solved_on_their_rows(rng: np.random.Generator) -> None:
    """Subsets leave the batch for their own rows: the same heads as with the rows cut out by hand."""
    x, y = problem(1000, 40, 2)
    kept = np.sort(rng.choice(1000, 90, replace=False))
    mask = np.zeros(1000)
    mask[kept] = 1
    fits = fit_probes(x, y, [Head(weights=mask, l2=1e-2), Head(l2=1e-2)], n_classes=2, standardize=False)
    alone = fit_probe(x[kept], y[kept], n_classes=2, l2=1e-2, standardize=False)
    assert fits[0].objective == pytest.approx(alone.objective, rel=2e-6)
    np.testing.assert_allclose(fits[0].probe.logits(x), alone.probe.logits(x), atol=2e-2)
    assert fits[1].objective == pytest.approx(
        fit_probe(x, y, n_classes=2, l2=1e-2, standardize=False).objective, rel=2e-6
    )


def test_collinear_features_do_not_stop_the_preconditioner() -> None:
    """Float32 moments whose rounding exceeds the ridge: a few directions carry everything."""
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((4, 300))
    x = (rng.standard_normal((900, 4)) * [1e4, 1, 1, 1e-2] @ basis).astype(np.float32)
    y = (x[:, 0] + 1e3 * rng.standard_normal(900) > 0).astype(np.int64)
    fits = fit_probes(x, y, [Head(l2=l2) for l2 in STRENGTHS], n_classes=2)
    assert all(fit.status is FitStatus.CONVERGED for fit in fits), [fit.message for fit in fits]


def test_heads_may_differ_in_classes() -> None:
    x, y = problem(600, 15, 3)
    pair = (y == 2).astype(np.int64)
    fits = fit_probes(x, y, [Head(l2=1e-2), Head(l2=1e-2, labels=pair, n_classes=2)], n_classes=3)
    assert fits[0].objective == pytest.approx(fit_probe(x, y, n_classes=3, l2=1e-2).objective, rel=2e-6)
    assert fits[1].objective == pytest.approx(fit_probe(x, pair, n_classes=2, l2=1e-2).objective, rel=2e-6)
    assert fits[1].probe.weight.shape == (2, 15)


def test_memory_maps_are_read_block_by_block(tmp_path: Path) -> None:
    x, y = problem(5000, 20, 2)
    half = (x - 10).astype(np.float16)
    half.tofile(tmp_path / "f.bin")
    mapped = np.memmap(tmp_path / "f.bin", dtype=np.float16, mode="r", shape=half.shape)
    heads = [Head(l2=l2) for l2 in STRENGTHS]
    for a, b in zip(
        fit_probes(mapped, y, heads, n_classes=2, max_bytes=1), fit_probes(half, y, heads, n_classes=2), strict=True
    ):
        assert a.status is FitStatus.CONVERGED
        assert a.objective == pytest.approx(b.objective, rel=2e-6)


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


@pytest.mark.parametrize(
    ("columns", "rows", "d"), [(1, 3, 5), (2, 9, 7), (4, 8, 16), (6, 7, 33), (9, 4, 1), (16, 65, 40)]
)
def test_products_in_tiles_equal_numpy(columns: int, rows: int, d: int) -> None:
    rng = np.random.default_rng(0)
    weights, block = rng.standard_normal((columns, d)), rng.standard_normal((rows, d))
    residual = rng.standard_normal((columns, rows))
    out, back = np.full((columns, rows), np.nan, np.float32), np.full((columns, d), np.nan, np.float32)
    narrow = block.astype(np.float32)
    _numba_products.forward(weights.astype(np.float32), narrow, out)
    _numba_products.backward(residual.astype(np.float32), narrow, back)
    np.testing.assert_allclose(out, weights @ block.T, atol=1e-5 * d)
    np.testing.assert_allclose(back, residual @ block, atol=1e-5 * rows)
    other, other_back = np.empty_like(out), np.empty_like(back)
    _numba_products.multiply(weights.astype(np.float32), narrow[:, ::-1][:, ::-1], other)
    _numba_products.multiply_back(residual.astype(np.float32), np.asfortranarray(narrow), other_back)
    np.testing.assert_allclose(other, out, atol=1e-5 * d)
    np.testing.assert_allclose(other_back, back, atol=1e-5 * rows)
