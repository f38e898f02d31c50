"""Work shared among threads: order, side by side every time, errors, nesting."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grobust.threads import Threads, one_thread


def team(stack: ExitStack, count: int) -> Threads:
    return Threads([stack.enter_context(ThreadPoolExecutor(1)) for _ in range(count - 1)])


@settings(max_examples=30)
@given(count=st.integers(1, 4), n=st.integers(0, 50), block=st.integers(1, 9))
def test_results_come_in_order_and_ranges_cover_the_rows(count: int, n: int, block: int) -> None:
    with ExitStack() as stack:
        pool = team(stack, count)
        assert pool.map(lambda i: i * i, range(n)) == [i * i for i in range(n)]
        if n:
            found = pool.ranges(lambda start, stop: list(range(start, stop)), n, block)
            assert [row for part in found for row in part] == list(range(n))
            assert len(found) == min(count, -(-n // block))
            assert all(len(part) % block == 0 for part in found[:-1])


@pytest.mark.parametrize("count", [2, 3])
def test_as_many_pieces_as_threads_run_side_by_side_every_time(count: int) -> None:
    """Each piece waits for all others: one after another they would wait for ever."""
    with ExitStack() as stack:
        pool, barrier = team(stack, count), threading.Barrier(count, timeout=20)
        for _ in range(200):
            assert sorted(pool.map(lambda _: barrier.wait(), range(count))) == list(range(count))


def test_an_error_comes_out_and_ends_the_work() -> None:
    begun = []

    def work(i: int) -> int:
        begun.append(i)
        if i == 3:
            raise ValueError("piece 3")
        return i

    with ExitStack() as stack:
        pool = team(stack, 2)
        with pytest.raises(ValueError, match="piece 3"):
            pool.map(work, range(10_000))
        assert len(begun) < 10_000
        assert pool.map(lambda i: i, range(5)) == list(range(5))


def test_after_an_error_nobody_begins_another_piece() -> None:
    """Though the pieces before it are still under way: Ctrl-C in a piece must not start the next."""
    begun: list[int] = []

    def work(i: int) -> None:
        begun.append(i)
        if i == 0:
            time.sleep(0.3)
        elif i == 1:
            raise KeyboardInterrupt

    with ExitStack() as stack:
        pool = team(stack, 2)
        with pytest.raises(KeyboardInterrupt):
            pool.map(work, range(1000))
        assert len(begun) <= 3


def test_work_may_share_out_work_of_its_own() -> None:
    with ExitStack() as stack:
        pool = team(stack, 3)
        inner = pool.map(lambda i: sum(pool.map(lambda j: i * j, range(20))), range(10))
        assert inner == [190 * i for i in range(10)]


def test_one_thread_is_the_callers() -> None:
    assert one_thread().map(lambda _: threading.get_ident(), range(3)) == [threading.get_ident()] * 3
