"""`extract_features`: run a backbone over a data set once and store what it gives.

Rows are sorted by length and cut into batches, and batches into parts, by a rule that depends on the plan alone. A run
that was killed and resumed therefore forms the very same batches, and its store equals that of a run left in peace.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from grobust.data.dataset import GroupedDataset
from grobust.errors import BackboneError, ConfigError
from grobust.features._plan import (
    ExtractSettings,
    OnError,
    Part,
    pending_parts,
    plan_of,
    planned_parts,
    provenance_of,
)
from grobust.features._run import PartsRun
from grobust.features._write import RowSink
from grobust.features.parts import PartsWriter
from grobust.features.profile import ExtractProfile, StageClock
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
    "extract_together",
    "plan_of",
    "planned_parts",
    "provenance_of",
]


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
    profile : where the time went, if that was asked for; of the pass, which other outputs may have shared
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
    profile: ExtractProfile | None = None


@dataclass(frozen=True, eq=False)
class Job:
    """What a crew is to do: write every pending part, or report why its rows are left out.

    Parameters
    ----------
    backbones : outputs of one network
    writers : for each, the one whose folder takes the parts, and which is told of rows written elsewhere and skipped
    parts : with rows only that are pending in one of the stores; each row in one of them
    tell : called with the number of rows done, those of earlier runs included
    interrupted : set by Ctrl-C
    clock : takes where the time of every worker went; None if nobody wants to know
    """

    dataset: GroupedDataset
    backbones: list[Backbone]
    settings: ExtractSettings
    writers: list[PartsWriter]
    parts: list[Part]
    tell: Callable[[int], None]
    interrupted: threading.Event
    clock: StageClock | None = None

    @property
    def n_done(self) -> int:
        """Rows that all stores have."""
        return int(np.logical_and.reduce([writer.done for writer in self.writers]).sum())

    def count(self, part: Part, skipped: Sequence[tuple[int, str]]) -> int:
        """Count a part as written elsewhere, but for (row, reason) of those skipped; returns its number of rows."""
        rows = np.concatenate(part)
        for writer in self.writers:
            for row, reason in skipped:
                if not writer.done[row]:
                    writer.skip(row, reason)
            writer.written_elsewhere(rows[~writer.done[rows]])
        return int(rows.size)

    def kept(self) -> str:
        """What is safe, in words."""
        folders = ", ".join(str(writer.folder) for writer in self.writers)
        return f"{self.n_done} of {len(self.dataset)} rows are kept in {folders}"


class Crew(Protocol):
    """Several processes or machines that extract together."""

    @property
    def device(self) -> str:
        """What each computes on, ``cpu`` or ``cuda``."""
        ...

    @property
    def cores(self) -> int:
        """Of each."""
        ...

    def batch_size(self, dataset: GroupedDataset, backbones: Sequence[Backbone], settings: ExtractSettings) -> int:
        """What `find_batch_size` gives where the work is to be done; the smallest that one of them finds."""
        ...

    def extract(self, job: Job) -> tuple[str, ...]:
        """Do all parts, in any order and by anyone; returns notes. Raises what a single process would."""
        ...

    def close(self) -> None:
        """Let go of what was reserved for the work."""
        ...


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
    profile: bool = False,
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
    profile : measure where the time goes; on a GPU each stage is then waited for, so the run is somewhat slower. Of a
        crew the stages of all are added up

    Raises
    ------
    DataError
        If inputs cannot be read (all of the batch are named), or a feature is not finite or overflows.
    BackboneError
        If the backbone is for another kind of item, or memory does not suffice for a single row.
    StoreMismatchError, StoreLockedError, StoreError
        See `grobust.features.parts.PartsWriter`.
    """
    return extract_together(
        dataset, [backbone], [path], settings=settings, resume=resume, overwrite=overwrite, on_progress=on_progress,
        crew=crew, profile=profile,
    )[0]  # fmt: skip


