"""The shared preconditioner against NumPy's solutions in float64."""

import numpy as np
import pytest

from grobust.probe._precondition import RIDGE, references, shared_inverse
from grobust.threads import threads


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("heads", "columns"), [(1, 1), (3, 5), (9, 1), (12, 3), (80, 1)])
@pytest.mark.parametrize("d", [1, 7, 97, 250])
def test_solutions_are_those_of_the_nearest_reference(d: int, heads: int, columns: int, dtype: type) -> None:
    """By a factor for few heads, by products with its inverse for many; the intercepts' part is divided."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((3 * d + 2, d))
    moments = rows.T @ rows / len(rows)
    l2 = np.logspace(-4, 0, heads)
    strengths, nearest = references(l2)
    gradient = rng.standard_normal((heads, columns, d + 1))
    with threads() as pool:
        apply = shared_inverse(moments.astype(dtype), 0.25, np.arange(heads), l2, pool)
        found = apply(gradient, np.arange(heads))
        part = apply(gradient[::2], np.arange(heads)[::2])
    ridge = RIDGE * np.trace(moments) / d
    for head in range(heads):
        system = moments + (strengths[nearest[head]] + ridge) * np.eye(d)
        exact = np.linalg.solve(system, gradient[head, :, :-1].T).T
        scale = np.abs(exact).max() * (1e-4 if dtype is np.float32 else 1e-11)
        np.testing.assert_allclose(found[head, :, :-1], exact, atol=scale)
        np.testing.assert_allclose(found[head, :, -1], 4 * gradient[head, :, -1])
    np.testing.assert_allclose(part, found[::2], rtol=1e-4, atol=1e-4 * np.abs(found).max())


@pytest.mark.parametrize("heads", [2, 10])
def test_collinear_features_take_a_larger_ridge(heads: int) -> None:
    """float32's rounding of the largest eigenvalue exceeds the first ridge; a descent direction remains one."""
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.standard_normal((500, 3)), 40, axis=1).astype(np.float32) * 100
    gradient = rng.standard_normal((heads, 1, 121))
    with threads() as pool:
        found = shared_inverse(rows.T @ rows, 1.0, np.arange(heads), np.full(heads, 1e-12), pool)(
            gradient, np.arange(heads)
        )
    assert np.isfinite(found).all()
    assert ((found * gradient).sum(axis=(1, 2)) > 0).all()
