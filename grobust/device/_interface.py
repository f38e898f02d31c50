"""What the passes, the trainer and the solver ask of a GPU: arrays, kernels and matrix products.

`grobust.device._cuda` is the GPU. The tests stand in for it with NumPy and kernels compiled for the CPU, so that all of
this code runs where no GPU is.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from grobust.typing import Array

__all__ = ["KERNELS", "NULL", "Device", "Product", "backward", "chunk_rows", "forward", "outer", "square", "squares"]

# The kernels of each source.
KERNELS = {
    "passes": ("stage_sigmoid", "stage_softmax", "reduce", "fold", "unfold", "curvature"),
    "counts": ("count_correct",),
    "rows": ("column_moments", "centred", "root_weighted", "split_rows"),
    "train": ("minibatches",),
    "lbfgs": ("dots", "two_loop", "choose_product"),
}
# A pointer to nothing.
NULL = np.uint64(0)


class Product(NamedTuple):
    """C = alpha · op(A) op(B) + beta · C as cuBLAS says it, column by column, for `batch` matrices at fixed distances.

    op(A) is (m, k), op(B) (k, n), C (m, n); leading dimensions and distances are in elements. A and B are float16 or
    float32 alike, C is float32, and sums are float32.
    """

    transpose_a: bool
    transpose_b: bool
    m: int
    n: int
    k: int
    alpha: float
    a: Array
    lda: int
    b: Array
    ldb: int
    beta: float
    c: Array
    ldc: int
    step_a: int = 0
    step_b: int = 0
    step_c: int = 0
    batch: int = 1


@runtime_checkable
class Device(Protocol):
    """A GPU, or what stands in for one."""

    xp: Any

    @property
    def shared_bytes(self) -> int:
        """Most shared memory that a block may ask for."""

    def launch(
        self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared: int = 0
    ) -> None:
        """Start a kernel. Arguments are arrays, of which the first element's address goes, and NumPy scalars."""

    def product(self, product: Product) -> None:
        """Start a matrix product."""

    def inverses(self, matrices: Array, shifts: Sequence[float], ridge: float, tries: int) -> Array:
        """(R, d, d) float32 inverses of a symmetric matrix (d, d) plus each shift; where it is not positive definite,
        plus `ridge` times a power of ten."""


def forward(device: Device, rows: Array, weights: Array, out: Array, *, alpha: float = 1.0, beta: float = 0.0) -> None:
    """out (M, ld)[:, :b] = alpha · weights (M, d) · rows (b, d)ᵀ + beta · out."""
    b, d = rows.shape
    columns = weights.shape[0]
    device.product(Product(True, False, b, columns, d, alpha, rows, d, weights, d, beta, out, out.shape[1]))


def chunk_rows(n: int) -> int:
    """Rows that a product back sums up in float32 before sums go on in float64: enough pieces to fill a GPU, short
    enough for their rounding, few enough that they cost little to add."""
    return int(np.clip(2 ** round(np.log2(max(n, 1) / 16)), 2048, 16_384))


def backward(device: Device, residual: Array, rows: Array, chunk: int) -> Array:
    """(chunks, M, d) float32 products of residuals (M, ld) with rows (b, d), each over `chunk` rows."""
    b, d = rows.shape
    columns, pitch = residual.shape
    whole, rest = divmod(b, chunk)
    out = device.xp.empty((whole + (rest > 0), columns, d), dtype=np.float32)
    if whole:
        device.product(
            Product(False, False, d, columns, chunk, 1.0, rows, d, residual, pitch, 0.0, out, d, chunk * d, chunk,
                    columns * d, whole)
        )  # fmt: skip
    if rest:
        start = whole * chunk
        device.product(
            Product(
                False, False, d, columns, rest, 1.0, rows[start:], d, residual[:, start:], pitch, 0.0, out[whole:], d
            )
        )
    return out


def square(device: Device, rows: Array, out: Array) -> None:
    """out (d, d) += rows (b, d)ᵀ · rows."""
    outer(device, rows, rows, out)


def outer(device: Device, a: Array, b: Array, out: Array) -> None:
    """out (d, d) += bᵀ · a of rows (m, d) each."""
    m, d = a.shape
    device.product(Product(False, True, d, d, m, 1.0, a, d, b, d, 1.0, out, d))


def squares(device: Device, rows: Array, out: Array) -> None:
    """out (p, d, d) = the products rowsᵀ · rows of p equal stretches of rows (b, d)."""
    pieces, d, _ = out.shape
    length = rows.shape[0] // pieces
    device.product(
        Product(False, True, d, d, length, 1.0, rows, d, rows, d, 0.0, out, d, length * d, length * d, d * d, pieces)
    )
