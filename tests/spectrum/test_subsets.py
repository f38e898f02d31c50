"""λ1 of many subsets at once against a loop over numpy, by each of the three ways."""

from dataclasses import replace

import array_api_strict
import numpy as np
import pytest

from grobust.errors import ConfigError
from grobust.spectrum import _subsets
from grobust.spectrum._lanczos import largest_of_many
from grobust.spectrum._subsets import RowSet, draw_subsets


def loop(x: np.ndarray, subsets: np.ndarray, *, complement: bool = False) -> np.ndarray:
    found = []
    for rows in subsets:
        kept = np.delete(x, rows, axis=0) if complement else x[rows]
        found.append(np.linalg.eigvalsh(np.cov(kept.astype(np.float64).T, ddof=0))[-1])
    return np.array(found)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("n", "d", "m"), [(300, 40, 30), (300, 40, 200), (60, 90, 25), (60, 90, 50)])
@pytest.mark.parametrize("plan", ["masks", "cut", "gather"])
def test_every_way_equals_the_loop(
    monkeypatch: pytest.MonkeyPatch, plan: str, n: int, d: int, m: int, decay: float
) -> None:
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -decay + 7).astype(np.float32)
    subsets = draw_subsets(rng, n, m, 12)
    monkeypatch.setattr(RowSet, "_plan", lambda self, b, size: plan)
    expected = loop(x, subsets)
    np.testing.assert_allclose(RowSet.of(x).largest(subsets), expected, rtol=1e-6)
    # What CuPy arrays go through, also in several batches.
    strict = RowSet.of(array_api_strict.asarray(x))
    np.testing.assert_allclose(strict.largest(subsets), expected, rtol=1e-6)
    monkeypatch.setattr(_subsets, "DEVICE", replace(_subsets.DEVICE, columns=5, stack_bytes=1 << 17))
    np.testing.assert_allclose(strict.largest(subsets), expected, rtol=1e-6)


def test_batches_of_masks_stay_within_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Smaller batches, the same λ1; and what is said to be taken is more than what batches of that size take."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((400, 12)).astype(np.float32)
    subsets = draw_subsets(rng, 400, 90, 60)
    monkeypatch.setattr(RowSet, "_plan", lambda self, b, size: "masks")
    sizes: list[int] = []

    def watched(apply: object, start: np.ndarray, *, tolerance: float) -> np.ndarray:
        sizes.append(len(start))
        return largest_of_many(apply, start, tolerance=tolerance)

    monkeypatch.setattr(_subsets, "largest_of_many", watched)
    for most in (1 << 29, 12 * 28 * 400, 1):
        monkeypatch.setattr(_subsets, "HOST", replace(_subsets.HOST, mask_bytes=most))
        sizes.clear()
        np.testing.assert_allclose(RowSet.of(x).largest(subsets), loop(x, subsets), rtol=1e-6)
        assert sum(sizes) == 60
        assert max(sizes) * 28 * 400 <= max(_subsets.masked_bytes(400) / 2, 12 * 28 * 400)
        assert most > 1 or set(sizes) == {1}


def test_complements_whole_and_gram_only() -> None:
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((50, 80)) * np.arange(1, 81) ** -0.7).astype(np.float32)
    subsets = draw_subsets(rng, 50, 7, 9)
    rows, matrix = RowSet.of(x), RowSet.of(x).prepared()
    assert matrix.rows is None
    for each in (rows, matrix):
        np.testing.assert_allclose(each.largest(subsets, complement=True), loop(x, subsets, complement=True), rtol=1e-6)
        np.testing.assert_allclose(each.largest(subsets), loop(x, subsets), rtol=1e-6)
        assert each.whole() == pytest.approx(loop(x, np.arange(50)[None])[0], rel=1e-6)
    few = RowSet.of(x[:8]).prepared()
    subsets = draw_subsets(rng, 8, 6, 20)
    for complement in (False, True):
        kept = few.largest(subsets, complement=complement)
        np.testing.assert_allclose(kept, loop(x[:8], subsets, complement=complement), rtol=1e-6)
    with pytest.raises(ConfigError, match="two rows"):
        few.largest(subsets[:, :1])


def test_subsets_are_drawn_without_replacement_and_evenly() -> None:
    drawn = draw_subsets(np.random.default_rng(0), 20, 8, 4000)
    assert all(len(set(rows)) == 8 for rows in drawn.tolist())
    shares = np.bincount(drawn.ravel(), minlength=20) / 4000
    assert np.abs(shares - 0.4).max() < 5 * np.sqrt(0.4 * 0.6 / 4000)


def test_rows_that_do_not_vary_have_zero_spread() -> None:
    assert RowSet.of(np.ones((6, 3), np.float32)).whole() == 0


def test_lanczos_of_close_and_of_repeated_eigenvalues() -> None:
    rng = np.random.default_rng(0)
    stack = []
    for top in ([1.0, 1.0], [1.0, 1 - 1e-6], [1.0, 0.1], [0.0, 0.0]):
        basis = np.linalg.qr(rng.standard_normal((60, 60)))[0]
        stack.append((basis * np.concatenate([top, np.linspace(0.0, 0.0, 58)])) @ basis.T)
    matrices = np.stack(stack)
    found = largest_of_many(
        lambda v, i: (matrices[i] @ v[:, :, None])[:, :, 0], rng.standard_normal((4, 60)), tolerance=1e-7
    )
    np.testing.assert_allclose(found, [1, 1, 1, 0], rtol=1e-6, atol=1e-12)


def test_shared_code_keeps_to_the_array_api() -> None:
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((40, 12)) * np.arange(1, 13) ** -0.7).astype(np.float32)
    subsets = draw_subsets(rng, 40, 15, 6)
    strict = RowSet.of(array_api_strict.asarray(x))
    np.testing.assert_allclose(strict.largest(subsets), loop(x, subsets), rtol=1e-6)
    np.testing.assert_allclose(strict.largest(subsets, complement=True), loop(x, subsets, complement=True), rtol=1e-6)


@pytest.mark.gpu
def test_cupy_equals_numpy() -> None:
    import cupy

    rng = np.random.default_rng(3)
    x = (rng.standard_normal((300, 40)) * np.arange(1, 41) ** -0.7).astype(np.float32)
    subsets = draw_subsets(rng, 300, 30, 64)
    np.testing.assert_allclose(RowSet.of(cupy.asarray(x)).largest(subsets), RowSet.of(x).largest(subsets), rtol=1e-6)
