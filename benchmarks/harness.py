"""Paired timings: ours and a peer's in turn, in one process, medians and ratios, answers checked before times."""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

REST_SECONDS = 0.3


@dataclass(frozen=True)
class Row:
    """One comparison; `ratio` is the median over pairs of peer seconds / our seconds (or what `unit` says)."""

    name: str
    ours_seconds: float
    peer: str
    peer_seconds: float
    ratio: float
    pairs: int
    answer: str
    unit: str = "s"


def paired(
    name: str, ours: Callable[[], Any], peer_name: str, peer: Callable[[], Any], *, answer: str, pairs: int = 5,
    scale: float = 1.0, warm: bool = True,
) -> Row:  # fmt: skip
    """Time both in turn after one warm-up each, either after a rest: a BLAS's threads look for more work for some 30 ms
    after a call, on cores that the other side needs.

    `scale` multiplies the peer's time, where it does one part in so many of the work. Without `warm`, the check of the
    answers has run both already.
    """
    return compared(name, ours, {peer_name: peer}, answer=answer, pairs=pairs, scale=scale, warm=warm)[0]


def compared(
    name: str, ours: Callable[[], Any], peers: Mapping[str, Callable[[], Any]], *, answer: str, pairs: int = 5,
    scale: float = 1.0, warm: bool = True,
) -> list[Row]:  # fmt: skip
    """A row for each peer, all of them timed in turn with ours; see `paired`."""
    if warm:
        for call in (ours, *peers.values()):
            call()
    times = [(_rested(ours), *(scale * _rested(peer) for peer in peers.values())) for _ in range(pairs)]
    return [
        Row(
            name=name,
            ours_seconds=statistics.median(each[0] for each in times),
            peer=peer,
            peer_seconds=statistics.median(each[i] for each in times),
            ratio=statistics.median(each[i] / each[0] for each in times),
            pairs=pairs,
            answer=answer,
        )
        for i, peer in enumerate(peers, start=1)
    ]


def _rested(call: Callable[[], Any]) -> float:
    time.sleep(REST_SECONDS)
    return seconds(call)


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def private_bytes() -> int:
    """Bytes of private memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status does not say RssAnon")


def arguments(description: str, *, peers: bool = False) -> argparse.Namespace:
    """``--size tiny|full``, ``--json PATH``, ``--device cpu|cuda``, ``--only TEXT``; `peers`: ``--peers-python``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", choices=("tiny", "full"), default="full")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", default="", help="run the rows whose name contains this text")
    if peers:
        parser.add_argument(
            "--peers-python", type=Path, help="a Python that has the peers; without it they are skipped"
        )
    return parser.parse_args()


def environment(device: str) -> dict[str, Any]:
    """What the numbers were taken on."""
    versions = {}
    for name in ("numpy", "scipy", "scikit-learn", "torch", "h5py", "cupy-cuda13x", "cupy-cuda12x"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count(),
        "device": device_name(device),
        "versions": versions,
    }  # fmt: skip


def device_name(device: str) -> str:
    """The name of the GPU, or ``cpu``."""
    if device == "cpu":
        return "cpu"
    import cupy

    return str(cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())["name"].decode())


def report(
    benchmark: str, rows: list[Row], args: argparse.Namespace, *, skipped: Mapping[str, str] | None = None
) -> None:
    """Print a table, and write JSON where asked. `skipped` are rows that did not run, each with the reason: they have
    no number."""
    for name, reason in (skipped or {}).items():
        print(f"{benchmark:10} {name:42} skipped: {reason}")
    for row in rows:
        sides = (f"{label} {value:9.4f} {row.unit}" for label, value in (
            ("ours", row.ours_seconds), (f"{row.peer:34}", row.peer_seconds)
        ))  # fmt: skip
        print(f"{benchmark:10} {row.name:42} {'  '.join(sides)}  ratio {row.ratio:7.2f}  ({row.answer})")
    if args.json is not None:
        content = {
            "benchmark": benchmark, "size": args.size, "environment": environment(args.device),
            "rows": [asdict(row) for row in rows], "skipped": dict(skipped or {}),
        }  # fmt: skip
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(content, indent=1) + "\n")
