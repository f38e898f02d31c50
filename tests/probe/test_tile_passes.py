"""Passes in matrix tiles against the general code in float64, and fits with them against fits without."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from probe_problems import problem, row_weights

from grobust import matrix_tiles
from grobust.probe import FitStatus, Head, _host_passes, _tile_passes, fit_probes
from grobust.probe._design import design
from grobust.probe._host_passes import HostPasses
from grobust.probe._moments import new_moments
from grobust.probe._passes import ArrayPasses
from grobust.probe._weights import weight_table
from grobust.threads import threads

pytestmark = pytest.mark.skipif(not matrix_tiles.available(), reason="needs a CPU with bfloat16 tiles (AMX)")


class Stored:
    """Features that are read slice by slice, as from a file."""

    def __init__(self, features: np.ndarray) -> None:
        self._features = features
        self.shape, self.dtype, self.ndim = features.shape, features.dtype, 2

    def __getitem__(self, key: Any) -> np.ndarray:
        return self._features[key]


KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "contiguous": lambda x: x, "by feature": np.asfortranarray, "stored": Stored,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("k", "heads", "n", "d"), [(2, 14, 900, 64), (3, 5, 2311, 32), (5, 9, 333, 96)])
def test_passes_equal_the_general_code(
    kind: str, dtype: type, k: int, heads: int, n: int, d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole and partial panels of rows and columns, weights by code and dense, heads that leave, features anywhere."""
    # What is not in memory is read in several stretches of several blocks.
    monkeypatch.setattr(_host_passes, "READ_NUMBERS", 420 * d)
    x, y = problem(n, d, k)
    x = (x + (30 if dtype == np.float16 else 2)).astype(dtype)
    rng = np.random.default_rng(k)
    given = [rng.random(n), row_weights("class", y), None][:heads] * heads
    columns = 1 if k == 2 else k
    table = weight_table(given[:heads], [str(i) for i in range(heads)], y, k)
    with threads() as pool:
        data = design(KINDS[kind](x), standardize=True, threads=pool, block_rows=256, small=0)
        wide = design(x.astype(np.float64), standardize=True, threads=pool, block_rows=256)
        passes, reference = HostPasses(data, y, table, columns, pool, 256), ArrayPasses(wide, y, table, columns, 256)
        left = np.arange(heads)
        for turn in range(3):
            w = rng.standard_normal((left.size, columns, d + 1)) / np.sqrt(d)
            assert turn == 2 or _tile_passes.takes_tiles(left.size * columns, d)
            _same(passes.advance(w), reference.advance(w))
            step = rng.random(left.size)
            for chosen in (left[::-1].copy(), left[:1]):
                for gradient in (False, True):
                    found = passes.evaluate(chosen, step[chosen], gradient=gradient)
                    _same(found, reference.evaluate(chosen, step[chosen], gradient=gradient))
            passes.take(step)
            reference.take(step)
            np.testing.assert_allclose(passes.curvature(3), reference.curvature(3), rtol=1e-4, atol=1e-9)
            kept = left[[0, 2, *range(3, left.size)]] if turn == 0 else left[1::2]
            passes.keep(kept)
            reference.keep(kept)
            left = np.arange(kept.size)


def _same(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found.loss, expected.loss, rtol=3e-6)
    np.testing.assert_allclose(found.slope, expected.slope, rtol=1e-5, atol=1e-5)
    assert (found.gradient is None) == (expected.gradient is None)
    if found.gradient is not None:
        np.testing.assert_allclose(found.gradient, expected.gradient, atol=1e-5)


@pytest.mark.parametrize("separation", [0.3, 3.0])
@pytest.mark.parametrize(("k", "n", "d"), [(2, 3000, 64), (3, 1500, 128)])
def test_fits_are_as_exact_as_without(
    k: int, n: int, d: int, separation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels hard to learn and learnt by heart, each head within 1e-6 of its minimum in float64."""
    rng = np.random.default_rng(0)
    y = rng.integers(k, size=n)
    x = (rng.standard_normal((n, d)) + separation * np.eye(k, d)[y] * np.sqrt(d) / 4).astype(np.float32)
    heads = [Head(weights=row_weights(name, y), l2=l2) for name in ("equal", "class") for l2 in np.logspace(-5, -1, 8)]
    minima = [fit.objective for fit in fit_probes(x.astype(np.float64), y, heads, n_classes=k)]
    with_tiles = fit_probes(x, y, heads, n_classes=k)
    monkeypatch.setattr(_tile_passes, "LEAST_COLUMNS", 1 << 30)
    without = fit_probes(x, y, heads, n_classes=k)
    for fits in (with_tiles, without):
        for fit, minimum in zip(fits, minima, strict=True):
            assert fit.status is FitStatus.CONVERGED
            assert fit.objective == pytest.approx(minimum, rel=1e-6)


def test_moments_equal_a_product() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((777, 96)).astype(np.float32)
    made = new_moments(np.zeros(96, np.float32))
    for part in np.array_split(rows, 3):
        made.add(part[::-1])
    exact = rows.T.astype(float) @ rows.astype(float)
    np.testing.assert_allclose(made.total(), exact, atol=1e-5 * np.diagonal(exact).max())
