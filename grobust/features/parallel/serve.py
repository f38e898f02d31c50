"""What a worker does with the parts it is given, wherever it is."""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust import errors
from grobust.data.dataset import GroupedDataset
from grobust.errors import BackboneError, GrobustError
from grobust.features.extract import ExtractSettings, Job, Part, PartsRun, RowSink, plan_of
from grobust.features.parts import PartsWriter
from grobust.features.profile import StageClock
from grobust.models.backbone import Backbone

__all__ = ["FINISH", "Reporter", "Share", "Tell", "as_line", "check_on_host", "error_report", "part_of", "told_error"]

Tell = Callable[[Mapping[str, Any]], None]
TELL_EVERY_SECONDS = 0.2
# In place of a part: there are no more.
FINISH = b"null\n"


@dataclass(frozen=True, eq=False)
class Share:
    """What every worker gets before its parts; it pickles.

    Parameters
    ----------
    backbones : outputs of one network, in the host's memory
    paths : the stores to be
    done : for each store, (n) rows that it has already; None if it has none of those that are to come
    device : torch device of the worker
    profile : measure where the time goes
    """

    dataset: GroupedDataset
    backbones: tuple[Backbone, ...]
    settings: ExtractSettings
    paths: tuple[Path, ...]
    done: tuple[NDArray[Any] | None, ...]
    device: str
    profile: bool

    @classmethod
    def of(cls, job: Job, device: str) -> "Share":
        """A worker's share of a job.

        Raises
        ------
        BackboneError
            If the network is on a device.
        """
        check_on_host(job.backbones[0])
        to_come = np.concatenate([batch for part in job.parts for batch in part])
        return cls(
            job.dataset, tuple(job.backbones), job.settings,
            tuple(writer.path.absolute() for writer in job.writers),
            tuple(writer.done.copy() if writer.done[to_come].any() else None for writer in job.writers),
            device, job.clock is not None,
        )  # fmt: skip

    def begin(self, tell: Tell) -> tuple[PartsRun, "Reporter"]:
        """Network and folders, ready for parts.

        Raises
        ------
        StoreError
            If a folder of parts is not there, or its plan is another one: other versions of libraries, say.
        """
        clock = StageClock(synchronize=self.profile)
        writers = [
            PartsWriter(path, plan_of(self.dataset, backbone, self.settings), lead=False)
            for path, backbone in zip(self.paths, self.backbones, strict=True)
        ]
        reporter = Reporter(writers, self.done, tell)
        self.backbones[0].network.to(self.device)
        run = PartsRun(
            self.dataset, self.backbones, self.settings, reporter.sinks, threading.Event(), done=self.done, clock=clock
        )
        return run, reporter

    def serve(self, inbox: "queue.SimpleQueue[bytes]", tell: Tell) -> None:
        """Do parts as they come, until there are no more; an error that a user can mend is told, and ends it."""
        try:
            run, reporter = self.begin(tell)
            tell({"ready": True})
            through, noted, due = 0, 0, 0.0
            while (line := inbox.get()) != FINISH:
                for rows in run.batches(_arriving(line, inbox, reporter)):
                    through += rows
                    if time.monotonic() >= due:
                        due = time.monotonic() + TELL_EVERY_SECONDS
                        # A process that dies has told of its time by then.
                        tell({"through": through} | ({"clock": run.clock.counted()} if self.profile else {}))
                    for text in run.notes[noted:]:
                        tell({"note": text})
                    noted = len(run.notes)
            tell({"end": True, "clock": run.clock.counted()})
        except GrobustError as error:
            tell(error_report(error))


class Reporter:
    """Tells of each part whose rows are all written or skipped, in every store.

    Parameters
    ----------
    writers : one for each output of the network
    done : for each, rows that it has already, see `Share`
    """

    def __init__(self, writers: Sequence[RowSink], done: Sequence[NDArray[Any] | None], tell: Tell) -> None:
        self.sinks = tuple(_Sink(self, output, writer) for output, writer in enumerate(writers))
        self._done, self._tell = done, tell
        self._open: list[_Open] = []
        # Rows may be written by another thread than the one that skips some.
        self._lock = threading.Lock()

    def begin(self, number: int, part: Part) -> None:
        """A part is taken up."""
        rows = np.concatenate(part)
        left = [set((rows if done is None else rows[~done[rows]]).tolist()) for done in self._done]
        with self._lock:
            self._open.append(_Open(number, left, {}))

    def count(self, output: int, rows: list[int], skipped: str | None = None) -> None:
        """Rows of an output that are written, or one that is skipped and why."""
        with self._lock:
            of = next(part for part in self._open if rows[0] in part.left[output])
            of.left[output].difference_update(rows)
            if skipped is not None:
                of.skipped[rows[0]] = skipped
            if not any(of.left):
                self._open.remove(of)
                self._tell({"done": of.number, "skipped": list(of.skipped.items())})


@dataclass
class _Sink:
    """Writes parts of one output."""

    reporter: Reporter
    output: int
    writer: RowSink

    def write(self, rows: NDArray[Any], features: NDArray[Any]) -> None:
        """See `PartsWriter.write`."""
        self.writer.write(rows, features)
        self.reporter.count(self.output, rows.tolist())

    def skip(self, row: int, reason: str) -> None:
        """Told with the part; the process that holds the lock skips it."""
        self.reporter.count(self.output, [row], reason)


@dataclass
class _Open:
    number: int
    left: list[set[int]]
    skipped: dict[int, str]


def _arriving(line: bytes, inbox: "queue.SimpleQueue[bytes]", reporter: Reporter) -> Iterator[Part]:
    """Parts while there are any."""
    while line != FINISH:
        number, part = part_of(line)
        reporter.begin(number, part)
        yield part
        try:
            line = inbox.get_nowait()
        except queue.Empty:
            return
    # Nothing comes behind it.
    inbox.put(FINISH)


def check_on_host(backbone: Backbone) -> None:
    """A network is sent to workers from the host's memory.

    Raises
    ------
    BackboneError
        If it is on a device.
    """
    at = next(backbone.network.parameters()).device
    if at.type != "cpu":
        raise BackboneError(f"{backbone.spec} is on {at}; load it with device='cpu', workers move it themselves.")


def as_line(number: int, part: Part) -> bytes:
    """A part as a line of JSON."""
    return json.dumps([number, [batch.tolist() for batch in part]]).encode() + b"\n"


def part_of(line: bytes) -> tuple[int, Part]:
    """Inverse of `as_line`."""
    number, batches = json.loads(line)
    return number, [np.array(batch, dtype=np.int64) for batch in batches]


def error_report(error: GrobustError) -> dict[str, Any]:
    """An error as JSON-able content."""
    return {"error": type(error).__name__, "message": str(error), "notes": list(getattr(error, "__notes__", ()))}


def told_error(said: Mapping[str, Any]) -> GrobustError:
    """The error that a worker told of, as it would be here."""
    kind = getattr(errors, str(said["error"]), None)
    if not (isinstance(kind, type) and issubclass(kind, GrobustError)):
        kind = GrobustError
    error = kind(said["message"])
    for text in said["notes"]:
        error.add_note(text)
    return error
