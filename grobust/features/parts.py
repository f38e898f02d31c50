"""Crash-safe writing: rows go into part files, and a finished store appears all at once.

``NAME.h5.parts/`` holds ``plan.json``, ``part-*.safetensors`` and ``skip-*.json``. Every file is written under a
temporary name, flushed to disk and renamed, so a killed process loses at most the part in flight. A part knows its
rows, so parts may come from several processes or machines; it is named by them too, so two attempts at the same rows
are one file, and the process that leads knows each file by name. When every row is there, the files that it knows of
are assembled under a temporary name, and the store is renamed into place.
"""

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import xxhash
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from grobust.errors import DataError, ShapeError, StoreError, StoreIncompleteError, StoreLockedError, StoreMismatchError
from grobust.features._assembly import Part, assemble, in_order, part_content
from grobust.features._hdf5 import write_store
from grobust.features._sample_ids import SampleIds
from grobust.features._schema import FORMAT_VERSION, Provenance
from grobust.features.store import mismatch_message, parts_folder
from grobust.features.widen import all_finite
from grobust.groups import Groups
from grobust.typing import PathLike

__all__ = ["PartsWriter", "StorePlan"]

TEMPORARY = ".tmp"


@dataclass(frozen=True, eq=False)
class StorePlan:
    """Everything that is known before the network runs.

    Parameters
    ----------
    provenance : of the features to come
    groups : labels and attributes of all n rows
    split : (n) int8
    sample_ids : n distinct names; kept packed
    dim : d
    """

    provenance: Provenance
    groups: Groups
    split: NDArray[Any]
    sample_ids: Sequence[str]
    dim: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "sample_ids", SampleIds.of(self.sample_ids))
        n = len(self.groups)
        if self.split.shape != (n,) or len(self.sample_ids) != n or self.dim < 1:
            raise ShapeError(
                f"A plan of {n} rows has {len(self.sample_ids)} sample ids, split {self.split.shape}, dim {self.dim}."
            )
        if (name := self.packed_ids.repeated()) is not None:
            raise ShapeError(f"sample_ids repeat ({name!r} does); every row needs a name of its own.")

    @property
    def packed_ids(self) -> SampleIds:
        """The sample ids as a store keeps them."""
        return SampleIds.of(self.sample_ids)

    def identity(self) -> dict[str, str]:
        """What must agree for parts to belong together; library versions count, a store of two would be a mixture."""
        rows = xxhash.xxh3_128(self.groups.ids.tobytes())
        rows.update(self.split.astype(np.int8).tobytes())
        rows.update("\0".join((*self.groups.names, "")).encode())
        for names in self.packed_ids.joined():
            rows.update(names)
        versions = {f"versions.{k}": v for k, v in sorted(self.provenance.versions.items())}
        return self.provenance.identity() | versions | {
            "rows": rows.hexdigest(), "dim": str(self.dim), "format_version": str(FORMAT_VERSION),
        }  # fmt: skip


