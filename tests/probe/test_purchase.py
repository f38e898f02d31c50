"""Rent or buy: what is spent before a preconditioner is bought, whatever the sizes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grobust.probe._purchase import CHEAP, FEW_PASSES, FEWEST_ROWS, REFRESH_AFTER, SEEN, Purchase, passes_to_come


@given(
    n=st.integers(10, 10**6), d=st.integers(2, 4096), columns=st.integers(1, 50), heads=st.integers(1, 200),
    references=st.integers(1, 8),
)  # fmt: skip
def test_never_more_than_twice_the_better_choice(n: int, d: int, columns: int, heads: int, references: int) -> None:
    """Costs counted by hand: passes until the purchase come to its price at most, and one pass."""
    purchase = Purchase((n, d), columns=columns, heads=heads, references=references)
    one = n * d * (4.0 * columns * heads + 40)
    price = purchase.rows * d * d + references * d**3 / 2
    passes = 1
    while not purchase.wanted(0, lambda: 0.0):
        purchase.spend(heads)
        passes += 1
        assert passes * one <= price + one
    assert price <= max(CHEAP, passes) * one * (1 + 1e-9)
    assert 1 <= purchase.rows <= n
    # What is bought first from few rows costs less than a pass, and only where the whole is dear.
    few = purchase.few_rows
    assert few**2 * d <= FEW_PASSES * one
    assert few == 0 or (FEWEST_ROWS <= few <= min(n / 4, d / 2) and price > CHEAP * one)


def test_passes_still_to_come_buy_sooner() -> None:
    """Many features and few rows: a purchase is dear, and pays only if many passes are to come."""
    purchase = Purchase((40, 4000), columns=1, heads=1, references=8)
    assert not purchase.wanted(SEEN, lambda: 0.0)
    assert purchase.wanted(SEEN, lambda: 1e9)
    # Before a rate shows, nobody asks for it.
    assert not purchase.wanted(SEEN - 1, lambda: pytest.fail("asked"))


def test_a_second_purchase_waits() -> None:
    purchase = Purchase((10_000, 10), columns=1, heads=4, references=1)
    assert purchase.wanted(0, lambda: 0.0)
    purchase.bought()
    for _ in range(REFRESH_AFTER):
        assert not purchase.wanted(0, lambda: 1e9)
        purchase.spend(4)
    assert purchase.wanted(0, lambda: 0.0)


def test_passes_to_come_of_a_known_rate() -> None:
    """Gaps that have fallen by a factor of ten in ten iterations, with three more such factors to go."""
    first, rtol = np.array([1.0, 1.0, np.inf]), 1e-4
    assert passes_to_come(np.array([0.1, 0.1, np.inf]), first, rtol, 10) == pytest.approx(30)
    assert passes_to_come(np.array([0.0, np.inf, np.inf]), first, rtol, 10) == 0
    assert passes_to_come(np.array([1e-5, 1e-6, np.inf]), first, rtol, 10) == 0
