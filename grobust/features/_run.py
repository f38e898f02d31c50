"""A network at work on parts, in one process: loader and writer beside it, or on a CPU the loader in turn with it."""

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from typing import Any

from numpy.typing import NDArray

from grobust.data.dataset import GroupedDataset
from grobust.errors import DataError
from grobust.features._batches import Batch, load_batches
from grobust.features._encode import Encoded, Encoder
from grobust.features._plan import ExtractSettings, OnError, Part, decode_side
from grobust.features._write import PartQueue, RowSink
from grobust.features.profile import StageClock
from grobust.kept_memory import kept_memory
from grobust.models.backbone import Backbone
from grobust.models.views import collate_of

__all__ = ["PartsRun"]


class PartsRun:
    """A network at work on parts, in one process.

    Parameters
    ----------
    backbones : outputs of one network, see `grobust.models.backbones.load_backbones`
    sinks : for each output, what takes a part when it is whole; called from a thread of its own
    interrupted : ends the work between two batches, with `KeyboardInterrupt`
    done : for each sink, (n) whether it has a row already, or None if none; None if none at all
    clock : adds up where the time goes
    """

    def __init__(
        self,
        dataset: GroupedDataset,
        backbones: Sequence[Backbone],
        settings: ExtractSettings,
        sinks: Sequence[RowSink],
        interrupted: threading.Event,
        *,
        done: Sequence[NDArray[Any] | None] | None = None,
        clock: StageClock | None = None,
    ) -> None:
        self.interrupted = interrupted
        self.dataset, self.backbones, self.settings, self.sinks = dataset, backbones, settings, sinks
        self.done: Sequence[NDArray[Any] | None] = [None] * len(sinks) if done is None else done
        self.clock = StageClock() if clock is None else clock
        self.encoder = Encoder(backbones, settings, self.clock)

    @property
    def notes(self) -> list[str]:
        """What the user should know: batches cut to fit memory."""
        return self.encoder.notes

    def batches(self, parts: Iterable[Part]) -> Generator[int, None, None]:
        """Load, encode and write parts; yields the number of rows of every batch that is through the network.

        `parts` is read ahead of the network by a few batches, and its end may come at any time. When the iteration ends
        or is closed, every whole part is written.
        """
        begun: deque[Part] = deque()
        on_cpu = self.encoder.device.type == "cpu"
        loaded = load_batches(
            self.dataset, collate_of(self.backbones), _batches_of(parts, begun), workers=self.settings.workers,
            threads=self.encoder.threads if on_cpu else None, pin=self.encoder.device.type == "cuda",
            side=decode_side(self.backbones[0], self.settings),
        )  # fmt: skip
        # Closed at once after an error or Ctrl-C: who keeps the traceback would keep the loader at work.
        with closing(loaded), kept_memory() if on_cpu else nullcontext():
            yield from self._encoded(loaded, begun)

    def _encoded(self, loaded: Iterator[Batch], begun: deque[Part]) -> Iterator[int]:
        encoded: list[Encoded] = []
        through = 0
        # Loader processes are forked here, before there is another thread.
        batch = self._next(loaded)
        with PartQueue(self.sinks, self.done, self.clock) as writing:
            while batch is not None:
                if self.interrupted.is_set():
                    raise KeyboardInterrupt
                self._report_failures(batch, writing)
                if batch.rows.size:
                    encoded.append(self.encoder.encode(batch))
                through += 1
                if through == len(begun[0]):
                    if encoded:
                        writing.put(encoded)
                    encoded, through = [], 0
                    begun.popleft()
                yield batch.rows.size + len(batch.failures)
                batch = self._next(loaded)

    def _next(self, loaded: Iterator[Batch]) -> Batch | None:
        with self.clock.stage("wait for loader"):
            batch = next(loaded, None)
        if batch is not None:
            self.clock.add("decode", batch.decode_seconds)
            self.clock.add("preprocess", batch.collate_seconds)
            self.clock.rows += batch.rows.size
            if "attention_mask" in batch.tensors:
                mask = batch.tensors["attention_mask"]
                self.clock.tokens += int(mask.sum())
                self.clock.padded += mask.numel()
        return batch

    def _report_failures(self, batch: Batch, writing: PartQueue) -> None:
        if batch.failures and self.settings.on_error is OnError.STOP:
            listed = "\n".join(f"  {self.dataset.sample_ids[row]}: {reason}" for row, reason in batch.failures)
            raise DataError(
                f"{len(batch.failures)} input(s) of {self.dataset.name} cannot be read:\n{listed}\n"
                "Mend them and run again (what is done is kept), or leave them out with --on-error skip."
            )
        for row, reason in batch.failures:
            writing.skip(row, reason)


def _batches_of(parts: Iterable[Part], begun: deque[Part]) -> Iterator[NDArray[Any]]:
    for part in parts:
        begun.append(part)
        yield from part