class PartsWriter:
    """Writes the parts of one store and assembles them. A context manager; it holds the folder's lock.

    Parameters
    ----------
    path : the store to be
    plan : what is known beforehand
    resume : keep the parts of an earlier run; False starts over
    overwrite : allow a finished store at `path`, which stays until the new one replaces it
    lead : False for a process that writes parts for another one, which holds the lock, knows what is done, and finishes

    Raises
    ------
    StoreLockedError
        If another process is writing this store.
    StoreMismatchError
        If the folder holds parts of another plan; the message shows the difference.
    StoreError
        If a finished store is in the way, the disk refuses, or there is nobody to write parts for.
    """

    def __init__(
        self, path: PathLike, plan: StorePlan, *, resume: bool = True, overwrite: bool = False, lead: bool = True
    ) -> None:
        self.path, self.plan, self.folder = Path(path), plan, parts_folder(path)
        self.done: NDArray[Any] = np.zeros(len(plan.groups), dtype=bool)
        self.notes: list[str] = []
        self._skipped: dict[int, str] = {}
        self._whole: set[str] = set()
        self._digest = xxhash.xxh3_128_hexdigest(json.dumps(plan.identity(), sort_keys=True).encode())
        self._lock = FileLock(self.folder / ".lock")
        if not lead:
            self._join()
            return
        with _disk_errors(self.path):
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise StoreLockedError(
                f"Another process is writing {self.path} (it holds {self.folder / '.lock'}).\n"
                "Wait for it, or choose another --out."
            ) from None
        try:
            self._open(resume, overwrite)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    @property
    def pending(self) -> NDArray[Any]:
        """(m) row numbers that are neither written nor skipped."""
        return np.flatnonzero(~self.done)

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """(sample id, reason) of the rows that are left out."""
        return tuple((self.plan.sample_ids[row], reason) for row, reason in self._skipped.items())

    def write(self, rows: NDArray[Any], features: NDArray[Any]) -> None:
        """Make rows durable as one part.

        Parameters
        ----------
        rows : (b) distinct row numbers that are still pending
        features : (b, d), converted to the stored dtype

        Raises
        ------
        DataError
            If a value is not finite or overflows the stored dtype; the sample is named.
        """
        rows = np.ascontiguousarray(rows, dtype=np.int64)
        if features.shape != (rows.size, self.plan.dim) or rows.size == 0:
            raise ShapeError(
                f"{rows.size} rows with features {features.shape}; expected ({rows.size}, {self.plan.dim})."
            )
        # Ascending rows of a part go to the store in stretches, whatever their order was.
        order = np.argsort(rows, kind="stable")
        rows, features = rows[order], features if (order[1:] > order[:-1]).all() else features[order]
        if self.done[rows].any() or (rows[1:] == rows[:-1]).any():
            raise ShapeError("A row is written twice.")
        stored = _check_values(features, np.dtype(self.plan.provenance.dtype), self.plan.packed_ids.take(rows))
        content = part_content(rows, stored, {"plan": self._digest, "checksum": _checksum(rows, stored)})
        name = _part_name(rows)
        self._durable(name, *content)
        self._whole.add(name)
        self.done[rows] = True

    def skip(self, row: int, reason: str) -> None:
        """Record that a row has no features and why; it is left out of the finished store and listed in it."""
        self._durable(f"skip-{row:012d}.json", json.dumps({"row": row, "reason": reason}).encode())
        self._skipped[row] = reason
        self.done[row] = True

    def written_elsewhere(self, rows: NDArray[Any]) -> None:
        """Count rows as done that another process has made durable, all in one part."""
        if rows.size:
            self._whole.add(_part_name(np.sort(rows)))
            self.done[rows] = True

    def finish(self) -> Path:
        """Assemble the parts into the store, flush it, rename it into place, and remove the parts.

        Raises
        ------
        StoreIncompleteError
            If rows are still pending, or a part is gone.
        """
        if self.pending.size:
            raise StoreIncompleteError(
                f"{self.path} is not finished: {self.pending.size} of {self.done.size} rows are missing."
            )
        # Not whatever lies there: a worker taken for dead may have read other rows of a part than its successor.
        files = [self.folder / name for name in sorted(self._whole)]
        if gone := [file.name for file in files if not file.is_file()]:
            raise StoreIncompleteError(
                f"{self.path} cannot be assembled: {gone[0]} ({len(gone)} of {len(files)} parts) is not in "
                f"{self.folder} any more. The same command extracts its rows again."
            )
        kept = np.ones(self.done.size, dtype=bool)
        kept[list(self._skipped)] = False
        rows = np.flatnonzero(kept)
        parts = [Part.of(file) for file in files]
        temporary = self.folder / f"assembled.h5{TEMPORARY}"

        with _disk_errors(self.path):
            write_store(
                temporary,
                provenance=self.plan.provenance,
                groups=self.plan.groups.take(rows),
                split=self.plan.split[rows],
                sample_ids=self.plan.packed_ids.take(rows),
                skipped=tuple((self.plan.sample_ids[row], self._skipped[row]) for row in sorted(self._skipped)),
                dim=self.plan.dim,
                fill=assemble(parts, rows),
                ordered=in_order(parts),
            )
            _flush(temporary)
            temporary.replace(self.path)
            _flush(self.path.parent)
        # The lock goes before the folder; whoever comes now finds the finished store.
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.path

    def _open(self, resume: bool, overwrite: bool) -> None:
        with _disk_errors(self.path):
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and not overwrite:
                raise StoreError(f"{self.path} exists already. Use another --out, or --overwrite.")
            for stray in self.folder.glob(f"*{TEMPORARY}"):
                stray.unlink()
            if not resume:
                for old in (*self._parts(), *self.folder.glob("skip-*.json"), self.folder / "plan.json"):
                    old.unlink(missing_ok=True)
            self._check_plan()
            # Inputs that failed may be mended by now: they are tried again.
            for skipped in self.folder.glob("skip-*.json"):
                skipped.unlink()
            for part in self._parts():
                self._adopt(part)

    def _join(self) -> None:
        """Check that the folder is there and is of the same plan, the same versions of libraries included."""
        if not (self.folder / "plan.json").is_file():
            raise StoreError(
                f"{self.folder} is not to be seen by a process that is to write parts into it. Give --out a folder "
                "that all machines see under the same path."
            )
        self._check_plan()

    def _check_plan(self) -> None:
        plan_file, identity = self.folder / "plan.json", self.plan.identity()
        if not plan_file.exists():
            self._durable("plan.json", json.dumps(identity, sort_keys=True, indent=1).encode())
            return
        try:
            there = {str(k): str(v) for k, v in json.loads(plan_file.read_text()).items()}
        except (ValueError, AttributeError):
            raise StoreError(f"{plan_file} is damaged. Remove {self.folder}, or run with --no-resume.") from None
        if there != identity:
            keys = sorted(k for k in there.keys() | identity.keys() if there.get(k) != identity.get(k))
            difference = {k: (there.get(k, "(not set)"), identity.get(k, "(not set)")) for k in keys}
            message = mismatch_message(f"the parts in {self.folder}", difference)
            raise StoreMismatchError(f"{message}\nTo drop those parts and start over: --no-resume.")

    def _adopt(self, part: Path) -> None:
        """Count a part's rows as done if it is whole and of this plan; remove it otherwise."""
        try:
            with safe_open(part, framework="numpy") as file:
                metadata = file.metadata() or {}
            rows, features = _load(part)
        except (SafetensorError, OSError, KeyError, ValueError):
            rows, features, metadata = np.zeros(0, np.int64), np.zeros((0, 0)), {}
        usable = (
            rows.size > 0
            and metadata.get("plan") == self._digest
            and metadata.get("checksum") == _checksum(rows, features)
            and features.shape == (rows.size, self.plan.dim)
            and not self.done[rows].any()
        )
        if usable:
            self.done[rows] = True
            self._whole.add(part.name)
        else:
            part.unlink()
            self.notes.append(f"{part.name} was damaged or not of this run: removed, its rows are extracted again")

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.safetensors"))

    def _durable(self, name: str, *content: Any) -> None:
        # A name of its own: a worker that is taken for dead may still be writing the same part.
        final, temporary = self.folder / name, self.folder / f"{name}.{secrets.token_hex(4)}{TEMPORARY}"
        with _disk_errors(self.path):
            try:
                with temporary.open("wb") as file:
                    file.writelines(content)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(final)
                _flush(self.folder)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise


