"""Spectra by every route against numpy in float64: offsets, precisions, conditioning, out of core."""

import array_api_strict
import numpy as np
import pytest

from grobust.data.synthetic import gaussian_groups
from grobust.errors import ConfigError, ShapeError
from grobust.groups import Groups
from grobust.spectrum import Route, Spectra, group_spectra, stream_spectra
from grobust.spectrum._eigen import largest_eigenvalues, largest_of_each


def reference(x: np.ndarray) -> np.ndarray:
    rows = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    return np.linalg.eigvalsh(rows.T @ rows / len(rows))[::-1]


def rotated(counts: tuple[int, ...], dim: int, *, offset: float) -> tuple[np.ndarray, Groups]:
    """Power-law spectra in a random basis, mean `offset` standard deviations from zero in every feature."""
    data = gaussian_groups(counts, dim, seed=0, decay=0.7)
    basis = np.linalg.qr(np.random.default_rng(1).standard_normal((dim, dim)))[0]
    x = data.features.astype(np.float64) @ basis
    return (x + offset * x.std(axis=0).mean()).astype(np.float32), data.groups


def worst(spectra: Spectra, x: np.ndarray, cells: np.ndarray, rank: int) -> float:
    errors = []
    for cell in range(len(spectra.names)):
        rows = x[cells == cell]
        kept = min(rank, len(rows) - 1)
        errors.append(np.max(np.abs(spectra.eigenvalues[cell, :kept] / reference(rows)[:kept] - 1)))
    return float(max(errors))


@pytest.mark.parametrize("offset", [0.0, 30.0, 300.0, 3000.0])
def test_fifty_eigenvalues_with_a_large_mean(offset: float) -> None:
    """float32 products: large enough that they are not made in float64."""
    x, groups = rotated((3000, 1200, 100, 1500), 500, offset=offset)
    by_group, by_class = stream_spectra([(x, np.arange(len(x)))], groups=groups, dim=500, rank=50)
    assert by_group.routes == (Route.MOMENTS, Route.MOMENTS, Route.GRAM, Route.MOMENTS)
    assert worst(by_group, x, groups.ids, 50) < 1e-6
    assert worst(by_class, x, groups.labels, 50) < 1e-6


@pytest.mark.parametrize("route", [Route.MOMENTS, Route.GRAM, Route.KRYLOV])
@pytest.mark.parametrize("offset", [0.0, 3000.0])
def test_every_route_gives_the_same(route: Route, offset: float) -> None:
    x, groups = rotated((400, 90, 56, 184), 150, offset=offset)
    blocks = [(x[i : i + 100], np.arange(i, min(i + 100, len(x)))) for i in range(0, len(x), 100)]
    by_group, by_class = stream_spectra(blocks, groups=groups, dim=150, rank=10, route=route)
    assert set(by_group.routes) == set(by_class.routes) == {route}
    assert worst(by_group, x, groups.ids, 10) < 1e-6
    assert worst(by_class, x, groups.labels, 10) < 1e-6
    for cell in range(4):
        assert by_group.trace[cell] == pytest.approx(reference(x[groups.ids == cell]).sum(), rel=1e-6)


