"""Processes of this machine that extract together, one for each device."""

import contextlib
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grobust import errors
from grobust.child_processes import child_environment, how_it_ended
from grobust.errors import ConfigError, GrobustError, WorkerError
from grobust.features.extract import Job
from grobust.features.parallel.dispatch import Dispatch, in_pieces, parts_ahead, rows_of
from grobust.features.parallel.serve import Share, as_line
from grobust.features.parallel.worker import HEADER_BYTES

__all__ = ["CPU", "ProcessCrew", "told_error"]

CPU = "cpu"
# How often Ctrl-C and the health of the processes are looked at.
NEWS_SECONDS = 0.2
LAST_LINES = 15


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


@dataclass(eq=False)
class _Worker:
    number: int
    device: str
    process: "subprocess.Popen[bytes]"
    log: Path
    ready: bool = False
    finished: int = 0
    through: int = 0

    def send(self, content: bytes) -> None:
        """Write to its input; if it is gone, its end is on the way."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self.process.stdin.write(content)
            self.process.stdin.flush()

    def end(self) -> int:
        """End it and what it has started, at once: parts are durable or absent. Returns its exit code."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        return code


class _Run:
    """Processes at work on a job."""

    def __init__(self, job: Job, devices: tuple[str, ...]) -> None:
        self.job = job
        self.devices = devices
        parts = in_pieces(job.parts, len(devices))
        self.dispatch = Dispatch(parts, ahead=parts_ahead(parts, job.settings.workers))
        self.done = int(job.writer.done.sum())
        self.workers: list[_Worker] = []
        self.notes: list[str] = []
        self.said: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]] = queue.SimpleQueue()

    def all_parts(self) -> tuple[str, ...]:
        try:
            self._start()
            while self.dispatch.left:
                if self.job.interrupted.is_set():
                    raise KeyboardInterrupt
                self._look_after()
                with contextlib.suppress(queue.Empty):
                    self._heard(*self.said.get(timeout=NEWS_SECONDS))
        finally:
            for worker in self.workers:
                worker.end()
        return tuple(self.notes)

    def _start(self) -> None:
        shares: dict[str, bytes] = {}
        for number, device in enumerate(self.devices):
            kind = CPU if device == CPU else "cuda"
            if kind not in shares:
                shares[kind] = _pickled(Share.of(self.job, kind))
            log = self.job.writer.folder / f"worker-{number}.log"
            with log.open("wb") as stream:
                process = subprocess.Popen(
                    [sys.executable, "-m", "grobust.features.parallel.worker"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream,
                    env=child_environment(len(self.devices), gpus="" if device == CPU else device),
                    # Ctrl-C reaches this process alone, which ends the others.
                    start_new_session=True,
                )  # fmt: skip
            worker = _Worker(number, device, process, log)
            self.workers.append(worker)
            threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
            # A share is larger than a pipe holds, and is read once the process has started.
            content = len(shares[kind]).to_bytes(HEADER_BYTES, "big") + shares[kind]
            threading.Thread(target=worker.send, args=(content,), daemon=True).start()

    def _listen(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        # Closed, or a line that death cut short.
        with contextlib.suppress(ValueError, OSError):
            for line in worker.process.stdout:
                self.said.put((worker, json.loads(line)))
        self.said.put((worker, None))

    def _look_after(self) -> None:
        """A process that has ended may have left loaders behind that keep its output open."""
        for worker in self.workers:
            if worker.process.poll() is not None and hasattr(os, "killpg"):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(worker.process.pid, signal.SIGKILL)

    def _heard(self, worker: _Worker, said: Mapping[str, Any] | None) -> None:
        if said is None:
            self._lost(worker)
        elif "error" in said:
            raise told_error(said)
        elif "note" in said:
            self.notes.append(f"{_name(worker)}: {said['note']}")
        else:
            if "done" in said:
                self._finished(worker, said["done"], said["skipped"])
            elif "through" in said:
                worker.through = said["through"]
            self.job.tell(self.done + sum(max(w.through, w.finished) for w in self.workers))
            worker.ready = True
            self._feed(worker)

    def _finished(self, worker: _Worker, number: int, skipped: list[tuple[int, str]]) -> None:
        rows = rows_of(self.dispatch.finish(worker, number))
        self.job.writer.written_elsewhere(rows)
        for row, reason in skipped:
            self.job.writer.skip(row, reason)
        worker.finished += rows.size

    def _feed(self, worker: _Worker) -> None:
        # Before it is ready its input belongs to its share.
        for number, part in self.dispatch.take(worker) if worker.ready else ():
            worker.send(as_line(number, part))

    def _lost(self, worker: _Worker) -> None:
        if worker not in self.workers:
            return
        self.workers.remove(worker)
        self.done += worker.finished
        how = how_it_ended(worker.end())
        last = "\n".join(worker.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])
        try:
            parts = self.dispatch.lose(worker)
        except WorkerError as error:
            error.add_note(self._kept())
            error.add_note(f"Log of the last ({worker.log}):\n{last}")
            raise
        if not self.workers:
            raise WorkerError(
                f"All {len(self.devices)} processes have ended before the work was done; the last, {_name(worker)}, "
                f"{how}.\n{self._kept()}\nIts log ({worker.log}):\n{last or '(empty)'}"
            )
        self.notes.append(f"{_name(worker)} {how}; what it had ({parts} part(s)) was done by the others")
        for other in self.workers:
            self._feed(other)

    def _kept(self) -> str:
        done, n = int(self.job.writer.done.sum()), self.job.writer.done.size
        return (
            f"{done} of {n} rows are kept in {self.job.writer.folder}; the same command continues from there. If "
            "memory ran out, use fewer --devices or a smaller --batch-size."
        )


def _pickled(share: Share) -> bytes:
    try:
        return pickle.dumps(share)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{share.dataset.name} and {share.backbone.spec} cannot be given to other processes: {error}. Classes and "
            "functions that they are made of must stand at the top of an importable module."
        ) from error


def told_error(said: Mapping[str, Any]) -> GrobustError:
    """The error that a worker told of, as it would be here."""
    kind = getattr(errors, str(said["error"]), None)
    if not (isinstance(kind, type) and issubclass(kind, GrobustError)):
        kind = GrobustError
    error = kind(said["message"])
    for text in said["notes"]:
        error.add_note(text)
    return error


def _name(worker: _Worker) -> str:
    return f"process {worker.number} ({'cpu' if worker.device == CPU else f'GPU {worker.device}'})"
