"""Processes of this machine that extract together, one for each device."""

import contextlib
import os
import queue
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grobust.child_processes import how_it_ended
from grobust.data.dataset import GroupedDataset
from grobust.errors import ConfigError, WorkerError
from grobust.features.extract import ExtractSettings, Job
from grobust.features.parallel.dispatch import Dispatch, in_pieces, parts_ahead
from grobust.features.parallel.processes import CPU, Said, WorkerProcess, pickled, start_workers, torch_kind
from grobust.features.parallel.serve import FINISH, Share, as_line, told_error
from grobust.features.parallel.trial import tried_by_processes
from grobust.models.backbone import Backbone

__all__ = ["CPU", "ProcessCrew"]

# How often Ctrl-C and the health of the processes are looked at.
NEWS_SECONDS = 0.2
# All parts are durable by then; what is waited for is where the time went.
LAST_WORDS_SECONDS = 30.0


@dataclass(frozen=True)
class ProcessCrew:
    """One process for each device; parts come from one queue, so a slow or dead process holds nobody up.

    Batches do not depend on who does them, so the store is that of a single process on the same kind of device. On CPUs
    sums may round otherwise over another number of threads: each process takes ``OMP_NUM_THREADS`` if it is set, and
    else its share of the cores.

    Parameters
    ----------
    devices : ``cpu``, or a GPU as CUDA_VISIBLE_DEVICES names it; one name may stand several times

    Raises
    ------
    ConfigError
        If there is none, or CPUs and GPUs are mixed: their features differ in the last bits.
    """

    devices: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.devices:
            raise ConfigError("devices is empty; give at least one, such as cpu or 0.")
        if len({device == CPU for device in self.devices}) > 1:
            raise ConfigError(
                f"devices {','.join(self.devices)} mix CPU and GPU, whose features differ in the last bits; one store "
                "has one kind of device."
            )

    @property
    def device(self) -> str:
        """See `Crew`."""
        return torch_kind(self.devices[0])

    @property
    def cores(self) -> int:
        """See `Crew`."""
        return max(1, (os.cpu_count() or 1) // len(self.devices))

    def batch_size(self, dataset: GroupedDataset, backbones: Sequence[Backbone], settings: ExtractSettings) -> int:
        """See `Crew`; all devices are tried at once, so processes that share one find what they have room for.

        Raises
        ------
        WorkerError
            If a process has ended.
        """
        return tried_by_processes(self.devices, dataset, backbones, settings)

    def extract(self, job: Job) -> tuple[str, ...]:
        """See `Crew`.

        Raises
        ------
        WorkerError
            If all processes have ended early, or several at the same part.
        ConfigError, BackboneError
            If data set or network cannot be given to other processes.
        """
        return _Run(job, self.devices).all_parts() if job.parts else ()

    def close(self) -> None:
        """Nothing stands between two jobs."""


class _Run:
    """Processes at work on a job."""

    def __init__(self, job: Job, devices: tuple[str, ...]) -> None:
        self.job = job
        self.devices = devices
        parts = in_pieces(job.parts, len(devices))
        self.dispatch = Dispatch(parts, ahead=parts_ahead(parts, job.settings.workers))
        self.done = job.n_done
        self.workers: list[WorkerProcess] = []
        self.gone: list[WorkerProcess] = []
        self.notes: list[str] = []
        self.said: Said = queue.SimpleQueue()

    def all_parts(self) -> tuple[str, ...]:
        what = f"{self.job.dataset.name} and {self.job.backbones[0].spec}"
        kinds = set(map(torch_kind, self.devices))
        contents = {kind: pickled(Share.of(self.job, kind), what) for kind in kinds}
        try:
            self.workers = start_workers(self.devices, contents, self.job.writers[0].folder, self.said)
            while self.dispatch.left:
                self._listen()
            if self.job.clock is not None:
                self._ask_for_clocks()
        finally:
            for worker in self.workers:
                worker.end()
        return tuple(self.notes)

    def _listen(self) -> None:
        if self.job.interrupted.is_set():
            raise KeyboardInterrupt
        for worker in self.workers:
            worker.end_orphans()
        with contextlib.suppress(queue.Empty):
            self._heard(*self.said.get(timeout=NEWS_SECONDS))

    def _heard(self, worker: WorkerProcess, said: Mapping[str, Any] | None) -> None:
        if said is None:
            self._lost(worker)
            return
        worker.clock = said.get("clock", worker.clock)
        if "error" in said:
            raise told_error(said)
        if "note" in said:
            self.notes.append(f"{worker.name}: {said['note']}")
        elif "end" in said:
            worker.ended = True
        else:
            if "done" in said:
                worker.finished += self.job.count(self.dispatch.finish(worker, said["done"]), said["skipped"])
            elif "through" in said:
                worker.through = said["through"]
            self.job.tell(self.done + sum(max(w.through, w.finished) for w in self.workers))
            worker.ready = True
            self._feed(worker)

    def _feed(self, worker: WorkerProcess) -> None:
        for number, part in self.dispatch.take(worker) if worker.ready else ():
            worker.send(as_line(number, part))

    def _ask_for_clocks(self) -> None:
        """Add up where the time of all went; of a process that died, as far as it had told."""
        assert self.job.clock is not None
        for worker in self.workers:
            if worker.ready:
                worker.send(FINISH)
        until = time.monotonic() + LAST_WORDS_SECONDS
        while time.monotonic() < until and any(w.ready and not w.ended for w in self.workers):
            self._listen()
        for worker in (*self.workers, *self.gone):
            if worker.clock is not None:
                self.job.clock.take(worker.clock)

    def _lost(self, worker: WorkerProcess) -> None:
        if worker not in self.workers:
            return
        self.workers.remove(worker)
        self.gone.append(worker)
        self.done += worker.finished
        how = how_it_ended(worker.end())
        if not self.dispatch.left:
            return
        last = worker.last_lines()
        try:
            parts = self.dispatch.lose(worker)
        except WorkerError as error:
            error.add_note(self._kept())
            error.add_note(f"Log of the last ({worker.log}):\n{last}")
            raise
        if not self.workers:
            raise WorkerError(
                f"All {len(self.devices)} processes have ended before the work was done; the last, {worker.name}, "
                f"{how}.\n{self._kept()}\nIts log ({worker.log}):\n{last or '(empty)'}"
            )
        self.notes.append(f"{worker.name} {how}; what it had ({parts} part(s)) was done by the others")
        for other in self.workers:
            self._feed(other)

    def _kept(self) -> str:
        return (
            f"{self.job.kept()}; the same command continues from there. If memory ran out, use fewer --devices or a "
            "smaller --batch-size."
        )
