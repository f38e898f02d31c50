"""Actors of a Ray cluster that extract together, through Ray Data, which gives the rows of a dead actor to another.

All machines must see the folder of the store under the same path. Data set and network travel with the actors, so files
of the network need not be there; images are read where the data set says, from a shared or a cloud folder.
"""

import contextlib
import json
import logging
import queue
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from grobust.data.dataset import GroupedDataset
from grobust.errors import DeviceError, GrobustError, WorkerError
from grobust.features.extract import ExtractSettings, Job, Part
from grobust.features.parallel.dispatch import ATTEMPTS, ended_often, in_pieces
from grobust.features.parallel.serve import Share, error_report, told_error
from grobust.features.parallel.trial import Trial
from grobust.features.parts import TEMPORARY
from grobust.features.store import parts_folder
from grobust.models.backbone import Backbone
from grobust.ray_cluster import RayCluster, join_cluster

__all__ = ["RayCrew"]

NEWS_SECONDS = 0.2
LARGEST_LOG = 2000
RAY_DATA = {
    "enable_progress_bars": False,
    "print_on_execution_start": False,
    # A machine may go while the network is being loaded there.
    "max_consecutive_actor_init_deaths": ATTEMPTS,
}


@dataclass(frozen=True)
class RayCrew:
    """Actors of a cluster; see `ProcessCrew` on why the store is that of a single process.

    Parameters
    ----------
    actors : number of them
    cpus : cores of each, and so its threads
    gpu : whether each has a GPU of its own
    """

    cluster: RayCluster
    actors: int
    cpus: int
    gpu: bool

    @classmethod
    def connect(cls, *, address: str | None, actors: int | None, cpus: int, device: str) -> "RayCrew":
        """Join the cluster at an address, or start one on this machine.

        Parameters
        ----------
        actors : None for one per GPU, or without GPUs for as many as there are cores for, but one
        device : ``cpu``, ``cuda``, or ``auto`` for GPUs if the cluster has any

        Raises
        ------
        ConfigError
            If Ray is not installed, or there is no cluster at the address.
        DeviceError
            If the cluster has less than is asked for.
        """
        # Ray Data needs a core besides those of the actors.
        cluster = join_cluster(address, cpus=(actors or 1) * cpus + 1)
        gpu = device == "cuda" or (device == "auto" and cluster.gpus >= 1)
        room = int((cluster.cpus - 1) // cpus)
        if gpu:
            room = min(room, int(cluster.gpus))
        if max(actors or 1, 1) > room:
            about = cluster.about
            cluster.leave()
            raise DeviceError(
                f"{actors or 1} actor(s) of {cpus} core(s){' and a GPU' if gpu else ''}, and one core besides, were "
                f"asked for; there is {about}. Ask for less: --actors, --actor-cpus, --device cpu."
            )
        return cls(cluster, actors or room, cpus, gpu)

    @property
    def about(self) -> str:
        """Actors and cluster, in words."""
        return f"{self.actors} actor(s) on {'a GPU each' if self.gpu else 'CPUs'} of {self.cluster.about}"

    @property
    def device(self) -> str:
        """See `Crew`."""
        return "cuda" if self.gpu else "cpu"

    @property
    def cores(self) -> int:
        """See `Crew`."""
        return self.cpus

    def batch_size(self, dataset: GroupedDataset, backbones: Sequence[Backbone], settings: ExtractSettings) -> int:
        """See `Crew`; as many tasks as there are actors, each with what an actor has.

        Raises
        ------
        WorkerError
            If a task has ended.
        """
        ray = self.cluster.ray
        task = ray.remote(num_cpus=self.cpus, num_gpus=int(self.gpu))(_tried)
        given = ray.put(Trial(dataset, tuple(backbones), settings, self.device))
        try:
            told = ray.get([task.remote(given) for _ in range(self.actors)])
        except ray.exceptions.RayError as error:
            raise WorkerError(
                f"Trying batch sizes, a task of the cluster has ended. Give --batch-size a number.\n"
                f"Ray says: {str(error).strip()[-LARGEST_LOG:]}"
            ) from None
        for content in told:
            if "error" in content:
                raise told_error(content)
        return min(int(content["batch_size"]) for content in told)

    def extract(self, job: Job) -> tuple[str, ...]:
        """See `Crew`.

        Raises
        ------
        WorkerError
            If actors cannot be started, or have ended several times at the same part.
        """
        if not job.parts:
            return ()
        parts = in_pieces(job.parts, self.actors)
        done, notes = job.n_done, []
        clocks: dict[str, Mapping[str, Any]] = {}
        with _Said(self, job, parts) as said:
            for content in said:
                if "error" in content:
                    raise told_error(content)
                if "note" in content:
                    notes.append(f"an actor: {content['note']}")
                elif "clock" in content:
                    clocks[content["actor"]] = content["clock"]
                else:
                    done += job.count(parts[content["done"]], content["skipped"])
                    job.tell(done)
        if job.clock is not None:
            for clock in clocks.values():
                job.clock.take(clock)
        return tuple(notes)

    def close(self) -> None:
        """See `Crew`."""
        self.cluster.leave()

    def results(self, job: Job, parts: list[Part]) -> Iterator[str]:
        """What the actors say of each part, as parts are done."""
        import ray.data

        # Parts stay in the object store, once for each machine; what travels for each part is its number.
        given = ray.put((Share.of(job, self.device), parts))
        with _settings(ray.data.DataContext.get_current()):
            numbers = ray.data.from_items([{"part": n} for n in range(len(parts))], override_num_blocks=len(parts))
            told = numbers.map_batches(
                _Actor, batch_size=1, batch_format="numpy", compute=ray.data.ActorPoolStrategy(size=self.actors),
                num_cpus=self.cpus, num_gpus=int(self.gpu), fn_constructor_args=([given], secrets.token_hex(4)),
            )  # fmt: skip
            for row in told.iter_rows():
                yield row["said"]


class _Said:
    """What actors say, gathered in a thread, so that Ctrl-C need not wait for a part."""

    def __init__(self, crew: RayCrew, job: Job, parts: list[Part]) -> None:
        self._crew, self._job, self._parts = crew, job, parts
        self._lines: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()
        self._stop = threading.Event()

    def __enter__(self) -> "_Said":
        threading.Thread(target=self._gather, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        while True:
            if self._job.interrupted.is_set():
                raise KeyboardInterrupt
            try:
                line = self._lines.get(timeout=NEWS_SECONDS)
            except queue.Empty:
                continue
            if line is None:
                return
            if isinstance(line, Exception):
                raise self._lost(line)
            yield from json.loads(line)

    def _gather(self) -> None:
        try:
            for line in self._crew.results(self._job, self._parts):
                self._lines.put(line)
                if self._stop.is_set():
                    return
            self._lines.put(None)
        except Exception as error:
            self._lines.put(error)

    def _lost(self, error: Exception) -> Exception:
        if not isinstance(error, self._crew.cluster.ray.exceptions.RayError):
            return error
        return WorkerError(
            f"The cluster has given up. {self._job.kept()}; the same command continues from there.\n"
            f"Ray says: {str(error).strip()[-LARGEST_LOG:]}"
        )


def _tried(trial: Trial) -> dict[str, Any]:
    return trial.outcome()


class _Actor:
    """A network on a machine of the cluster."""

    def __init__(self, given: list[Any], run: str) -> None:
        import ray

        self._said: list[Mapping[str, Any]] = []
        self._name, self._self = run, secrets.token_hex(8)
        try:
            share, self._parts = ray.get(given[0])
            self._folder, self._profile = parts_folder(share.paths[0]), share.profile
            self._run, self._reporter = share.begin(self._said.append)
        except GrobustError as error:
            self._said.append(error_report(error))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do a part; text out, and errors that a user can mend as text too."""
        try:
            for number in map(int, batch["part"]):
                # One that could not begin says why, again and again.
                if self._said:
                    break
                part = self._parts[number]
                self._attempt(number, part)
                self._reporter.begin(number, part)
                for _ in self._run.batches([part]):
                    pass
                self._said += [{"note": text} for text in self._run.notes]
                self._run.notes.clear()
                if self._profile:
                    self._said.append({"clock": self._run.clock.counted(), "actor": self._self})
        except GrobustError as error:
            self._said.append(error_report(error))
        said = json.dumps(self._said)
        if not any("error" in content for content in self._said):
            self._said.clear()
        return {"said": [said]}

    def _attempt(self, number: int, part: Part) -> None:
        """Ray begins a part again for ever; a file for each time says when it is enough."""
        for attempt in range(ATTEMPTS):
            with contextlib.suppress(FileExistsError):
                (self._folder / f"begun-{self._name}-{number}-{attempt}{TEMPORARY}").touch(exist_ok=False)
                return
        raise ended_often(part)


@contextmanager
def _settings(context: Any) -> Iterator[None]:
    """Ray Data with our settings, as far as its version has them, and without reports of its own."""
    logger = logging.getLogger("ray.data")
    before = {name: getattr(context, name) for name in RAY_DATA if hasattr(context, name)}
    level = logger.level
    for name in before:
        setattr(context, name, RAY_DATA[name])
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        logger.setLevel(level)