def _part_name(rows: NDArray[Any]) -> str:
    """Of ascending rows: the same name, the same rows."""
    return f"part-{rows[0]:012d}-{xxhash.xxh3_64_hexdigest(rows.astype('<i8', copy=False).tobytes())}.safetensors"


def _checksum(rows: NDArray[Any], features: NDArray[Any]) -> str:
    state = xxhash.xxh3_64(rows.tobytes())
    state.update(np.ascontiguousarray(features).data)
    return str(state.hexdigest())


def _load(part: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    with safe_open(part, framework="numpy") as file:
        return file.get_tensor("rows"), file.get_tensor("features")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Say in words what a disk's refusal means."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "the disk is full" if full else (error.strerror or str(error))
        raise StoreError(
            f"Cannot write {path}: {what}. The parts written so far are kept in {parts_folder(path)}.\n"
            + ("Free some space and run" if full else "Mend this and run")
            + " the same command again; it continues."
        ) from error


def _check_values(features: NDArray[Any], dtype: np.dtype[Any], names: Sequence[str]) -> NDArray[Any]:
    """Features converted to the stored dtype; a value that is not finite, or overflows, is an error naming its row.

    Raises
    ------
    DataError
        Naming the sample.
    """
    with np.errstate(over="ignore"):
        stored = features.astype(dtype, copy=False)
    if all_finite(stored):
        return stored
    bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
    row = int(bad[0])
    values = features[row]
    if np.isfinite(values).all():
        largest = float(np.abs(values).max())
        raise DataError(
            f"A feature of '{names[row]}' is {largest:g}, beyond what {dtype} holds (65504).\n"
            "Store float32 (--dtype float32)."
        )
    raise DataError(f"The backbone gave a feature of '{names[row]}' that is not finite (NaN or infinity).")
