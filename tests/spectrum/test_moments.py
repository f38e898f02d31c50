"""Moments whose products several threads form at once: the sums, their order, and how many are under way."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grobust.errors import ShapeError
from grobust.groups import Groups
from grobust.spectrum import _moments
from grobust.spectrum._moments import Moments, MomentSums
from grobust.spectrum._staging import pieces_of
from grobust.threads import Threads, one_thread, threads


def moments(x: np.ndarray, groups: Groups, team: Threads, *, step: int) -> dict[int, Moments]:
    """All groups, from blocks of `step` rows whose memory is used again."""
    sums = MomentSums(x.shape[1], groups.counts, team)
    block = np.empty((step, x.shape[1]), x.dtype)
    for start in range(0, len(x), step):
        rows = np.arange(start, min(start + step, len(x)))
        block[: rows.size] = x[rows]
        sums.add(list(pieces_of(block[: rows.size], rows, groups=groups, dim=x.shape[1])), keep=False)
        block[:] = np.nan
    return sums.finish()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.sampled_from([np.float16, np.float32, np.float64]))
def test_moments_against_numpy(seed: int, step: int, dtype: type) -> None:
    """Blocks of any size, products of seven rows: those of numpy, and the same bits with any number of threads."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((97, 5)) + 20).astype(dtype)
    groups = Groups.from_arrays(rng.integers(0, 2, 97), rng.integers(0, 2, 97))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_moments, "PRODUCT_ROWS", 7)
        with threads() as team:
            found = moments(x, groups, team, step=step)
        alone = moments(x, groups, one_thread(), step=step)
    assert sorted(found) == [g for g in range(4) if groups.counts[g]]
    for g, made in found.items():
        rows = x[groups.ids == g].astype(np.float64)
        np.testing.assert_allclose(made.mean, rows.mean(axis=0), rtol=1e-12)
        scatter = (rows - rows.mean(axis=0)).T @ (rows - rows.mean(axis=0))
        np.testing.assert_allclose(np.triu(made.scatter), np.triu(scatter), rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(np.triu(made.scatter), np.triu(alone[g].scatter))


def test_products_under_way_stay_within_the_accumulators() -> None:
    """One more than there are threads; of large matrices no more than take the memory of the sums themselves."""
    four = np.full(4, 10**6)
    sixteen = [ThreadPoolExecutor(1) for _ in range(15)]
    assert MomentSums(768, four, Threads(sixteen))._most_begun() == 17
    assert MomentSums(16_384, four, Threads(sixteen))._most_begun() == 8
    assert MomentSums(16_384, four[:1], Threads(sixteen))._most_begun() == 2
    assert MomentSums(768, four, one_thread())._most_begun() == 1


def test_a_row_that_is_not_finite_is_named_among_products_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_moments, "PRODUCT_ROWS", 10)
    x = np.random.default_rng(0).standard_normal((200, 4)).astype(np.float32)
    x[57, 2] = np.inf
    groups = Groups.from_arrays(np.zeros(200, dtype=int), class_names=("y",))
    with threads() as team, pytest.raises(ShapeError, match="Row 57 of the features is not finite"):
        moments(x, groups, team, step=200)
