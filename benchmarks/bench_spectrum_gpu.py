"""Spectra on a GPU: all groups and classes at once, replicates of ρ(y), features that stream from the host.

Answers are checked first, against float64 on the same device. Peers are torch on the same card. Features are on the
device already, but where a row says that they stream. At the tiny size the same code runs on whatever device is given,
so that it cannot rot; numbers are worth taking at full size on a GPU only.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from bench_spectrum import CELEBA, WATERBIRDS, FloatArray, cells, error, features
from harness import Row, arguments, paired, report, seconds
from official_spectra import official

from grobust.arrays import array_namespace, to_device, to_numpy
from grobust.groups import Groups
from grobust.spectrum import stream_spectra
from grobust.spectrum._moments import MomentSums
from grobust.spectrum._staging import pieces_of
from grobust.spectrum._subsets import RowSet, draw_subsets
from grobust.threads import one_thread

NO_GPU = "no GPU: run with --device cuda"
TOP = 10
# Relative error of λ1..λ10: float16 features on tensor cores, float32 features.
ALLOWED = {"float16": 1e-3, "float32": 1e-6}
PIECE = 16_384


def main() -> None:
    args = arguments(__doc__ or "")
    if args.device == "cpu":
        torch.set_num_threads(1)
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    parts: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
        "six spectra of 162,770 x 2,048, float16": lambda args: _spectra(args, np.float16),
        "six spectra of 162,770 x 2,048, float32": lambda args: _spectra(args, np.float32),
        "accumulation against one product": _accumulation,
        "10,000 + 10,000 replicates": _replicates,
        "six spectra of 162,770 x 2,048, streamed": _streamed,
    }
    for name, part in parts.items():
        if args.only not in name:
            continue
        if args.device == "cpu" and (args.size == "full" or part is _streamed):
            skipped[name] = NO_GPU
        else:
            rows += part(args)
    report("spectrum_gpu", rows, args, skipped=skipped)


def _wait(args: argparse.Namespace) -> None:
    if args.device == "cuda":
        import cupy

        cupy.cuda.runtime.deviceSynchronize()


def _celeba(full: bool, dtype: Any) -> tuple[FloatArray, Groups]:
    x, groups = features(CELEBA if full else (300, 200, 100, 60), 2048 if full else 40)
    return x.astype(dtype), groups


def _exact(x: Any, mask: FloatArray, top: int) -> FloatArray:
    """λ1..λtop in float64, where the features are."""
    xp = array_namespace(x)
    chosen = np.flatnonzero(mask)
    mean = xp.zeros(x.shape[1], dtype=xp.float64)
    scatter = xp.zeros((x.shape[1],) * 2, dtype=xp.float64)
    parts = [xp.asarray(chosen[lo : lo + PIECE]) for lo in range(0, chosen.size, PIECE)]
    for part in parts:
        mean += xp.sum(xp.astype(x[part], xp.float64), axis=0) / chosen.size
    for part in parts:
        rows = xp.astype(x[part], xp.float64) - mean
        scatter += rows.T @ rows
    return np.asarray(to_numpy(xp.linalg.eigvalsh(scatter / chosen.size))[::-1][:top])


def _checked(x: Any, made: FloatArray, groups: Groups, allowed: float) -> float:
    worst = max(error(row, _exact(x, mask, TOP)) for row, mask in zip(made, cells(groups), strict=True))
    assert worst < allowed, worst
    return worst


def _found(x: Any, groups: Groups, *, keep: bool = True) -> FloatArray:
    blocks = [(x, np.arange(len(groups)))] if keep else _Streamed(x, len(groups))
    made = stream_spectra(blocks, groups=groups, dim=x.shape[1], rank=TOP, keep=keep)
    return np.concatenate([spectra.eigenvalues for spectra in made])


class _Streamed:
    """Blocks of a stream."""

    def __init__(self, stream: Any, n: int) -> None:
        self._stream, self._n = stream, n

    def __iter__(self) -> Any:
        return ((self._stream[a:b], np.arange(a, b)) for a, b in self._stream.stretches())


def _torch_full(x: torch.Tensor) -> Any:
    """Covariance in float32 and all its eigenvalues."""
    centred = x.float() - x.float().mean(0)
    return torch.linalg.eigvalsh(centred.T @ centred / len(centred))


def _spectra(args: argparse.Namespace, dtype: Any) -> list[Row]:
    full = args.size == "full"
    host, groups = _celeba(full, dtype)
    x = to_device(host, args.device)
    worst = _checked(x, _found(x, groups), groups, ALLOWED[np.dtype(dtype).name])
    tensor = torch.as_tensor(host, device=args.device)
    places = [torch.as_tensor(np.flatnonzero(mask), device=args.device) for mask in cells(groups)]

    def ours() -> None:
        _found(x, groups)
        _wait(args)

    def peer(solve: Callable[[torch.Tensor], Any]) -> Callable[[], None]:
        def run() -> None:
            for place in places:
                solve(tensor[place])
            _wait(args)

        return run

    name = f"six spectra of {len(host)} x {host.shape[1]}, {np.dtype(dtype).name}, top {TOP}"
    answer = f"λ1..λ{TOP} within {worst:.0e} of float64"
    pairs = 5 if full else 1
    return [
        paired(name, ours, "torch: float32 covariance, eigvalsh", peer(_torch_full), answer=answer, pairs=pairs),
        paired(name, ours, "torch: official recipe, lobpcg", peer(lambda rows: official(rows.float(), TOP, steps=50)),
               answer=f"{answer}; the peer makes 50 steps at most", pairs=3 if full else 1),
    ]  # fmt: skip


def _accumulation(args: argparse.Namespace) -> list[Row]:
    """Moments of all groups, without eigenvalues, against one product of all rows as they are."""
    full = args.size == "full"
    rows = []
    for dtype in (np.float16, np.float32):
        host, groups = _celeba(full, dtype)
        x, tensor = to_device(host, args.device), torch.as_tensor(host, device=args.device)
        d = host.shape[1]

        def ours(x: Any = x, groups: Groups = groups, d: int = d) -> dict[int, Any]:
            sums = MomentSums(d, groups.counts, one_thread())
            sums.add(list(pieces_of(x, np.arange(len(groups)), groups=groups, dim=d)), keep=True)
            made = sums.finish()
            _wait(args)
            return made

        def peer(tensor: torch.Tensor = tensor) -> None:
            tensor.T @ tensor
            _wait(args)

        for g, moments in ours().items():
            own = host[groups.ids == g].astype(np.float64)
            trace = float(np.trace(to_numpy(moments.scatter)))
            assert abs(trace / (own.var(axis=0).sum() * len(own)) - 1) < 1e-5
        name = f"accumulation, {len(host)} x {d}, {np.dtype(dtype).name}"
        rows.append(
            paired(name, ours, f"one torch product in {np.dtype(dtype).name}, not centred", peer,
                   answer="traces to 1e-5", pairs=5 if full else 1)
        )  # fmt: skip
    return rows


def _replicates(args: argparse.Namespace) -> list[Row]:
    """λ1 of the subsets of the null and of the interval, of Waterbirds' two classes."""
    full = args.size == "full"
    counts, dim, count, looped = (WATERBIRDS, 2048, 10_000, 50) if full else ((60, 20, 8, 30), 20, 20, 3)
    x, groups = features(counts, dim)
    made = []
    for small, large in ((1, 0), (2, 3)):
        rows, all_rows = (to_device(x[groups.ids == g], args.device) for g in (small, large))
        rng, m = np.random.default_rng(0), int(rows.shape[0])
        drawn = (
            draw_subsets(rng, int(all_rows.shape[0]), m, count),
            draw_subsets(rng, m, m - max(1, round(0.2 * m)), count),
        )
        tensors = [torch.as_tensor(x[groups.ids == g], device=args.device) for g in (large, small)]

        def ours(rows: Any = rows, all_rows: Any = all_rows, drawn: Any = drawn) -> tuple[FloatArray, FloatArray]:
            sets = (RowSet.of(all_rows), RowSet.of(rows))
            return tuple(each.prepared().largest(part) for each, part in zip(sets, drawn, strict=True))

        def loop(tensors: Any = tensors, drawn: Any = drawn) -> tuple[FloatArray, ...]:
            return tuple(
                np.array([_torch_top(data[torch.as_tensor(s, device=data.device)]) for s in part[:looped]])
                for data, part in zip(tensors, drawn, strict=True)
            )

        worst = max(error(a[:looped], b) for a, b in zip(ours(), loop(), strict=True))
        assert worst < 1e-6, worst
        peer = f"torch: float64 Gram matrix, eigvalsh, {looped} each, times {count // looped}"
        made.append(
            paired(f"{count} + {count} replicates, {m} of {int(all_rows.shape[0])} x {dim}", ours, peer, loop,
                   answer=f"same λ1 within {worst:.0e}", pairs=3 if full else 1, scale=count / looped)
        )  # fmt: skip
    return made


def _torch_top(rows: torch.Tensor) -> float:
    """λ1 by the smaller matrix."""
    centred = rows.double() - rows.double().mean(0)
    matrix = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    return float(torch.linalg.eigvalsh(matrix / len(centred))[-1])


def _streamed(args: argparse.Namespace) -> list[Row]:
    """Features on the host, taken through pinned memory, against the transfer alone."""
    from grobust.device import DeviceStream, on_device

    full = args.size == "full"
    host, groups = _celeba(full, np.float16)
    worst = _checked(on_device(host), _found(DeviceStream(host), groups, keep=False), groups, ALLOWED["float16"])
    stream = DeviceStream(host)

    def ours() -> None:
        _found(stream, groups, keep=False)
        _wait(args)

    def moved() -> None:
        for a, b in stream.stretches():
            stream[a:b]
        _wait(args)

    spent = seconds(ours)
    rate = host.nbytes / spent / 1e9
    answer = f"λ1..λ{TOP} within {worst:.0e} of float64; {rate:.1f} GB/s of features"
    name = f"six spectra of {len(host)} x {host.shape[1]}, float16, streamed"
    return [paired(name, ours, "moving the rows alone", moved, answer=answer, pairs=3)]


if __name__ == "__main__":
    main()
