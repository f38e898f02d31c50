"""Peak of private memory while spectra stream from a memory map; in a process of its own, started by
`bench_spectrum.py` with path, n and d of raw float32 features. Prints the growth in bytes, the seconds, and λ1 of four
groups."""

import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
from harness import private_bytes

from grobust.groups import Groups
from grobust.spectrum import stream_spectra
from grobust.typing import Array

STEP = 4096


class Blocks:
    """Stretches of the map, as often as they are asked for."""

    def __init__(self, rows: Array) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        n = len(self.rows)
        return ((self.rows[i : i + STEP], np.arange(i, min(i + STEP, n))) for i in range(0, n, STEP))


def main() -> None:
    path, n, d = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    x = np.memmap(path, np.float32, "r", shape=(n, d))
    ids = np.arange(n) % 4
    warm = Groups.from_arrays(ids[:400] // 2, ids[:400] % 2)
    few = np.random.default_rng(0).standard_normal((400, 64))
    stream_spectra([(few, np.arange(400))], groups=warm, dim=64, rank=3)
    groups = Groups.from_arrays(ids // 2, ids % 2)
    before = private_bytes()
    peak, done = before, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, private_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    found, _ = stream_spectra(Blocks(x), groups=groups, dim=d, rank=10)
    spent = time.perf_counter() - started
    done.set()
    watcher.join()
    print(peak - before, spent, *found.eigenvalues[:, 0])


if __name__ == "__main__":
    main()
