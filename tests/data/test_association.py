"""Association: scikit-learn and SciPy as oracles, closed forms at the ends, coverage of the intervals by simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chi2_contingency
from scipy.stats.contingency import association as scipy_association
from sklearn.metrics import mutual_info_score

from grobust.data.association import association, cramers_v, mutual_information
from grobust.errors import ShapeError

TABLES = arrays(np.int64, st.tuples(st.integers(2, 4), st.integers(2, 4)), elements=st.integers(0, 300))


@given(TABLES)
def test_measures_equal_scikit_learn_and_scipy(table: np.ndarray) -> None:
    kept = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    found = association(table, replicates=20)
    assert found.n == table.sum()
    if min(kept.shape, default=0) < 2:
        assert found.cramers_v is None
        assert found.mutual_information is None
        return
    nats = mutual_info_score(None, None, contingency=kept)
    assert found.mutual_information == pytest.approx(nats / np.log(2), abs=1e-9)
    assert found.cramers_v == pytest.approx(scipy_association(kept, method="cramer"), abs=1e-9)
    assert found.p_value == pytest.approx(chi2_contingency(kept, correction=False).pvalue, rel=1e-6, abs=1e-12)
    assert found.mutual_information_low <= found.mutual_information <= found.mutual_information_high
    assert 0 <= found.cramers_v_low <= found.cramers_v <= found.cramers_v_high <= 1
    flipped = association(kept.T, replicates=20)
    assert flipped.cramers_v == pytest.approx(found.cramers_v, abs=1e-12)


def test_closed_forms() -> None:
    one_decides_the_other = association(np.diag([500, 500]))
    assert one_decides_the_other.cramers_v == 1
    assert one_decides_the_other.mutual_information == pytest.approx(1)
    assert one_decides_the_other.explained == pytest.approx(1)
    independent = association(np.array([[40, 80], [20, 40]]))
    assert independent.cramers_v == pytest.approx(0, abs=1e-12)
    assert (independent.cramers_v_low, independent.mutual_information_low) == (0, 0)
    # phi of a 2 x 2 table: (ad - bc) / sqrt of the product of its margins; Waterbirds' training split.
    a, b, c, d = 3498, 184, 56, 1057
    phi = (a * d - b * c) / np.sqrt(float((a + b) * (c + d)) * float((a + c) * (b + d)))
    assert association(np.array([[a, b], [c, d]])).cramers_v == pytest.approx(phi)


def test_tables_at_once_equal_tables_one_by_one(rng: np.random.Generator) -> None:
    tables = rng.integers(0, 4, size=(200, 2, 3))
    tables[tables.sum(axis=(1, 2)) == 0] = 1
    for measure in (mutual_information, cramers_v):
        np.testing.assert_allclose(measure(tables), [float(measure(table)) for table in tables], atol=1e-12)


@pytest.mark.parametrize(
    ("shares", "n"), [((0.45, 0.15, 0.10, 0.30), 400), ((0.7, 0.05, 0.05, 0.2), 300), ((0.25, 0.25, 0.25, 0.25), 300)]
)
def test_intervals_cover(shares: tuple[float, ...], n: int) -> None:
    """Of 400 tables from a known distribution at least 92% of the 95% intervals hold the true value."""
    rng = np.random.default_rng(5)
    true = np.array(shares).reshape(2, 2) * 1e12
    v, information = float(cramers_v(true)), float(mutual_information(true))
    covered = np.zeros(2)
    for _ in range(400):
        found = association(rng.multinomial(n, shares).reshape(2, 2), replicates=400)
        covered[0] += found.cramers_v_low - 1e-9 <= v <= found.cramers_v_high
        covered[1] += found.mutual_information_low - 1e-9 <= information <= found.mutual_information_high
    assert (covered / 400 >= 0.92).all(), covered


def test_the_seed_decides_the_interval() -> None:
    table = np.array([[30, 10], [5, 25]])
    assert association(table) == association(table)
    assert association(table, seed=1) != association(table, seed=2)


@pytest.mark.parametrize("table", [[1, 2], [[0.5, 1.0]], [[-1, 2], [3, 4]]])
def test_no_table(table: list[object]) -> None:
    with pytest.raises(ShapeError, match="expected \\(k, A\\) counts"):
        association(np.array(table))
