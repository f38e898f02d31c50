"""L-BFGS's recursion: the compiled form equals the general code, and both the inverse Hessian estimate as a matrix."""

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from grobust.arrays import to_numpy
from grobust.probe import _numba_solver
from grobust.probe._solver import _Pair, _pair, _State, _two_loop
from grobust.threads import one_thread, threads
from grobust.typing import Array


def a_history(rng: np.random.Generator, heads: int, columns: int, size: int, pairs: int) -> list[_Pair]:
    """Pairs of a random positive definite Hessian; some heads have a pair that counts for nothing."""
    root = rng.standard_normal((heads, columns * size, columns * size)) / np.sqrt(columns * size)
    hessian = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(columns * size)
    found = []
    for _ in range(pairs):
        step = rng.standard_normal((heads, columns * size))
        change = np.einsum("kij,kj->ki", hessian, step)
        inverse = np.where(rng.random(heads) < 0.2, 0.0, 1 / (step * change).sum(axis=1))
        shape = (heads, columns, size)
        found.append(_pair(step.reshape(shape), change.reshape(shape), 0.5 * change.reshape(shape), inverse))
    return found


def general(history: list[_Pair], g: NDArray, pg: NDArray) -> NDArray:
    xp = array_api_strict

    def there(array: NDArray) -> Array:
        return xp.asarray(array)

    none = np.zeros(g.shape[0])
    state = _State(
        np.arange(g.shape[0]), there(g), there(g), there(pg), none, none, none, none,
        [_pair(*map(there, pair[:4])) for pair in history],
    )  # fmt: skip
    return to_numpy(_two_loop(state, one_thread()))


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 3), st.integers(1, 9), st.integers(0, 6))
def test_compiled_equals_general(seed: int, heads: int, columns: int, size: int, pairs: int) -> None:
    rng = np.random.default_rng(seed)
    history = a_history(rng, heads, columns, size, pairs)
    g = rng.standard_normal((heads, columns, size))
    found = _numba_solver.two_loop(history, g, 0.5 * g, one_thread())
    np.testing.assert_allclose(found, general(history, g, 0.5 * g), rtol=1e-9, atol=1e-9)


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    history = a_history(rng, 7, 2, 5, 4)
    g = rng.standard_normal((7, 2, 5))
    expected = _numba_solver.two_loop(history, g, 0.5 * g, one_thread())
    monkeypatch.setattr(_numba_solver, "SHARED_NUMBERS", 1)
    with threads() as pool:
        found = _numba_solver.two_loop(history, np.asfortranarray(g), 0.5 * g, pool)
    np.testing.assert_array_equal(found, expected)


def test_vectors_with_gaps_are_not_taken() -> None:
    wide = np.zeros((2, 1, 6))
    with pytest.raises(AssertionError):
        _numba_solver.places(wide, wide, wide[:, :, ::2])


def test_the_product_with_the_bfgs_matrix() -> None:
    """The inverse BFGS update, applied pair by pair to the scaled first matrix (Nocedal & Wright, 6.17 and 7.20)."""
    rng = np.random.default_rng(2)
    size, g = 6, rng.standard_normal((1, 1, 6))
    history = a_history(rng, 1, 1, size, 3)
    history = [_pair(*pair[:3], 1 / (pair.step * pair.change).sum(axis=(1, 2))) for pair in history]
    s, y = (history[-1][i].ravel() for i in (0, 1))
    inverse = 0.5 * np.eye(size) * (s @ y) / (y @ (0.5 * y))
    for pair in history:
        s, y, rho = pair[0].ravel(), pair[1].ravel(), float(pair[3][0])
        left = np.eye(size) - rho * np.outer(s, y)
        inverse = left @ inverse @ left.T + rho * np.outer(s, s)
    found = _numba_solver.two_loop(history, g, 0.5 * g, one_thread())
    np.testing.assert_allclose(found.ravel(), inverse @ g.ravel(), rtol=1e-10)
