"""When to buy a preconditioner: when the passes so far have cost as much as it does, or those to come surely will.

Rent or buy: at most twice the better choice. Costs are floating-point operations of matrix products.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Purchase", "passes_to_come"]

# The preconditioner's second moments are of so many rows per feature at least and at most, and in between of as many as
# cost so many passes.
SAMPLE_PER_FEATURE, MOST_PER_FEATURE, MOMENT_PASSES = 8, 32, 1.5
# One that costs so few passes is bought at once; else when the passes still to come, by the rate so far, will cost more
# than it and so many with it.
CHEAP, PASSES_WITH = 4, 8
# Where the preconditioner is dear, one from fewer rows than features is bought at first: for so many passes' cost, and
# of so many rows at least.
FEW_PASSES, FEWEST_ROWS = 0.5, 32
# Iterations after which a rate is seen.
SEEN = 6
# Cost of reading a feature, in floating-point operations of a matrix product.
READ_COST = 40
# Iterations after which a preconditioner may be built anew, where the heads are by then.
REFRESH_AFTER = 15


class Purchase:
    """What has been spent since the last purchase, and what the next one costs.

    Parameters
    ----------
    shape : (n, d) of the features
    columns : of a head
    heads : that are solved at first
    references : strengths that a factor each is for
    """

    def __init__(self, shape: tuple[int, int], *, columns: int, heads: int, references: int) -> None:
        n, d = shape
        self._shape, self._columns = shape, columns
        self._one_pass = self._cost(heads)
        self._spent, self._since, self._owned = self._one_pass, 0, False
        most = np.clip(MOMENT_PASSES * self._one_pass / d**2, SAMPLE_PER_FEATURE * d, MOST_PER_FEATURE * d)
        self.rows = int(min(n, most))
        # Second moments of some rows, and a factor per reference strength.
        self._price = float(self.rows * d * d + references * d**3 / 2)
        # Rows of the n × n form that cost `FEW_PASSES` together, if that is what is bought first.
        few = int(min(n // 4, d // 2, np.sqrt(FEW_PASSES * self._one_pass / d)))
        self.few_rows = few if few >= FEWEST_ROWS and self._price > CHEAP * self._one_pass else 0

    def wanted(self, iteration: int, to_come: Callable[[], float]) -> bool:
        """Whether to buy now; `to_come` estimates the passes still needed, and is asked only if that matters."""
        if self._owned:
            return self._since >= REFRESH_AFTER and self._spent >= 2 * self._price
        if self._price <= CHEAP * self._one_pass or self._spent >= self._price:
            return True
        more = to_come() if iteration >= SEEN else 0.0
        return self._price + PASSES_WITH * self._one_pass < self._one_pass * more

    def bought(self) -> None:
        """A preconditioner has been built."""
        self._spent, self._since, self._owned = 0.0, 0, True

    def spend(self, heads: int) -> None:
        """A pass for so many heads has been made."""
        self._since += 1
        self._one_pass = self._cost(heads)
        self._spent += self._one_pass

    def _cost(self, heads: int) -> float:
        n, d = self._shape
        return n * d * (4.0 * self._columns * heads + READ_COST)


def passes_to_come(gap: NDArray[np.float64], at_first: NDArray[np.float64], rtol: float, iteration: int) -> float:
    """Mean iterations that heads still need if their relative gaps go on falling as so far; 0 if no rate shows."""
    seen = np.isfinite(gap) & (gap > 0) & (at_first > 0)
    if not seen.any():
        return 0.0
    rate = np.maximum(np.log(at_first[seen] / gap[seen]) / iteration, 1e-3)
    return float(np.maximum(np.log(gap[seen] / rtol) / rate, 0).mean())
