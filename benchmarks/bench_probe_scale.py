"""Memory of a grid of heads, features that do not fit in memory, and how cost grows with rows, features and heads.

Memory is the private memory of a process of its own, sampled while it works: what a file's mapped pages take belongs to
the system, which drops them when it wants. In the first rows `ours` and `peer` are bytes, what was used and what was
allowed; in the streaming row they are seconds, from the mapped file and from memory; in the last ones the ratio is the
exponent of the cost, by least squares on logarithms, and beside it stands that of an iteration's cost: more rows or
features are another problem, which may take more iterations.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from harness import Row, arguments, private_bytes, report, seconds
from workloads import backbone_like, grid_weights

from grobust.groups import Groups
from grobust.probe import Head, fit_probes

ALLOWED = 1.5


def main() -> None:
    args = arguments(__doc__ or "")
    if "child" in args.only:
        _child(*args.only.split(":")[1:])
        return
    full = args.size == "full"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        if args.only in "memory and streaming":
            rows += _memory(Path(folder), *((50_000, 768, 128, 256 << 20) if full else (4_000, 64, 16, 32 << 20)))
            # Features of more than twice the memory that the solve takes.
            rows += _memory(Path(folder), *((200_000, 768, 16, 96 << 20) if full else (40_000, 64, 2, 32 << 20)))
    if args.only in "growth":
        rows += _growth(full)
    report("probe_scale", rows, args)


def _heads(groups: Groups, count: int) -> list[Head]:
    strengths = np.logspace(-4, -1, 8)
    return [Head(weights=w, l2=float(l2)) for w in grid_weights(groups, max(1, count // 8)) for l2 in strengths]


def _memory(folder: Path, n: int, d: int, count: int, budget: int) -> list[Row]:
    work = backbone_like(n, d)
    np.save(folder / "x.npy", work.features)
    np.save(folder / "ids.npy", work.groups.ids)
    loaded, mapped = (_run(folder, how, count, budget) for how in ("memory", "mapped"))
    np.testing.assert_allclose(loaded["objectives"], mapped["objectives"], rtol=2e-6)
    features, heads = n * d * 4, count * 2 * (d + 1) * 8
    rows = []
    for how, found, size in (("in memory", loaded, features), ("mapped from a file", mapped, 0)):
        bound = size + heads + budget
        assert found["peak"] <= ALLOWED * bound, (found["peak"], bound)
        rows.append(Row(
            name=f"K = {count}, {n} x {d}, {how}", ours_seconds=found["peak"] / 2**20, unit="MiB",
            peer="features + heads + budget", peer_seconds=bound / 2**20, ratio=bound / found["peak"], pairs=1,
            answer="same objectives",
        ))  # fmt: skip
    slow = mapped["seconds"] / loaded["seconds"]
    rows.append(Row(
        name=f"mapped against in memory, {n} x {d}, K = {count}", ours_seconds=mapped["seconds"],
        peer="the same in memory", peer_seconds=loaded["seconds"], ratio=1 / slow, pairs=3,
        answer=f"features {features / 2**20:.0f} MiB, private memory {mapped['peak'] / 2**20:.0f} MiB",
    ))  # fmt: skip
    return rows


def _run(folder: Path, how: str, count: int, budget: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--only", f"child:{folder}:{how}:{count}:{budget}"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    found: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return found


def _child(folder: str, how: str, count: str, budget: str) -> None:
    ids = np.load(Path(folder) / "ids.npy")
    groups = Groups.from_arrays(ids // 2, ids % 2)
    # Compiled loops are loaded before the measurement: those for arrays and those for maps that are only read.
    small = backbone_like(4_000, 32)
    for writeable in (True, False):
        small.features.flags.writeable = writeable
        for many in (1, 16):
            fit_probes(small.features, small.labels, [Head(l2=1e-3)] * many, n_classes=2, standardize=False)
    heads = _heads(groups, int(count))
    before, peak, done = private_bytes(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], private_bytes() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    features = np.load(Path(folder) / "x.npy", mmap_mode="r" if how == "mapped" else None)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        fits = fit_probes(features, groups.labels, heads, n_classes=2, standardize=False, max_bytes=int(budget))
        times.append(time.perf_counter() - started)
    done.set()
    watcher.join()
    found = {"peak": peak[0], "seconds": float(np.median(times)), "objectives": [fit.objective for fit in fits]}
    print(json.dumps(found))


def _growth(full: bool) -> list[Row]:
    n, d, count = (25_000, 384, 32) if full else (1_000, 16, 8)
    cases = {
        "rows": [(n * 2**i, d, count) for i in range(4)],
        "features": [(n, d * 2**i, count) for i in range(3)],
        "heads": [(n, d, count * 2**i) for i in range(4)],
    }
    rows = []
    for what, sizes in cases.items():
        times, iterations = [], []
        for n_rows, width, heads in sizes:
            work = backbone_like(n_rows, width)
            grid = _heads(work.groups, heads)

            def solve(work=work, grid=grid) -> float:  # type: ignore[no-untyped-def]
                fits = fit_probes(work.features, work.labels, grid, n_classes=2, standardize=False)
                assert all(fit.status == "converged" for fit in fits)
                return float(np.mean([fit.n_iter for fit in fits]))

            iterations.append(solve())
            times.append(float(np.median([seconds(solve) for _ in range(5 if full else 1)])))
        scale = np.log([np.prod(size) for size in sizes])
        exponent = float(np.polyfit(scale, np.log(times), 1)[0])
        each = float(np.polyfit(scale, np.log(np.array(times) / iterations), 1)[0])
        answer = (
            f"exponent of the cost, {each:.2f} per iteration; {iterations[0]:.0f} to {iterations[-1]:.0f} iterations"
        )
        rows.append(Row(
            name=f"growth with {what}, {sizes[0]} to {sizes[-1]}", ours_seconds=times[-1], peer="the smallest",
            peer_seconds=times[0], ratio=exponent, pairs=len(times), answer=answer,
        ))  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
