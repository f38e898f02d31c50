"""Splits: the paper's halves row by row, shares within groups by a plain loop, digests that alone decide."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grobust.errors import ConfigError, GroupError, ShapeError
from grobust.groups import Groups
from grobust.held_out import held_out_half, split_by_digest, split_groups_by_digest


@pytest.mark.parametrize(
    ("n_val", "halves"), [(1199, (599, 600)), (19867, (9933, 9934)), (45180, (22590, 22590)), (82462, (41231, 41231))]
)
def test_the_papers_halves(n_val: int, halves: tuple[int, int]) -> None:
    rows = np.arange(n_val) + 4795
    rows.setflags(write=False)
    found = held_out_half(rows, seed=1)
    assert (found.reweighting.size, found.validation.size) == halves
    # What the authors' code does, in its own words.
    copied = list(range(4795, 4795 + n_val))
    generator = np.random.default_rng(1)
    as_array = np.array(copied)
    generator.shuffle(as_array)
    assert set(found.reweighting.tolist()) == set(as_array[: n_val // 2].tolist())
    assert set(found.validation.tolist()) == set(as_array[n_val // 2 :].tolist())


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=60, unique=True), st.integers(0, 2**31))
def test_halves_are_disjoint_complete_and_drawn_once(rows: list[int], seed: int) -> None:
    found, again = held_out_half(rows, seed=seed), held_out_half(rows, seed=seed)
    assert sorted([*found.reweighting.tolist(), *found.validation.tolist()]) == sorted(rows)
    assert found.reweighting.tolist() == again.reweighting.tolist() == sorted(found.reweighting.tolist())
    assert found.validation.size - found.reweighting.size in (0, 1)


def test_seeds_differ() -> None:
    first, second = (set(held_out_half(np.arange(100), seed=s).reweighting.tolist()) for s in (1, 2))
    assert first != second


def test_halves_of_nothing() -> None:
    with pytest.raises(GroupError, match="cannot be halved"):
        held_out_half(np.array([3]), seed=1)
    with pytest.raises(GroupError, match="repeat"):
        held_out_half(np.array([3, 3]), seed=1)
    with pytest.raises(ShapeError, match=r"expected \(n\) integers"):
        held_out_half(np.array([0.5, 1.5]), seed=1)
    with pytest.raises(ConfigError, match="seed"):
        held_out_half(np.arange(4), seed=-1)


LISTS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 2**64 - 1)), min_size=1, max_size=80)
SHARES = st.tuples(*[st.integers(0, 10)] * 3).filter(any)


@given(LISTS, SHARES)
def test_every_group_is_cut_at_the_shares(rows: list[tuple[int, int, int]], shares: tuple[int, int, int]) -> None:
    y, a = (np.array(column) for column in list(zip(*rows, strict=True))[:2])
    digests = np.array([digest for _, _, digest in rows], dtype=np.uint64)
    groups = Groups.from_arrays(y, a, class_names=("p", "q"), attribute_names=("r", "s", "t"))
    split = split_groups_by_digest(groups, digests, shares)
    for group in range(groups.n_groups):
        of_group = split[groups.ids == group]
        for value, share in enumerate(shares):
            assert abs((of_group == value).sum() - share / sum(shares) * of_group.size) < 1 + 1e-6
    # Another order of the rows gives every row the same split, where digests are distinct.
    if len({d for _, _, d in rows}) == len(rows):
        order = np.random.default_rng(0).permutation(len(rows))
        shuffled = split_groups_by_digest(groups.take(order), digests[order], shares)
        assert shuffled.tolist() == split[order].tolist()


def test_shares_by_a_plain_count() -> None:
    groups = Groups.from_arrays(np.repeat([0, 1], [10, 7]), np.zeros(17, dtype=np.int64))
    split = split_groups_by_digest(groups, np.arange(17, dtype=np.uint64)[::-1].copy(), (70, 10, 20))
    assert np.bincount(split[:10], minlength=3).tolist() == [7, 1, 2]
    # 4.9, 0.7, 1.4: one row is left after 4, 0 and 1, and then another; the remainders are .9, .7, .4.
    assert np.bincount(split[10:], minlength=3).tolist() == [5, 1, 1]
    # Digests fall with the row, so the last rows come first.
    assert split[:10].tolist() == [2, 2, 1, 0, 0, 0, 0, 0, 0, 0]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50), SHARES)
def test_a_digest_alone_decides(digests: list[int], shares: tuple[int, int, int]) -> None:
    array = np.array(digests, dtype=np.uint64)
    split = split_by_digest(array, shares)
    ends = np.cumsum(shares) / sum(shares)
    assert split.tolist() == [int(np.sum((d >> 11) / 2**53 >= ends[:2])) for d in digests]
    assert split_by_digest(array[:1], shares)[0] == split[0]
    assert all(shares[value] > 0 for value in split.tolist())


@pytest.mark.parametrize("shares", [(1, 1), (0, 0, 0), (-1, 1, 1), (float("nan"), 1, 1)])
def test_bad_shares(shares: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="three numbers"):
        split_by_digest(np.zeros(1, dtype=np.uint64), shares)


def test_bad_digests() -> None:
    with pytest.raises(ShapeError, match="uint64"):
        split_by_digest(np.zeros(1, dtype=np.int64), (1, 1, 1))
