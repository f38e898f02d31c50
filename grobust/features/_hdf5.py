"""The HDF5 file of a store: laid out, written and checked here, and h5py used nowhere else; see `FORMAT.md`."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from grobust.errors import StoreCorruptError, StoreError, StoreIncompleteError
from grobust.features._sample_ids import SampleIds
from grobust.features._schema import FORMAT_TYPE, FORMAT_VERSION, Provenance
from grobust.groups import Groups

__all__ = ["Metadata", "read_header", "read_metadata", "write_store"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
DATASET_TYPE = "grobust-dataset"
BLOCK_BYTES = 4 << 20
# Rows are put in order in memory by this much where they come from all over the parts, and by less where they come one
# part after the other; larger stores are written window after window.
WINDOW_BYTES = 256 << 20
ORDERED_WINDOW_BYTES = 16 << 20
FEATURE_DTYPES = ("float16", "float32")
METADATA = ("labels", "attributes", "split", "sample_ids", "skipped_ids", "skipped_reasons", "checksums")

# Metadata below this are read at once.
MAPPED_BYTES = 1 << 20

RowFiller = Callable[[int, int, NDArray[Any]], None]


@dataclass(frozen=True, eq=False)
class Metadata:
    """Everything in a store but the features, and where those begin."""

    provenance: Provenance
    n: int
    dim: int
    dtype: np.dtype[Any]
    groups: Groups
    split: NDArray[Any]
    sample_ids: SampleIds
    skipped: tuple[tuple[str, str], ...]
    block_rows: int
    checksums: NDArray[Any]
    offset: int


def write_store(
    path: Path,
    *,
    provenance: Provenance,
    groups: Groups,
    split: NDArray[Any],
    sample_ids: SampleIds,
    skipped: tuple[tuple[str, str], ...],
    dim: int,
    fill: RowFiller,
    ordered: bool = False,
) -> None:
    """Write a store to `path` (a temporary name: the caller flushes and renames).

    ``fill(start, stop, out)`` sets all rows of `out` to the features of the rows from `start` to `stop`; windows follow
    each other from the first row to the last, so that a store larger than memory is written front to back, once.
    Space is reserved before, so that a full disk is found before the work. `ordered`: that small windows do.
    """
    n, dtype = len(groups), np.dtype(provenance.dtype)
    block_rows = max(1, BLOCK_BYTES // (dim * dtype.itemsize))
    # The 1.10 file format carries checksums for HDF5's own structures; older ones do not.
    with h5py.File(path, "w", libver=("v110", "v110"), track_order=False) as file:
        features = _contiguous(file, "features", (n, dim), dtype)
        file.flush()
        offset = features.id.get_offset()
    checksums = [] if n == 0 else _write_features(path, offset, (n, dim), dtype, block_rows, fill, ordered)
    datasets: dict[str, NDArray[Any]] = {
        "labels": groups.labels.astype(np.int64),
        "attributes": groups.attributes.astype(np.int64),
        "split": split.astype(np.int8),
        "sample_ids": sample_ids.packed,
        "skipped_ids": SampleIds.of(name for name, _ in skipped).packed,
        "skipped_reasons": SampleIds.of(reason.replace("\0", "") for _, reason in skipped).packed,
        "checksums": np.array(checksums, dtype=np.uint64),
    }
    header = json.dumps(
        {
            "n": n,
            "dim": dim,
            "dtype": str(dtype),
            "block_rows": block_rows,
            "class_names": groups.class_names,
            "attribute_names": groups.attribute_names,
            "provenance": asdict(provenance),
        },
        sort_keys=True,
    )
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        for name, values in datasets.items():
            dataset = _contiguous(file, name, values.shape, values.dtype)
            if values.size:
                dataset[...] = values
        file["header"] = np.frombuffer(header.encode(), dtype=np.uint8)
        file["header"].attrs.update({"encoding-type": DATASET_TYPE, "encoding-version": FORMAT_VERSION})
        file.attrs["encoding-type"] = FORMAT_TYPE
        file.attrs["encoding-version"] = FORMAT_VERSION
        file.attrs["digest"] = _digest(header.encode(), datasets)


def _contiguous(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> h5py.Dataset:
    """An empty contiguous dataset without time stamps, whose space is set aside but not filled with zeros."""
    create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    create.set_layout(h5py.h5d.CONTIGUOUS)
    create.set_obj_track_times(False)
    create.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    create.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    h5py.h5d.create(
        file.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), h5py.h5s.create_simple(shape), create
    )
    dataset = file[name]
    dataset.attrs.update({"encoding-type": DATASET_TYPE, "encoding-version": FORMAT_VERSION})
    return dataset


def _write_features(
    path: Path,
    offset: int,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    block_rows: int,
    fill: RowFiller,
    ordered: bool,
) -> list[int]:
    """Write windows of rows one after the other; the checksums of all blocks."""
    n, dim = shape
    window_bytes = ORDERED_WINDOW_BYTES if ordered else WINDOW_BYTES
    window_rows = block_rows * max(1, window_bytes // (block_rows * dim * dtype.itemsize))
    window = np.empty((min(window_rows, n), dim), dtype)
    checksums = []
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, offset + n * dim * dtype.itemsize)
        file.seek(offset)
        for start in range(0, n, window_rows):
            rows = window[: min(window_rows, n - start)]
            fill(start, start + len(rows), rows)
            file.write(rows.data)
            checksums += [
                xxhash.xxh3_64_intdigest(rows[i : i + block_rows].data) for i in range(0, len(rows), block_rows)
            ]
    return checksums


def _digest(header: bytes, datasets: dict[str, NDArray[Any]]) -> str:
    state = xxhash.xxh3_128(header)
    for name in METADATA:
        values = datasets[name]
        state.update(f"{name} {values.dtype} {values.shape}".encode())
        if values.size:
            state.update(np.ascontiguousarray(values).view(np.uint8).data)
    return str(state.hexdigest())


def read_header(path: Path) -> dict[str, Any] | None:
    """The header of a store: n, dim, dtype and provenance, read alone and unchecked; None for any file that does not
    say that it is a feature store.

    Raises
    ------
    StoreIncompleteError
        If it is an HDF5 file that cannot be opened, so that what it is cannot be known.
    StoreCorruptError, StoreError
        If it is a store whose header cannot be read, or of an unknown version.
    """
    with path.open("rb") as raw:
        if raw.read(len(SIGNATURE)) != SIGNATURE:
            return None
    ours = False
    try:
        with h5py.File(path, "r") as file:
            ours = file.attrs.get("encoding-type") == FORMAT_TYPE
            if not ours:
                return None
            _check_version(path, file)
            fields: dict[str, Any] = json.loads(_dataset(path, file, "header")[...].tobytes())
            Provenance(**fields["provenance"])
            return {name: fields[name] for name in ("n", "dim", "dtype", "provenance")}
    except StoreError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        kind = StoreCorruptError if ours else StoreIncompleteError
        raise kind(f"{path} cannot be opened: {str(error).strip()}") from None


def read_metadata(path: Path) -> Metadata:
    """Read and check everything but the features.

    Raises
    ------
    StoreError
        Its subclasses name what is wrong: cut short, damaged, of an unknown version, leading out of the file.
    """
    try:
        with h5py.File(path, "r") as file:
            return _read_open(path, file)
    except (OSError, RuntimeError, KeyError, TypeError, UnicodeDecodeError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreCorruptError(
            f"{path} cannot be read as a feature store: it was cut short, damaged, or is something else.\n"
            f"HDF5 says: {str(error).strip()}\nExtract again, or restore the file."
        ) from None


def _read_open(path: Path, file: h5py.File) -> Metadata:
    kind = file.attrs.get("encoding-type")
    if kind != FORMAT_TYPE:
        raise StoreError(
            f"{path} is an HDF5 file but not a feature store: encoding-type is {kind!r}, expected {FORMAT_TYPE!r}."
        )
    _check_version(path, file)
    datasets = {name: _dataset(path, file, name) for name in (*METADATA, "header", "features")}
    header = datasets["header"][...].tobytes()
    small = {name: _values(path, datasets[name]) for name in METADATA}
    if _digest(header, small) != file.attrs.get("digest"):
        damaged = ", ".join(f"'{name}'" for name in ("header", *METADATA))
        raise StoreCorruptError(f"{path} is damaged: its metadata ({damaged}) differ from their digest. Extract again.")
    fields = json.loads(header)
    offset = _check_features(path, datasets["features"], fields)
    n = fields["n"]
    for name in ("labels", "attributes", "split", "sample_ids"):
        if small[name].shape != (n,):
            raise StoreCorruptError(f"{path}: dataset '{name}' has shape {small[name].shape}, expected ({n},).")
    blocks = -(-n // fields["block_rows"])
    if small["checksums"].shape != (blocks,):
        raise StoreCorruptError(
            f"{path}: dataset 'checksums' has shape {small['checksums'].shape}, expected ({blocks},)."
        )
    groups = Groups.from_arrays(
        small["labels"],
        small["attributes"],
        class_names=fields["class_names"],
        attribute_names=fields["attribute_names"],
    )
    return Metadata(
        provenance=Provenance(**fields["provenance"]),
        n=n,
        dim=fields["dim"],
        dtype=np.dtype(fields["dtype"]),
        groups=groups,
        split=small["split"],
        sample_ids=SampleIds(small["sample_ids"]),
        skipped=tuple(zip(SampleIds(small["skipped_ids"]), SampleIds(small["skipped_reasons"]), strict=True)),
        block_rows=fields["block_rows"],
        checksums=small["checksums"],
        offset=offset,
    )


def _check_version(path: Path, file: h5py.File) -> None:
    version = file.attrs.get("encoding-version")
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{path} has format version {version}; this grobust reads version {FORMAT_VERSION}. "
            "Read it with the version of grobust that wrote it, or extract again."
        )


def _values(path: Path, dataset: h5py.Dataset) -> NDArray[Any]:
    """Values of a dataset; those of large ones are mapped, so that what is not looked at takes no memory."""
    offset = dataset.id.get_offset()
    if offset is None or dataset.nbytes < MAPPED_BYTES or offset + dataset.nbytes > path.stat().st_size:
        values: NDArray[Any] = dataset[...]
        return values
    return np.memmap(path, dtype=dataset.dtype, mode="r", offset=offset, shape=dataset.shape)


def _dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset that lies in this file itself; a link or storage that leads elsewhere is refused, never followed."""
    link = file.get(name, getlink=True) if name in file.keys() else None  # noqa: SIM118 - `in file` follows links
    if link is None:
        raise StoreCorruptError(f"{path}: dataset '{name}' is missing.")
    if not isinstance(link, h5py.HardLink):
        raise StoreError(f"{path}: '{name}' is a {type(link).__name__}, which may lead out of the file; refused.")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise StoreCorruptError(f"{path}: '{name}' is a {type(dataset).__name__}, expected a dataset.")
    if dataset.is_virtual or dataset.external:
        raise StoreError(f"{path}: dataset '{name}' keeps its data in other files; refused.")
    if dataset.attrs.get("encoding-type") != DATASET_TYPE or dataset.attrs.get("encoding-version") != FORMAT_VERSION:
        raise StoreError(f"{path}: dataset '{name}' has an unknown encoding; expected {DATASET_TYPE} {FORMAT_VERSION}.")
    return dataset


def _check_features(path: Path, features: h5py.Dataset, fields: dict[str, Any]) -> int:
    shape, dtype = (fields["n"], fields["dim"]), fields["dtype"]
    if features.shape != shape or str(features.dtype) != dtype or dtype not in FEATURE_DTYPES:
        raise StoreCorruptError(
            f"{path}: dataset 'features' is {features.dtype} {features.shape}, the header says {dtype} {shape}."
        )
    if features.id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS:
        raise StoreCorruptError(f"{path}: dataset 'features' is not contiguous.")
    if shape[0] == 0:
        return 0
    offset, size = features.id.get_offset(), path.stat().st_size
    if offset is None or offset + features.nbytes > size:
        raise StoreIncompleteError(f"{path} was cut short: features need {features.nbytes} bytes, the file has {size}.")
    return int(offset)
