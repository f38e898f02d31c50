"""Which passes serve which arrays."""

import numpy as np

from grobust.arrays import is_array, on_cuda
from grobust.device._cuda import cuda
from grobust.device._interface import chunk_rows
from grobust.probe._cuda_passes import MOST_COLUMNS, CudaPasses
from grobust.probe._design import Design
from grobust.probe._host_passes import HostPasses
from grobust.probe._passes import ArrayPasses, Passes
from grobust.probe._weights import WeightTable
from grobust.threads import Threads
from grobust.typing import Array

__all__ = ["make_passes"]


def make_passes(
    design: Design, labels: Array, weights: WeightTable, *, columns: int, threads: Threads, block: int,
    scratch_bytes: int,
) -> Passes:  # fmt: skip
    """Compiled passes for float16 and float32 features in NumPy and CuPy arrays, general ones for all others.

    `block` is the rows of a block, but on a GPU as many as `scratch_bytes` allow for its work arrays, at best all.
    """
    host = isinstance(labels, np.ndarray)
    if host and design.compute == np.float32:
        return HostPasses(design, labels, weights, columns, threads, block)
    if on_cuda(labels) and design.compute == np.float32 and columns <= MOST_COLUMNS:
        n, d = design.features.shape
        chunk = chunk_rows(n)
        # Products and residuals of a row, and the row in float32 where it is centred.
        row = 12 * columns * weights.weighting.size + 4 * d
        if not is_array(design.features):
            # Two blocks of a stream.
            row += 2 * d * design.features.dtype.itemsize
        rows = int(scratch_bytes // row)
        return CudaPasses(cuda(), design, labels, weights, columns, rows=min(n, max(chunk, rows // chunk * chunk)))
    return ArrayPasses(design, labels, weights, columns, block)
