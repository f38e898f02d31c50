"""The memory of one batch's activations kept for the next, instead of given back to the system in between.

glibc takes blocks of more than a few MB from the kernel and returns them when they are freed. A network on a CPU then
has every page of every activation cleared anew, batch after batch: a third to a half of a convolutional network's time.
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

__all__ = ["kept_memory"]

# Numbers of malloc.h: what stays free at the heap's end, what it grows by, blocks that get a mapping of their own from
# which size on, and how many of those.
_TRIM, _TOP_PAD, _MMAP_FROM, _MMAP_MOST = -1, -2, -3, -4
_KEEPING = {_MMAP_MOST: 0, _TRIM: -1, _TOP_PAD: 64 << 20}
# glibc's defaults, but for two that it raises by itself, up to these, as larger blocks are freed.
_USUAL = {_MMAP_MOST: 65536, _MMAP_FROM: 32 << 20, _TRIM: 64 << 20, _TOP_PAD: 128 << 10}
# With these the user has decided.
_DECIDED = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")

_lock = threading.Lock()
_users = 0


@contextmanager
def kept_memory() -> Iterator[None]:
    """While a network runs on the CPU: freed memory stays with this process, and goes back at the end.

    Of the whole process, so what is inside should be the main work; several may be inside at once. Nothing is done
    without glibc, or where environment variables set up its allocator.
    """
    global _users
    libc = _glibc()
    if libc is None:
        yield
        return
    with _lock:
        _users += 1
        if _users == 1:
            _set(libc, _KEEPING)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _set(libc, _USUAL)
                libc.malloc_trim(0)


def _set(libc: ctypes.CDLL, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        libc.mallopt(parameter, value)


@cache
def _glibc() -> ctypes.CDLL | None:
    if any(name in os.environ for name in _DECIDED) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return None
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version, libc.mallopt, libc.malloc_trim  # noqa: B018 - looked up
    except (OSError, TypeError, AttributeError):
        return None
    libc.malloc_trim.argtypes = [ctypes.c_size_t]
    return libc
