"""Nulls and intervals of ρ(y) on populations with known covariances: they say what they claim to say."""

import math

import numpy as np
import pytest
from scipy.stats import binom, kstest

from grobust.errors import ConfigError, ShapeError
from grobust.spectrum import RatioInference, Reading, ratio_inference
from grobust.spectrum.inference import size_matched_factor


def draw(rng: np.random.Generator, n: int, sds: np.ndarray) -> np.ndarray:
    return (rng.standard_normal((n, sds.size)) * sds + 3).astype(np.float32)


def runs(count: int, m: int, n: int, sds: np.ndarray, *, ratio: float = 1.0, seed: int = 0) -> list[RatioInference]:
    """`count` data sets whose minority has `ratio` times the majority's covariance."""
    rng = np.random.default_rng(seed)
    return [
        ratio_inference(draw(rng, m, sds * math.sqrt(ratio)), draw(rng, n, sds), null=199, interval=100, seed=i)
        for i in range(count)
    ]


def check_calibration(found: list[RatioInference]) -> None:
    """p uniform by Kolmogorov–Smirnov; an interval that covers 1 no less often than its level says (at 1‰)."""
    assert kstest([r.p_value for r in found], "uniform").pvalue > 0.01
    covered = sum(r.low <= 1 <= r.high for r in found)
    assert covered >= binom.ppf(0.001, len(found), 0.95)
    rejected = sum(r.p_two_sided <= 0.05 for r in found)
    assert rejected <= binom.ppf(0.999, len(found), 0.05)


POWER_LAW = np.arange(1, 51) ** -0.5


def test_equal_populations_and_a_planted_ratio() -> None:
    """Waterbirds' sizes: the plain ratio is above 1 nearly always, the null says why; a ratio of 2 is found."""
    equal = runs(60, 56, 1057, np.ones(50))
    check_calibration(equal)
    assert min(r.rho for r in equal) > 1.5
    assert np.mean([r.corrected for r in equal]) == pytest.approx(1, abs=0.03)
    check_calibration(runs(60, 56, 1057, POWER_LAW, seed=1))
    planted = runs(30, 56, 1057, POWER_LAW, ratio=2.0, seed=2)
    assert np.mean([r.p_value <= 0.05 for r in planted]) >= 0.9
    assert np.mean([r.low <= 2 <= r.high for r in planted]) >= 0.8
    assert {r.reading for r in planted} <= {Reading.MORE, Reading.SIZES}


def test_a_minority_nearly_as_large_as_the_majority() -> None:
    """Subsets of nearly all rows hardly vary; without the widening every p would be 0 or 1."""
    check_calibration(runs(60, 190, 200, POWER_LAW[:20], seed=3))


@pytest.mark.slow
@pytest.mark.parametrize(("m", "n", "d", "decay"), [(56, 1057, 768, 0.0), (56, 1057, 768, 0.5), (56, 1057, 50, 0.25)])
def test_two_hundred_runs(m: int, n: int, d: int, decay: float) -> None:
    check_calibration(runs(200, m, n, np.arange(1, d + 1) ** -decay, seed=4))


def test_against_a_loop_anyone_can_read() -> None:
    rng = np.random.default_rng(5)
    small, large = draw(rng, 12, POWER_LAW[:8]), draw(rng, 60, POWER_LAW[:8])
    found = ratio_inference(small, large, null=300, interval=0, permutations=200)

    def top(x: np.ndarray) -> float:
        return float(np.linalg.eigvalsh(np.cov(x.astype(np.float64).T, ddof=0))[-1])

    assert found.rho == pytest.approx(top(small) / top(large), rel=1e-6)
    null = np.array([top(large[rng.choice(60, 12, replace=False)]) for _ in range(2000)])
    assert found.size_matched == pytest.approx(top(small) / np.median(null), rel=0.05)
    logs = np.log(null)
    logs = logs.mean() + (logs - logs.mean()) * math.sqrt(72 / 48)
    assert found.null_mean == pytest.approx(np.exp(logs).mean() / top(large), rel=0.05)
    assert found.p_value == pytest.approx((np.exp(logs) >= top(small)).mean(), abs=0.08)
    pooled = np.concatenate([small - small.mean(axis=0), large - large.mean(axis=0)])
    permuted = []
    for _ in range(2000):
        order = rng.permutation(72)
        permuted.append(top(pooled[order[:12]]) / top(pooled[order[12:]]))
    assert found.permutation.mean() == pytest.approx(np.mean(permuted), rel=0.05)
    assert found.permutation_p == pytest.approx(np.mean(np.array(permuted) >= found.rho), abs=0.08)
    assert math.isnan(found.low)


def test_the_same_seed_gives_the_same_and_scales_do_not_matter() -> None:
    rng = np.random.default_rng(6)
    small, large = draw(rng, 20, POWER_LAW[:8]), draw(rng, 90, POWER_LAW[:8])
    first, again = (ratio_inference(small, large, null=50, interval=50, seed=1) for _ in range(2))
    scaled = ratio_inference(8 * small, 8 * large, null=50, interval=50, seed=1)
    for other, rtol in ((again, 0.0), (scaled, 1e-5)):
        np.testing.assert_allclose(other.null, first.null, rtol=rtol)
        np.testing.assert_allclose(
            [other.rho, other.low, other.high, other.p_value],
            [first.rho, first.low, first.high, first.p_value],
            rtol=rtol,
        )


def test_smallest_and_impossible_groups() -> None:
    rng = np.random.default_rng(7)
    large = draw(rng, 30, POWER_LAW[:8])
    two = ratio_inference(large[:2], large, null=20, interval=20)
    assert math.isfinite(two.p_value)
    assert math.isnan(two.low)
    flat = ratio_inference(np.ones((5, 8), np.float32), large, null=20)
    assert math.isnan(flat.p_value)
    assert flat.reading is Reading.UNDEFINED
    for small in (large[:1], large):
        with pytest.raises(ShapeError, match="minority"):
            ratio_inference(small, large)
    with pytest.raises(ConfigError, match="null must be"):
        ratio_inference(large[:4], large, null=0)
    assert size_matched_factor(56, 1057) == pytest.approx(1.054, abs=1e-3)
