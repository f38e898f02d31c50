"""Diagnostics against their definitions, written out with numpy and scipy, and against Monte Carlo."""

import math

import numpy as np
import pytest
import scipy.linalg

from grobust.data.synthetic import gaussian_groups
from grobust.errors import ConfigError, ShapeError
from grobust.groups import Groups
from grobust.spectrum import GroupGeometry, RatioAndGap, correspondence, diagnose, group_geometry
from grobust.spectrum import diagnostics as of
from grobust.spectrum.geometry import bures_distance, generalized_ratio, neural_collapse, subspace_overlap
from grobust.spectrum.summary import READINGS, class_score


def sample(n: int, d: int, seed: int, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.standard_normal((d, d)))[0] * np.arange(1, d + 1) ** -0.6
    return (scale * rng.standard_normal((n, d)) @ mixing.T + rng.standard_normal(d)).astype(np.float64)


def covariance(x: np.ndarray) -> np.ndarray:
    return np.cov(x.T, ddof=0)


@pytest.fixture(params=[(40, 12), (9, 12)], ids=["n > d", "n < d"])
def pair(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    n, d = request.param
    return sample(n, d, 0), sample(3 * n, d, 1, scale=0.7)


def test_geometry_is_the_covariance(pair: tuple[np.ndarray, np.ndarray]) -> None:
    for x in pair:
        for rows in (x, x.astype(np.float32)):
            g = group_geometry(rows)
            rebuilt = (g.vectors * g.eigenvalues) @ g.vectors.T
            np.testing.assert_allclose(rebuilt, covariance(rows.astype(np.float64)), atol=1e-6)
            np.testing.assert_allclose(g.vectors.T @ g.vectors, np.eye(len(g.eigenvalues)), atol=1e-6)
            np.testing.assert_allclose(g.mean, rows.mean(axis=0), atol=1e-5)
            assert len(g.eigenvalues) <= min(len(x) - 1, x.shape[1])


def test_pairs_against_dense_formulas(pair: tuple[np.ndarray, np.ndarray]) -> None:
    small, large = pair
    d = small.shape[1]
    a, b = covariance(small), covariance(large)
    first, second = group_geometry(small), group_geometry(large)
    ridge = 1e-3 * np.trace(b) / d
    top = scipy.linalg.eigh(a, b + ridge * np.eye(d), eigvals_only=True)[-1]
    assert generalized_ratio(first, second) == pytest.approx(top, rel=1e-9)
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b @ root), 0)).sum()
    distance = np.sum((small.mean(0) - large.mean(0)) ** 2) + np.trace(a) + np.trace(b) - 2 * inner
    assert bures_distance(first, second) == pytest.approx(distance, rel=1e-6)
    assert bures_distance(first, first) == pytest.approx(0, abs=1e-9)
    v, w = (np.linalg.eigh(c)[1][:, ::-1][:, :4] for c in (a, b))
    assert subspace_overlap(first, second, k=4) == pytest.approx(np.sum((v.T @ w) ** 2) / 4, rel=1e-9)
    assert subspace_overlap(first, first) == pytest.approx(1)


def test_neural_collapse_against_a_pseudoinverse() -> None:
    cells = [sample(n, 6, seed) for seed, n in enumerate((30, 12, 25, 40))]
    labels = [0, 0, 1, 2]
    rows = [np.concatenate([c for c, y in zip(cells, labels, strict=True) if y == k]) for k in range(3)]
    within = sum(len(r) * covariance(r) for r in rows) / sum(map(len, rows))
    means = np.stack([r.mean(0) for r in rows])
    between = covariance(means)
    expected = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / 3
    geometries = [group_geometry(c) for c in cells]
    assert neural_collapse(geometries, labels) == pytest.approx(expected, rel=1e-8)
    assert math.isnan(neural_collapse(geometries, [0, 0, 0, 0]))
    with pytest.raises(ConfigError, match="labels"):
        neural_collapse(geometries, [0])


def test_functions_of_eigenvalues() -> None:
    equal, single = np.full(7, 2.0), np.array([3.0, 0.0])
    for rank in (of.stable_rank, of.participation_ratio, of.effective_rank, of.rankme):
        assert rank(equal) == pytest.approx(7)
        assert rank(single) == pytest.approx(1)
        assert math.isnan(rank(np.zeros(3)))
    assert of.top_share(equal) == pytest.approx(1 / 7)
    assert of.eigengap(np.array([6.0, 2.0])) == 3
    power = np.arange(1, 60) ** -1.3
    fit = of.decay_exponent(power, first=2, last=20)
    assert (fit.exponent, fit.r2, fit.first, fit.last) == (pytest.approx(1.3), pytest.approx(1), 2, 20)
    assert math.isnan(of.decay_exponent(power[:2]).exponent)


