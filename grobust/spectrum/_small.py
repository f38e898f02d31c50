"""Results of groups and classes of fewer rows than features, from their rows and their Gram matrix."""

from dataclasses import dataclass

import numpy as np

from grobust.arrays import array_namespace
from grobust.spectrum._eigen import Eigen, few, refined
from grobust.spectrum._gram import CentredRows, class_gram, gram, precision_of
from grobust.spectrum._results import Result, Route, result
from grobust.threads import Threads
from grobust.typing import Array

__all__ = ["SmallCells"]


@dataclass(frozen=True, eq=False)
class SmallCells:
    """The groups of one class, and the class where all its rows are here.

    Parameters
    ----------
    rows : of the groups
    team : threads
    rank, ddof, complete : see `grobust.spectrum.group_spectra`
    """

    rows: CentredRows
    team: Threads
    rank: int
    ddof: int
    complete: bool

    def block(self, group: int, matrix: Array = None) -> Array:
        """The group's Gram matrix: part of the class's `matrix` where given, in float64 where float32 would show."""
        own = self.rows.of_group(group)
        start, stop = self.rows.edges[group], self.rows.edges[group + 1]
        if not self._refines(stop - start) and precision_of(own, stop - start) != _precision(own):
            return gram(_double(own), self.team)
        return gram(own, self.team) if matrix is None else matrix[start:stop, start:stop]

    def of_group(self, job: tuple[int, Array]) -> Result:
        """Of a group, by its number and its Gram matrix."""
        return self._of(job[1], job[0])

    def of_class(self, matrix: Array) -> Result:
        """Of all rows, from their Gram matrix centred by group, which is overwritten."""
        return self._of(class_gram(self.rows, matrix), None)

    def _of(self, matrix: Array, group: int | None) -> Result:
        n, k = int(matrix.shape[0]), min(self.rank, int(matrix.shape[0]))
        eigen: Eigen | None = None
        rounded = _precision(self.rows.rows) == "float32"
        if self._refines(n):
            eigen = refined(matrix, k, lambda vectors: self.rows.times(vectors, self.team, group=group))
            if eigen is None:
                # Eigenvalues down to the rounding of float32, or more of them than the rows have.
                rounded = False
                if group is None:
                    precise = self.rows.precise()
                    matrix = class_gram(precise, gram(precise.rows, self.team))
                else:
                    matrix = gram(_double(self.rows.of_group(group)), self.team)
        return result(
            matrix, n - self.ddof, Route.GRAM, rank=self.rank, complete=self.complete, eigen=eigen,
            rounded=rounded,
        )  # fmt: skip

    def _refines(self, n: int) -> bool:
        """Whether eigenvalues come of the rows: there float32 would show. With more rows it is averaged enough."""
        rows = self.rows.rows
        single = isinstance(rows, np.ndarray) and rows.dtype == np.float32
        return single and not self.complete and few(n, self.rank) and precision_of(rows, n) == "float64"


def _double(rows: Array) -> Array:
    xp = array_namespace(rows)
    return xp.astype(rows, xp.float64)


def _precision(rows: Array) -> str:
    return str(rows.dtype).rsplit(".", 1)[-1]
