"""λ1 of the covariance of many subsets of the same rows, batched.

Three ways, chosen by an estimate of their cost. *Masks*: all rows are multiplied with a vector per replicate, and
products of rows outside a replicate's subset are set to zero; two matrix products serve hundreds of replicates. *Cut*:
the Gram matrix of all rows is computed once, and each subset's is a part of it. *Gather*: each subset's own Gram matrix
or covariance is formed. The mean of the subset is always taken out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace
from grobust.errors import ConfigError
from grobust.spectrum._gram import gram
from grobust.spectrum._lanczos import largest_of_many
from grobust.spectrum._staging import row_chunks
from grobust.threads import Threads, one_thread, threads
from grobust.typing import Array

__all__ = ["RowSet", "draw_subsets", "masked_bytes"]

TOLERANCE = 1e-7
USUAL_STEPS = 12
MAX_GRAM_ROWS = 12_000


@dataclass(frozen=True)
class _Machine:
    """What the choice of a way and the size of a batch go by.

    Parameters
    ----------
    product_rate, memory_rate : multiplications and bytes per second (and thread), for the choice only
    columns : replicates of one product with masks
    stack_bytes : of the matrices and rows of one batch
    mask_bytes : of masks and products with all rows, of all threads together
    """

    product_rate: float
    memory_rate: float
    columns: int
    stack_bytes: int
    mask_bytes: int


# On the host a stack of matrices stays near the cache; a device wants enough of them to be filled.
HOST = _Machine(4e10, 5e9, 128, 1 << 24, 1 << 29)
DEVICE = _Machine(2e13, 2e12, 1024, 1 << 30, 8 << 30)
# Of a row in a replicate: its mask in float32 and float64, its product, and what is taken out of that.
MASKED_BYTES = 28


@dataclass(frozen=True, eq=False)
class RowSet:
    """Rows of one population, in the form that subsets are computed from.

    Parameters
    ----------
    rows : (n, d) float32 or float64, minus their mean; None where only the Gram matrix is at hand
    matrix : (n, n) Gram matrix of such rows in their precision, or None
    """

    rows: Array = None
    matrix: Array = None

    @classmethod
    def of(cls, features: Array) -> "RowSet":
        """Rows (n, d) of any precision, centred by their mean in float64 and kept in float32, float64 if given so."""
        xp = array_namespace(features)
        if str(features.dtype).endswith("float64"):
            rows = xp.astype(features, xp.float64)
            return cls(rows - xp.mean(rows, axis=0)[None, :])
        rows = xp.astype(features, xp.float32)
        coarse = xp.astype(xp.mean(rows[: min(1024, rows.shape[0]), :], axis=0), xp.float32)
        rows = rows - coarse[None, :]
        rows -= xp.astype(_column_means(rows), xp.float32)[None, :]
        return cls(rows)

    @property
    def n(self) -> int:
        """Rows."""
        return int((self.rows if self.rows is not None else self.matrix).shape[0])

    def prepared(self) -> "RowSet":
        """The Gram matrix instead of the rows where it is the smaller of the two."""
        if self.rows is None or self.rows.shape[1] < self.rows.shape[0]:
            return self
        if not isinstance(self.rows, np.ndarray):
            return RowSet(None, _in_precision(gram(self.rows, one_thread()), self.rows))
        with threads() as team:
            return RowSet(None, _in_precision(gram(self.rows, team), self.rows))

    def whole(self) -> float:
        """λ1 of the covariance of all rows."""
        return float(self.largest(np.zeros((1, 0), dtype=np.int64), complement=True)[0])

    def largest(self, subsets: NDArray[np.int64], *, complement: bool = False) -> NDArray[np.float64]:
        """(B) float64 λ1 of the covariances (divided by the number of rows) of B subsets (B, m), m ≥ 2.

        Parameters
        ----------
        subsets : (B, m) distinct row numbers
        complement : of the rows *not* in the subsets instead
        """
        size = self.n - subsets.shape[1] if complement else subsets.shape[1]
        if size < 2:
            raise ConfigError(f"A covariance needs two rows, the subsets have {size}.")
        if self._machine is DEVICE:
            return self._largest(subsets, size, complement, one_thread())
        with threads() as team:
            return self._largest(subsets, size, complement, team)

    @property
    def _machine(self) -> _Machine:
        return HOST if isinstance(self.rows if self.rows is not None else self.matrix, np.ndarray) else DEVICE

    def _largest(self, subsets: NDArray[np.int64], size: int, complement: bool, team: Threads) -> NDArray[np.float64]:
        way, whole = self, self.rows is not None
        plan = "masks" if complement else self._plan(len(subsets), size)
        if plan == "cut" and self.matrix is None:
            way = RowSet(self.rows, _in_precision(gram(self.rows, team), self.rows))
        if plan == "masks":
            # float32 products would leave Lanczos a residual of their rounding, and cost more steps than they save.
            way = RowSet(_double(self.rows)) if whole else RowSet(None, _double(self.matrix))
        columns, machine = self._machine.columns, self._machine
        if plan == "masks":
            columns = max(1, min(columns, machine.mask_bytes // (MASKED_BYTES * self.n * team.count)))
        else:
            side = size if plan == "cut" or whole is False else min(size, self.rows.shape[1])
            each = 4 * side**2
            if plan == "gather" and machine is DEVICE:
                # Gathered, and less their mean.
                each += 8 * size * self.rows.shape[1]
            columns = max(1, min(columns, machine.stack_bytes // each))
        # Pieces of equal size for all threads.
        rounds = -(-len(subsets) // (columns * team.count))
        pieces = np.array_split(subsets, max(1, rounds * team.count))
        work = {"masks": way._masked, "cut": way._cut, "gather": way._gathered}[plan]
        found = team.map(lambda piece: work(piece, complement), [piece for piece in pieces if len(piece)])
        return np.concatenate(found) / size if found else np.zeros(0)

    def _plan(self, b: int, m: int) -> str:
        product, memory = self._machine.product_rate, self._machine.memory_rate
        if self.rows is None:
            cut = USUAL_STEPS * 4 * m**2 / memory
            masks = USUAL_STEPS * 2 * self.n**2 / product
            return "cut" if cut < masks else "masks"
        n, d = self.rows.shape
        s = min(m, d)
        costs = {
            "masks": b * USUAL_STEPS * 4 * n * d / product / 2,
            "gather": b * (m * d * s / product / 2 + 4 * m * d / memory + USUAL_STEPS * 4 * s**2 / memory),
        }
        if n <= MAX_GRAM_ROWS:
            formed = 0 if self.matrix is not None else n**2 * d / product / 2
            costs["cut"] = formed + b * (1 + USUAL_STEPS) * 4 * m**2 / memory
        return min(costs, key=lambda name: costs[name])

    def _masked(self, subsets: NDArray[np.int64], complement: bool) -> NDArray[np.float64]:
        data = self.rows if self.rows is not None else self.matrix
        xp = array_namespace(data)
        b, n = len(subsets), self.n
        host = np.full((b, n), float(complement), dtype=np.float32)
        np.put_along_axis(host, subsets, float(not complement), axis=1)
        masks = xp.astype(xp.asarray(host, device=data.device), data.dtype)
        size = float(n - subsets.shape[1] if complement else subsets.shape[1])

        def centred(values: Array, numbers: NDArray[np.int64]) -> Array:
            mask = masks if len(numbers) == b else xp.take(masks, xp.asarray(numbers, device=data.device), axis=0)
            values *= mask
            values -= mask * (xp.sum(values, axis=1) / size)[:, None]
            return values

        if self.rows is None:
            start = centred(_start(xp, b, n, data), np.arange(b))
            # Vectors that rounding took out of the range are brought back before they are multiplied, too.
            return largest_of_many(lambda v, i: centred(centred(v + 0.0, i) @ data, i), start, tolerance=TOLERANCE)
        start = _start(xp, b, data.shape[1], data, like=self._direction())
        return largest_of_many(lambda v, i: centred(v @ data.T, i) @ data, start, tolerance=TOLERANCE)

    def _direction(self) -> Array:
        """(d) near the largest spread of all rows: where most subsets have theirs."""
        xp = array_namespace(self.rows)
        rows = self.rows[: min(4096, self.rows.shape[0]), :]
        vector = rows[0, :] * 0 + 1
        for _ in range(6):
            vector = (rows @ vector) @ rows
            length = float(xp.linalg.vector_norm(vector))
            if length == 0:
                break
            vector = vector / length
        return vector

    def _cut(self, subsets: NDArray[np.int64], _: bool) -> NDArray[np.float64]:
        xp = array_namespace(self.matrix)
        if isinstance(self.matrix, np.ndarray):
            stack = self.matrix[subsets[:, :, None], subsets[:, None, :]]
        else:
            rows = xp.asarray(subsets, device=self.matrix.device)
            places = rows[:, :, None] * self.n + rows[:, None, :]
            cut = xp.take(xp.reshape(self.matrix, (-1,)), xp.reshape(places, (-1,)), axis=0)
            stack = xp.reshape(cut, places.shape)
        stack -= xp.mean(stack, axis=1)[:, None, :]
        stack -= xp.mean(stack, axis=2)[:, :, None]
        return _stack_largest(stack)

    def _gathered(self, subsets: NDArray[np.int64], _: bool) -> NDArray[np.float64]:
        xp = array_namespace(self.rows)
        if not isinstance(self.rows, np.ndarray):
            numbers = xp.asarray(subsets.reshape(-1), device=self.rows.device)
            stack = xp.reshape(xp.take(self.rows, numbers, axis=0), (*subsets.shape, -1))
            stack -= xp.mean(stack, axis=1)[:, None, :]
            across = xp.matrix_transpose(stack)
            return _stack_largest(stack @ across if stack.shape[1] <= stack.shape[2] else across @ stack)
        made = []
        for subset in subsets:
            rows = xp.take(self.rows, xp.asarray(subset, device=self.rows.device), axis=0)
            rows -= xp.mean(rows, axis=0)[None, :]
            made.append(rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows)
        return _stack_largest(xp.stack(made))


def masked_bytes(n: int) -> int:
    """Most memory of masks and products on the host, for n rows."""
    return max(min(HOST.mask_bytes, 2 * HOST.columns * MASKED_BYTES * n), 2 * MASKED_BYTES * n)


def draw_subsets(rng: np.random.Generator, n: int, m: int, count: int) -> NDArray[np.int64]:
    """(count, m) row numbers, each row of m drawn without replacement from n."""
    return np.stack([rng.choice(n, m, replace=False, shuffle=False) for _ in range(count)])


def _stack_largest(stack: Array) -> NDArray[np.float64]:
    """λ1 of each matrix of a stack (b, m, m)."""
    xp = array_namespace(stack)
    b, m, _ = stack.shape
    start = _start(xp, b, m, stack)
    # One product by the matrices brings the start into their range.
    start = (stack @ start[:, :, None])[:, :, 0]

    def apply(vectors: Array, numbers: NDArray[np.int64]) -> Array:
        used = stack if len(numbers) == b else xp.take(stack, xp.asarray(numbers, device=stack.device), axis=0)
        return (used @ _in_precision(vectors, stack)[:, :, None])[:, :, 0]

    return largest_of_many(apply, start, tolerance=TOLERANCE)


def _start(xp: Array, b: int, m: int, data: Array, like: Array = None) -> Array:
    """(b, m) random start vectors, near `like` where given."""
    noise = np.random.default_rng(0).standard_normal((b, m)) / np.sqrt(m)
    vectors = xp.astype(xp.asarray(noise, device=data.device), data.dtype)
    return vectors if like is None else vectors * 0.3 + like[None, :]


def _column_means(rows: Array) -> Array:
    xp = array_namespace(rows)
    total = xp.zeros(rows.shape[1], dtype=xp.float64, device=rows.device)
    for start, stop in row_chunks(rows.shape[0], 4096):
        total += xp.sum(xp.astype(rows[start:stop, :], xp.float64), axis=0)
    return total / rows.shape[0]


def _double(matrix: Array) -> Array:
    xp = array_namespace(matrix)
    return xp.astype(matrix, xp.float64)


def _in_precision(matrix: Array, rows: Array) -> Array:
    return array_namespace(matrix).astype(matrix, rows.dtype)
