"""Memory kept from batch to batch: how many pages the system has to clear, inside and afterwards.

Each in a process of its own: what lies free in the memory of this one is of other tests.
"""

import json
import os
import platform
import subprocess
import sys
from typing import Any

import pytest

from grobust import kept_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")

# 160 MB: beyond what glibc ever keeps by itself. In pages of 4 KiB, and as many as are noise.
BYTES, PAGES, NOISE = 160_000_000, 39_000, 4_000
BEGINNING = f"""
import ctypes, json, resource, threading
from pathlib import Path
from grobust.kept_memory import kept_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def cleared():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc({BYTES})
    ctypes.memset(block, 1, {BYTES})
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])
"""


def run(body: str, **environment: str) -> Any:
    """What a process prints in the end."""
    decided = (*kept_memory._DECIDED, "GLIBC_TUNABLES")
    inherited = {name: value for name, value in os.environ.items() if name not in decided}
    finished = subprocess.run(
        [sys.executable, "-c", BEGINNING + body], capture_output=True, text=True, check=True,
        env=inherited | environment,
    )  # fmt: skip
    return json.loads(finished.stdout)


def test_pages_are_cleared_once_inside_and_every_time_outside() -> None:
    found = run("""
before = [cleared() for _ in range(2)]
with kept_memory():
    inside = [cleared() for _ in range(3)]
print(json.dumps([before, inside, [cleared() for _ in range(2)]]))
""")
    before, inside, after = found
    assert min(*before, *after) > PAGES
    assert inside[0] > PAGES
    assert max(inside[1:]) < NOISE


def test_memory_goes_back_at_the_end_and_after_an_error() -> None:
    before, inside, after, again = run("""
before = resident()
try:
    with kept_memory():
        cleared()
        inside = resident()
        raise ValueError("a batch")
except ValueError:
    print(json.dumps([before, inside, resident(), cleared()]))
""")
    assert inside > before + PAGES
    assert after < before + NOISE
    assert again > PAGES


def test_the_last_to_leave_gives_it_back() -> None:
    first, while_one_is_inside, after = run("""
inside, leave = threading.Event(), threading.Event()

def other():
    with kept_memory():
        inside.set()
        leave.wait(20)

thread = threading.Thread(target=other)
with kept_memory():
    thread.start()
    assert inside.wait(20)
    found = [cleared()]
found.append(cleared())
leave.set()
thread.join()
print(json.dumps([*found, cleared()]))
""")
    assert min(first, after) > PAGES
    assert while_one_is_inside < NOISE


@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_TRIM_THRESHOLD_", "131072"), ("GLIBC_TUNABLES", "glibc.malloc.check=0")]
)
def test_what_the_user_has_set_up_stays(name: str, value: str) -> None:
    found = run("with kept_memory():\n    print(json.dumps([cleared() for _ in range(3)]))", **{name: value})
    assert min(found) > PAGES
