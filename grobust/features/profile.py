"""Where the time of an extraction went, which stage sets the pace, and what to change."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

__all__ = ["STAGES", "ExtractProfile", "StageClock", "StageTime", "advice"]

# In the order of the work, each with the place where it happens. Places run side by side.
STAGES = {
    "decode": "loader",
    "preprocess": "loader",
    "wait for loader": "main",
    "copy to device": "main",
    "network": "main",
    "copy back": "main",
    "wait for writer": "main",
    "last parts": "main",
    "write": "writer",
}
# Below this share of the run the network has not been kept waiting to speak of.
WAITING = 0.1
# More of a batch than this being padding, or of the network's time being copies, is worth a word.
PADDING, COPIES = 0.15, 0.15


@dataclass(frozen=True)
class StageTime:
    """One stage: seconds over all batches, share of the run, and rows per second of the stage alone.

    Loader processes count together, so a share may pass 1.
    """

    stage: str
    place: str
    seconds: float
    share: float
    rows_per_second: float | None


@dataclass(frozen=True)
class ExtractProfile:
    """Parameters
    ----------
    seconds : from the first batch asked for to the last part written; of several processes also their start
    rows : that went through in them
    stages : in the order of the work; of several processes summed up, with shares of the time that they ran together
        and the rates of one
    limit : the place that sets the pace: ``loader``, ``network``, ``copies`` or ``writer``
    padding : share of text batches that is padding; None for images
    advice : what to change, the most useful first
    processes : that told where their time went
    process_seconds : that they ran together, without their start; of one process, the seconds of the run
    """

    seconds: float
    rows: int
    stages: tuple[StageTime, ...]
    limit: str
    padding: float | None
    advice: tuple[str, ...]
    processes: int = 1
    process_seconds: float = 0.0


@dataclass
class StageClock:
    """Adds up seconds per stage; a few readings of a clock per batch.

    Parameters
    ----------
    synchronize : wait for the device at the end of each of its stages, so that its work counts where it belongs. It
        takes from the device what it would do side by side, so a run measured this way is somewhat slower.
    began : when it did
    processes, running : whose clocks were added up here, and seconds that they ran
    """

    synchronize: bool = False
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    rows: int = 0
    tokens: int = 0
    padded: int = 0
    began: float = field(default_factory=perf_counter)
    processes: int = 0
    running: float = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of a block, whatever way it ends."""
        started = perf_counter()
        try:
            yield
        finally:
            self.add(name, perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        """Count seconds measured elsewhere. A stage is counted by one thread only."""
        self.seconds[name] += seconds

    def counted(self) -> dict[str, Any]:
        """What there is so far, JSON-able, for `take` of another process's clock."""
        return {
            "seconds": dict(self.seconds), "rows": self.rows, "tokens": self.tokens, "padded": self.padded,
            "running": perf_counter() - self.began,
        }  # fmt: skip

    def take(self, counted: Mapping[str, Any]) -> None:
        """Add what another process has counted."""
        for name, seconds in counted["seconds"].items():
            self.seconds[name] += seconds
        self.rows += counted["rows"]
        self.tokens += counted["tokens"]
        self.padded += counted["padded"]
        self.processes += 1
        self.running += counted["running"]

    def profile(
        self, seconds: float, *, workers: int, device: str, precision: str, batch_size: int, cores: int
    ) -> ExtractProfile:
        """Shares, limit and advice.

        Parameters
        ----------
        seconds : of the whole run
        workers, device, precision, batch_size : what the run had
        cores : of each process
        """
        whole = max(self.running if self.processes else seconds, 1e-9)
        stages = tuple(
            StageTime(name, place, self.seconds[name], self.seconds[name] / whole,
                      self.rows / self.seconds[name] if self.seconds[name] > 0 else None)
            for name, place in STAGES.items()
        )  # fmt: skip
        padding = 1 - self.tokens / self.padded if self.padded else None
        limit = self._limit(whole)
        advised = advice(
            self.seconds, limit, rows=self.rows, padding=padding, workers=workers, cores=cores,
            device=device, precision=precision, batch_size=batch_size,
        )  # fmt: skip
        return ExtractProfile(seconds, self.rows, stages, limit, padding, advised, max(1, self.processes), whole)

    def _limit(self, whole: float) -> str:
        of = self.seconds
        if of["wait for writer"] > max(WAITING * whole, of["wait for loader"]):
            return "writer"
        if of["wait for loader"] > WAITING * whole:
            return "loader"
        copies = of["copy to device"] + of["copy back"]
        return "copies" if copies > of["network"] else "network"


def advice(
    seconds: dict[str, float], limit: str, *, rows: int, padding: float | None, workers: int, cores: int, device: str,
    precision: str, batch_size: int,
) -> tuple[str, ...]:  # fmt: skip
    """What to change, from the numbers; see `StageClock.profile`."""
    gpu = device.startswith("cuda")
    found = []
    if limit == "loader":
        found += _for_the_loader(seconds, workers=workers, cores=cores, gpu=gpu, text=padding is not None)
    if limit == "writer":
        rate = rows / max(seconds["write"], 1e-9)
        found.append(
            f"the disk takes {rate:.0f} rows/s: write to a faster one, or store half as much with --dtype float16"
        )
    if limit == "copies":
        found.append("copies take longer than the network: a larger --batch-size makes them fewer")
    if limit == "network":
        found.append("the network sets the pace, as it should; more --workers would change nothing")
    if limit in ("network", "copies"):
        if gpu and precision == "float32":
            found.append("--precision bfloat16 uses the GPU's matrix units; it changes the third digit of a feature")
        if gpu:
            found.append(f"--batch-size auto finds out whether batches above {batch_size} are faster")
        found.append("--compile fuses small operations; it takes minutes at the start")
    if padding is not None and padding > PADDING:
        found.append(
            f"{100 * padding:.0f}% of the text batches is padding: a smaller --batch-size, or --max-tokens below the "
            "longest texts, leaves less"
        )
    return tuple(found)


def _for_the_loader(seconds: dict[str, float], *, workers: int, cores: int, gpu: bool, text: bool) -> list[str]:
    work, network = seconds["decode"] + seconds["preprocess"], max(seconds["network"], 1e-9)
    wanted = min(max(1, -(-int(10 * work / network) // 10)), max(1, cores - 1))
    found = []
    if text:
        cores_of = "--workers 0 lets the tokenizer use all cores" if workers else "the tokenizer has all cores already"
        found.append(f"tokenizing is behind: {cores_of}")
    elif not gpu:
        found.append(
            "reading and the network take turns on the same cores"
            + ("; where files come slowly, --workers 1 reads beside the network" if workers == 0 else "")
        )
    elif wanted > workers:
        found.append(f"reading is behind ({work / network:.1f} of the network's time): try --workers {wanted}")
    else:
        found.append("reading is behind, and there are no cores left for more --workers")
    if seconds["decode"] > seconds["preprocess"] and not text:
        found.append(
            "decoding takes the most: --fast-decode helps with JPEG files of twice the input's size and more, and so "
            "do smaller files"
        )
    return found