def extract_together(
    dataset: GroupedDataset,
    backbones: Sequence[Backbone],
    paths: Sequence[PathLike],
    *,
    settings: ExtractSettings | None = None,
    resume: bool = True,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    crew: Crew | None = None,
    profile: bool = False,
) -> tuple[ExtractResult, ...]:
    """Several outputs of one network, each into a store of its own, in one pass over the data.

    Each store equals, byte for byte, what `extract_features` would write. Stores that are finished are left as they
    are, and the pass computes the others.

    Parameters
    ----------
    backbones : of `grobust.models.backbones.load_backbones`: of one network, on one device
    paths : of the stores, in the same order

    Raises
    ------
    BackboneError
        Besides the errors of `extract_features`, if the backbones are not of one network.
    """
    settings = settings or ExtractSettings()
    targets, started = [Path(path) for path in paths], time.perf_counter()
    _check(dataset, backbones, targets)
    results: list[ExtractResult | None] = [
        _reused(target, dataset, backbone, settings, started) if target.is_file() and not overwrite else None
        for target, backbone in zip(targets, backbones, strict=True)
    ]
    open_ = [i for i, result in enumerate(results) if result is None]
    if open_:
        clock = StageClock(synchronize=True) if profile else None
        with ExitStack() as stack:
            writers = [
                stack.enter_context(PartsWriter(
                    targets[i], plan_of(dataset, backbones[i], settings), resume=resume, overwrite=overwrite
                ))
                for i in open_
            ]  # fmt: skip
            jobs = _Jobs(dataset, [backbones[i] for i in open_], settings, writers, on_progress, started)
            made = jobs.run(crew, clock)
        for i, result in zip(open_, made, strict=True):
            results[i] = result
    return tuple(result for result in results if result is not None)


def _check(dataset: GroupedDataset, backbones: Sequence[Backbone], targets: Sequence[Path]) -> None:
    first = backbones[0]
    if dataset.kind != first.kind:
        raise BackboneError(f"{first.spec} takes {first.kind}s; {dataset.name} holds {dataset.kind}s.")
    if any(b.network is not first.network or b.preprocessing != first.preprocessing for b in backbones):
        raise BackboneError("Outputs of one pass must be of one network and its preprocessing; see load_backbones.")
    if len(backbones) != len(targets) or len(set(targets)) != len(targets):
        raise ConfigError(f"{len(backbones)} outputs need as many different stores, got {len(set(targets))}.")


def _reused(
    target: Path, dataset: GroupedDataset, backbone: Backbone, settings: ExtractSettings, started: float
) -> ExtractResult:
    with FeatureStore(target, expect=provenance_of(dataset, backbone, settings)) as store:
        return ExtractResult(target, store.n, 0, 0, store.skipped, time.perf_counter() - started, 0.0, True, ())


@dataclass(frozen=True, eq=False)
class _Jobs:
    """One pass for stores that are not finished, whose folders are locked."""

    dataset: GroupedDataset
    backbones: list[Backbone]
    settings: ExtractSettings
    writers: list[PartsWriter]
    on_progress: Callable[[Progress], None] | None
    started: float

    def run(self, crew: Crew | None, clock: StageClock | None) -> list[ExtractResult]:
        before = [writer.done.copy() for writer in self.writers]
        everywhere = np.logical_and.reduce(before)
        first = int(everywhere.sum())
        parts = pending_parts(self.dataset, self.settings, everywhere, self.backbones[0])
        begun = time.perf_counter()
        with interrupts() as interrupted:
            if crew is not None:
                job = Job(
                    self.dataset, self.backbones, self.settings, self.writers, parts,
                    lambda done: self._tell(done, first), interrupted, clock,
                )  # fmt: skip
                notes = crew.extract(job)
            else:
                run = PartsRun(
                    self.dataset, self.backbones, self.settings, self.writers, interrupted, done=before, clock=clock
                )
                done = first
                with closing(run.batches(parts)) as batches:
                    for rows in batches:
                        done += rows
                        self._tell(done, first)
                notes = tuple(run.notes)
        profile = None if clock is None else clock.profile(
            time.perf_counter() - begun, workers=self.settings.workers, batch_size=self.settings.batch_size,
            device=str(next(iter(self.backbones[0].network.parameters())).device) if crew is None else crew.device,
            precision=str(self.settings.precision), cores=(os.cpu_count() or 1) if crew is None else crew.cores,
        )  # fmt: skip
        return [
            replace(self._finished(writer, int(done.sum()), notes), profile=profile)
            for writer, done in zip(self.writers, before, strict=True)
        ]

    def _tell(self, done: int, first: int) -> None:
        if self.on_progress is not None:
            seconds = max(time.perf_counter() - self.started, 1e-9)
            self.on_progress(Progress(done, len(self.dataset), (done - first) / seconds))

    def _finished(self, writer: PartsWriter, resumed: int, notes: tuple[str, ...]) -> ExtractResult:
        skipped = writer.skipped
        writer.finish()
        seconds = time.perf_counter() - self.started
        n_done = int(writer.done.sum()) - resumed - len(skipped)
        return ExtractResult(
            path=writer.path,
            n=len(self.dataset) - len(skipped),
            n_extracted=n_done,
            n_resumed=resumed,
            skipped=skipped,
            seconds=seconds,
            rows_per_second=n_done / seconds,
            reused=False,
            notes=(*writer.notes, *notes),
        )