def test_gaussian_error_is_exact_for_gaussian_groups() -> None:
    """Φ(−κ) with the population's moments against the share of a million draws on the wrong side."""
    rng = np.random.default_rng(0)
    x = sample(4000, 5, 3)
    g = group_geometry(x)
    weight, bias = np.array([1.0, -0.5, 0.2, 0.0, 0.7]), 0.9 - float(g.mean @ [1.0, -0.5, 0.2, 0.0, 0.7])
    kappa = of.margin(g, weight, bias)
    drawn = rng.multivariate_normal(g.mean, covariance(x), size=1_000_000) @ weight + bias
    assert of.gaussian_error(kappa) == pytest.approx(np.mean(drawn < 0), abs=5 * 0.0005)
    assert of.spread_along(g, weight) == pytest.approx(np.var(x @ weight) / (weight @ weight), rel=1e-9)
    assert of.spread_along(g, weight) <= g.values[0]
    assert of.alignment(g, g.vectors[:, 0] * -3) == pytest.approx(1)
    assert of.alignment(g, g.vectors[:, 1]) == pytest.approx(0, abs=1e-9)
    assert math.isnan(of.alignment(g, np.zeros(5)))


def test_observed_error_is_what_the_margin_foretells_of_gaussian_groups() -> None:
    """Over several blocks of rows, within four standard errors of a proportion; not of groups with heavy tails."""
    rng = np.random.default_rng(0)
    x = rng.multivariate_normal([1.0, -0.5, 0], [[2, 0.4, 0], [0.4, 1, 0.1], [0, 0.1, 0.5]], size=20_000)
    weight, bias = np.array([0.8, -0.3, 0.2]), -0.1
    foretold = of.gaussian_error(of.margin(group_geometry(x), weight, bias))
    assert of.observed_error(x, weight, bias) == np.mean(x @ weight + bias <= 0)
    assert of.observed_error(x, weight, bias) == pytest.approx(foretold, abs=4 * (foretold / len(x)) ** 0.5)
    heavy = np.where(rng.random((20_000, 1)) < 0.02, 20.0, 0.5) * rng.standard_normal((20_000, 1)) + 1.5
    foretold = of.gaussian_error(of.margin(group_geometry(heavy), np.ones(1), 0.0))
    assert of.observed_error(heavy, np.ones(1), 0.0) < foretold / 3


def test_margin_gap_adds_up_and_sorts_its_parts() -> None:
    x = sample(300, 4, 5)
    weight, bias = np.array([1.0, 0.3, -0.2, 0.5]), 0.4
    base = group_geometry(x)
    moved, wider = group_geometry(x + weight), group_geometry(x.mean(0) + 2 * (x - x.mean(0)))
    by_mean = of.margin_gap(moved, base, weight, bias)
    assert (by_mean.spread_part, by_mean.mean_part) == (pytest.approx(0, abs=1e-12), pytest.approx(by_mean.total))
    by_spread = of.margin_gap(wider, base, weight, bias)
    assert (by_spread.mean_part, by_spread.spread_part) == (pytest.approx(0, abs=1e-9), pytest.approx(by_spread.total))
    both = of.margin_gap(group_geometry(sample(300, 4, 6)), base, weight, bias)
    assert both.mean_part + both.spread_part == pytest.approx(both.total)
    point = GroupGeometry(2, base.mean, base.eigenvalues[:0], base.vectors[:, :0])
    assert math.isinf(of.margin(point, weight, bias))
    assert math.isnan(of.margin_gap(point, base, weight, bias).total)


def test_class_score_prefers_the_strongest_rival() -> None:
    weight, bias = np.array([[1.0, 0], [0, 1.0], [0, 5.0]]), np.array([0.0, 1.0, 0.5])
    score = class_score(weight, bias, label=0, mean=np.array([1.0, 2.0]))
    assert score.weight.tolist() == [1, -5]
    assert score.bias == -0.5


