"""Eigenvectors by block Krylov against LAPACK's, from spectra that fall fast to those of noise."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from grobust.spectrum import _block_krylov
from grobust.spectrum._block_krylov import top_vectors


def matrix(m: int, values: np.ndarray, seed: int) -> np.ndarray:
    """Symmetric (m, m) float32 with these eigenvalues, in a random basis."""
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((m, m)))[0]
    return ((basis * values) @ basis.T).astype(np.float32)


def residuals(of: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """‖Av − θv‖ / λ1 with Rayleigh quotients θ, in float64."""
    wide, v = of.astype(np.float64), vectors.astype(np.float64)
    product = wide @ v
    theta = np.einsum("ij,ij->j", v, product)
    return np.linalg.norm(product - v * theta, axis=0) / np.linalg.norm(wide, 2)


@settings(max_examples=25, deadline=None)
@given(m=st.integers(129, 400), decay=st.floats(0.0, 1.5), k=st.integers(1, 30), seed=st.integers(0, 99))
def test_vectors_are_those_of_the_largest_eigenvalues(m: int, decay: float, k: int, seed: int) -> None:
    """Residuals within the tolerance and float32's rounding, and no eigenvalue passed over."""
    k = min(k, m // 4)
    own = matrix(m, np.arange(1, m + 1.0) ** -decay * np.random.default_rng(seed).uniform(0.9, 1.1, m), seed)
    vectors = top_vectors(own, k, tolerance=1e-4)
    assert vectors is not None
    assert vectors.shape == (m, k)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(k), atol=1e-4)
    assert residuals(own, vectors).max() < 2e-4
    found = np.einsum("ij,ij->j", vectors, own @ vectors)
    exact = np.linalg.eigvalsh(own.astype(np.float64))[-k:]
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6 * exact[-1])


def test_noise_goes_to_lapack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eigenvalues side by side are not parted by the dimensions that pay."""
    used = []
    own = matrix(300, np.linspace(1, 1.2, 300), 0)
    lapack = scipy.linalg.eigh
    monkeypatch.setattr(_block_krylov.scipy.linalg, "eigh", lambda *a, **k: used.append(1) or lapack(*a, **k))
    vectors = top_vectors(own, 10, tolerance=1e-6)
    assert used
    assert vectors is not None
    assert residuals(own, vectors).max() < 1e-5
    used.clear()
    assert top_vectors(matrix(300, np.arange(1, 301.0) ** -1.0, 0), 10, tolerance=1e-4) is not None
    assert not used


@pytest.mark.parametrize("rank", [0, 1, 5, 12])
def test_fewer_dimensions_than_vectors(rank: int) -> None:
    """Nothing, or vectors of which those beyond the rank are orthonormal and seen as nothing by the matrix."""
    values = np.zeros(200)
    values[:rank] = 1
    own = matrix(200, values, 0)
    vectors = top_vectors(own, 15, tolerance=1e-4)
    assert (vectors is None) == (rank in (0, 12))
    if vectors is not None:
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(15), atol=1e-4)
        assert residuals(own, vectors).max() < 2e-4


def test_the_same_matrix_gives_the_same_vectors() -> None:
    own = matrix(200, np.arange(1, 201.0) ** -0.5, 0)
    np.testing.assert_array_equal(top_vectors(own, 10, tolerance=1e-4), top_vectors(own, 10, tolerance=1e-4))