def test_krylov_bounds_hold() -> None:
    """An eigenvalue lies within the stated distance of each value, also where the iteration stopped early."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((600, 200)) * np.linspace(1, 0.9, 200)).astype(np.float32)
    groups = Groups.from_arrays(np.zeros(600, dtype=int))
    (spectra, _) = stream_spectra([(x, np.arange(600))], groups=groups, dim=200, rank=5, route=Route.KRYLOV)
    exact = reference(x)
    nearest = np.abs(spectra.eigenvalues[0][:, None] - exact[None, :]).min(axis=1)
    assert (nearest <= spectra.error_bounds[0] + 1e-6 * exact[0]).all()
    assert (spectra.eigenvalues[0] <= exact[:5] * (1 + 1e-6)).all()


def test_what_does_not_fit_goes_over_the_blocks_again() -> None:
    x, groups = rotated((300, 90, 56, 184), 60, offset=1.0)
    blocks = [(x, np.arange(len(x)))]
    small, _ = stream_spectra(blocks, groups=groups, dim=60, rank=3, memory_bytes=1000)
    assert set(small.routes) == {Route.KRYLOV}
    np.testing.assert_allclose(small.eigenvalues, group_spectra(x, groups, rank=3).eigenvalues, rtol=1e-6)
    with pytest.raises(ConfigError, match="only once"):
        stream_spectra(iter(blocks), groups=groups, dim=60, rank=3, memory_bytes=1000)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_float16_and_ill_conditioned_spectra(scale: float) -> None:
    """Eight orders of magnitude; the features as stored are the truth, and rounding to float16 adds 1e-3 at most."""
    rng = np.random.default_rng(0)
    exact = rng.standard_normal((700, 40)) * np.logspace(0, -4, 40) @ np.linalg.qr(rng.standard_normal((40, 40)))[0]
    groups = Groups.from_arrays(np.zeros(700, dtype=int))
    stored = (scale * exact).astype(np.float16)
    top = group_spectra(stored, groups).eigenvalues[0]
    np.testing.assert_allclose(top, reference(stored)[:10], rtol=1e-6)
    np.testing.assert_allclose(top[:5], reference(scale * exact)[:5], rtol=1e-3)
    np.testing.assert_allclose(group_spectra(exact.astype(np.float32), groups).eigenvalues[0],
                               reference(exact)[:10], rtol=1e-5)  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("route", [Route.MOMENTS, Route.GRAM, Route.KRYLOV])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_features_that_are_not_finite_are_named(dtype: type, route: Route, value: float) -> None:
    x, groups = rotated((30, 20, 10, 15), 8, offset=0.0)
    x = x.astype(dtype)
    x[41, 3] = value
    with pytest.raises(ShapeError, match="Row 41 of the features is not finite"):
        stream_spectra([(x, np.arange(len(x)))], groups=groups, dim=8, route=route)


def test_rows_that_come_twice_or_not_at_all() -> None:
    x, groups = rotated((30, 20, 10, 15), 8, offset=0.0)
    positions = np.arange(len(x))
    with pytest.raises(ShapeError, match="the blocks held"):
        stream_spectra([(x, positions), (x[:5], positions[:5])], groups=groups, dim=8)


def test_lanczos_equals_the_full_solver() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((900, 300)) * np.arange(1, 301) ** -0.6
    matrix = rows.T @ rows
    few, everything = largest_eigenvalues(matrix, 30), largest_eigenvalues(matrix, 30, complete=True)
    assert (few.complete, everything.complete) == (False, True)
    np.testing.assert_allclose(few.values, everything.values[:30], rtol=1e-12)
    assert (few.bounds < 1e-9 * few.values[0]).all()
    zeros = largest_eigenvalues(np.zeros((300, 300)), 3)
    assert (zeros.values == 0).all()


def test_several_matrices_side_by_side() -> None:
    """On an array namespace that is not NumPy's: sizes mixed, few eigenvalues and all, ranks that end the iteration."""
    rng = np.random.default_rng(0)
    made = []
    for m, rank in ((300, 300), (300, 300), (60, 60), (60, 60), (300, 4), (300, 0)):
        rows = rng.standard_normal((rank, m)) * np.arange(1, m + 1) ** -0.6
        made.append(rows.T @ rows)
    repeated = np.zeros((300, 300))
    repeated[:9, :9] = np.eye(9)
    made.append(repeated)
    strict = [array_api_strict.asarray(matrix) for matrix in made]
    for complete in (False, True):
        for matrix, found in zip(made, largest_of_each(strict, 5, complete=complete), strict=True):
            exact = np.maximum(np.linalg.eigvalsh(matrix)[::-1], 0)
            assert found.complete or not complete
            np.testing.assert_allclose(found.values[:5], exact[:5], rtol=1e-11, atol=1e-12 * exact[0])
            nearest = np.abs(found.values[:5, None] - exact[None, :]).min(axis=1)
            assert (nearest <= found.bounds[:5] + 1e-13 * exact[0]).all()
    few = largest_of_each(strict[:1], 5)[0]
    assert (few.complete, few.values.size) == (False, 5)


@pytest.mark.parametrize("memory", [1 << 30, 600_000])
def test_classes_and_groups_side_by_side_or_in_turn(memory: int) -> None:
    x, groups = rotated((400, 200, 156, 284), 150, offset=3.0)
    blocks = [(array_api_strict.asarray(x), np.arange(len(x)))]
    settings = {"groups": groups, "dim": 150, "rank": 5, "route": Route.MOMENTS}
    by_group, by_class = stream_spectra(blocks, **settings, memory_bytes=memory)
    for spectra, cells in ((by_group, groups.ids), (by_class, groups.labels)):
        assert set(spectra.routes) == {Route.MOMENTS}
        assert worst(spectra, x, cells, 5) < 1e-6


def test_shared_code_keeps_to_the_array_api() -> None:
    """What CuPy arrays go through, with a namespace that has nothing but the standard."""
    x, groups = rotated((60, 20, 10, 15), 12, offset=2.0)
    strict = array_api_strict.asarray(x)
    for route in (Route.MOMENTS, Route.GRAM, Route.KRYLOV):
        blocks = [(strict, np.arange(len(x)))]
        found, _ = stream_spectra(blocks, groups=groups, dim=12, rank=5, route=route)
        expected, _ = stream_spectra([(x, np.arange(len(x)))], groups=groups, dim=12, rank=5, route=route)
        np.testing.assert_allclose(found.eigenvalues, expected.eigenvalues, rtol=1e-6)
        np.testing.assert_allclose(found.trace, expected.trace, rtol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("route", [Route.MOMENTS, Route.GRAM, Route.KRYLOV])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_cupy_equals_numpy(dtype: type, route: Route, offset: float) -> None:
    """Also large enough that float16 goes to tensor cores, which cut sums off."""
    import cupy

    x, groups = rotated((6000, 2500, 600, 3000), 600, offset=offset)
    x = x.astype(dtype)
    for spectra, there in zip(
        *(stream_spectra([(rows, np.arange(len(x)))], groups=groups, dim=600, rank=10, route=route)
          for rows in (x, cupy.asarray(x))), strict=True
    ):  # fmt: skip
        np.testing.assert_allclose(there.eigenvalues, spectra.eigenvalues, rtol=1e-5 if dtype == np.float16 else 1e-6)
        np.testing.assert_allclose(there.trace, spectra.trace, rtol=1e-5 if dtype == np.float16 else 1e-6)


@pytest.mark.gpu
def test_lanczos_on_cupy() -> None:
    import cupy

    rng = np.random.default_rng(0)
    made = [(rows.T @ rows) for rows in (rng.standard_normal((900, 300)) * np.arange(1, 301) ** -s for s in (0.5, 1))]
    for matrix, found in zip(made, largest_of_each([cupy.asarray(m) for m in made], 20), strict=True):
        np.testing.assert_allclose(found.values, np.linalg.eigvalsh(matrix)[::-1][:20], rtol=1e-10)
