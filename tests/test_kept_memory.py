"""Memory kept from batch to batch: how many pages the system has to clear, inside and afterwards."""

import ctypes
import platform
import resource
import threading
from collections.abc import Iterator

import pytest

from grobust import kept_memory as module
from grobust.kept_memory import kept_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")

# 48 MB: beyond what glibc ever keeps by itself, in pages of 4 KiB.
BYTES, PAGES = 48_000_000, 11_000


@pytest.fixture(autouse=True)
def no_settings_of_the_users(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (*module._DECIDED, "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    module._glibc.cache_clear()
    yield
    module._glibc.cache_clear()


def cleared() -> int:
    """Pages that the system cleared for a block that is written and freed."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(BYTES)
    ctypes.memset(block, 1, BYTES)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_pages_are_cleared_once_inside_and_every_time_outside() -> None:
    assert min(cleared() for _ in range(2)) > PAGES
    with kept_memory():
        cleared()
        assert max(cleared() for _ in range(3)) < PAGES / 10
    assert min(cleared() for _ in range(2)) > PAGES


def test_memory_goes_back_at_the_end_and_after_an_error() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1])

    def fails() -> None:
        with kept_memory():
            cleared()
            assert resident() > before + PAGES
            raise ValueError("a batch")

    cleared()
    before = resident()
    with pytest.raises(ValueError, match="a batch"):
        fails()
    assert resident() < before + PAGES / 10
    assert cleared() > PAGES


def test_the_last_to_leave_gives_it_back() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with kept_memory():
            inside.set()
            leave.wait(20)

    thread = threading.Thread(target=other)
    with kept_memory():
        thread.start()
        assert inside.wait(20)
        cleared()
    assert cleared() < PAGES / 10
    leave.set()
    thread.join()
    assert cleared() > PAGES


@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_TRIM_THRESHOLD_", "131072"), ("GLIBC_TUNABLES", "glibc.malloc.check=0")]
)
def test_what_the_user_has_set_up_stays(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with kept_memory():
        assert min(cleared() for _ in range(2)) > PAGES
