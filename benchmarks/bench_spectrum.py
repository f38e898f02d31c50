"""Spectra of all groups and classes, small groups, flattened features, replicates of ρ(y): answers first, then times.

A row's ratio is peer seconds / our seconds. The official recipe is that of the paper's released code with its features
at hand: per class and per group gather, centre, multiply, ``torch.lobpcg``. Errors are the largest relative error of
the eigenvalues asked for, against float64.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from harness import Row, arguments, paired, report, seconds
from numpy.typing import NDArray
from official_spectra import gathered_by_batches, official
from workloads import backbone_like

from grobust.arrays import to_device
from grobust.groups import Groups
from grobust.spectrum import Spectra, ratio_inference, stream_spectra
from grobust.spectrum._moments import MomentSums
from grobust.spectrum._staging import pieces_of
from grobust.spectrum._subsets import RowSet, draw_subsets
from grobust.threads import threads

FloatArray = NDArray[Any]
# Group shares of CelebA.
CELEBA = (71_629, 66_874, 22_880, 1_387)
WATERBIRDS = (3498, 184, 56, 1057)
# lobpcg may need hours at 8,192 dimensions; its time up to here is a lower bound.
PEER_STEPS = 50


def main() -> None:
    args = arguments(__doc__ or "")
    full = args.size == "full"
    rows = [row for name, make in _rows(full).items() if args.only in name for row in make(args, full, name)]
    report("spectrum", rows, args)


def _rows(full: bool) -> dict[str, Callable[[argparse.Namespace, bool, str], list[Row]]]:
    sizes = ("100000 x 768", "162770 x 768") if full else ("600 x 40",)
    small = ("56 of 2048", "184 of 2048", "1000 of 4096") if full else ("10 of 40",)
    return {
        **{f"4 groups + 2 classes of {size}, top 50": _whole for size in sizes},
        "rows gathered as released": _released,
        **{f"mean offset of {offset} sd": _offset for offset in (0, 30, 300, 3000)},
        "accumulation": _accumulation,
        **{f"small groups: {size}": _small for size in small},
        "4795 x 31360 flattened": _flattened,
        "replicates": _replicates,
        "test of one class": _inference,
        "peak memory": _memory,
    }


def features(
    counts: tuple[int, ...], dim: int, *, offset: float = 0.0, decay: float = 0.7
) -> tuple[FloatArray, Groups]:
    """Power-law spectra in a random basis, float32; rows in random order."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    basis = np.linalg.qr(rng.standard_normal((min(dim, 1024), min(dim, 1024))))[0].astype(np.float32)
    sds = (np.arange(1, dim + 1) ** -decay).astype(np.float32)
    x = np.empty((ids.size, dim), np.float32)
    for start in range(0, ids.size, 4096):
        part = rng.standard_normal((min(4096, ids.size - start), dim), dtype=np.float32) * sds
        part[:, : len(basis)] = part[:, : len(basis)] @ basis
        x[start : start + len(part)] = part + 0.1 * ids[start : start + len(part), None] * sds
    if offset:
        x += np.float32(offset * x[:4096].std(axis=0).mean())
    return x, Groups.from_arrays(ids // 2, ids % 2)


def cells(groups: Groups) -> list[FloatArray]:
    """Row masks of groups, then of classes; the released code takes classes first, which changes no time."""
    masks = [groups.ids == g for g in range(groups.n_groups)]
    return masks + [groups.labels == y for y in range(groups.n_classes)]


def exact(x: FloatArray, top: int) -> FloatArray:
    """Eigenvalues in float64, by the smaller matrix."""
    rows = x.astype(np.float64)
    rows -= rows.mean(axis=0)
    matrix = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    return np.asarray(np.linalg.eigvalsh(matrix)[::-1][:top] / len(rows))


def spectra(x: Any, groups: Groups, top: int) -> tuple[Spectra, Spectra]:
    """Ours, on features in memory."""
    blocks = [(x, np.arange(len(groups)))]
    return stream_spectra(blocks, groups=groups, dim=x.shape[1], rank=top, keep=True)


def error(found: FloatArray, true: FloatArray) -> float:
    k = min(len(found), len(true))
    return float(np.max(np.abs(found[:k] / true[:k] - 1)))


def _whole(args: argparse.Namespace, full: bool, name: str) -> list[Row]:
    """Features as backbones give them. lobpcg starts at random and is done in a twentieth of a second or wanders for
    several; each pair has starts of its own."""
    n, dim = (int(word) for word in name.split(" of ")[1].split(",")[0].split(" x "))
    top = 50 if full else 10
    work = backbone_like(n, dim)
    x, groups = work.features, work.groups
    on_device, masks = to_device(x, args.device), cells(groups)
    by_group, by_class = spectra(on_device, groups, top)
    found = np.concatenate([by_group.eigenvalues, by_class.eigenvalues])
    true = [exact(x[mask], top) for mask in masks]
    ours = max(error(row[np.isfinite(row)], t) for row, t in zip(found, true, strict=True))
    assert ours < 1e-6, ours
    tensor, rows = torch.from_numpy(x), [torch.from_numpy(np.flatnonzero(mask)) for mask in masks]
    theirs = max(error(official(tensor[r], top), t) for r, t in zip(rows, true, strict=True))

    def peer() -> None:
        for r in rows:
            official(tensor[r], top)

    def numpy_cov() -> None:
        for mask in masks:
            np.linalg.eigvalsh(np.cov(x[mask].T, ddof=0, dtype=np.float32))

    def own() -> None:
        spectra(on_device, groups, top)
        _wait(args)

    single: list[float] = []

    def timed_peer() -> None:
        single.append(seconds(peer))

    torch.manual_seed(0)
    row = paired(name, own, "official recipe", timed_peer, answer="", pairs=9 if full else 1)
    spread = f"its seconds {min(single):.1f} to {max(single):.1f}, mean {statistics.mean(single):.1f}"
    return [
        replace(row, answer=f"relative error {ours:.0e}, theirs {theirs:.0e}; {spread}"),
        paired(
            name, own, "float32 numpy.cov + eigvalsh", numpy_cov, answer=f"relative error {ours:.0e}",
            pairs=5 if full else 1,
        ),
    ]  # fmt: skip


def _released(args: argparse.Namespace, full: bool, name: str) -> list[Row]:
    """The official recipe with its own way of gathering rows, batches of 32, of which the cost grows with n²."""
    n, dim, top = (25_000, 768, 50) if full else (600, 40, 10)
    work = backbone_like(n, dim)
    on_device, groups, masks = to_device(work.features, args.device), work.groups, cells(work.groups)
    found = np.concatenate([s.eigenvalues for s in spectra(on_device, groups, top)])
    ours = max(error(row, exact(work.features[mask], top)) for row, mask in zip(found, masks, strict=True))
    assert ours < 1e-6, ours
    batches = [torch.from_numpy(work.features[mask]).split(32) for mask in masks]

    def peer() -> None:
        for rows in batches:
            official(gathered_by_batches(rows), top)

    def own() -> None:
        spectra(on_device, groups, top)
        _wait(args)

    torch.manual_seed(0)
    label = f"{name}: 4 groups + 2 classes of {n} x {dim}, top {top}"
    answer = f"relative error {ours:.0e}"
    pairs = 3 if full else 1
    return [paired(label, own, "official recipe, batches of 32", peer, answer=answer, pairs=pairs)]


def _offset(args: argparse.Namespace, full: bool, name: str) -> list[Row]:
    counts, dim, top = ((15_000, 900, 800, 3300), 768, 50) if full else ((200, 90, 60, 80), 50, 3)
    x, groups = features(counts, dim, offset=float(name.split()[3]))
    on_device, masks = to_device(x, args.device), cells(groups)
    true = [exact(x[mask], top) for mask in masks]
    found = np.concatenate([s.eigenvalues for s in spectra(on_device, groups, top)])
    ours = max(error(row, t) for row, t in zip(found, true, strict=True))
    assert ours < 1e-6, ours
    tensor = torch.from_numpy(x)
    theirs = max(error(official(tensor[mask], top), t) for mask, t in zip(masks, true, strict=True))

    def peer() -> None:
        for mask in masks:
            official(tensor[mask], top)

    answer = f"λ1..λ{top}: relative error {ours:.0e}, theirs {theirs:.0e}"

    def own() -> None:
        spectra(on_device, groups, top)
        _wait(args)

    torch.manual_seed(0)
    return [paired(name, own, "official recipe", peer, answer=answer, pairs=5 if full else 1)]


def _accumulation(args: argparse.Namespace, full: bool, name: str) -> list[Row]:
    """Moments of all groups, without eigenvalues, against one product of all rows by the machine's SYRK."""
    x, groups = features(tuple(c // 3 for c in CELEBA) if full else (300, 200, 100, 60), 768 if full else 40)
    on_device = to_device(x, args.device)

    def ours() -> dict[int, Any]:
        with threads() as team:
            sums = MomentSums(x.shape[1], groups.counts, team)
            sums.add(list(pieces_of(on_device, np.arange(len(x)), groups=groups, dim=x.shape[1])), keep=True)
            made = sums.finish()
        _wait(args)
        return made

    def syrk() -> Any:
        return scipy.linalg.blas.ssyrk(1.0, x.T)

    for g, moments in ours().items():
        rows = x[groups.ids == g].astype(np.float64)
        assert abs(np.trace(moments.scatter) / (rows.var(axis=0).sum() * len(rows)) - 1) < 1e-6
    row = paired(name, ours, "one scipy ssyrk of all rows", syrk, answer="traces to 1e-6", pairs=15 if full else 1)
    rate = len(x) * x.shape[1] ** 2 / row.ours_seconds / 1e9
    return [Row(**{**vars(row), "answer": f"{row.answer}; {rate:.0f} GFLOP/s by n d²"})]


def _small(args: argparse.Namespace, full: bool, name: str) -> list[Row]:
    """Five spectra, from flat to steep, several starts each: the time of lobpcg depends on its luck by a factor of a
    thousand."""
    n, dim = (int(word) for word in name.split(": ")[1].split(" of "))
    starts, top, decays = (3 if dim > 2048 else 5, 50, (0.0, 0.35, 0.5, 0.7, 1.0)) if full else (1, 3, (0.7,))
    data = [features((n,), dim, decay=decay) for decay in decays]
    on_device = [(to_device(x, args.device), groups) for x, groups in data]
    true = [exact(x, top) for x, _ in data]
    worst = max(
        error(spectra(x, groups, top)[0].eigenvalues[0], t) for (x, groups), t in zip(on_device, true, strict=True)
    )
    assert worst < 1e-6, worst
    own = [
        statistics.median(seconds(lambda x=x, g=g: (spectra(x, g, top), _wait(args))) for _ in range(5))
        for x, g in on_device
    ]
    torch.manual_seed(0)
    times, errors = [], []
    for (x, _), t in zip(data, true, strict=True):
        tensor, own_times = torch.from_numpy(x), []
        for _ in range(starts):
            started = time.perf_counter()
            theirs = official(tensor, top)
            own_times.append(time.perf_counter() - started)
            errors.append(error(theirs, t))
        times.append(own_times)
    ratios = [b / a for a, spent in zip(own, times, strict=True) for b in spent]
    ours, peer = starts * sum(own), sum(map(sum, times))
    by_decay = ", ".join(f"{sum(spent) / starts / a:.0f}" for a, spent in zip(own, times, strict=True))
    answer = (
        f"relative error {worst:.0e}, theirs {max(errors):.0e}; sums over {len(data)} spectra x {starts} starts, "
        f"from flat to steep {by_decay}; single ratios {min(ratios):.0f} to {max(ratios):.0f}, "
        f"median {statistics.median(ratios):.0f}"
    )
    return [Row(f"{name}, top {top}", ours, "official recipe", peer, peer / ours, len(ratios), answer)]


def _flattened(args: argparse.Namespace, full: bool, name: str) -> list[Row]:
    """Waterbirds at its own size within 4 GiB; the peer at 8,192 dimensions, scaled as d²."""
    counts, dim, small, top = (WATERBIRDS, 31_360, 8192, 50) if full else ((60, 20, 6, 30), 200, 60, 3)
    x, groups = features(counts, dim)
    on_device = to_device(x, args.device)
    _forget_peak()
    by_group, by_class = stream_spectra(
        [(on_device, np.arange(len(x)))], groups=groups, dim=dim, rank=top, keep=True, memory_bytes=4 << 30
    )
    peak = _peak_bytes()
    assert peak < 4 << 30, peak
    found = np.concatenate([by_group.eigenvalues, by_class.eigenvalues])
    masks = cells(groups)
    ours = max(
        error(row[np.isfinite(row)], exact(x[mask], top))
        for row, mask in zip(found, masks, strict=True)
        if mask.sum() < 1500
    )
    assert ours < 1e-6, ours
    tensor = torch.from_numpy(np.ascontiguousarray(x[:, :small]))
    started = seconds(lambda: [official(tensor[mask], top, steps=PEER_STEPS) for mask in masks])
    spent = seconds(lambda: spectra(on_device, groups, top))
    scale = (dim / small) ** 2
    answer = f"error {ours:.0e} (groups below 1,500 rows); peak of the process {peak / 2**30:.1f} GiB"
    peer = f"official recipe at {small}, at most {PEER_STEPS} steps, times {scale:.1f}"
    return [Row(name, spent, peer, scale * started, scale * started / spent, 1, answer)]


def _replicates(args: argparse.Namespace, full: bool, name: str) -> list[Row]:
    """λ1 of the size-matched null's and of the interval's subsets of Waterbirds' two classes."""
    counts, dim, replicates, looped = (WATERBIRDS, 768, 1000, 20) if full else ((60, 20, 8, 30), 20, 20, 3)
    x, groups = features(counts, dim)
    made = []
    for small, large in ((1, 0), (2, 3)):
        rows, all_rows = x[groups.ids == small], x[groups.ids == large]
        rng = np.random.default_rng(0)
        m = len(rows)
        null = draw_subsets(rng, len(all_rows), m, replicates)
        interval = draw_subsets(rng, m, m - round(0.2 * m), replicates)

        def ours(rows: FloatArray = rows, all_rows: FloatArray = all_rows, null: Any = null, interval: Any = interval):
            a, b = RowSet.of(to_device(all_rows, args.device)), RowSet.of(to_device(rows, args.device))
            return a.prepared().largest(null), b.prepared().largest(interval)

        def loop(rows: FloatArray = rows, all_rows: FloatArray = all_rows, null: Any = null, interval: Any = interval):
            return tuple(
                np.array([_scipy_top(data[s]) for s in subsets[:looped]])
                for data, subsets in ((all_rows, null), (rows, interval))
            )

        worst = max(error(a[:looped], b) for a, b in zip(ours(), loop(), strict=True))
        assert worst < 1e-6, worst
        label = f"{name}: {replicates} + {replicates}, {m} of {len(all_rows)} x {dim}"
        peer = f"numpy.cov + scipy eigh(subset), {looped} each, times {replicates // looped}"
        answer = f"same λ1 within {worst:.0e}"
        made.append(
            paired(label, ours, peer, loop, answer=answer, pairs=3 if full else 1, scale=replicates / looped)
        )  # fmt: skip
    return made


def _scipy_top(rows: FloatArray) -> float:
    covariance = np.cov(rows.astype(np.float64).T, ddof=0)
    d = len(covariance)
    return float(scipy.linalg.eigh(covariance, eigvals_only=True, subset_by_index=(d - 1, d - 1))[0])


def _inference(args: argparse.Namespace, full: bool, name: str) -> list[Row]:
    """All that `ratio_inference` does, the permutation null included; its peer is the loop over its subsets."""
    counts, dim = ((3498, 184), 768) if full else ((60, 20), 20)
    x, groups = features(counts, dim)
    small, large = (to_device(x[groups.ids == g], args.device) for g in (1, 0))
    count = 1000 if full else 10
    found = ratio_inference(small, large, null=count, interval=count, permutations=count)
    assert abs(found.rho / (exact(x[groups.ids == 1], 1)[0] / exact(x[groups.ids == 0], 1)[0]) - 1) < 1e-6
    one = x[groups.ids == 1]

    def ours() -> None:
        ratio_inference(small, large, null=count, interval=count, permutations=count)

    answer = f"ρ to 1e-6; null mean {found.null_mean:.3f}, p {found.p_value:.2f}"
    # Null and permutation of the minority, interval, and the permutations' majority.
    peer = f"numpy.cov + scipy eigh(subset), once, times {4 * count}"
    return [paired(name, ours, peer, lambda: _scipy_top(one), answer=answer, pairs=3 if full else 1, scale=4 * count)]


def _memory(args: argparse.Namespace, full: bool, name: str) -> list[Row]:
    """Streaming from a memory map ten times the memory allowed; the peer is reading all of it, once, by numpy."""
    dim, threads_used = (768, os.cpu_count() or 1) if full else (96, os.cpu_count() or 1)
    # Rows of a product per thread, rows that wait for theirs in four groups, two blocks.
    blocks = 4 * dim * 4096 * (threads_used + 4 + 2)
    # The bound is for the full size; at the tiny one BLAS's own buffers are larger than all that it allows.
    allowed = 2 * 4 * 8 * dim**2 + blocks + (0 if full else 16 << 20)
    n = (10 if full else 3) * allowed // (4 * dim)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features"
        with path.open("wb") as file:
            for start in range(0, n, 8192):
                rng.standard_normal((min(8192, n - start), dim), dtype=np.float32).tofile(file)
        script = Path(__file__).with_name("spectrum_memory.py")
        command = [sys.executable, str(script), str(path), str(n), str(dim)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        grown, spent = int(printed[0]), float(printed[1])
        x = np.memmap(path, np.float32, "r", shape=(n, dim))
        assert abs(float(printed[2]) / exact(x[::4], 1)[0] - 1) < 1e-6
        read = seconds(lambda: [block.sum() for block in _slabs(x)])
    assert grown < allowed, (grown, allowed)
    answer = f"peak {grown / 2**20:.0f} MiB, allowed {allowed / 2**20:.0f}, features {4 * n * dim / 2**20:.0f}"
    return [Row(f"{name}: {n} x {dim} from a memory map", spent, "summing all of it", read, read / spent, 1, answer)]


def _slabs(x: FloatArray) -> Iterator[FloatArray]:
    for start in range(0, len(x), 4096):
        yield x[start : start + 4096]


def _forget_peak() -> None:
    """Begin to measure the process's peak of resident memory anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _wait(args: argparse.Namespace) -> None:
    if args.device == "cuda":
        import cupy

        cupy.cuda.get_current_stream().synchronize()


if __name__ == "__main__":
    main()
