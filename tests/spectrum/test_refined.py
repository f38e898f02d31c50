"""Eigenvalues from float32 vectors and float64 Rayleigh quotients, products that threads add in order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grobust.data.synthetic import gaussian_groups
from grobust.errors import ShapeError
from grobust.spectrum import Route, _moments, stream_spectra
from grobust.spectrum._eigen import largest_eigenvalues, refined
from grobust.spectrum._gram import CentredRows, class_gram, gram
from grobust.spectrum._moments import MomentSums
from grobust.spectrum._staging import Piece, pieces_of
from grobust.threads import one_thread, threads


def spectrum_matrix(m: int, decay: float, seed: int) -> np.ndarray:
    """Symmetric (m, m), eigenvalues near i^-decay, in a random basis."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((m, m)))[0]
    return (basis * (np.arange(1, m + 1) ** -decay * rng.uniform(0.8, 1.2, m))) @ basis.T


@settings(max_examples=15, deadline=None)
@given(
    decay=st.floats(0.1, 2.5), k=st.integers(1, 15), seed=st.integers(0, 99), scale=st.sampled_from([1e-30, 1, 1e25])
)
def test_refined_equals_the_full_solver_and_its_bounds_hold(decay: float, k: int, seed: int, scale: float) -> None:
    """The float32 vectors alone are good to 1e-6."""
    matrix = scale * spectrum_matrix(150, decay, seed)
    exact = np.linalg.eigvalsh(matrix)[::-1]
    found = refined(matrix, k, lambda vectors: matrix @ vectors)
    assert found is not None
    np.testing.assert_allclose(found.values, exact[:k], rtol=1e-8)
    assert (np.abs(found.values - exact[:k]) <= found.bounds + 1e-13 * exact[0]).all()
    assert (found.bounds <= 1e-7 * found.values).all()


def test_a_matrix_with_errors_gives_the_operators_eigenvalues() -> None:
    """Vectors of a Gram matrix rounded to float32 and more, quotients of the rows."""
    operator = spectrum_matrix(300, 1.2, 0)
    noise = np.random.default_rng(1).standard_normal((300, 300)) * 1e-8
    rounded = operator + (noise + noise.T) / 2
    exact = np.linalg.eigvalsh(operator)[::-1][:30]
    found = refined(rounded, 30, lambda vectors: operator @ vectors)
    assert found is not None
    assert np.max(np.abs(np.linalg.eigvalsh(rounded)[::-1][:30] / exact - 1)) > 1e-7
    np.testing.assert_allclose(found.values, exact, rtol=1e-8)


def test_what_cannot_be_refined_goes_the_exact_way() -> None:
    """Ranks below k, eigenvalues below float32's rounding, zeros."""
    steep = spectrum_matrix(200, 6.0, 0)
    rows = np.random.default_rng(0).standard_normal((4, 200))
    for matrix in (steep, rows.T @ rows, np.zeros((200, 200))):
        assert refined(matrix, 15, lambda vectors, own=matrix: own @ vectors) is None
        exact = np.maximum(np.linalg.eigvalsh(matrix)[::-1][:15], 0)
        found = largest_eigenvalues(matrix, 15, rounded=True)
        np.testing.assert_allclose(found.values[:15], exact, rtol=1e-6, atol=1e-14 * max(exact[0], 1e-300))


def test_products_with_rows_are_those_of_the_gram_matrix() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((90, 300)) + np.repeat([[3.0], [0.0], [-1.0]], 30, axis=0)).astype(np.float32)
    cuts = [slice(0, 20), slice(20, 65), slice(65, 90)]
    rows = CentredRows.of([[Piece(x, np.arange(90)[c], np.arange(90)[c])] for c in cuts], single=True)
    assert rows.rows.dtype == np.float32
    vectors = rng.standard_normal((90, 7))
    whole = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    dense = class_gram(rows.precise(), gram(rows.precise().rows, one_thread()))
    np.testing.assert_allclose(dense, whole @ whole.T, rtol=0, atol=1e-4)
    with threads() as team:
        np.testing.assert_allclose(rows.times(vectors, team, group=None), dense @ vectors, rtol=1e-9, atol=1e-6)
        for i, cut in enumerate(cuts):
            own = rows.of_group(i).astype(np.float64)
            np.testing.assert_allclose(
                rows.times(vectors[cut], team, group=i), own @ (own.T @ vectors[cut]), rtol=1e-9, atol=1e-8
            )


@pytest.mark.parametrize(("counts", "decay"), [((700, 500), 0.5), ((1200, 100), 1.3), ((1600, 900), 0.7)])
def test_small_groups_and_their_class(counts: tuple[int, ...], decay: float) -> None:
    """Enough work for float32 rows; steep spectra; a class that accumulates moments."""
    dim = 1700
    data = gaussian_groups((*counts, 3, 2), dim, seed=0, decay=decay)
    x = data.features.astype(np.float32) + np.float32(5)
    by_group, by_class = stream_spectra([(x, np.arange(len(x)))], groups=data.groups, dim=dim, rank=40)
    assert by_group.routes[:2] == (Route.GRAM, Route.GRAM)
    cells = [x[data.groups.ids == g] for g in (0, 1)] + [x[data.groups.labels == 0]]
    for found, cell in zip([*by_group.eigenvalues[:2], by_class.eigenvalues[0]], cells, strict=True):
        rows = cell.astype(np.float64) - cell.astype(np.float64).mean(axis=0)
        exact = np.linalg.eigvalsh(rows @ rows.T / len(rows) if len(rows) < dim else rows.T @ rows / len(rows))
        assert np.max(np.abs(found / exact[::-1][:40] - 1)) < (1e-7 if len(rows) < dim else 1e-6)


def test_sums_do_not_depend_on_which_thread_is_first() -> None:
    data = gaussian_groups((21_000, 9_000, 300, 200), 40, seed=0)
    x = data.features.astype(np.float32)

    def sums() -> np.ndarray:
        with threads() as team:
            made = MomentSums(40, data.groups.counts, team)
            made.add(list(pieces_of(x, np.arange(len(x)), groups=data.groups, dim=40)), keep=True)
            return np.stack([np.triu(m.scatter) for m in made.finish().values()])

    first = sums()
    for g in range(4):
        rows = x[data.groups.ids == g].astype(np.float64)
        np.testing.assert_allclose(first[g], np.triu(len(rows) * np.cov(rows.T, ddof=0)), rtol=1e-6, atol=1e-2)
    for _ in range(5):
        np.testing.assert_array_equal(sums(), first)


def test_a_bad_row_ends_all_threads() -> None:
    """Also those that wait for the product of the row's group."""
    data = gaussian_groups((30_000, 20, 5, 5), 16, seed=0)
    x = data.features.astype(np.float32)
    bad = np.flatnonzero(data.groups.ids == 0)[100]
    x[bad, 3] = np.inf
    pieces = list(pieces_of(x, np.arange(len(x)), groups=data.groups, dim=16))
    with threads() as team:
        made = MomentSums(16, data.groups.counts, team)
        made.add(pieces, keep=True)
        with pytest.raises(ShapeError, match=f"Row {bad} of the features is not finite"):
            made.finish()


def test_memory_that_is_not_there_ends_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    data = gaussian_groups((30_000, 20, 5, 5), 16, seed=0)
    x = data.features.astype(np.float32)

    def no_room(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(_moments, "new_product", no_room)
    with threads() as team:
        made = MomentSums(16, data.groups.counts, team)
        made.add(list(pieces_of(x, np.arange(len(x)), groups=data.groups, dim=16)), keep=True)
        with pytest.raises(MemoryError, match="no room"):
            made.finish()
