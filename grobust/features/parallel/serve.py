"""What a worker does with the parts it is given, wherever it is."""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.data.dataset import GroupedDataset
from grobust.errors import BackboneError, GrobustError
from grobust.features.extract import ExtractSettings, Job, Part, PartsRun, plan_of
from grobust.features.parts import PartsWriter
from grobust.models.backbone import Backbone

__all__ = ["Share", "Tell", "as_line", "error_report", "part_of", "serve"]

Tell = Callable[[Mapping[str, Any]], None]
TELL_EVERY_SECONDS = 0.2


@dataclass(frozen=True, eq=False)
class Share:
    """What every worker gets before its parts; it pickles.

    Parameters
    ----------
    backbone : in the host's memory
    path : the store to be
    device : torch device of the worker
    """

    dataset: GroupedDataset
    backbone: Backbone
    settings: ExtractSettings
    path: Path
    device: str

    @classmethod
    def of(cls, job: Job, device: str) -> "Share":
        """A worker's share of a job.

        Raises
        ------
        BackboneError
            If the network is on a device.
        """
        at = next(job.backbone.network.parameters()).device
        if at.type != "cpu":
            raise BackboneError(
                f"{job.backbone.spec} is on {at}; load it with device='cpu', workers move it themselves."
            )
        return cls(job.dataset, job.backbone, job.settings, job.writer.path.absolute(), device)

    def begin(self, tell: Tell) -> tuple[PartsRun, "Reporter"]:
        """Network and folder, ready for parts.

        Raises
        ------
        StoreError
            If the folder of parts is not there, or its plan is another one: other versions of libraries, say.
        """
        plan = plan_of(self.dataset, self.backbone, self.settings)
        reporter = Reporter(PartsWriter(self.path, plan, lead=False), tell)
        self.backbone.network.to(self.device)
        return PartsRun(self.dataset, [self.backbone], self.settings, [reporter], threading.Event()), reporter


class Reporter:
    """Writes parts, and tells of each whose rows are all written or skipped."""

    def __init__(self, writer: PartsWriter, tell: Tell) -> None:
        self._writer, self._tell = writer, tell
        self._open: list[_Open] = []
        # Rows may be written by another thread than the one that skips some.
        self._lock = threading.Lock()

    def begin(self, number: int, part: Part) -> None:
        """A part is taken up."""
        with self._lock:
            self._open.append(_Open(number, set(np.concatenate(part).tolist()), []))

    def write(self, rows: NDArray[Any], features: NDArray[Any]) -> None:
        """See `PartsWriter.write`."""
        self._writer.write(rows, features)
        self._count(rows.tolist())

    def skip(self, row: int, reason: str) -> None:
        """Told with the part; the process that holds the lock skips it."""
        self._count([row], reason)

    def _count(self, rows: list[int], skipped: str | None = None) -> None:
        with self._lock:
            of = next(part for part in self._open if rows[0] in part.left)
            of.left.difference_update(rows)
            if skipped is not None:
                of.skipped.append((rows[0], skipped))
            if not of.left:
                self._open.remove(of)
                self._tell({"done": of.number, "skipped": of.skipped})


@dataclass
class _Open:
    number: int
    left: set[int]
    skipped: list[tuple[int, str]]


def serve(share: Share, inbox: "queue.SimpleQueue[bytes]", tell: Tell) -> None:
    """Do parts as they come, for ever; an error that a user can mend is told, and ends it."""
    try:
        run, reporter = share.begin(tell)
        tell({"ready": True})
        through, noted, due = 0, 0, 0.0
        while True:
            for rows in run.batches(_arriving(inbox, reporter)):
                through += rows
                if time.monotonic() >= due:
                    due = time.monotonic() + TELL_EVERY_SECONDS
                    tell({"through": through})
                for text in run.notes[noted:]:
                    tell({"note": text})
                noted = len(run.notes)
    except GrobustError as error:
        tell(error_report(error))


def _arriving(inbox: "queue.SimpleQueue[bytes]", reporter: Reporter) -> Iterator[Part]:
    """Parts while there are any; the first is waited for."""
    line = inbox.get()
    while True:
        number, part = part_of(line)
        reporter.begin(number, part)
        yield part
        try:
            line = inbox.get_nowait()
        except queue.Empty:
            return


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
