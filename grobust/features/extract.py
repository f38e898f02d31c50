"""`extract_features`: run a backbone over a data set once and store what it gives.

Rows are sorted by length and cut into batches, and batches into parts, by a rule that depends on the plan alone. A run
that was killed and resumed therefore forms the very same batches, and its store equals that of a run left in peace.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

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

__all__ = [
    "Crew",
    "ExtractResult",
    "ExtractSettings",
    "Job",
    "OnError",
    "Part",
    "PartsRun",
    "Precision",
    "Progress",
    "RowSink",
    "extract_features",
    "plan_of",
    "provenance_of",
]

# Row numbers of the batches of a part.
Part = list[NDArray[Any]]

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


class RowSink(Protocol):
    """Takes features, and reasons for their absence."""

    def write(self, rows: NDArray[Any], features: NDArray[Any]) -> None:
        """See `PartsWriter.write`."""

    def skip(self, row: int, reason: str) -> None:
        """See `PartsWriter.skip`."""


@dataclass(frozen=True, eq=False)
class Job:
    """What a crew is to do: write every pending part, or report why its rows are left out.

    Parameters
    ----------
    writer : whose folder takes the parts, and which is told of rows written elsewhere and rows skipped
    parts : with pending rows only; each row in one of them
    tell : called with the number of rows done, those of earlier runs included
    interrupted : set by Ctrl-C
    """

    dataset: GroupedDataset
    backbone: Backbone
    settings: ExtractSettings
    writer: PartsWriter
    parts: list[Part]
    tell: Callable[[int], None]
    interrupted: threading.Event


class Crew(Protocol):
    """Several processes or machines that extract together."""

    def extract(self, job: Job) -> tuple[str, ...]:
        """Do all parts, in any order and by anyone; returns notes. Raises what a single process would."""
        ...

    def close(self) -> None:
        """Let go of what was reserved for the work."""
        ...


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
    crew: Crew | None = None,
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
    crew : processes or machines that do the work (`grobust.features.parallel`), and then the backbone's own device is
        not used; None for this process

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
    if target.is_file() and not overwrite:
        with FeatureStore(target, expect=provenance_of(dataset, backbone, settings)) as store:
            return ExtractResult(target, store.n, 0, 0, store.skipped, time.perf_counter() - started, 0.0, True, ())

    def tell(done: int) -> None:
        if on_progress is not None:
            seconds = max(time.perf_counter() - started, 1e-9)
            on_progress(Progress(done, len(dataset), (done - resumed) / seconds))

    with PartsWriter(target, plan_of(dataset, backbone, settings), resume=resume, overwrite=overwrite) as writer:
        resumed = int(writer.done.sum())
        with interrupts() as interrupted:
            parts = pending_parts(dataset, settings, writer.done)
            job = Job(dataset, backbone, settings, writer, parts, tell, interrupted)
            notes = _alone(job, resumed) if crew is None else crew.extract(job)
        skipped = writer.skipped
        writer.finish()
        seconds = time.perf_counter() - started
        n_done = int(writer.done.sum()) - resumed - len(skipped)
    return ExtractResult(
        path=target,
        n=len(dataset) - len(skipped),
        n_extracted=n_done,
        n_resumed=resumed,
        skipped=skipped,
        seconds=seconds,
        rows_per_second=n_done / seconds,
        reused=False,
        notes=(*writer.notes, *notes),
    )


def plan_of(dataset: GroupedDataset, backbone: Backbone, settings: ExtractSettings) -> StorePlan:
    """The store that these give, whoever computes it."""
    provenance = provenance_of(dataset, backbone, settings)
    return StorePlan(provenance, dataset.groups, dataset.split, dataset.sample_ids, backbone.dim)


def _alone(job: Job, done: int) -> tuple[str, ...]:
    run = PartsRun(job.dataset, job.backbone, job.settings, job.writer, job.interrupted)
    for rows in run.batches(job.parts):
        done += rows
        job.tell(done)
    return tuple(run.notes)


class PartsRun:
    """A network at work on parts, in one process.

    Parameters
    ----------
    sink : takes each part when it is whole
    interrupted : ends the work between two batches, with `KeyboardInterrupt`
    """

    def __init__(
        self,
        dataset: GroupedDataset,
        backbone: Backbone,
        settings: ExtractSettings,
        sink: RowSink,
        interrupted: threading.Event,
    ) -> None:
        self.interrupted = interrupted
        self.dataset, self.backbone, self.settings, self.sink = dataset, backbone, settings, sink
        self.notes: list[str] = []
        self.device = next(iter(backbone.network.parameters())).device
        self.largest = settings.batch_size

    def batches(self, parts: Iterable[Part]) -> Iterator[int]:
        """Load, encode and write parts; yields the number of rows of every batch that is through.

        `parts` is read ahead of the network by a few batches, and its end may come at any time.
        """
        begun: deque[Part] = deque()
        loaded = load_batches(
            self.dataset, self.backbone.collate, _batches_of(parts, begun), workers=self.settings.workers
        )
        rows: list[NDArray[Any]] = []
        features: list[NDArray[Any]] = []
        through = 0
        for batch in loaded:
            if self.interrupted.is_set():
                raise KeyboardInterrupt
            self._report_failures(batch)
            if batch.rows.size:
                rows.append(batch.rows)
                features.append(self._encode(batch))
            through += 1
            if through == len(begun[0]):
                if rows:
                    self.sink.write(np.concatenate(rows), np.concatenate(features))
                rows, features, through = [], [], 0
                begun.popleft()
            yield batch.rows.size + len(batch.failures)

    def _report_failures(self, batch: Batch) -> None:
        if batch.failures and self.settings.on_error is OnError.STOP:
            listed = "\n".join(f"  {self.dataset.sample_ids[row]}: {reason}" for row, reason in batch.failures)
            raise DataError(
                f"{len(batch.failures)} input(s) of {self.dataset.name} cannot be read:\n{listed}\n"
                "Mend them and run again (what is done is kept), or leave them out with --on-error skip."
            )
        for row, reason in batch.failures:
            self.sink.skip(row, reason)

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


def _batches_of(parts: Iterable[Part], begun: deque[Part]) -> Iterator[NDArray[Any]]:
    for part in parts:
        begun.append(part)
        yield from part


def pending_parts(dataset: GroupedDataset, settings: ExtractSettings, done: NDArray[Any]) -> list[Part]:
    """Parts without the rows that are done; a part is done whole, but for inputs skipped before."""
    left = ([batch[~done[batch]] for batch in part] for part in planned_parts(dataset, settings))
    parts = ([batch for batch in part if batch.size] for part in left)
    return [part for part in parts if part]


def planned_parts(dataset: GroupedDataset, settings: ExtractSettings) -> Iterator[Part]:
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
