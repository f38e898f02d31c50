"""The Ray engine: steps as tasks of a cluster, which does a task again when the worker that had it dies.

All machines of the cluster must see the sweep's folder and the data under the same paths.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from grobust.errors import DeviceError
from grobust.experiments.sweep.engine import News
from grobust.experiments.sweep.execute import Outcome, Task, execute
from grobust.ray_cluster import RayCluster, join_cluster

__all__ = ["RayEngine"]

# How often a task whose worker died is begun again; it goes on where the dead one was.
RETRIES = 3


@dataclass
class RayEngine:
    """Tasks of a Ray cluster.

    Parameters
    ----------
    slots : tasks that the cluster has room for at once
    remote : the function that does a step, with what it asks for
    """

    cluster: RayCluster
    slots: int
    remote: Any
    _tasks: dict[Any, str] = field(default_factory=dict)

    @classmethod
    def connect(cls, *, address: str | None, jobs: int | None, cpus: int, gpu: bool) -> "RayEngine":
        """Join the cluster at an address, or start one on this machine.

        Parameters
        ----------
        jobs : tasks at once; None for as many as there is room for
        cpus, gpu : what every task asks for

        Raises
        ------
        ConfigError
            If Ray is not installed, or there is no cluster at the address.
        DeviceError
            If no machine of the cluster has what a task asks for.
        """
        cluster = join_cluster(address, cpus=cpus)
        room = int(cluster.cpus // cpus)
        if gpu:
            room = min(room, int(cluster.gpus))
        if room < 1:
            raise DeviceError(
                f"No machine of the cluster has {cpus} cores{' and a GPU' if gpu else ''} for a step; it has "
                f"{cluster.cpus:g} cores and {cluster.gpus:g} GPUs. Ask for less."
            )
        remote = cluster.ray.remote(num_cpus=cpus, num_gpus=int(gpu), max_retries=RETRIES)(_execute)
        return cls(cluster, min(room, jobs or room), remote)

    @property
    def about(self) -> str:
        """The cluster, in words."""
        return self.cluster.about

    def start(self, task: Task) -> None:
        """Give the task to the cluster."""
        self._tasks[self.remote.remote(json.dumps(task.as_dict()))] = task.step.key

    def news(self, seconds: float) -> list[News]:
        """See `Engine.news`; Ray tells the end alone."""
        if not self._tasks:
            return []
        finished, _ = self.cluster.ray.wait(list(self._tasks), num_returns=1, timeout=seconds)
        return [News(self._tasks.pop(one), outcome=self._outcome(one)) for one in finished]

    def close(self) -> None:
        """Stop the tasks, and the cluster if it was started here."""
        for task in self._tasks:
            with contextlib.suppress(Exception):
                self.cluster.ray.cancel(task, force=True)
        self._tasks.clear()
        self.cluster.leave()

    def _outcome(self, reference: Any) -> Outcome:
        try:
            found: Mapping[str, Any] = json.loads(self.cluster.ray.get(reference))
        except self.cluster.ray.exceptions.RayError as error:
            # The worker died more often than the task is begun again, or could not be started.
            return Outcome(error=type(error).__name__, message=str(error))
        return Outcome(**found)


def _execute(task: str) -> str:
    """A step on a machine of the cluster; text in and out, so that nothing is unpickled but text."""
    return json.dumps(asdict(execute(Task.from_dict(json.loads(task)), lambda done, total: None)))
