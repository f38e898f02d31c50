"""Tests and intervals against scipy.stats, closed forms, and simulation of their errors."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from grobust.comparison import bootstrap_rows, holm, mean_interval, paired_over_seeds, seeds_needed, sign_flip_p
from grobust.errors import ConfigError, ShapeError
from grobust.groups import Groups
from grobust.metrics import group_metrics
from grobust.settings import SelectBy


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_its_step_down_definition(p: list[float]) -> None:
    order = sorted(range(len(p)), key=lambda i: p[i])
    expected = np.zeros(len(p))
    for rank, i in enumerate(order):
        expected[i] = min(1.0, max((len(p) - r) * p[order[r]] for r in range(rank + 1)))
    found = holm(p)
    np.testing.assert_allclose(found, expected)
    assert (found >= np.array(p)).all()
    # Never more lenient than Benjamini–Hochberg, never stricter than Bonferroni.
    assert (found >= stats.false_discovery_control(p) - 1e-12).all()
    assert (found <= np.minimum(1, len(p) * np.array(p)) + 1e-12).all()


def test_holm_leaves_out_what_was_not_tested() -> None:
    np.testing.assert_allclose(holm([0.01, math.nan, 0.04]), [0.02, math.nan, 0.04])
    assert np.isnan(holm([math.nan])).all()
    with pytest.raises(ConfigError, match="between 0 and 1"):
        holm([1.2])


@given(st.integers(0, 10**6), st.integers(2, 9))
def test_sign_flips_equal_scipy_and_the_interval_is_students(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, n))
    found = paired_over_seeds(a, b)
    oracle = stats.permutation_test((a - b,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert found.difference.p_value == pytest.approx(oracle.pvalue)
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.difference.low, found.difference.high) == pytest.approx((interval.low, interval.high))
    assert found.sd == pytest.approx(np.std(a - b))
    assert found.varies
    back = paired_over_seeds(b, a)
    assert back.difference.value == pytest.approx(-found.difference.value)
    assert back.difference.p_value == pytest.approx(found.difference.p_value)


def test_many_seeds_are_drawn_and_few_cannot_reach_a_level() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.3, 1.0, size=40)
    assert sign_flip_p(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.02)
    assert sign_flip_p(np.array([1.0, 2.0, 3.0])) == pytest.approx(0.25)
    for comparisons, alpha in itertools.product((1, 3, 10), (0.05, 0.01)):
        n = seeds_needed(comparisons, alpha=alpha)
        assert comparisons * sign_flip_p(np.ones(n)) <= alpha
        assert n == 2 or comparisons * sign_flip_p(np.ones(n - 1)) > alpha
    with pytest.raises(ConfigError):
        seeds_needed(0)


def test_one_seed_and_equal_seeds() -> None:
    one = paired_over_seeds(np.array([0.5]), np.array([0.4]))
    assert math.isnan(one.difference.low)
    assert math.isnan(one.difference.p_value)
    same = paired_over_seeds(np.array([0.5, 0.5]), np.array([0.4, 0.4]))
    assert not same.varies
    assert mean_interval(np.array([0.5, 0.5])) == (0.5, 0.5)
    with pytest.raises(ShapeError):
        paired_over_seeds(np.zeros(2), np.zeros(3))
    with pytest.raises(ShapeError):
        paired_over_seeds(np.zeros(0), np.zeros(0))


def drawn_heads(
    rng: np.random.Generator, sizes: tuple[int, ...], accuracy: tuple[float, ...]
) -> tuple[Groups, np.ndarray]:
    """Two heads of equal accuracy in every group that agree more often than by chance."""
    ids = np.repeat(np.arange(4), sizes)
    p = np.array(accuracy)[ids]
    first = rng.random(ids.size) < p
    second = np.where(rng.random(ids.size) < 0.6, first, rng.random(ids.size) < p)
    return Groups.from_arrays(ids // 2, ids % 2), np.stack([first, second])


def test_bootstrap_is_a_bootstrap_of_rows() -> None:
    """Mean and spread of replicates against resampling row numbers one by one."""
    rng = np.random.default_rng(1)
    groups, correct = drawn_heads(rng, (200, 40, 30, 120), (0.9, 0.7, 0.75, 0.85))
    found = bootstrap_rows(correct, groups, metric=SelectBy.WGA, replicates=4000, seed=0)
    naive = []
    for _ in range(1500):
        rows = np.concatenate([rng.choice(np.flatnonzero(groups.ids == g), groups.counts[g]) for g in range(4)])
        naive.append([group_metrics(np.where(c, groups.labels, 1 - groups.labels)[rows], groups.take(rows)).wga.value
                      for c in correct])  # fmt: skip
    np.testing.assert_allclose(found.replicates.mean(axis=0), np.mean(naive, axis=0), atol=0.006)
    np.testing.assert_allclose(found.replicates.std(axis=0), np.std(naive, axis=0), rtol=0.08)
    correlation = np.corrcoef(found.replicates.T)[0, 1]
    assert correlation == pytest.approx(np.corrcoef(np.array(naive).T)[0, 1], abs=0.08)
    for head, c in enumerate(correct):
        m = group_metrics(np.where(c, groups.labels, 1 - groups.labels), groups)
        for metric in (SelectBy.WGA, SelectBy.AVERAGE, SelectBy.AVERAGE_GROUP, SelectBy.WORST_CLASS):
            observed = bootstrap_rows(correct, groups, metric=metric, replicates=2).observed
            assert observed[head] == pytest.approx(getattr(m, metric).value)


def test_one_group_has_the_closed_form_of_paired_proportions() -> None:
    rng = np.random.default_rng(2)
    n = 3000
    first = rng.random(n) < 0.8
    second = np.where(rng.random(n) < 0.7, first, rng.random(n) < 0.7)
    groups = Groups.from_arrays(np.zeros(n, dtype=int))
    found = bootstrap_rows(np.stack([first, second]), groups, metric=SelectBy.AVERAGE, replicates=6000).difference(
        [0], [1]
    )
    b, c = np.sum(first & ~second), np.sum(second & ~first)
    se = math.sqrt(b + c - (b - c) ** 2 / n) / n
    assert found.value == pytest.approx((b - c) / n)
    assert (found.low, found.high) == pytest.approx((found.value - 1.96 * se, found.value + 1.96 * se), abs=0.1 * se)


@pytest.mark.parametrize(
    ("sizes", "accuracy"),
    [((600, 120, 90, 300), (0.9, 0.7, 0.7, 0.9)), ((600, 120, 90, 300), (0.9, 0.6, 0.85, 0.9))],
)
def test_errors_of_the_bootstrap_are_as_stated(sizes: tuple[int, ...], accuracy: tuple[float, ...]) -> None:
    """Heads of equal accuracy are told apart in about 5% of data sets; intervals cover in about 95%."""
    rejected, covered, runs = 0, 0, 400
    for seed in range(runs):
        groups, correct = drawn_heads(np.random.default_rng(seed), sizes, accuracy)
        found = bootstrap_rows(correct, groups, metric=SelectBy.WGA, replicates=300, seed=seed)
        rejected += found.difference([0], [1]).p_value <= 0.05
        own = found.value([0])
        covered += own.low <= min(accuracy) <= own.high
    # Binomial with 400 runs: 0.05 ± 0.033 and 0.95 ± 0.033 at three standard deviations.
    assert rejected / runs <= 0.083
    assert covered / runs >= 0.917


def test_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(5)
    ids = np.repeat(np.arange(4), (600, 120, 90, 300))
    groups = Groups.from_arrays(ids // 2, ids % 2)
    poor = rng.random(ids.size) < np.array([0.95, 0.5, 0.5, 0.95])[ids]
    good = rng.random(ids.size) < 0.85
    found = bootstrap_rows(np.stack([poor, good]), groups, metric=SelectBy.WGA).difference([1], [0])
    assert found.low > 0.1
    assert found.p_value < 0.01


def test_bad_arguments_of_the_bootstrap() -> None:
    groups = Groups.from_arrays([0, 1, 1])
    correct = np.ones((2, 3), dtype=bool)
    for bad in (correct[:, :2], np.ones((0, 3), dtype=bool)):
        with pytest.raises(ShapeError):
            bootstrap_rows(bad, groups, metric=SelectBy.AVERAGE)
    with pytest.raises(ConfigError):
        bootstrap_rows(correct, groups, metric=SelectBy.BIAS_UNSUPERVISED)
    with pytest.raises(ConfigError):
        bootstrap_rows(correct, groups, metric=SelectBy.AVERAGE, replicates=0)
