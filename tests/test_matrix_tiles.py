"""Products of split rows against float64: forward as exact as float32, back within the bound of two bfloat16."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grobust import matrix_tiles
from grobust.matrix_tiles import FINE_NUMBERS, NUMBERS, SIDE, aligned, row_products

pytestmark = pytest.mark.skipif(not matrix_tiles.available(), reason="needs a CPU with bfloat16 tiles (AMX)")


class Room:
    """Panels for blocks of so many rows."""

    def __init__(self, columns: int, d: int, rows: int) -> None:
        across, steps, panels = -(-rows // SIDE), d // SIDE, -(-columns // SIDE)
        self.by_row = aligned((across, steps, FINE_NUMBERS), np.int32)
        self.by_pair = aligned((steps, across, NUMBERS), np.int32)
        self.columns = aligned((panels, steps, FINE_NUMBERS), np.int32)
        self.left = aligned((panels, across, NUMBERS), np.int32)
        self.ahead = aligned((panels, NUMBERS), np.float32)
        self.back = aligned((panels, steps, NUMBERS), np.float32)
        # What no row fills must not matter.
        for array in (self.by_row, self.by_pair):
            array.view(np.uint16)[:] = 0x7FC0
        for array in (self.columns, self.left, self.back):
            array[:] = 0


def forward(room: Room, weights: np.ndarray, block: np.ndarray) -> np.ndarray:
    out = np.full((len(weights), len(block)), np.nan, np.float32)
    before = row_products.configured()
    row_products.pack_rows(block, np.zeros(block.shape[1], np.float32), room.by_row, room.by_pair)
    row_products.forward(room.by_row, room.columns, room.ahead, out)
    row_products.restored(before)
    return out


def add_back(room: Room, residual: np.ndarray) -> None:
    before = row_products.configured()
    row_products.pack_left(residual, room.left)
    row_products.add_back(room.left, -(-residual.shape[1] // SIDE), room.by_pair, room.back)
    row_products.restored(before)


@settings(max_examples=40, deadline=None)
@given(
    columns=st.integers(1, 70), steps=st.integers(1, 5), rows=st.lists(st.integers(1, 100), min_size=1, max_size=3),
    scale=st.sampled_from([1e-3, 1.0, 1e4]), apart=st.integers(0, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_products_of_blocks_of_any_size(
    columns: int, steps: int, rows: list[int], scale: float, apart: int, seed: int
) -> None:
    """Block after block in the same room, the fuller before or after the emptier."""
    rng = np.random.default_rng(seed)
    d, room = SIDE * steps, Room(columns, SIDE * steps, max(rows))
    weights = rng.standard_normal((columns, d)).astype(np.float32)
    row_products.pack_columns(weights, room.columns)
    expected, size = np.zeros((columns, d)), np.zeros((columns, d))
    for n in rows:
        block = (scale * rng.standard_normal((n, d + apart)))[:, :d].astype(np.float32)
        residual = rng.standard_normal((columns, n)).astype(np.float32)
        found, exact = forward(room, weights, block), weights.astype(float) @ block.T.astype(float)
        bound = np.abs(weights).astype(float) @ np.abs(block).T.astype(float)
        assert (np.abs(found - exact) <= 3 * d * 2.0**-24 * bound).all()
        add_back(room, residual)
        expected += residual.astype(float) @ block.astype(float)
        size += np.abs(residual).astype(float) @ np.abs(block).astype(float)
    total = np.ones((columns, d))
    row_products.flush(room.back, total)
    assert (np.abs(total - 1 - expected) <= 4 * 2.0**-16 * size).all()
    assert (room.back == 0).all()


def test_forward_is_as_exact_as_float32() -> None:
    """Two parts, as back, would be ten times further away."""
    rng = np.random.default_rng(0)
    weights, block = (rng.standard_normal((size, 768)).astype(np.float32) for size in (64, 128))
    room = Room(64, 768, 128)
    row_products.pack_columns(weights, room.columns)
    exact = weights.astype(float) @ block.T.astype(float)
    single = np.abs(weights @ block.T - exact).max()
    assert np.abs(forward(room, weights, block) - exact).max() < 2 * single
    residual = np.ascontiguousarray(block[:64, :128])
    add_back(room, residual)
    total = np.zeros((64, 768))
    row_products.flush(room.back, total)
    assert np.abs(total - residual.astype(float) @ block.astype(float)).max() > 4 * single


def test_not_finite_numbers_stay_that() -> None:
    room = Room(17, 32, 40)
    weights = np.ones((17, 32), np.float32)
    weights[3, 5], weights[16, 0] = np.inf, np.nan
    row_products.pack_columns(weights, room.columns)
    found = forward(room, weights, np.ones((40, 32), np.float32))
    assert not np.isfinite(found[[3, 16]]).any()
    np.testing.assert_array_equal(np.delete(found, [3, 16], axis=0), 32)
