"""Rows that heads get right, by group, on a GPU: a product per block of rows and a kernel that counts."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import to_numpy
from grobust.device._interface import Device
from grobust.groups import Groups
from grobust.probe._columns import Operand
from grobust.probe._design import Design
from grobust.typing import Array

__all__ = ["count_correct", "counted_by"]

THREADS = 256
# Bytes of the logits of a block of rows.
LOGIT_BYTES = 256 << 20
# Group counters that fit into a block's ordinary shared memory.
LOCAL_GROUPS = 8192


def counted_by(device: Device, groups: Groups) -> tuple[Array, Array]:
    """Labels uint16 and group ids int32 on the device."""
    xp = device.xp
    return xp.asarray(groups.labels.astype(np.uint16)), xp.asarray(groups.ids.astype(np.int32))


def count_correct(
    device: Device, part: Design, weights: Array, labels: Array, ids: Array, n_groups: int
) -> NDArray[Any]:
    """(K, g) int64 rows predicted correctly by heads (K, c, d + 1) float64 on standardized features.

    One column (c = 1) means two classes, of which the second has positive logits. Ties go to the first class.
    """
    heads, columns, width = weights.shape
    operand = Operand(device, part)
    folded = operand.fold(weights.reshape(heads * columns, width))
    correct = device.xp.zeros((heads, n_groups), dtype=np.uint64)
    local = n_groups <= LOCAL_GROUPS
    n = part.features.shape[0]
    step = max(1024, LOGIT_BYTES // (8 * heads * columns + 8 * width))
    for lo in range(0, n, step):
        hi = min(lo + step, n)
        fresh = operand.forward(operand.block(lo, hi), folded)
        device.launch(
            "count_correct", (min(-(-(hi - lo) // THREADS), 64), heads), (THREADS,),
            (fresh.high, fresh.low, folded.unscale, folded.offset, np.int64(fresh.pitch), np.int32(columns),
             np.int32(hi - lo), labels[lo:], ids[lo:], np.int32(n_groups), np.int32(local), correct),
            shared=4 * n_groups if local else 0,
        )  # fmt: skip
    return to_numpy(correct).astype(np.int64)