def test_diagnose_has_everything_with_n_and_null() -> None:
    data = gaussian_groups((200, 30, 1, 90), 20, seed=0)
    weight, bias = np.zeros((2, 20)), np.zeros(2)
    weight[1, 0] = 1
    found = diagnose(lambda g: data.features[data.groups.ids == g], data.groups, weight=weight, bias=bias, null=40)
    assert {d.name for d in found} == set(READINGS)
    assert {d.cell for d in found} == {"y0 / a0", "y0 / a1", "y1 / a1", "y0 / a1 | y0 / a0", "all"}
    nulls = [d for d in found if d.cell.startswith("y0 / a1") and d.name != "observed error"]
    assert all((d.n, d.dim, d.replicates) == (30, 20, 40) for d in nulls)
    inside = np.mean([d.null_low <= d.matched <= d.null_high for d in nulls if "align" not in d.name])
    assert inside > 0.6
    by_name = {(d.name, d.cell): d.value for d in found}
    x = data.features[data.groups.ids == 1].astype(np.float64)
    assert by_name["trace", "y0 / a1"] == pytest.approx(np.trace(covariance(x)), rel=1e-6)
    assert by_name["spread along head", "y0 / a1"] == pytest.approx(np.var(x[:, 0]), rel=1e-6)
    assert by_name["Gaussian error", "y0 / a1"] == pytest.approx(
        scipy.stats.norm.sf(-x[:, 0].mean() / x[:, 0].std()), rel=1e-6
    )
    assert by_name["observed error", "y0 / a1"] == np.mean(x[:, 0] >= 0)
    with pytest.raises(ShapeError, match="head has 3"):
        diagnose(lambda g: data.features[data.groups.ids == g], data.groups, weight=np.zeros((2, 3)), bias=bias)


@pytest.mark.parametrize(("minority", "ranged"), [(30, True), (40, False), (90, False)])
def test_few_subsets_without_shared_rows_give_no_range(minority: int, ranged: bool) -> None:
    """Less than a fifth of the majority, or the range would be that of one to five subsets."""
    x = np.random.default_rng(0).standard_normal((200 + minority, 4))
    groups = Groups.from_arrays(np.zeros(len(x), int), (np.arange(len(x)) < minority).astype(int))
    found = diagnose(lambda g: x[groups.ids == g], groups, null=40)
    drawn = [d for d in found if d.replicates]
    assert {np.isfinite(d.null_low) for d in drawn} == {ranged}
    assert all(np.isfinite(d.value) for d in drawn)


def test_null_ranges_hold_for_groups_of_one_population() -> None:
    """Over data sets whose groups differ in size only, about 95% of the values lie in their ranges."""
    inside: dict[str, list[bool]] = {}
    for seed in range(25):
        x = np.random.default_rng(seed).standard_normal((330, 6)) * np.arange(1, 7) ** -0.5
        groups = Groups.from_arrays(np.zeros(330, int), (np.arange(330) < 30).astype(int))
        for d in diagnose(lambda g, x=x, groups=groups: x[groups.ids == g], groups, null=50, seed=seed):
            if d.replicates:
                inside.setdefault(d.name, []).append(d.null_low <= d.matched <= d.null_high)
    shares = {name: np.mean(values) for name, values in inside.items()}
    assert min(shares.values()) >= 0.72, shares
    assert np.mean(list(shares.values())) >= 0.88, shares


def test_correspondence() -> None:
    rho = [1.1, 1.5, 0.9, 2.0, 1.2, 1.3]
    gap = [0.1, 0.3, 0.05, 0.5, 0.35, 0.2]
    pairs = [RatioAndGap(f"run {i // 2}", f"y{i % 2}", r, g, 50) for i, (r, g) in enumerate(zip(rho, gap, strict=True))]
    found = correspondence([*pairs, RatioAndGap("run 9", "y0", math.nan, 0.1, 5)])
    assert found.spearman == pytest.approx(scipy.stats.spearmanr(rho, gap).statistic)
    exact = scipy.stats.permutation_test(
        (rho,), lambda x: scipy.stats.spearmanr(x, gap).statistic, permutation_type="pairings", n_resamples=10_000
    )
    assert found.p_value == pytest.approx(exact.pvalue, abs=0.02)
    assert found.low < found.spearman < found.high
    assert (found.agreeing, found.runs, len(found.pairs)) == (2, 3, 6)
    assert math.isnan(correspondence(pairs[:2]).spearman)
