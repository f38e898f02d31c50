"""A store's write and read speed against the disk and against other formats; float16 to float32.

The same array in every format. Peers are at their best for this work: zarr without codec, safetensors and memmap
without a copy, Parquet without compression. `read again` is a sequential read of rows in the page cache, summed
up block by block as their bytes, after checksums were verified once; `first read` includes the verification. `shuffled
blocks` copies blocks of 4,096 rows in random order into one buffer. Writing ends with the data on disk (fsync); a store
is written as parts, each flushed, and then assembled, as `grobust extract` does it.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import Row, arguments, paired, report, seconds
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from grobust.features._sample_ids import SampleIds
from grobust.features._schema import Provenance
from grobust.features.parts import PartsWriter, StorePlan
from grobust.features.store import FeatureStore
from grobust.features.widen import to_float32
from grobust.groups import Groups

try:
    import zarr
except ImportError:
    zarr = None
try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    pa = None

BLOCK = 4096
PART = 65536
Reader = Callable[[slice], NDArray[Any]]


@dataclass(frozen=True)
class Format:
    """A way to keep an array: write it so that it is on disk, and open it for slices of rows; slow ones are timed in
    fewer pairs."""

    name: str
    write: Callable[[Path, NDArray[Any]], None]
    open: Callable[[Path], Reader]
    pairs: int = 5


def main() -> None:
    args = arguments(__doc__ or "")
    n, dim = (1_000_000, 768) if args.size == "full" else (9_000, 16)
    rows, skipped = [], {}
    if any(word in "float16 to float32" for word in args.only.split("|")):
        rows.append(_widening(100_000 if args.size == "full" else 1000, dim))
    peers = [DISK, MEMMAP, SAFETENSORS]
    for name, there, peer in (("zarr", zarr, ZARR), ("parquet", pa, PARQUET)):
        if there is None:
            skipped[name] = "not installed"
        else:
            peers.append(peer)
    for dtype in ("float16", "float32"):
        wanted = [peer for peer in peers if any(word in f"{dtype} {peer.name}" for word in args.only.split("|"))]
        if wanted:
            with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
                rows += _dtype(Path(folder), n, dim, dtype, wanted)
    report("store", rows, args, skipped=skipped)


def _widening(n: int, dim: int) -> Row:
    half = np.random.default_rng(0).standard_normal((n, dim), dtype=np.float32).astype(np.float16)
    np.testing.assert_array_equal(to_float32(half), half.astype(np.float32))
    return paired("float16 to float32", lambda: to_float32(half), "numpy astype", lambda: half.astype(np.float32),
                  answer="bit for bit")  # fmt: skip


def _dtype(folder: Path, n: int, dim: int, dtype: str, peers: list[Format]) -> list[Row]:
    data = _features(n, dim, dtype)
    path, plan = folder / "ours.h5", _plan(n, dim, dtype)
    rate = f"{dtype}, {data.nbytes / 2**30:.2f} GiB"
    # Twice, and the second time counts: pages that the system gives out for the first time cost more than the disk.
    ours = [seconds(lambda: _write_store(path, plan, data)) for _ in range(2)][1]
    rows = []
    for peer in peers:
        with _peer_file(folder, peer) as file:
            times = [seconds(lambda file=file, peer=peer: peer.write(file, data)) for _ in range(min(2, peer.pairs))]
            theirs = times[-1]
            rows.append(Row(f"write, {rate}", ours, f"{peer.name}, on disk", theirs, theirs / ours, 1, "same rows"))
            if peer is not DISK:
                rows += _reads(path, file, peer, data, rate, peer.pairs if n > 100_000 else 1)
    return rows


def _reads(path: Path, file: Path, peer: Format, data: NDArray[Any], rate: str, pairs: int) -> list[Row]:
    store, theirs = FeatureStore(path), peer.open(file)
    order = np.random.default_rng(1).permutation(-(-len(data) // BLOCK)) * BLOCK
    for start in order[:50].tolist():
        expected = data[start : start + BLOCK]
        np.testing.assert_array_equal(store.read(slice(start, start + BLOCK)), expected)
        np.testing.assert_array_equal(theirs(slice(start, start + BLOCK)), expected)
    store.verify()
    assert _sum(store.read, len(data)) == _sum(theirs, len(data))
    found = [
        paired(f"read again, {rate}", lambda: _sum(store.read, len(data)), peer.name, lambda: _sum(theirs, len(data)),
               answer="same sum of the bytes", pairs=pairs),
        paired(f"shuffled blocks, {rate}", lambda: _gather(store.read, order, data), peer.name,
               lambda: _gather(theirs, order, data), answer="same rows", pairs=pairs),
    ]  # fmt: skip
    if peer is MEMMAP:
        found.append(paired(
            f"first read, verified, {rate}", lambda: _sum(FeatureStore(path).read, len(data)),
            f"{peer.name}, unverified", lambda: _sum(peer.open(file), len(data)),
            answer="same sum of the bytes", pairs=pairs,
        ))  # fmt: skip
    return found


def _sum(read: Reader, n: int) -> int:
    return (
        sum(
            int(np.ascontiguousarray(read(slice(i, i + BLOCK))).view(np.uint64).sum(dtype=np.uint64))
            for i in range(0, n, BLOCK)
        )
        % 2**64
    )


def _gather(read: Reader, order: NDArray[Any], data: NDArray[Any]) -> None:
    buffer = np.empty((BLOCK, data.shape[1]), data.dtype)
    for start in order.tolist():
        rows = read(slice(start, start + BLOCK))
        buffer[: len(rows)] = rows


def _features(n: int, dim: int, dtype: str) -> NDArray[Any]:
    """Random rows, every 50,000 of them the first ones with their columns in another order: it is bytes that count."""
    block = np.random.default_rng(0).standard_normal((min(n, 50_000), dim), dtype=np.float32).astype(dtype)
    data = np.empty((n, dim), dtype)
    for i, start in enumerate(range(0, n, len(block))):
        rows = data[start : start + len(block)]
        rows[:] = np.roll(block, i, axis=1)[: len(rows)]
    return data


@contextmanager
def _peer_file(folder: Path, peer: Format) -> Iterator[Path]:
    path = folder / f"peer.{peer.name.split()[0]}"
    yield path
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _plan(n: int, dim: int, dtype: str) -> StorePlan:
    provenance = Provenance("b", "w", "p", "model", "float32", dtype, "d", "m")
    names = SampleIds(np.char.zfill(np.arange(n).astype("S8"), 8))
    return StorePlan(provenance, Groups.from_arrays(np.arange(n) % 2), np.zeros(n, np.int8), names, dim)


def _write_store(path: Path, plan: StorePlan, data: NDArray[Any]) -> None:
    n = len(data)
    with PartsWriter(path, plan, overwrite=True, resume=False) as writer:
        for start in range(0, n, PART):
            rows = np.arange(start, min(start + PART, n))
            writer.write(rows, data[start : start + rows.size])
        writer.finish()


def _flush(path: Path) -> None:
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _write_raw(path: Path, data: NDArray[Any]) -> None:
    with path.open("wb") as file:
        for start in range(0, len(data), BLOCK):
            file.write(data[start : start + BLOCK].data)
    _flush(path)


def _write_npy(path: Path, data: NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.save(file, data)
    _flush(path)


def _open_npy(path: Path) -> Reader:
    mapped = np.load(path, mmap_mode="r")
    return lambda rows: np.asarray(mapped[rows])


def _write_safetensors(path: Path, data: NDArray[Any]) -> None:
    save_file({"features": data}, path)
    _flush(path)


def _open_safetensors(path: Path) -> Reader:
    file = safe_open(path, framework="numpy")
    rows = file.get_slice("features")
    n = rows.get_shape()[0]
    return lambda key: rows[key.start : min(key.stop, n)]


def _write_zarr(path: Path, data: NDArray[Any]) -> None:
    if path.exists():
        shutil.rmtree(path)
    zarr.create_array(store=path, data=data, chunks=(BLOCK, data.shape[1]), compressors=None)
    _flush(path)


def _open_zarr(path: Path) -> Reader:
    array = zarr.open_array(path, mode="r")
    return lambda rows: np.asarray(array[rows])


def _write_parquet(path: Path, data: NDArray[Any]) -> None:
    values = pa.FixedSizeListArray.from_arrays(pa.array(data.reshape(-1)), data.shape[1])
    pq.write_table(pa.table({"features": values}), path, compression=None, use_dictionary=False, row_group_size=BLOCK)
    _flush(path)


def _open_parquet(path: Path) -> Reader:
    file = pq.ParquetFile(path, memory_map=True)

    def read(rows: slice) -> NDArray[Any]:
        column = file.read_row_group(rows.start // BLOCK)["features"].combine_chunks()
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)

    return read


DISK = Format("raw bytes", _write_raw, _open_npy)
MEMMAP = Format("npy memmap", _write_npy, _open_npy)
SAFETENSORS = Format("safetensors", _write_safetensors, _open_safetensors)
ZARR = Format("zarr v3, no codec", _write_zarr, _open_zarr, pairs=3)
PARQUET = Format("parquet, no codec", _write_parquet, _open_parquet, pairs=1)


if __name__ == "__main__":
    main()
