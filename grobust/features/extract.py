"""`extract_features`: run a backbone over a data set once and store what it gives.

Rows are sorted by length and cut into batches, and batches into parts, by a rule that depends on the plan alone. A run
that was killed and resumed therefore forms the very same batches, and its store equals that of a run left in peace.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from grobust.data.dataset import GroupedDataset
from grobust.errors import BackboneError, ConfigError, DataError
from grobust.features._batches import Batch, load_batches
from grobust.features._schema import Provenance
from grobust.features.parts import PartsWriter, StorePlan
from grobust.features.store import FeatureStore
from grobust.interrupts import interrupts
from grobust.models.backbone import Backbone
from grobust.settings import Precision
from grobust.typing import PathLike

__all__ = ["ExtractResult", "ExtractSettings", "OnError", "Precision", "Progress", "extract_features", "provenance_of"]

MAX_BATCHES_PER_PART = 64


class OnError(StrEnum):
    """What happens when an input cannot be read."""

    STOP = "stop"
    SKIP = "skip"


@dataclass(frozen=True)
class ExtractSettings:
    """How features are computed and stored.

    Parameters
    ----------
    batch_size : rows per forward pass; halved when memory runs out
    precision : arithmetic of the forward pass
    dtype : of the stored features, ``float32`` or ``float16``
    workers : loader processes; 0 decodes in a thread beside the network, which is best for two cores
    on_error : stop at inputs that cannot be read, or skip and list them
    part_rows : rows per part file, what a killed run can lose; None for about 64 batches or 20 parts a run
    """

    batch_size: int = 64
    precision: Precision = Precision.FLOAT32
    dtype: str = "float32"
    workers: int = 0
    on_error: OnError = OnError.STOP
    part_rows: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if self.part_rows is not None and self.part_rows < 1:
            raise ConfigError(f"part_rows must be at least 1, got {self.part_rows}.")
        if self.dtype not in ("float32", "float16"):
            raise ConfigError(f"dtype must be float32 or float16, got {self.dtype!r}.")


@dataclass(frozen=True)
class Progress:
    """Rows done of rows in all, and the rate of this run in rows per second."""

    done: int
    total: int
    rate: float


@dataclass(frozen=True)
class ExtractResult:
    """What an extraction did.

    Parameters
    ----------
    path : the finished store
    n : rows in it
    n_extracted, n_resumed : rows computed now, and taken over from an earlier run
    skipped : (sample id, reason) of inputs left out
    seconds, rows_per_second : of this run
    reused : a finished store with the same provenance was there already
    notes : batch size backed off, damaged parts redone
    """

    path: Path
    n: int
    n_extracted: int
    n_resumed: int
    skipped: tuple[tuple[str, str], ...]
    seconds: float
    rows_per_second: float
    reused: bool
    notes: tuple[str, ...]


def provenance_of(dataset: GroupedDataset, backbone: Backbone, settings: ExtractSettings) -> Provenance:
    """All that decides the features, known before the network runs."""
    return Provenance(
        backbone=backbone.spec,
        weights_digest=backbone.digest,
        preprocessing=backbone.preprocessing,
        pooling=str(backbone.pooling),
        precision=str(settings.precision),
        dtype=settings.dtype,
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        # Padding and the shape of a product change the last bits of a feature.
        options=backbone.options | {"batch_size": str(settings.batch_size)},
        versions=dict(backbone.versions),
    )


def extract_features(
    dataset: GroupedDataset,
    backbone: Backbone,
    path: PathLike,
    *,
    settings: ExtractSettings | None = None,
    resume: bool = True,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> ExtractResult:
    """Compute the features of every row and store them.

    A finished store with the same provenance is returned as it is. An interrupted run continues from its parts.

    Parameters
    ----------
    dataset : items of the backbone's kind
    backbone : on the device to use
    path : store to write
    settings : see `ExtractSettings`
    resume : take over the parts of an interrupted run
    overwrite : replace a finished store; it stays until the new one is complete
    on_progress : called after every batch

    Raises
    ------
    DataError
        If inputs cannot be read (all of the batch are named), or a feature is not finite or overflows.
    BackboneError
        If the backbone is for another kind of item, or memory does not suffice for a single row.
    StoreMismatchError, StoreLockedError, StoreError
        See `grobust.features.parts.PartsWriter`.
    """
    settings = settings or ExtractSettings()
    target, started = Path(path), time.perf_counter()
    if dataset.kind != backbone.kind:
        raise BackboneError(f"{backbone.spec} takes {backbone.kind}s; {dataset.name} holds {dataset.kind}s.")
    provenance = provenance_of(dataset, backbone, settings)
    if target.is_file() and not overwrite:
        with FeatureStore(target, expect=provenance) as store:
            return ExtractResult(target, store.n, 0, 0, store.skipped, time.perf_counter() - started, 0.0, True, ())
    plan = StorePlan(provenance, dataset.groups, dataset.split, dataset.sample_ids, backbone.dim)
    with PartsWriter(target, plan, resume=resume, overwrite=overwrite) as writer:
        resumed = int(writer.done.sum())
        with interrupts() as interrupted:
            run = _Run(dataset, backbone, settings, writer, started, on_progress, interrupted)
            run.all_parts()
        writer.finish()
        seconds = time.perf_counter() - started
        n_done = int(writer.done.sum()) - resumed - len(run.skipped)
    return ExtractResult(
        path=target,
        n=len(dataset) - len(run.skipped),
        n_extracted=n_done,
        n_resumed=resumed,
        skipped=tuple(run.skipped),
        seconds=seconds,
        rows_per_second=n_done / seconds,
        reused=False,
        notes=(*writer.notes, *run.notes),
    )


class _Run:
    """One pass over the pending parts."""

    def __init__(
        self,
        dataset: GroupedDataset,
        backbone: Backbone,
        settings: ExtractSettings,
        writer: PartsWriter,
        started: float,
        on_progress: Callable[[Progress], None] | None,
        interrupted: threading.Event,
    ) -> None:
        self.interrupted = interrupted
        self.dataset, self.backbone, self.settings, self.writer = dataset, backbone, settings, writer
        self.on_progress, self.started = on_progress, started
        self.skipped: list[tuple[str, str]] = []
        self.notes: list[str] = []
        self.device = next(iter(backbone.network.parameters())).device
        self.largest = settings.batch_size
        self.first = int(writer.done.sum())

    def all_parts(self) -> None:
        """Load, encode and write what is pending, part by part."""
        parts = [self._pending(part) for part in planned_parts(self.dataset, self.settings)]
        parts = [part for part in parts if part]
        batches = [batch for part in parts for batch in part]
        loaded = load_batches(self.dataset, self.backbone.collate, batches, workers=self.settings.workers)
        done = self.first
        for part in parts:
            rows: list[NDArray[Any]] = []
            features: list[NDArray[Any]] = []
            for _ in part:
                if self.interrupted.is_set():
                    raise KeyboardInterrupt
                batch = next(loaded)
                self._report_failures(batch)
                if batch.rows.size:
                    rows.append(batch.rows)
                    features.append(self._encode(batch))
                done += batch.rows.size + len(batch.failures)
                self._progress(done)
            if rows:
                self.writer.write(np.concatenate(rows), np.concatenate(features))

    def _pending(self, part: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """Batches of a part without the rows that are done; a part is done whole, but for inputs skipped before."""
        batches = [batch[~self.writer.done[batch]] for batch in part]
        return [batch for batch in batches if batch.size]

    def _report_failures(self, batch: Batch) -> None:
        if batch.failures and self.settings.on_error is OnError.STOP:
            listed = "\n".join(f"  {self.dataset.sample_ids[row]}: {reason}" for row, reason in batch.failures)
            raise DataError(
                f"{len(batch.failures)} input(s) of {self.dataset.name} cannot be read:\n{listed}\n"
                "Mend them and run again (what is done is kept), or leave them out with --on-error skip."
            )
        for row, reason in batch.failures:
            self.writer.skip(row, reason)
            self.skipped.append((self.dataset.sample_ids[row], reason))

    def _encode(self, batch: Batch) -> NDArray[Any]:
        """Features (b, d) float32; the batch is cut smaller when memory runs out."""
        size, n = self.largest, batch.rows.size
        while True:
            try:
                pieces = [self._forward(batch.tensors, start, min(start + size, n)) for start in range(0, n, size)]
                return np.concatenate(pieces)
            except (torch.OutOfMemoryError, MemoryError) as error:
                if size <= 1:
                    raise BackboneError(
                        f"{self.backbone.spec} runs out of memory on a single row ({self.device}). "
                        "Use a smaller input or another device."
                    ) from error
            size = max(1, min(size, n) // 2)
            self.largest = size
            self.notes.append(f"out of memory: batch size reduced to {size}")
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _forward(self, tensors: dict[str, Any], start: int, stop: int) -> NDArray[Any]:
        batch = {}
        for name, tensor in tensors.items():
            piece = tensor[start:stop].to(self.device, non_blocking=True)
            batch[name] = piece.contiguous(memory_format=torch.channels_last) if piece.ndim == 4 else piece
        precision = self.settings.precision
        autocast = torch.autocast(
            self.device.type,
            dtype=torch.bfloat16 if precision is Precision.BFLOAT16 else torch.float16,
            enabled=precision is not Precision.FLOAT32,
        )
        with autocast:
            features = self.backbone.encode(batch)
        array: NDArray[Any] = features.float().cpu().numpy()
        return array

    def _progress(self, done: int) -> None:
        if self.on_progress is not None:
            seconds = max(time.perf_counter() - self.started, 1e-9)
            self.on_progress(Progress(done, len(self.dataset), (done - self.first) / seconds))


def planned_parts(dataset: GroupedDataset, settings: ExtractSettings) -> Iterator[list[NDArray[Any]]]:
    """Row numbers of each batch of each part: a function of data set and settings alone.

    Rows are sorted by length, longest first: batches hold alike rows, and memory runs out at once or not at all.
    """
    lengths = dataset.lengths()
    order = np.arange(len(dataset)) if lengths is None else np.argsort(-lengths, kind="stable")
    size = settings.batch_size
    batches = [order[start : start + size] for start in range(0, order.size, size)]
    per_part = min(MAX_BATCHES_PER_PART, max(1, len(batches) // 20))
    if settings.part_rows is not None:
        per_part = max(1, settings.part_rows // size)
    for start in range(0, len(batches), per_part):
        yield batches[start : start + per_part]
